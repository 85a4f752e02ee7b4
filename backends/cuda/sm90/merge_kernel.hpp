#pragma once
// The second launch: the partials of each pair -> its output row.
//
//   out = sum_i 2^(lse_i - top) out_i / sum_i 2^(lse_i - top),   top = max_i lse_i
//
// Mapping: a warp serves kRows neighbouring pairs of one (block of 16 pairs, KV head), so that one list is read for all
// of them; kRowLanes lanes hold a row, 8 elements each. The lists are loaded before the main launch has ended.

#include "backends/cuda/sm90/common.hpp"

namespace espalier::gpu::sm90 {

inline constexpr int kMergeThreads = 256;

template <int HeadDim>
struct MergeShape {
  static constexpr int kRowLanes = HeadDim <= 64 ? 8 : HeadDim <= 128 ? 16 : 32;
  static constexpr int kRowsTogether = kWaveLanes / kRowLanes;
};

/// @tparam Passes  groups of kRowsTogether rows that a warp serves
template <class T, int HeadDim, int Passes>
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(const __grid_constant__ MergeArguments arguments) {
  constexpr int kRowLanes = MergeShape<HeadDim>::kRowLanes, kTogether = MergeShape<HeadDim>::kRowsTogether;
  constexpr int kRows = kTogether * Passes;              // of this warp
  constexpr int kParts = detail::kMergePairs / kRows;    // warps of a block of pairs
  constexpr int kAcross = kWaveLanes / kRows;            // entries whose lse are read at once
  constexpr int kEntries = kAcross > 16 ? kAcross : 16;  // of a round
  constexpr int kReads = kEntries / kAcross;
  constexpr int kAhead = Passes == 1 ? 8 : Passes == 2 ? 4 : 2;  // partials in flight
  static_assert(kEntries % kAcross == 0 && kAcross % kAhead == 0);

  const detail::FusedPlanView& plan = arguments.plan;
  const int lane = threadIdx.x % kWaveLanes, row_lane = lane % kRowLanes, together = lane / kRowLanes;
  const int warp = blockIdx.x * (kMergeThreads / kWaveLanes) + threadIdx.x / kWaveLanes;
  const int list = warp / kParts, first_pair = warp % kParts * kRows;
  const int all_pairs = load_plan(&plan.header->rows) * arguments.group;
  const int pair_block = list / arguments.kv_heads, kv_head = list - pair_block * arguments.kv_heads;
  const bool exists = pair_block * detail::kMergePairs + first_pair < all_pairs;
  int begin = 0, entries = 0;
  int2 entry = make_int2(0, 0);
  if (exists) {
    begin = load_plan(plan.merge_begin + list);
    entries = load_plan(plan.merge_begin + list + 1) - begin;
    if (lane < kEntries && lane < entries) {
      entry = load_plan(reinterpret_cast<const int2*>(plan.merge_entries + begin) + lane);
    }
  }
  PairPlace places[Passes];
#pragma unroll
  for (int p = 0; p < Passes; ++p) {
    const int pair = pair_block * detail::kMergePairs + first_pair + p * kTogether + together;
    places[p] = locate_pair(arguments, max(min(pair, all_pairs - 1), 0), kv_head);
  }
  wait_for_predecessor();
  let_successor_start();
  if (entries == 0) return;

  const int lse_pair = first_pair + lane % kRows, lse_entry = lane / kRows;
  float top = -INFINITY, total = 0.0f;
  bool covered = false;
  float sums[Passes][8];
#pragma unroll
  for (int p = 0; p < Passes; ++p) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[p][i] = 0.0f;
  }
#pragma unroll 1
  for (int done = 0; done < entries; done += kEntries) {
    if (done > 0) {
      entry = make_int2(0, 0);
      if (lane < kEntries && done + lane < entries) {
        entry = load_plan(reinterpret_cast<const int2*>(plan.merge_entries + begin + done) + lane);
      }
    }
    // Weights: lane holds those of pair lse_pair in entries lse_entry, lse_entry + kAcross, ...
    float weights[kReads], highest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kReads; ++i) {
      const int partial = value_of_lane(entry.x, i * kAcross + lse_entry);
      const int interval = value_of_lane(entry.y, i * kAcross + lse_entry);
      const bool inside = lse_pair >= (interval & 0xffff) && lse_pair < (interval >> 16);
      covered |= inside;
      weights[i] = inside && partial != detail::kNoPartial ? __ldcg(plan.partial_lse + partial + lse_pair) : -INFINITY;
      highest = fmaxf(highest, weights[i]);
    }
#pragma unroll
    for (int step = kRows; step < kWaveLanes; step <<= 1) {
      highest = fmaxf(highest, exchange_lanes(highest, step));
    }
    const float new_top = fmaxf(top, highest);
    const float factor = top > -INFINITY ? fast_exp2(top - new_top) : 0.0f;
    top = new_top;
#pragma unroll
    for (int i = 0; i < kReads; ++i) {
      weights[i] = weights[i] == -INFINITY ? 0.0f : fast_exp2(weights[i] - top);
      sum += weights[i];
    }
#pragma unroll
    for (int step = kRows; step < kWaveLanes; step <<= 1) sum += exchange_lanes(sum, step);
    total = total * factor + sum;
    if (done > 0) {
#pragma unroll
      for (int p = 0; p < Passes; ++p) {
        const float row_factor = value_of_lane(factor, p * kTogether + together);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[p][i] *= row_factor;
      }
    }
    // Rows.
    const int now = min(kEntries, entries - done);
#pragma unroll 1
    for (int e0 = 0; e0 < now; e0 += kAhead) {
      // The weights of these entries are in one register of each lane.
      float entry_weights = weights[0];
#pragma unroll
      for (int i = 1; i < kReads; ++i) entry_weights = e0 >= i * kAcross ? weights[i] : entry_weights;
      uint4 rows[kAhead][Passes];
#pragma unroll
      for (int e = 0; e < kAhead; ++e) {
        const int partial = value_of_lane(entry.x, e0 + e);
        const int interval = value_of_lane(entry.y, e0 + e);
#pragma unroll
        for (int p = 0; p < Passes; ++p) {
          const int pair = first_pair + p * kTogether + together;
          rows[e][p] = make_uint4(0, 0, 0, 0);
          if (pair >= (interval & 0xffff) && pair < (interval >> 16) && partial != detail::kNoPartial &&
              row_lane * 8 < HeadDim) {
            const T* row =
                static_cast<const T*>(plan.partial_out) + static_cast<std::int64_t>(partial + pair) * HeadDim;
            rows[e][p] = __ldcg(reinterpret_cast<const uint4*>(row) + row_lane);
          }
        }
      }
#pragma unroll
      for (int e = 0; e < kAhead; ++e) {
#pragma unroll
        for (int p = 0; p < Passes; ++p) {
          const float weight = value_of_lane(entry_weights, (e0 % kAcross + e) * kRows + p * kTogether + together);
          const std::uint32_t words[4] = {rows[e][p].x, rows[e][p].y, rows[e][p].z, rows[e][p].w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 value = unpack<T>(words[i]);
            sums[p][2 * i] += weight * value.x;
            sums[p][2 * i + 1] += weight * value.y;
          }
        }
      }
    }
  }
