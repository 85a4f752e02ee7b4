#pragma once
// The warpgroups that compute: scores = Q K^T, weights = 2^(score - peak), output = sum of weights V, by wgmma.
//
// Mapping: each of two warpgroups holds 64 pairs of the tile. While one computes softmax, the other has the matrix units (the
// barriers kTurn), and within a warpgroup the scores of the next stage are in flight beside the second product of this one. A
// token costs all 64 pairs, whoever sees it: what a pair does not see gets a score of -inf. But stages that none of its pairs see
// a warpgroup leaves out; 128 tokens that up to 64 pairs see then take 1.1 us, while memory needs 1.9 to bring as many to every
// multiprocessor.
// Budget: 216 registers, of which scores take 64 (32 above head_dim 128) and the output head_dim / 2; none spilled.

#include "backends/cuda/sm90/stack_memory.hpp"
#include "backends/cuda/sm90/wgmma.hpp"

namespace espalier::gpu::sm90 {

/// Descriptor of an operand in 128-byte swizzled shared memory. Strides in bytes: `leading` between columns of 64
/// elements of a transposed operand (unused otherwise), `stride` between groups of 8 rows.
__device__ __forceinline__ std::uint64_t matrix_descriptor(std::uint32_t address, std::uint32_t leading,
                                                           std::uint32_t stride) {
  return static_cast<std::uint64_t>((address & 0x3ffffu) >> 4) | (static_cast<std::uint64_t>(leading >> 4) << 16) |
         (static_cast<std::uint64_t>(stride >> 4) << 32) | (1ull << 62);
}

/// The descriptor of a place some bytes behind another one's, a multiple of 16: nothing carries out of the address.
__device__ __forceinline__ std::uint64_t operand_behind(std::uint64_t descriptor, std::uint32_t bytes) {
  return (descriptor & 0xffffffff00000000ull) | (static_cast<std::uint32_t>(descriptor) + (bytes >> 4));
}

/// Of what a thread adds up of a row in a stage, and so of each weight: a peak is raised where it is more.
inline constexpr float kMostWeight = 256.0f;

/// One warpgroup, `group_` 0 or 1. A thread holds, of rows kHalfPairs * group_ + 16 * warp + lane / 4 and 8 below it, the
/// columns 8 j + 2 (lane % 4) and the next one.
template <class T, int HeadDim, bool Transform>
class StackConsumer {
  using C = Config<HeadDim>;
  static constexpr int kSlots = C::kStageSlots;
  static constexpr int kScores = kSlots / 2;  ///< accumulators of a thread
  static constexpr int kOutputs = C::kPadded / 2;
  static constexpr int kEightRows = 8 * kChunkBytes;

 public:
  __device__ __forceinline__ StackConsumer(const Arguments& arguments, const StackMemory<HeadDim>& memory, int group)
      : arguments_(arguments), memory_(memory), group_(group), thread_(threadIdx.x % kGroupThreads) {}

