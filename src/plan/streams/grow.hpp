#pragma once
// Brings a plan up to date with longer nodes: segments that end with what their rows see get longer, and so do the tiles
// that reach to the end of one.

#include "fill.hpp"

namespace espalier::plan::streams {

/// Thread i takes narrow tiles, wide tiles and segments i, i + stride, ... of all of them in one line.
struct Grow {
  static constexpr const char* kLabel = "espalier::StreamPlan::grow";
  Context c;
  std::int32_t stride;

  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    const Totals& totals = *c.totals;
    if (totals.fits == 0) return;
    const std::int64_t narrow = totals.streams.pieces;
    const std::int64_t tiles = narrow + (std::int64_t(totals.workers.wide_pieces) << c.gang_bits());
    const std::int64_t all = tiles + totals.need_segments;
    for (std::int64_t i = first; i < all; i += stride) {
      if (i < narrow)
        narrow_tile(i);
      else if (i < tiles)
        wide_tile(i - narrow);
      else
        segment(i - tiles);
    }
  }

 private:
  /// Reads nothing that segment() writes. What it reads of the tree does not wait for what it might decide not to read.
  KOKKOS_FUNCTION std::int32_t tokens_now(std::int64_t s) const {
    const detail::FusedSegment& segment = c.segments[s];
    const std::int32_t mark = c.segment_node[s];
    const std::int32_t node = mark < 0 ? ~mark : mark;
    const std::int32_t row = segment.row_end - 1;
    const std::int32_t own_node = c.tree.row_node[row];
    const std::int32_t visible = c.tree.row_visible[row], tokens = c.tree.tokens[node];
    if (mark < 0) return segment.tokens;
    return (own_node == node ? visible : tokens) - segment.node_token;
  }

  /// Tokens of segments [begin, end): of several at a time, whose loads then do not wait for each other.
  KOKKOS_FUNCTION std::int32_t tokens_now(std::int32_t begin, std::int32_t end) const {
    constexpr int kAtATime = 4;
    std::int32_t sum = 0;
    for (; begin < end; begin += kAtATime)
      for (int i = 0; i < kAtATime; ++i) {
        const std::int32_t tokens = tokens_now(Kokkos::min(begin + i, end - 1));
        sum += begin + i < end ? tokens : 0;
      }
    return sum;
  }

  KOKKOS_FUNCTION void narrow_tile(std::int64_t t) const {
    detail::FusedTile& tile = c.narrow_tiles[t];
    const std::int32_t last = tile.segment_end - 1;
    const std::int32_t end = c.tile_end[t];
    if ((tile.flags & detail::kTileGathered) != 0 || (end != kOpen && tile.segment_begin == last)) return;
    const std::int32_t in_last = end == kOpen ? tokens_now(last) : end;
    tile.tokens = tokens_now(tile.segment_begin, last) + in_last - tile.skip;
  }

  KOKKOS_FUNCTION void wide_tile(std::int64_t t) const {
    detail::FusedTile& tile = c.wide_tiles[t];
    if (c.wide_open[t] != 0) tile.tokens = tokens_now(tile.segment_begin, tile.segment_end) - tile.skip;
  }

  KOKKOS_FUNCTION void segment(std::int64_t s) const {
    detail::FusedSegment& segment = c.segments[s];
    const std::int32_t mark = c.segment_node[s];
    const std::int32_t node = mark < 0 ? ~mark : mark;
    const std::int32_t place = c.tree.first_offset[node] + segment.node_token;
    const std::int32_t entry = c.tree.first_block[node] + place / c.tree.block_tokens;
    segment.table_begin = entry;
    segment.first_block = c.tree.block_table[entry];
    segment.block_offset = place % c.tree.block_tokens;
    if (mark >= 0) segment.tokens = c.seen(node, segment.row_end) - segment.node_token;
  }
};

}  // namespace espalier::plan::streams
