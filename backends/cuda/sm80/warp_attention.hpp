#pragma once
// What one warp holds of an attention: 16 or 32 pairs with their queries, outputs and softmax in registers, to which it
// adds 16 tokens at a time from shared memory.
//
//   S = Q K^T   [pairs, tokens]      O += P V   [pairs, head_dim]      P = 2^(S - peak of the pair)
//
// S, rounded to 16 bits, has the layout that the second product wants of P (see warp.hpp). Lane 4 g + t has of each block of
// 16 pairs the pairs g and g + 8, and of those columns 2 t and 2 t + 1 of every 8.

#include <cmath>

#include "backends/cuda/sm80/feed.hpp"
#include "backends/gpu/result_place.hpp"
#include "backends/gpu/softmax_state.hpp"

namespace espalier::gpu::sm80 {

template <class T, int kHeadDim, int kPairBlocks>
class WarpAttention {
  using C = Config<kHeadDim>;
  static constexpr int kProducts = kHeadDim / 16;             ///< of 16 dimensions
  static constexpr int kColumns = kHeadDim / 8;               ///< blocks of 8 dimensions of the output
  static constexpr int kPeriod = kHeadDim % 64 == 0 ? 8 : 4;  ///< chunks after which places in a row repeat

 public:
  __device__ __forceinline__ WarpAttention(const detail::AttendParams& p, int group)
      : p_(p),
        group_(known_only_here(group)),
        lane_(known_only_here(static_cast<int>(threadIdx.x % kWaveLanes))),
        key_place_(place_in_rows(lane() / 16 * 8 + lane() % 8, lane() / 8 % 2)),
        place_(place_in_rows(lane() % 16, lane() / 16)) {}

  /// To be called first: nothing is added up yet.
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out_[b][j][i] = 0.0f;
      }
      softmax_[b][0] = softmax_[b][1] = {};
    }
  }

  /// Leaves the rows of the warp's pairs for mask() and store().
  __device__ __forceinline__ void set_pairs(const detail::Tile& tile, int first_pair, int* row_of_pair) const {
    synchronise_warp();  // those of the last tile have been used
    if (lane() < kPairBlocks * kRows) row_of_pair[lane()] = tile.row_begin + (first_pair + lane()) / group_;
    synchronise_warp();
  }

  __device__ __forceinline__ void load_queries(int block, std::uint32_t rows) {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
      if (b != block) continue;
#pragma unroll
      for (int i = 0; i < kProducts; ++i) load_matrices(q_[b][i], chunk_address(rows + place_, 2 * i));
    }
  }

  /// Scores of 16 tokens, in base 2.
  __device__ __forceinline__ void multiply_keys(std::uint32_t rows, const ScoreFactors& score) {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores_[b][j][i] = 0.0f;
      }
    }
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      std::uint32_t k[4];
      load_matrices(k, chunk_address(rows + key_place_, 2 * i));
#pragma unroll
      for (int b = 0; b < kPairBlocks; ++b) {
        multiply<T>(scores_[b][0], q_[b][i], k[0], k[1]);
        multiply<T>(scores_[b][1], q_[b][i], k[2], k[3]);
      }
    }
    scale_scores(score);
  }

  /// Takes the tokens away from pairs that do not see them.
  /// @param seen_by  [16]
  __device__ __forceinline__ void mask(const RowInterval* seen_by, const int* row_of_pair) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const RowInterval rows = seen_by[8 * j + lane() % 4 * 2 + i];
