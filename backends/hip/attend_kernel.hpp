#pragma once
// Attention on the matrix units of CDNA, for f16 and bf16.
//
//   out[r, h] = sum_t softmax_t(scale * q[r, h] . k[t]) v[t]   over the tokens that row r sees
//
// A pair is one (row, query head) of a tile: pair = row * group + head in the group. With pairs as columns,
//
//   S = K Q^T   [tokens, pairs]      O = V^T P   [head_dim, pairs]      P = 2^(S - peak of the pair)
//
// the scores of a pair lie in the same lanes as its peak, weight and output, and S, converted to 16 bits, is P in the
// layout that the second product wants: nothing is exchanged between lanes but the peak.
//
// Mapping: one block of four waves is one worker and walks its tiles. A wave has 16 or 32 pairs of a tile; where the
// tile has fewer than four waves can hold, waves share its tokens and merge at the end. K and V go from memory to registers
// in pieces of 16 bytes, each lane what the matrix unit wants of it: dimensions may follow each other in any order, as
// long as it is the same order in both factors. V of 4 tokens x 8 dimensions is transposed in a lane's registers.
//
// Schedule of a step (32 tokens for 16 pairs, else 16): V is on its way while S is computed from K, the next step's K while
// weights and output are. So K and V are each other's second buffer.
//
// Registers for each lane, at head_dim 128 and 32 pairs: q 32, output 64, K 16, V 16, S 8, P 4. LDS: 17 KB, of the merge.
// Assumes: q, k, v and out aligned to 16 bytes, and their strides.

#include "backends/gpu/plan_tile.hpp"
#include "backends/gpu/result_place.hpp"
#include "backends/gpu/softmax_state.hpp"
#include "backends/gpu/wave_walk.hpp"
#include "backends/hip/launch_attend.hpp"
#include "backends/hip/mfma.hpp"

namespace espalier::hip {

using gpu::kWaveLanes;

inline constexpr int kWaves = 4;
inline constexpr int kThreads = kWaves * kWaveLanes;
inline constexpr int kBlockPairs = 16;  ///< pairs of one matrix product, and tokens
inline constexpr int kMailVectors = 8;  ///< of the output that a wave hands over at a time
inline constexpr int kMailSenders = kWaves / 2;

/// Largest weight 2^8: weights down to 2^-22 of a pair's largest are normal numbers in f16. gfx90a takes others as zero.
inline constexpr float kWeightExponent = 8.0f;

/// Where waves of a block hand results to each other.
struct Mail {
  Float4 output[kMailSenders][kMailVectors][kWaveLanes];
  float peak[kMailSenders][kWaveLanes];
  float weight[kMailSenders][kWaveLanes];
};

/// What one wave does for one tile: some of its pairs, and some of its tokens.
template <class T, int kHeadDim, int kPairBlocks>
class WaveAttention {
  using M = Matrix<T>;
  using Vector4 = typename M::Vector4;
  using Vector8 = typename M::Vector8;
  static constexpr int kTokenBlocks = kHeadDim * kPairBlocks <= 128 ? 2 : 1;
  static constexpr int kQueryLoads = kHeadDim / 32;           ///< of 8 elements, for a pair's q or a token's k
  static constexpr int kValueWidth = kHeadDim == 64 ? 4 : 8;  ///< neighbouring dimensions of v in a lane
  static constexpr int kValueLoads = kHeadDim / (16 * kValueWidth);
  static constexpr int kOutputs = kHeadDim / 16;  ///< accumulators of a pair block
  using ValueVector = typename M::Element __attribute__((ext_vector_type(kValueWidth)));

 public:
  static constexpr int kPairs = kPairBlocks * kBlockPairs;
  static constexpr int kStepTokens = kTokenBlocks * 16;
  static_assert(kWaveLanes % kStepTokens == 0 && kOutputs % 4 == 0);

