#pragma once
// The computing part of a narrow warp.
//
//   scores^T (tokens x pairs) = K Q^T        m16n8k16: 16 tokens, 8 pairs, so that tokens which only 8 pairs see
//   output^T (head_dim x pairs) += V^T P^T   cost half

#include "backends/cuda/sm90/narrow_stages.hpp"

namespace espalier::gpu::sm90 {

template <class T, int HeadDim, bool Transform>
class NarrowCompute {
  using C = Config<HeadDim>;
  using Ring = NarrowRing<HeadDim>;
  static constexpr int kSlices = C::kPadded / 16;  ///< of head_dim, one for each matrix instruction
  static constexpr int kBatch = 4;                 ///< slices whose fragments are on their way together
  static_assert(kSlices % kBatch == 0);

 public:
  __device__ __forceinline__ NarrowCompute(const Arguments& arguments, const Ring& ring)
      : arguments_(arguments), ring_(ring), lane_(threadIdx.x % kWaveLanes) {}

  /// Waits for the stage in a slot and works it off. @returns what the next one is
  __device__ __forceinline__ StageKind consume(StageKind arrived, int slot, std::uint32_t parity) {
    const std::uint32_t full = ring_.full_of(slot), stage = ring_.slot_of(slot);
    if (arrived == StageKind::keys) {
      barrier_wait(full, parity);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) info_[s] = load_shared(ring_.what_of(slot) + 4 * s);
      by_columns([&](auto columns) { multiply_qk<columns.value>(stage, slot); });
      return StageKind::values;
    }
    if (arrived == StageKind::values) {
      bool written = false;
      by_columns([&](auto columns) {
        softmax<columns.value>();
        barrier_wait(full, parity);
        written = clear_tail(stage);
        multiply_pv<columns.value>(stage);
      });
      const bool last = any_info() & kStageLast;
      if (last) {
        synchronise_warp();
        finish(stage);
        written = true;
      }
      if (written) fence_async_proxy();
      return last ? StageKind::query : StageKind::keys;
    }
    barrier_wait(full, parity);
    start(stage, slot);
    return StageKind::keys;
  }

 private:
  /// Flags of any of the steps.
  [[nodiscard]] __device__ __forceinline__ int any_info() const { return info_[0] | info_[C::kSteps - 1]; }

  template <int Columns>
  struct ColumnsTag {
    static constexpr int value = Columns;
  };

  template <class Action>
  __device__ __forceinline__ void by_columns(Action action) {
    const int columns = any_info() & (kStageLowPairs | kStageHighPairs);
    if (columns == 1)
      action(ColumnsTag<1>{});
    else if (columns == 2)
      action(ColumnsTag<2>{});
    else
      action(ColumnsTag<3>{});
  }

  /// Takes Q out of the ring, so that its slot is free, and empties the softmax.
  __device__ __forceinline__ void start(std::uint32_t stage, int slot) {
    pair_begin_of_tile_ = load_shared(ring_.what_of(slot) + 16);
    partial_begin_ = load_shared(ring_.what_of(slot) + 20);
    sizes_ = load_shared(ring_.what_of(slot) + 24);
    direct_ = load_shared(ring_.what_of(slot) + 28) & detail::kTileDirect;
    constexpr int kWords = Ring::kQueryChunkBytes / 16;  // of a chunk
#pragma unroll
    for (int chunk = 0; chunk < C::kChunks; ++chunk) {
#pragma unroll
      for (int i = 0; i < kWords; i += kWaveLanes) {
        const std::uint32_t place = (i + lane_) * 16;
        store_shared_words(ring_.query() + chunk * Ring::kQueryChunkBytes + place,
                           load_shared_words(stage + chunk * Ring::kChunkBytes + place));
      }
    }
    synchronise_warp();
#pragma unroll
    for (int b = 0; b < 2; ++b) {
#pragma unroll
      for (int j = 0; j < kSlices; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) output_[b][j][i] = 0.0f;
      }
      peak_[b][0] = peak_[b][1] = kNoPeak;
      weight_[b][0] = weight_[b][1] = 0.0f;
    }
  }

  template <int Columns>
  __device__ __forceinline__ void multiply_qk(std::uint32_t stage, int slot) {
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores_[s][b][i] = 0.0f;
      }
    }
    const int row = lane_ % 8 + (lane_ / 8 % 2) * 8, half = lane_ / 16;
    const int pair = lane_ % 8, quarter = lane_ / 8;