#pragma unroll
        for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int row = row_of_pair[pair_of(0, b, h)];
            if (row < rows.begin || row >= rows.end) scores_[b][j][2 * h + i] = -INFINITY;
          }
        }
      }
    }
  }

  /// Scores to weights. The sum of weights that a lane keeps is that of its own columns, until finish().
  __device__ __forceinline__ void weigh() {
    float rescale[kPairBlocks][2];
    bool rises = false;
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float(&s)[2][4] = scores_[b];
        float most = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
        most = fmaxf(most, exchange_lanes(most, 1));
        most = fmaxf(most, exchange_lanes(most, 2));
        SoftmaxState& softmax = softmax_[b][h];
        const float peak = fmaxf(softmax.peak, most);
        rescale[b][h] = fast_exp2(softmax.peak - peak);
        rises |= softmax.peak != peak;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; ++i) {
            s[j][i] = fast_exp2(s[j][i] - peak);
            sum += s[j][i];
          }
          weights_[b][2 * j + h] = pack<T>(s[j][2 * h], s[j][2 * h + 1]);
        }
        softmax = {peak, softmax.weight * rescale[b][h] + sum};
      }
    }
    if (!in_any_lane(rises)) return;
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out_[b][j][i] *= rescale[b][i / 2];
      }
    }
  }

  __device__ __forceinline__ void multiply_values(std::uint32_t rows) {
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      std::uint32_t v[4];
      load_matrices_transposed(v, chunk_address(rows + place_, 2 * i));
#pragma unroll
      for (int b = 0; b < kPairBlocks; ++b) {
        multiply<T>(out_[b][2 * i], weights_[b], v[0], v[1]);
        multiply<T>(out_[b][2 * i + 1], weights_[b], v[2], v[3]);
      }
    }
  }

  /// After the last token.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float& weight = softmax_[b][h].weight;
        weight += exchange_lanes(weight, 1);
        weight += exchange_lanes(weight, 2);
      }
    }
  }

  /// Results of the tile's pairs from first_pair on.
  __device__ __forceinline__ void store(const detail::Tile& tile, int first_pair, const int* row_of_pair) const {
    const int pairs = (tile.row_end - tile.row_begin) * group_;
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int pair = pair_of(first_pair, b, h);
        if (pair >= pairs) continue;
        const float inverse = softmax_[b][h].inverse();
        const ResultPlace<T> place = result_place<T>(p_, tile, row_of_pair[pair_of(0, b, h)], pair % group_);
        if (place.lse && lane() % 4 == 0) *place.lse = softmax_[b][h].lse();
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const float low = out_[b][j][2 * h] * inverse, high = out_[b][j][2 * h + 1] * inverse;
          const int d = 8 * j + lane() % 4 * 2;
          if (place.partial) {
            *reinterpret_cast<float2*>(place.partial + d) = make_float2(low, high);
          } else {
            *reinterpret_cast<std::uint32_t*>(place.out + d) = pack<T>(low, high);
          }
        }
      }
    }
  }

  /// Leaves what this warp found of a tile's tokens, in the ring: [warp][pair][head_dim] floats.
  __device__ __forceinline__ void leave_part(SharedMemory<kHeadDim>& memory, int warp) const {
    static_assert(kPairBlocks == 1 && sizeof memory.ring >= kWarps * kRows * kHeadDim * sizeof(float));
    float* part = reinterpret_cast<float*>(memory.ring) + warp * kRows * kHeadDim;
    const int here = known_only_here(lane());
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int pair = 8 * h + here / 4;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int d = 8 * j + here % 4 * 2;
        *reinterpret_cast<float2*>(part + pair * kHeadDim + place_in_part(pair, d)) =
            make_float2(out_[0][j][2 * h], out_[0][j][2 * h + 1]);
      }
      if (here % 4 == 0) {
        memory.peak[warp][pair] = softmax_[0][h].peak;
        memory.weight[warp][pair] = softmax_[0][h].weight;
      }
    }
  }

  /// Where dimension d of a pair lies in a part: rows that are written together are in different banks.
  static __device__ __forceinline__ int place_in_part(int pair, int d) { return d ^ pair % 4 * 8; }

 private:
  [[nodiscard]] __device__ __forceinline__ int lane() const { return lane_; }

  [[nodiscard]] __device__ __forceinline__ int pair_of(int first_pair, int b, int h) const {
    return first_pair + b * kRows + 8 * h + lane() / 4;
  }

  static __device__ __forceinline__ std::uint32_t place_in_rows(int row, int chunk) {
    return static_cast<std::uint32_t>(row * C::kRowBytes + (chunk ^ swizzle<kHeadDim>(row)) * 16);
  }

  /// From the address of chunk 0 or 1 of a row to that of chunk `chunk` or the next one; `chunk` is even.
  static __device__ __forceinline__ std::uint32_t chunk_address(std::uint32_t address, int chunk) {
    return (address ^ static_cast<std::uint32_t>(chunk % kPeriod * 16)) +
           static_cast<std::uint32_t>(chunk / kPeriod * kPeriod * 16);
  }

  __device__ __forceinline__ void scale_scores(const ScoreFactors& score) {
    const float factor = score.factor, cap = score.cap;
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores_[b][j][i] *= factor;
      }
    }
    if (cap == 0.0f) return;
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // tanh(x) = 1 - 2 / (1 + e^2x)
          scores_[b][j][i] = cap * (1.0f - fast_divide(2.0f, 1.0f + fast_exp2(scores_[b][j][i])));
        }
      }
    }
  }

  const detail::AttendParams& p_;
  // What follows from these must not be computed, and kept in registers, before this kind of tile begins.
  const int group_;
  const int lane_;
  const std::uint32_t key_place_;  ///< the lane's row in loads of K, from the first of 16 rows
  const std::uint32_t place_;      ///< in loads of Q and V
  std::uint32_t q_[kPairBlocks][kProducts][4];
  float scores_[kPairBlocks][2][4];
  std::uint32_t weights_[kPairBlocks][4];
  float out_[kPairBlocks][kColumns][4];
  SoftmaxState softmax_[kPairBlocks][2];
};

}  // namespace espalier::gpu::sm80