  __device__ __forceinline__ WaveAttention(const detail::AttendParams& p, const detail::Tile& tile, int first_pair)
      : p_(p),
        tile_(tile),
        first_pair_(first_pair),
        cap_(p.soft_cap * gpu::kLog2E),
        factor_(p.scale * gpu::kLog2E * (p.soft_cap == 0.0f ? 1.0f : 2.0f / p.soft_cap)) {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
      row_[b] = tile.row_begin + clamped_pair(b) / group();
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) output_[b][i] = 0.0f;
    }
  }

  /// Tokens [begin, end) of the tile; there may be none.
  __device__ __forceinline__ void attend(int begin, int end) {
    if (begin >= end) return;
    load_queries();
    gpu::LaneToken tokens = gpu::lane_token(p_, tile_, begin, end);
    load_keys(tokens, 0);
    for (int first = begin, place = 0; first < end; first += kStepTokens) {
      const int next = first + kStepTokens;
      load_values(tokens, place);
      keep_order();
      multiply_keys();
      scale_scores();
      if (tile_.masked || next > end) mask_scores(tokens, place);
      place = (place + kStepTokens) % kWaveLanes;
      if (place == 0 && next < end) tokens = gpu::lane_token(p_, tile_, next, end);
      load_keys(tokens, place);  // behind the end in vain: without a branch the compiler knows what is on its way
      keep_order();
      weigh_scores();
      if (next > end) clear_values(end - first);
      multiply_values();
    }
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) softmax_[b].weight = sum_of_quarters(softmax_[b].weight);
  }

  /// Hands over a piece of the output, kMailVectors long, and the softmax.
  __device__ __forceinline__ void send(Mail& mail, int sender, int b, int first_output) const {
    mail.peak[sender][lane()] = softmax_[b].peak;
    mail.weight[sender][lane()] = softmax_[b].weight;
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      if (i / kMailVectors == first_output / kMailVectors) {
        mail.output[sender][i % kMailVectors][lane()] = output_[b][i];
      }
    }
  }

  /// Adds what another wave has sent for the same pairs, the softmax with the last piece of the output.
  __device__ __forceinline__ void receive(const Mail& mail, int sender, int b, int first_output) {
    gpu::SoftmaxState merged = softmax_[b];
    const gpu::SoftmaxState::Factors factors = merged.add(mail.peak[sender][lane()], mail.weight[sender][lane()]);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      if (i / kMailVectors == first_output / kMailVectors) {
        output_[b][i] =
            output_[b][i] * factors.old_part + mail.output[sender][i % kMailVectors][lane()] * factors.new_part;
      }
    }
    if (first_output + kMailVectors >= kOutputs) softmax_[b] = merged;
  }

  /// Adds up what `token_waves` waves found for the same pairs; the first of them has the result. All waves of the block
  /// must call it.
  /// @param number  of this wave among them
  /// @param mailbox of its pairs, below kWaves / token_waves
  __device__ __forceinline__ void merge_waves(Mail& mail, int token_waves, int number, int mailbox) {
    for (int half = token_waves / 2; half > 0; half /= 2) {
      const bool sends = number >= half && number < 2 * half, receives = number < half;
      const int sender = mailbox * half + number % half;
#pragma unroll
      for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
        for (int i = 0; i < kOutputs; i += kMailVectors) {
          if (sends) send(mail, sender, b, i);
          __syncthreads();
          if (receives) receive(mail, sender, b, i);
          __syncthreads();
        }
      }
    }
  }

  /// Results: in the output where the pair has no other partial, else in the plan's partials.
  __device__ __forceinline__ void store() const {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
      const int pair = first_pair_ + b * kBlockPairs + column();
      if (pair >= pairs()) continue;
      const gpu::ResultPlace<T> place = gpu::result_place<T>(p_, tile_, row_[b], pair % group());
      const float inverse = softmax_[b].inverse();
      if (place.partial) {
        for_output(b, [&](int d, const float(&values)[kValueWidth]) {
#pragma unroll
          for (int i = 0; i < kValueWidth; i += 4) {
            const Float4 part = {values[i], values[i + 1], values[i + 2], values[i + 3]};
            *reinterpret_cast<Float4*>(place.partial + d + i) = part * inverse;
          }
        });
      } else {
        for_output(b, [&](int d, const float(&values)[kValueWidth]) {
          ValueVector converted;
#pragma unroll
          for (int i = 0; i < kValueWidth; ++i) converted[i] = M::convert(values[i] * inverse);
          *reinterpret_cast<ValueVector*>(place.out + d) = converted;
        });
      }
      if (quarter() == 0 && place.lse) *place.lse = softmax_[b].lse();
    }
  }

 private:
  static __device__ __forceinline__ int lane() { return threadIdx.x % kWaveLanes; }
  static __device__ __forceinline__ int column() { return lane() % 16; }  // row of a left factor, column of a right one
  static __device__ __forceinline__ int quarter() { return lane() / 16; }  // of the sum's index in both

  __device__ __forceinline__ int group() const { return p_.query_heads / p_.kv_heads; }
  __device__ __forceinline__ int pairs() const { return (tile_.row_end - tile_.row_begin) * group(); }

  /// The lane's pair, or the tile's last one where there is none.
  __device__ __forceinline__ int clamped_pair(int b) const {
    const int pair = first_pair_ + b * kBlockPairs + column();
    return pair < pairs() ? pair : pairs() - 1;
  }

  /// Dimensions 32 i + 8 quarter .. + 7 of a lane's pair or token: factors of two products.
  static __device__ __forceinline__ const Vector8& query_part(const T* vector, int i) {
    return *reinterpret_cast<const Vector8*>(vector + 32 * i + 8 * quarter());
  }

  __device__ __forceinline__ void load_queries() {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
      const T* q = static_cast<const T*>(p_.q) + p_.plan.row_index[row_[b]] * p_.q_row_stride +
                   (tile_.kv_head * group() + clamped_pair(b) % group()) * p_.q_head_stride;
#pragma unroll
      for (int i = 0; i < kQueryLoads; ++i) q_[b][i] = query_part(q, i);
    }
  }

  /// K of kStepTokens tokens, of which the first is in lane `place`.
  __device__ __forceinline__ void load_keys(const gpu::LaneToken& tokens, int place) {
#pragma unroll
    for (int t = 0; t < kTokenBlocks; ++t) {
      const T* k = static_cast<const T*>(p_.k) + gpu::value_of_lane(tokens.k, place + 16 * t + column());
#pragma unroll
      for (int i = 0; i < kQueryLoads; ++i) k_[t][i] = query_part(k, i);
    }
  }

  /// V alike: in each lane kValueWidth neighbouring dimensions of four tokens.
  __device__ __forceinline__ void load_values(const gpu::LaneToken& tokens, int place) {
#pragma unroll
    for (int t = 0; t < kTokenBlocks; ++t) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T* v = static_cast<const T*>(p_.v) + gpu::value_of_lane(tokens.v, place + 16 * t + 4 * quarter() + j) +
                     kValueWidth * column();
#pragma unroll
        for (int i = 0; i < kValueLoads; ++i) {
          v_[t][j][i] = *reinterpret_cast<const ValueVector*>(v + 16 * kValueWidth * i);
        }
      }
    }
  }

  /// 0 * V would be NaN where V is: tokens that stand in for others must not count.
  __device__ __forceinline__ void clear_values(int tokens) {
#pragma unroll
    for (int t = 0; t < kTokenBlocks; ++t) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool stands_in = 16 * t + 4 * quarter() + j >= tokens;
#pragma unroll
        for (int i = 0; i < kValueLoads; ++i) v_[t][j][i] = stands_in ? ValueVector(0) : v_[t][j][i];
      }
    }
  }

  __device__ __forceinline__ void multiply_keys() {
#pragma unroll
    for (int t = 0; t < kTokenBlocks; ++t) {
#pragma unroll
      for (int b = 0; b < kPairBlocks; ++b) scores_[b][t] = 0.0f;
#pragma unroll
      for (int i = 0; i < kQueryLoads; ++i) {
#pragma unroll
        for (int b = 0; b < kPairBlocks; ++b) {
          scores_[b][t] = M::multiply(k_[t][i].lo, q_[b][i].lo, scores_[b][t]);
          scores_[b][t] = M::multiply(k_[t][i].hi, q_[b][i].hi, scores_[b][t]);
        }
      }
    }
  }

  /// Products to scores in base 2.
  __device__ __forceinline__ void scale_scores() {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int t = 0; t < kTokenBlocks; ++t) scores_[b][t] = scores_[b][t] * factor_;
    }
    if (p_.soft_cap == 0.0f) return;
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
#pragma unroll
      for (int t = 0; t < kTokenBlocks; ++t) {
        // tanh(x) = 1 - 2 / (1 + e^2x): without the branches of tanhf, and as exact beside 1
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          scores_[b][t][r] = cap_ * (1.0f - 2.0f / (1.0f + gpu::exp2_of(scores_[b][t][r])));
        }
      }
    }
  }

  __device__ __forceinline__ void mask_scores(const gpu::LaneToken& tokens, int place) {
#pragma unroll
    for (int t = 0; t < kTokenBlocks; ++t) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int token = place + 16 * t + 4 * quarter() + r;
        const int begin = gpu::value_of_lane(tokens.row_begin, token), end = gpu::value_of_lane(tokens.row_end, token);
#pragma unroll
        for (int b = 0; b < kPairBlocks; ++b) {
          if (row_[b] < begin || row_[b] >= end) scores_[b][t][r] = -INFINITY;
        }
      }
    }
  }

  static __device__ __forceinline__ float sum_of_quarters(float value) {
    value += gpu::exchange_lanes(value, 16);
    return value + gpu::exchange_lanes(value, 32);
  }

  static __device__ __forceinline__ float most_of_quarters(float value) {
    value = fmaxf(value, gpu::exchange_lanes(value, 16));
    return fmaxf(value, gpu::exchange_lanes(value, 32));
  }

  /// Scores to weights. The weight that a lane keeps is that of its own tokens, until all are done.
  __device__ __forceinline__ void weigh_scores() {
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) {
      float most = -INFINITY;
#pragma unroll
      for (int t = 0; t < kTokenBlocks; ++t) {
#pragma unroll
        for (int r = 0; r < 4; ++r) most = fmaxf(most, scores_[b][t][r]);
      }
      const float peak = fmaxf(softmax_[b].peak, most_of_quarters(most) - kWeightExponent);
      const float rescale = gpu::exp2_of(softmax_[b].peak - peak);
      float weight = softmax_[b].weight * rescale;
#pragma unroll
      for (int t = 0; t < kTokenBlocks; ++t) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float part = gpu::exp2_of(scores_[b][t][r] - peak);
          weight += part;
          weights_[b][t][r] = M::convert(part);
        }
      }
      softmax_[b] = {peak, weight};
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) output_[b][i] = output_[b][i] * rescale;
    }
  }

  /// Output kValueWidth * i + j has, in row m, dimension 16 kValueWidth i + kValueWidth m + j.
  __device__ __forceinline__ void multiply_values() {
#pragma unroll
    for (int t = 0; t < kTokenBlocks; ++t) {
#pragma unroll
      for (int i = 0; i < kValueLoads; ++i) {
#pragma unroll
        for (int j = 0; j < kValueWidth; ++j) {
          const Vector4 v = {v_[t][0][i][j], v_[t][1][i][j], v_[t][2][i][j], v_[t][3][i][j]};
#pragma unroll
          for (int b = 0; b < kPairBlocks; ++b) {
            Float4& output = output_[b][kValueWidth * i + j];
            output = M::multiply(v, weights_[b][t], output);
          }
        }
      }
    }
  }

  /// Calls body(d, values) for each run of kValueWidth dimensions of the output that the lane has of its pair.
  template <class Body>
  __device__ __forceinline__ void for_output(int b, const Body& body) const {
#pragma unroll
    for (int i = 0; i < kValueLoads; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        float values[kValueWidth];
#pragma unroll
        for (int j = 0; j < kValueWidth; ++j) values[j] = output_[b][kValueWidth * i + j][r];
        body(kValueWidth * (16 * i + 4 * quarter() + r), values);
      }
    }
  }

  const detail::AttendParams& p_;
  const detail::Tile& tile_;
  const int first_pair_;
  const float cap_;     ///< soft cap in base 2, 0: none
  const float factor_;  ///< of a product: gives the score in base 2, or the exponent of its soft cap
  int row_[kPairBlocks];
  Vector8 q_[kPairBlocks][kQueryLoads];
  Vector8 k_[kTokenBlocks][kQueryLoads];
  ValueVector v_[kTokenBlocks][4][kValueLoads];
  Float4 scores_[kPairBlocks][kTokenBlocks];
  Vector4 weights_[kPairBlocks][kTokenBlocks];
  Float4 output_[kPairBlocks][kOutputs];
  gpu::SoftmaxState softmax_[kPairBlocks];
};

