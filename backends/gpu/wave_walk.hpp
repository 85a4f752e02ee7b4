#pragma once
// The tokens of a tile, a wave of them at a time: each lane finds one through the segments and the block table. For
// kernels whose waves then share what their lanes found.

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu {

/// One token of a tile, as the lane that looked it up knows it.
struct LaneToken {
  std::int64_t k;  ///< place of the token's K for the tile's KV head, in elements from the beginning of the cache
  std::int64_t v;
  int row_begin;  ///< rows in line order that see the token
  int row_end;
};

/// The segment of a tile in which a token lies, and the token's place inside.
struct SegmentPlace {
  int segment;
  int place;
};

/// In each lane the segment of the token at `place`, counted from the beginning of segment `segment`.
/// @param last  the largest place of any lane. All lanes of the wave must call it.
__device__ __forceinline__ SegmentPlace find_segment(const detail::PlanView& plan, int segment, int segment_end,
                                                     int place, int last) {
  const int lane = threadIdx.x % kWaveLanes;
  SegmentPlace found = {segment, place};
  bool searching = true;
  for (;; segment += kWaveLanes) {
    int end = segment + lane < segment_end ? plan.segments[segment + lane].tokens : 0;  // place behind its last token
    for (int distance = 1; distance < kWaveLanes; distance *= 2) {
      const int earlier = value_of_earlier_lane(end, distance);
      if (lane >= distance) end += earlier;
    }
    int before = 0;  // segments that end before the token
    for (int step = kWaveLanes / 2; step > 0; step /= 2) {
      if (value_of_lane(end, before + step - 1) <= place) before += step;
    }
    const int begin = value_of_lane(end, before > 0 ? before - 1 : 0);
    const int all = value_of_lane(end, kWaveLanes - 1);
    if (searching && place < all) {
      found = {segment + before, before > 0 ? place - begin : place};
      searching = false;
    }
    if (last < all) return found;
    place -= all;
    last -= all;
  }
}

/// The first row of the segment that sees its token `place`. Rows that are limited come first, sorted by what they see.
__device__ __forceinline__ int first_row_seeing(const detail::PlanView& plan, const detail::Segment& segment,
                                                int place) {
  int low = segment.row_begin;
  for (int high = segment.own_row_end; low < high;) {
    const int middle = low + (high - low) / 2;
    if (plan.row_visible[middle] > segment.node_token + place) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// Token `first + lane` of a tile in each lane. Lanes at `end` and behind get the last token before it, seen by no row.
/// @param end  of the tile's tokens that are wanted, above `first`. All lanes of the wave must call it.
__device__ __forceinline__ LaneToken lane_token(const detail::AttendParams& p, const detail::Tile& tile, int first,
                                                int end) {
  const detail::PlanView& plan = p.plan;
  const int token = first + static_cast<int>(threadIdx.x % kWaveLanes);
  const int last = tile.skip + (first + kWaveLanes < end ? first + kWaveLanes : end) - 1;
  SegmentPlace at = {tile.segment_begin, tile.skip + (token < end ? token : end - 1)};
  if (last >= plan.segments[tile.segment_begin].tokens) {
    at = find_segment(plan, tile.segment_begin, tile.segment_end, at.place, last);
  }
  const detail::Segment& segment = plan.segments[at.segment];
  const int place = segment.block_offset + at.place, entry = place / p.block_tokens;
  const std::int64_t block = plan.block_table[segment.table_begin + entry], offset = place - entry * p.block_tokens;
  LaneToken found = {block * p.k_block_stride + offset * p.k_token_stride + tile.kv_head * p.k_head_stride,
                     block * p.v_block_stride + offset * p.v_token_stride + tile.kv_head * p.v_head_stride,
                     tile.row_begin, tile.row_end};
  if (tile.masked) {
    found.row_begin = first_row_seeing(plan, segment, at.place);
    found.row_end = segment.row_end;
  }
  if (token >= end) found.row_end = found.row_begin;
  return found;
}

}  // namespace espalier::gpu