#pragma unroll
  for (int step = kRows; step < kWaveLanes; step <<= 1) {
    covered |= exchange_lanes(static_cast<int>(covered), step) != 0;
  }
#pragma unroll
  for (int p = 0; p < Passes; ++p) {
    const int pair_of_warp = p * kTogether + together;
    const float row_total = value_of_lane(total, pair_of_warp);
    const float row_top = value_of_lane(top, pair_of_warp);
    const bool row_covered = value_of_lane(static_cast<int>(covered), pair_of_warp) != 0;
    const int pair = pair_block * detail::kMergePairs + first_pair + pair_of_warp;
    if (!row_covered || pair >= all_pairs) continue;
    const float inverse = row_total == 0.0f ? 0.0f : 1.0f / row_total;
    const PairPlace place = places[p];
    if (row_lane * 8 < HeadDim) {
      uint4 result;
      result.x = pack<T>(sums[p][0] * inverse, sums[p][1] * inverse);
      result.y = pack<T>(sums[p][2] * inverse, sums[p][3] * inverse);
      result.z = pack<T>(sums[p][4] * inverse, sums[p][5] * inverse);
      result.w = pack<T>(sums[p][6] * inverse, sums[p][7] * inverse);
      store_words(out_of<T>(arguments, place) + row_lane * 8, result);
    }
    if (row_lane == 0) store_lse(arguments, place, row_total == 0.0f ? -INFINITY : row_top + fast_log2(row_total));
  }
}

}  // namespace espalier::gpu::sm90
