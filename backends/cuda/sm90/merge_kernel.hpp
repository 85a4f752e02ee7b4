#pragma once
// The second launch: the partials of each pair -> its output row.
//
//   out = sum_i 2^(lse_i - top) out_i / sum_i 2^(lse_i - top),   top = max_i lse_i
//
// Mapping: kRowLanes lanes hold a row, 8 elements each; a warp serves neighbouring rows of one (block of 16 pairs, KV
// head), so that one list serves all of them. The list is loaded before the main launch has ended. The kernel lives for
// a few microseconds after that, of which fetching its own instructions is a good part: loops are rolled, and every lane
// computes the weights it needs by itself instead of sharing them by shuffles.

#include "backends/cuda/sm90/common.hpp"

namespace espalier::gpu::sm90 {

inline constexpr int kMergeThreads = 256;

template <int HeadDim>
struct MergeShape {
  static constexpr int kRowLanes = HeadDim <= 64 ? 8 : HeadDim <= 128 ? 16 : 32;
  static constexpr int kRowsTogether = kWaveLanes / kRowLanes;
};

/// @tparam Batch   partials in flight
/// @tparam Passes  groups of kRowsTogether rows that a warp serves
template <class T, int HeadDim, int Batch, int Passes>
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(const __grid_constant__ Arguments arguments) {
  constexpr int kRowLanes = MergeShape<HeadDim>::kRowLanes, kTogether = MergeShape<HeadDim>::kRowsTogether;
  constexpr int kRows = kTogether * Passes;            // of this warp
  constexpr int kParts = detail::kMergePairs / kRows;  // warps of a block of pairs

  const detail::FusedPlanView& plan = arguments.plan;
  const int lane = threadIdx.x % kWaveLanes, row_lane = lane % kRowLanes;
  const int warp = blockIdx.x * (kMergeThreads / kWaveLanes) + threadIdx.x / kWaveLanes;
  const int list = warp / kParts;
  const int all_pairs = __ldg(&plan.header->rows) * arguments.group;
  const int pair_block = list / arguments.kv_heads, kv_head = list - pair_block * arguments.kv_heads;
  int pair = warp % kParts * kRows + lane / kRowLanes;  // of the block
  int begin = 0, entries = 0;
  int2 entry = make_int2(0, 0);  // one a lane
  if (pair_block * detail::kMergePairs + warp % kParts * kRows < all_pairs) {
    begin = __ldg(plan.merge_begin + list);
    entries = __ldg(plan.merge_begin + list + 1) - begin;
    if (lane < entries) entry = __ldg(reinterpret_cast<const int2*>(plan.merge_entries + begin) + lane);
  }
  const auto locate = [&] {
    return locate_pair(arguments, max(min(pair_block * detail::kMergePairs + pair, all_pairs - 1), 0), kv_head);
  };
  PairPlace place = locate();
  wait_for_predecessor();
  let_successor_start();
  if (blockIdx.x == 0 && threadIdx.x == 0) *plan.queue_next = 0;

#pragma unroll 1
  for (int pass = 0; pass < Passes; ++pass, pair += kTogether) {
    if (pass > 0) place = locate();
    float top = kNoPeak, total = 0.0f;
    bool covered = false;
    float sums[8] = {};
#pragma unroll 1
    for (int done = 0; done < entries; done += Batch) {
      if (entries > kWaveLanes && done % kWaveLanes == 0) {
        if (done + lane < entries) {
          entry = __ldg(reinterpret_cast<const int2*>(plan.merge_entries + begin + done) + lane);
        }
      }
      float lse[Batch];
      uint4 rows[Batch];
#pragma unroll
      for (int i = 0; i < Batch; ++i) {
        const int partial = __shfl_sync(kAllLanes, entry.x, (done + i) % kWaveLanes);
        const int interval = __shfl_sync(kAllLanes, entry.y, (done + i) % kWaveLanes);
        const bool inside = done + i < entries && pair >= (interval & 0xffff) && pair < (interval >> 16);
        covered |= inside;
        lse[i] = -INFINITY;
        rows[i] = make_uint4(0, 0, 0, 0);
        if (inside && partial != detail::kNoPartial) {
          lse[i] = __ldcg(plan.partial_lse + partial + pair);
          if (row_lane * 8 < HeadDim) {
            const T* row = static_cast<const T*>(plan.partial_out) + static_cast<std::int64_t>(partial + pair) * HeadDim;
            rows[i] = __ldcg(reinterpret_cast<const uint4*>(row) + row_lane);
          }
        }
      }
      float new_top = top;
#pragma unroll
      for (int i = 0; i < Batch; ++i) new_top = fmaxf(new_top, lse[i]);
      const float factor = exp2_fast(top - new_top);
      top = new_top;
      total *= factor;
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[i] *= factor;
#pragma unroll
      for (int i = 0; i < Batch; ++i) {
        const float weight = exp2_fast(lse[i] - top);
        total += weight;
        const std::uint32_t words[4] = {rows[i].x, rows[i].y, rows[i].z, rows[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 value = unpack<T>(words[j]);
          sums[2 * j] += weight * value.x;
          sums[2 * j + 1] += weight * value.y;
        }
      }
    }
    const int pair_of_all = pair_block * detail::kMergePairs + pair;
    if (covered && pair_of_all < all_pairs) {
      const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
      if (row_lane * 8 < HeadDim) {
        uint4 result;
        result.x = pack<T>(sums[0] * inverse, sums[1] * inverse);
        result.y = pack<T>(sums[2] * inverse, sums[3] * inverse);
        result.z = pack<T>(sums[4] * inverse, sums[5] * inverse);
        result.w = pack<T>(sums[6] * inverse, sums[7] * inverse);
        *(reinterpret_cast<uint4*>(out_of<T>(arguments, place)) + row_lane) = result;
      }
      if (row_lane == 0) store_lse(arguments, place, total > 0.0f ? top + __log2f(total) : -INFINITY);
    }
    __syncwarp();
  }
}

}  // namespace espalier::gpu::sm90