#pragma unroll
    for (int k0 = 0; k0 < kSlices; k0 += kBatch) {
      std::uint32_t keys[kBatch][C::kSteps][4], queries[kBatch / 2][2][4];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int k = k0 + i;
        if (k % 2 == 0) {
          const std::uint32_t place =
              ring_.query() + k / 4 * Ring::kQueryChunkBytes + pair * 128 + (((k % 4 * 2 + quarter) ^ pair) << 4);
          if (Columns & 1) load_matrices(queries[i / 2][0], place);
          if (Columns & 2) load_matrices(queries[i / 2][1], place + 8 * 128);
        }
        const std::uint32_t place = k / 4 * Ring::kChunkBytes + row * 128 + (((k % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
        for (int s = 0; s < C::kSteps; ++s) load_matrices(keys[i][s], stage + s * Ring::kStepBytes + place);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            const std::uint32_t(&q)[4] = queries[i / 2][b];
            if (Columns >> b & 1) multiply<T>(scores_[s][b], keys[i][s], q[i % 2 * 2], q[i % 2 * 2 + 1]);
          }
        }
      }
    }
    if constexpr (Transform) {
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          if (!(Columns >> b & 1)) continue;
#pragma unroll
          for (int i = 0; i < 4; ++i) scores_[s][b][i] = transform_score(scores_[s][b][i], arguments_);
        }
      }
    }
    if (any_info() & kStageMasked) mask<Columns>(slot);
  }

  template <int Columns>
  __device__ __forceinline__ void mask(int slot) {
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const int tokens = info_[s] >> 8 & 255;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = lane_ / 4 + 8 * h;
        int lo = info_[s] >> 16 & 255, hi = token < tokens ? info_[s] >> 24 : 0;
        if (info_[s] & kStageByToken) {
          const int see = token < tokens ? load_shared_half(ring_.pairs_of(slot, s, token)) : 0;
          lo = see & 255;
          hi = see >> 8;
        }
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          if (!(Columns >> b & 1)) continue;
          const int pair = 8 * b + 2 * (lane_ % 4);
          if (pair < lo || pair >= hi) scores_[s][b][2 * h] = -INFINITY;
          if (pair + 1 < lo || pair + 1 >= hi) scores_[s][b][2 * h + 1] = -INFINITY;
        }
      }
    }
  }

  template <int Columns>
  __device__ __forceinline__ void softmax() {
    const float scale = arguments_.weight_scale;
    // The peak may lag behind by a factor of 2^8 in the weights before the output is rescaled.
    const float slack = arguments_.peak_slack;
    float highest[2][2];
    bool rescale = false;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (!(Columns >> b & 1)) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        highest[b][i] = fmaxf(scores_[0][b][i], scores_[0][b][2 + i]);
        if (C::kSteps == 2) {
          highest[b][i] = fmaxf(highest[b][i], fmaxf(scores_[C::kSteps - 1][b][i], scores_[C::kSteps - 1][b][2 + i]));
        }
        rescale |= highest[b][i] > peak_[b][i] + slack;
      }
    }
    if (in_any_lane(rescale)) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        if (!(Columns >> b & 1)) continue;
        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float top = highest[b][i];
          top = fmaxf(top, exchange_lanes(top, 4));
          top = fmaxf(top, exchange_lanes(top, 8));
          top = fmaxf(top, exchange_lanes(top, 16));
          const float peak = top > peak_[b][i] + slack ? top : peak_[b][i];
          factor[i] = fast_exp2((peak_[b][i] - peak) * scale);
          peak_[b][i] = peak;
          weight_[b][i] *= factor[i];
        }