/// One tile, by all waves of the block: as many as it takes side by side on its pairs, the others on parts of its tokens.
template <class T, int kHeadDim, int kPairBlocks>
__device__ __forceinline__ void attend_tile(const detail::AttendParams& p, const detail::Tile& tile, int pairs,
                                            Mail& mail) {
  using Wave = WaveAttention<T, kHeadDim, kPairBlocks>;
  const int wave = gpu::uniform(threadIdx.x / kWaveLanes);
  const int pair_waves = pairs <= Wave::kPairs ? 1 : pairs <= 2 * Wave::kPairs ? 2 : kWaves;
  const int token_waves = kWaves / pair_waves, number = wave / pair_waves;
  const int share = (tile.tokens + token_waves * 16 - 1) / (token_waves * 16) * 16;
  const int begin = number * share, end = begin + share < tile.tokens ? begin + share : tile.tokens;
  for (int first = wave % pair_waves * Wave::kPairs; first < pairs; first += pair_waves * Wave::kPairs) {
    Wave attention(p, tile, first);
    attention.attend(begin, end);
    attention.merge_waves(mail, token_waves, number, wave % pair_waves);
    if (number == 0) attention.store();
  }
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) attend_kernel(detail::AttendParams p) {
  constexpr int kPairBlocks = kHeadDim <= 128 ? 2 : 1;
  __shared__ Mail mail;
  const detail::PlanView& plan = p.plan;
  for (int number = plan.worker_begin[blockIdx.x]; number < plan.worker_begin[blockIdx.x + 1]; ++number) {
    const detail::Tile tile = gpu::tile_of_plan(p, number);
    const int pairs = (tile.row_end - tile.row_begin) * (p.query_heads / p.kv_heads);
    if (kPairBlocks == 1 || pairs <= kBlockPairs) {
      attend_tile<T, kHeadDim, 1>(p, tile, pairs, mail);
    } else {
      attend_tile<T, kHeadDim, kPairBlocks>(p, tile, pairs, mail);
    }
  }
}

template <class T, int kHeadDim>
void launch_attend(const detail::AttendParams& p, gpu::Stream stream) {
  gpu::launch(attend_kernel<T, kHeadDim>, p.plan.workers, kThreads, stream, p);
}

}  // namespace espalier::hip