  __device__ __forceinline__ void run(const detail::FusedTile* tiles, int count) {
    StackBarriers<HeadDim>& barriers = *memory_.barriers;
    const bool elected = thread_ % kWaveLanes == 0;
    float scores[kScores], output[kOutputs];
    std::uint32_t weights[kSlots / 4];
    const std::uint32_t mine = kSeen << group_, partly = kSeenPartly << group_;
    Place at = {0};
    std::uint32_t q_parity = 0;
#pragma unroll 1
    for (int number = 0; number < count; ++number) {
      barrier_wait(shared_address(&barriers.q_full), q_parity);
      q_parity ^= 1;
      peak_[0] = peak_[1] = kNoPeak;
      weight_[0] = weight_[1] = 0.0f;
      is_first_ = true;
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) output[i] = 0.0f;
      std::uint32_t what = 0;
      // Stages that this warpgroup sees, in runs. Whichever is not seen is given back at once.
#pragma unroll 1
      while (!(what & kStageOfTileEnd)) {
        what = await_what(at);
        if (!(what & mine)) {
          give_back_keys(at, what);
          give_back_values(at);
          at = at.next();
          continue;
        }
        wgmma_fence();
        multiply_qk(scores, uniform(at.stage()));
        wgmma_commit();
        wgmma_commit();  // in place of the second product of a stage before
        // Of each stage: softmax, then its second product, in flight together with the scores of the next stage. One softmax in
        // the code, not one more before the loop: fetching it costs time. Waiting for the second product behind the softmax
        // was slower (README.md).
        Place values = {-1};          // whose second product is in flight
        Place skipped = {-1};         // of which V is still to be given back
        std::uint32_t next_what = 0;  // 0: not known yet
#pragma unroll 1
        while (true) {
          wgmma_wait<1>();
          if (what & partly) [[unlikely]]
            find_seen(what, at.stage());
          barrier_arrive(shared_address(&barriers.k_empty[at.stage()]));
          barrier_arrive_if(elected && (what & kStageOfTileEnd), shared_address(&barriers.q_empty));
          wgmma_wait<0>();
          barrier_arrive_if(elected && values.exists(), shared_address(&barriers.v_empty[max(values.stage(), 0)]));
          if (skipped.exists()) [[unlikely]] {
            give_back_values(skipped);
            skipped = {-1};
          }
          transform(scores);
          if (what & partly) [[unlikely]]
            hide(scores);
          weigh(scores, weights, output);
          if (what & kStageOfTileEnd) [[unlikely]]
            break;
          Place next = at.next();
          if (next_what == 0) [[unlikely]]
            next_what = await_what(next);
          bool take_turns = (what & next_what & kSeen * 3) == kSeen * 3;
          if (!(next_what & mine)) [[unlikely]] {
            if (C::kStages == 2 || (next_what & kStageOfTileEnd))
              break;  // with two, V would have to come to this stage's place
            give_back_keys(next, next_what);
            skipped = next;
            next = next.next();
            next_what = await_what(next);
            take_turns = false;
            if (!(next_what & mine)) break;
          }
          if (what & kStageGaps) [[unlikely]] {
            barrier_wait(shared_address(&barriers.v_full[at.stage()]), at.parity());
            clear_gaps(at.stage());
          }
          what = next_what;
          values = at;
          at = next;
          if (take_turns) named_sync<2 * kGroupThreads>(kTurn + group_);
          wgmma_fence();
          multiply_qk(scores, uniform(at.stage()));
          wgmma_commit();
          barrier_wait(shared_address(&barriers.v_full[values.stage()]), values.parity());
          wgmma_fence();
          multiply_pv(output, weights, uniform(values.stage()));
          wgmma_commit();
          if (take_turns) named_arrive<2 * kGroupThreads>(kTurn + (group_ ^ 1));
          // While the products run: what the next stage is, if it is there.
          next = at.next();
          next_what = 0;
          if (barrier_passed(shared_address(&barriers.k_full[next.stage()]), next.parity())) next_what = what_of(next);
        }
        barrier_wait(shared_address(&barriers.v_full[at.stage()]), at.parity());
        if (what & kStageGaps) clear_gaps(at.stage());
        wgmma_fence();
        multiply_pv(output, weights, uniform(at.stage()));
        wgmma_commit();
        wgmma_wait<0>();
        if (elected) barrier_arrive(shared_address(&barriers.v_empty[at.stage()]));
        at = at.next();
        if (skipped.exists()) {
          give_back_values(skipped);
          at = at.next();
        }
      }
      const detail::FusedTile tile = load_tile(tiles + number);
      if (group_ * kHalfPairs < tile.pairs) finish(tile, output);
    }
  }

