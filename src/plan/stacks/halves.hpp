#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "espalier/detail/fused_plan.hpp"

namespace espalier::plan::stacks {

inline constexpr int kBothHalves = 3;

/// Which halves of a tile's 128 pairs see a token of each block of its 128 slots: 1 the first, 2 the second, kBothHalves.
inline std::vector<int> halves_of_blocks(const detail::FusedTile& tile,
                                         const std::vector<detail::FusedSegment>& segments, std::int32_t group) {
  constexpr std::int32_t kSlots = detail::kTileSlots;
  std::vector<int> blocks(std::size_t((tile.slots + kSlots - 1) / kSlots), 0);
  const std::int64_t middle = std::int64_t(tile.pair_begin) + detail::kTilePairs / 2;
  std::int32_t slot = -tile.skip;
  for (std::int32_t i = tile.segment_begin; i < tile.segment_end; ++i) {
    const detail::FusedSegment& segment = segments[std::size_t(i)];
    const std::int32_t begin = std::max(slot, 0);
    slot += detail::stack_slots(segment.tokens);
    const int halves = (std::int64_t(segment.row_begin) * group < middle ? 1 : 0) |
                       (std::int64_t(segment.row_end) * group > middle ? 2 : 0);
    for (std::int32_t block = begin / kSlots; block * kSlots < std::min(slot, tile.slots); ++block)
      blocks[std::size_t(block)] |= halves;
  }
  return blocks;
}

}  // namespace espalier::plan::stacks