#pragma unroll
        for (int j = 0; j < kSlices; ++j) {
          output_[b][j][0] *= factor[0];
          output_[b][j][1] *= factor[1];
          output_[b][j][2] *= factor[0];
          output_[b][j][3] *= factor[1];
        }
      }
    }
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (!(Columns >> b & 1)) continue;
      const float shift0 = shift_of(peak_[b][0], scale), shift1 = shift_of(peak_[b][1], scale);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        const float e0 = fast_exp2(fmaf(scores_[s][b][0], scale, shift0));
        const float e1 = fast_exp2(fmaf(scores_[s][b][1], scale, shift1));
        const float e2 = fast_exp2(fmaf(scores_[s][b][2], scale, shift0));
        const float e3 = fast_exp2(fmaf(scores_[s][b][3], scale, shift1));
        weight_[b][0] += e0 + e2;
        weight_[b][1] += e1 + e3;
        weights_[s][b][0] = transpose_matrix(pack<T>(e0, e1));
        weights_[s][b][1] = transpose_matrix(pack<T>(e2, e3));
      }
    }
  }

  template <int Columns>
  __device__ __forceinline__ void multiply_pv(std::uint32_t stage) {
    const int row = lane_ % 8 + lane_ / 16 * 8, half = lane_ / 8 % 2;
#pragma unroll
    for (int j0 = 0; j0 < kSlices; j0 += kBatch) {
      std::uint32_t values[kBatch][C::kSteps][4];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int j = j0 + i;
        const std::uint32_t place = j / 4 * Ring::kChunkBytes + row * 128 + (((j % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
        for (int s = 0; s < C::kSteps; ++s)
          load_matrices_transposed(values[i][s], stage + s * Ring::kStepBytes + place);
      }
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          if (Columns & 1) multiply<T>(output_[0][j0 + i], values[i][s], weights_[s][0][0], weights_[s][0][1]);
          if (Columns & 2) multiply<T>(output_[1][j0 + i], values[i][s], weights_[s][1][0], weights_[s][1][1]);
        }
      }
    }
  }

  /// Zeroes V beyond the tokens of a step: other nodes' tokens, or memory that nothing was written to yet.
  __device__ __forceinline__ bool clear_tail(std::uint32_t stage) {
    if (!(any_info() & kStageMasked)) return false;
    bool cleared = false;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const int tokens = info_[s] >> 8 & 255;
      if (tokens == detail::kNarrowTokens) continue;
      const int words = (detail::kNarrowTokens - tokens) * 8;  // of 16 bytes, in each chunk
#pragma unroll 1
      for (int i = lane_; i < words; i += kWaveLanes) {
#pragma unroll
        for (int chunk = 0; chunk < C::kChunks; ++chunk) {
          clear_shared(stage + s * Ring::kStepBytes + chunk * Ring::kChunkBytes + tokens * 128 + i * 16);
        }
      }
      cleared = true;
    }
    if (cleared) synchronise_warp();
    return cleared;
  }

  /// Normalises and stores the tile's rows, through the stage it has just read.
  __device__ __forceinline__ void finish(std::uint32_t stage) {
    const int quad = lane_ / 4, quad_lane = lane_ % 4;
    const int tile_pairs = sizes_ & 0xffff, tile_head = static_cast<unsigned>(sizes_) >> 16;
    const bool direct = direct_;
    constexpr int kWords = C::kRowBytes / 16;  ///< 16-byte words of a row
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (b == 1 && tile_pairs <= 8) break;
      float inverse[2], lse[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float weight = weight_[b][i];
        weight += exchange_lanes(weight, 4);
        weight += exchange_lanes(weight, 8);
        weight += exchange_lanes(weight, 16);
        inverse[i] = weight == 0.0f ? 0.0f : 1.0f / weight;
        lse[i] = weight == 0.0f ? -INFINITY : peak_[b][i] * arguments_.weight_scale + fast_log2(weight);
      }
      const int row = lane_ % 8 + 8 * b;
#pragma unroll
      for (int j = 0; j < kSlices; j += 2) {
        const int word = (j * 2 + lane_ / 8) ^ (row & 7);
        store_matrices_transposed(stage + row * C::kRowBytes + word * 16,
                                  pack<T>(output_[b][j][0] * inverse[0], output_[b][j][1] * inverse[1]),
                                  pack<T>(output_[b][j][2] * inverse[0], output_[b][j][3] * inverse[1]),
                                  pack<T>(output_[b][j + 1][0] * inverse[0], output_[b][j + 1][1] * inverse[1]),
                                  pack<T>(output_[b][j + 1][2] * inverse[0], output_[b][j + 1][3] * inverse[1]));
      }
      if (quad == 0) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int pair = 8 * b + 2 * quad_lane + i;
          if (pair < tile_pairs) {
            if (direct) {
              if (arguments_.lse) {
                store_lse(arguments_, locate_pair(arguments_, pair_begin_of_tile_ + pair, tile_head), lse[i]);
              }
            } else {
              arguments_.plan.partial_lse[partial_begin_ + pair] = lse[i];
            }
          }
        }
      }
    }
    synchronise_warp();
    if (direct) {
#pragma unroll 1
      for (int index = lane_; index < tile_pairs * kWords; index += kWaveLanes) {
        const int row = index / kWords, word = index % kWords;
        if (word * 8 < HeadDim) {
          T* target = out_of<T>(arguments_, locate_pair(arguments_, pair_begin_of_tile_ + row, tile_head));
          store_words(target + word * 8, staged_word(stage, row, word));
        }
      }
      return;
    }
    T* target = static_cast<T*>(arguments_.plan.partial_out) + static_cast<std::int64_t>(partial_begin_) * HeadDim;
#pragma unroll 4
    for (int i = 0; i < 16 * kWords / kWaveLanes; ++i) {
      const int index = lane_ + i * kWaveLanes, row = index / kWords, word = index % kWords;
      if (row < tile_pairs && word * 8 < HeadDim) {
        store_words(target + row * HeadDim + word * 8, staged_word(stage, row, word));
      }
    }
  }

  __device__ __forceinline__ uint4 staged_word(std::uint32_t stage, int row, int word) const {
    return load_shared_words(stage + row * C::kRowBytes + ((word ^ (row & 7)) << 4));
  }

  const Arguments& arguments_;
  const Ring ring_;
  const int lane_;

  int pair_begin_of_tile_, partial_begin_, sizes_;  ///< of the tile that is computed
  bool direct_;
  int info_[C::kSteps];
  float scores_[C::kSteps][2][4];
  std::uint32_t weights_[C::kSteps][2][2];
  float output_[2][kSlices][4];
  float peak_[2][2];
  float weight_[2][2];
};

}  // namespace espalier::gpu::sm90