 private:
  /// A stage, and the parity of its barriers' phases.
  struct Place {
    int value;
    [[nodiscard]] __device__ __forceinline__ bool exists() const { return value >= 0; }
    [[nodiscard]] __device__ __forceinline__ int stage() const { return value >> 1; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t parity() const {
      return static_cast<std::uint32_t>(value & 1);
    }
    [[nodiscard]] __device__ __forceinline__ Place next() const {
      return {stage() == C::kStages - 1 ? (value & 1) ^ 1 : value + 2};
    }
  };

  [[nodiscard]] __device__ __forceinline__ std::uint32_t what_of(Place place) const {
    return memory_.notes[place.stage()].what;
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t await_what(Place place) const {
    barrier_wait(shared_address(&memory_.barriers->k_full[place.stage()]), place.parity());
    return what_of(place);
  }

  /// Of a stage that this warpgroup sees nothing of.
  __device__ __forceinline__ void give_back_keys(Place place, std::uint32_t what) {
    barrier_arrive(shared_address(&memory_.barriers->k_empty[place.stage()]));
    if (thread_ % kWaveLanes != 0) return;
    if (what & kStageOfTileEnd) barrier_arrive(shared_address(&memory_.barriers->q_empty));
  }
  __device__ __forceinline__ void give_back_values(Place place) {
    barrier_wait(shared_address(&memory_.barriers->v_full[place.stage()]), place.parity());
    synchronise_warp();
    if (thread_ % kWaveLanes == 0) barrier_arrive(shared_address(&memory_.barriers->v_empty[place.stage()]));
  }

  // --------------------------------------------------------------------------------------------------------- products

  __device__ __forceinline__ int row_of_thread(int half) const {
    return group_ * kHalfPairs + thread_ / kWaveLanes * 16 + thread_ % kWaveLanes / 4 + 8 * half;
  }

  __device__ __forceinline__ void multiply_qk(float (&scores)[kScores], int stage) {
    const std::uint64_t q = matrix_descriptor(memory_.q() + group_ * kHalfPairs * kChunkBytes, 16, kEightRows);
    const std::uint64_t k = matrix_descriptor(memory_.k(stage), 16, kEightRows);
#pragma unroll
    for (int slice = 0; slice < C::kPadded / 16; ++slice) {
      const std::uint64_t a = operand_behind(q, slice / 4 * detail::kTilePairs * kChunkBytes + slice % 4 * 32);
      const std::uint64_t b = operand_behind(k, slice / 4 * kSlots * kChunkBytes + slice % 4 * 32);
      if constexpr (kSlots == 128)
        wgmma_n128<T>(scores, a, b, slice > 0);
      else
        wgmma_n64<T>(scores, a, b, slice > 0);
    }
  }

  __device__ __forceinline__ void multiply_pv(float (&output)[kOutputs], const std::uint32_t (&weights)[kSlots / 4],
                                              int stage) {
    const std::uint64_t v = matrix_descriptor(memory_.v(stage), kSlots * kChunkBytes, kEightRows);
#pragma unroll
    for (int slice = 0; slice < kSlots / 16; ++slice) {
#pragma unroll
      for (int chunk = 0; chunk < C::kChunks; chunk += 2) {
        const std::uint64_t b = operand_behind(v, chunk * kSlots * kChunkBytes + slice * 2 * kEightRows);
        if (chunk + 1 < C::kChunks)
          wgmma_n128<T>(output + chunk * 32, weights + slice * 4, b, 1);
        else
          wgmma_n64<T>(output + chunk * 32, weights + slice * 4, b, 1);
      }
    }
  }

  // ---------------------------------------------------------------------------------------------------- who sees what

  /// The columns of this thread in front of a token of a stage, as bits: 2 j + e for column 8 j + 2 (lane % 4) + e.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t columns_before(int token) const {
    const int count = token / 8 * 2 + max(min(token % 8 - thread_ % 4 * 2, 2), 0);
    return count == 32 ? ~0u : (1u << count) - 1;
  }

  /// Finds what the rows of this thread see of a stage, and its gaps, before it is given back with K.
  __device__ __forceinline__ void find_seen(std::uint32_t what, int stage) {
    tokens_of_slots_[0] = memory_.notes[stage].tokens_of_slots[0];
    tokens_of_slots_[1] = memory_.notes[stage].tokens_of_slots[1];
    seen_[0] = seen_[1] = 0;
    const int row = row_of_thread(0), intervals = static_cast<int>(what >> 16);
#pragma unroll 1
    for (int i = 0; i < intervals; ++i) {
      const std::uint32_t interval = memory_.notes[stage].intervals[i];
      const int low = interval >> 16 & 255, high = interval >> 24;
      const std::uint32_t columns = columns_before(interval >> 8 & 255) & ~columns_before(interval & 255);
      if (row >= low && row < high) seen_[0] |= columns;
      if (row + 8 >= low && row + 8 < high) seen_[1] |= columns;
    }
  }

  __device__ __forceinline__ void hide(float (&scores)[kScores]) const {
#pragma unroll
    for (int j = 0; j < kScores / 4; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const std::uint32_t column = 1u << (2 * j + e);
        if (!(seen_[0] & column)) scores[4 * j + e] = -INFINITY;
        if (!(seen_[1] & column)) scores[4 * j + 2 + e] = -INFINITY;
      }
    }
  }

  /// Zeroes V in slots without a token: they hold other nodes' tokens or memory that nothing was written to yet, of which
  /// 0 * NaN would be NaN. Both warpgroups write the same zeros, each before its own product.
  __device__ __forceinline__ void clear_gaps(int stage) {
    const int row = thread_ / 8, word = thread_ % 8;
#pragma unroll
    for (int unit = 0; unit < kSlots / detail::kStackSlots; ++unit) {
      if (row < static_cast<int>(tokens_of_slots_[unit / 4] >> unit % 4 * 8 & 255)) continue;
#pragma unroll
      for (int chunk = 0; chunk < C::kChunks; ++chunk) {
        clear_shared(memory_.v(stage) + (chunk * kSlots + unit * detail::kStackSlots + row) * kChunkBytes + word * 16);
      }
    }
    fence_async_proxy();
    named_sync<kGroupThreads>(kGroup + group_);
  }

  // ---------------------------------------------------------------------------------------------------------- softmax

  __device__ __forceinline__ void transform(float (&scores)[kScores]) {
    if constexpr (Transform) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores[i] = transform_score(scores[i], arguments_);
    }
  }

  /// Scores become weights, relative to the peak of their row. A peak is the highest score of its row's first stage, and
  /// rises where weights then turn out to be large, which leaves most stages neither a maximum to find nor an output to
  /// scale. A row that had no peak yet gets infinite ones, which are large, too.
  __device__ __forceinline__ void weigh(const float (&scores)[kScores], std::uint32_t (&weights)[kSlots / 4],
                                        float (&output)[kOutputs]) {
    const float scale = arguments_.weight_scale;
    float sum0, sum1;
    bool raise = is_first_;
    is_first_ = false;
#pragma unroll 1
    while (true) {
      if (raise) [[unlikely]]
        raise_peaks(scores, output);
      const float shift0 = shift_of(peak_[0], scale), shift1 = shift_of(peak_[1], scale);
      sum0 = sum1 = 0.0f;
#pragma unroll
      for (int j = 0; j < kScores / 4; ++j) {
        const float a = fast_exp2(fmaf(scores[4 * j], scale, shift0));
        const float b = fast_exp2(fmaf(scores[4 * j + 1], scale, shift0));
        const float c = fast_exp2(fmaf(scores[4 * j + 2], scale, shift1));
        const float d = fast_exp2(fmaf(scores[4 * j + 3], scale, shift1));
        sum0 += a + b;
        sum1 += c + d;
        weights[2 * j] = pack<T>(a, b);
        weights[2 * j + 1] = pack<T>(c, d);
      }
      if (raise || !in_any_lane(sum0 > kMostWeight || sum1 > kMostWeight)) break;
      raise = true;
    }
    weight_[0] += sum0;
    weight_[1] += sum1;
  }

  /// Raises peaks to the highest scores.
  __device__ __forceinline__ void raise_peaks(const float (&scores)[kScores], float (&output)[kOutputs]) {
    const float scale = arguments_.weight_scale;
    float top0 = peak_[0], top1 = peak_[1];
#pragma unroll
    for (int j = 0; j < kScores / 4; ++j) {
      top0 = fmaxf(top0, fmaxf(scores[4 * j], scores[4 * j + 1]));
      top1 = fmaxf(top1, fmaxf(scores[4 * j + 2], scores[4 * j + 3]));
    }
    top0 = fmaxf(top0, exchange_lanes(top0, 1));
    top1 = fmaxf(top1, exchange_lanes(top1, 1));
    top0 = fmaxf(top0, exchange_lanes(top0, 2));
    top1 = fmaxf(top1, exchange_lanes(top1, 2));
    const float factor0 = fast_exp2((peak_[0] - top0) * scale), factor1 = fast_exp2((peak_[1] - top1) * scale);
    peak_[0] = top0;
    peak_[1] = top1;
    weight_[0] *= factor0;
    weight_[1] *= factor1;
#pragma unroll
    for (int j = 0; j < kOutputs / 4; ++j) {
      output[4 * j] *= factor0;
      output[4 * j + 1] *= factor0;
      output[4 * j + 2] *= factor1;
      output[4 * j + 3] *= factor1;
    }
  }

  // ---------------------------------------------------------------------------------------------------------- results

  /// Normalises and stores the rows of this thread.
  __device__ __forceinline__ void finish(const detail::FusedTile& tile, float (&output)[kOutputs]) {
    const int quad_lane = thread_ % 4;
    const bool direct = tile.flags & detail::kTileDirect;
    float inverse[2];
    char* target[2];
    bool valid[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float weight = weight_[half];
      weight += exchange_lanes(weight, 1);
      weight += exchange_lanes(weight, 2);
      inverse[half] = weight == 0.0f ? 0.0f : 1.0f / weight;
      const float lse = weight == 0.0f ? -INFINITY : peak_[half] * arguments_.weight_scale + fast_log2(weight);
      const int row = row_of_thread(half);
      valid[half] = row < tile.pairs;
      if (direct) {
        const PairPlace place = locate_pair(arguments_, tile.pair_begin + min(row, tile.pairs - 1), tile.kv_head);
        target[half] = reinterpret_cast<char*>(out_of<T>(arguments_, place));
        if (quad_lane == 0 && valid[half]) store_lse(arguments_, place, lse);
      } else {
        target[half] = static_cast<char*>(arguments_.plan.partial_out) +
                       static_cast<std::int64_t>(tile.partial_begin + row) * (HeadDim * 2);
        if (quad_lane == 0 && valid[half]) arguments_.plan.partial_lse[tile.partial_begin + row] = lse;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t words[kOutputs / 4];
#pragma unroll
      for (int j = 0; j < kOutputs / 4; ++j) {
        words[j] = pack<T>(output[4 * j + 2 * half] * inverse[half], output[4 * j + 2 * half + 1] * inverse[half]);
      }
      store_quad_row<HeadDim>(target[half], words, quad_lane, valid[half]);
    }
  }

  const Arguments& arguments_;
  const StackMemory<HeadDim>& memory_;
  const int group_;
  const int thread_;
  float peak_[2], weight_[2];
  bool is_first_ = true;              ///< no stage of the tile has been weighed
  std::uint32_t seen_[2];             ///< of a stage that is seen partly, see columns_before()
  std::uint32_t tokens_of_slots_[2];  ///< of a stage with gaps
};

}  // namespace espalier::gpu::sm90
