#pragma once
// Brings a plan up to date with longer nodes: segments that end with what their rows see get longer, and so do the tiles
// that reach to the end of one.

#include "fill.hpp"

namespace espalier::plan::streams {

/// Thread i takes tiles and segments i, i + stride, ...
struct Grow {
  static constexpr const char* kLabel = "espalier::StreamPlan::grow";
  Context c;
  std::int32_t stride;

  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    const Totals& totals = *c.totals;
    if (totals.fits == 0) return;
    for (std::int64_t t = first; t < totals.streams.pieces; t += stride) narrow_tile(t);
    const std::int64_t wide_tiles = totals.workers.wide_pieces * c.gang();
    for (std::int64_t t = first; t < wide_tiles; t += stride) wide_tile(t);
    for (std::int64_t s = first; s < totals.need_segments; s += stride) segment(s);
  }

 private:
  /// Reads nothing that segment() writes.
  KOKKOS_FUNCTION std::int32_t tokens_now(std::int64_t s) const {
    const detail::FusedSegment& segment = c.segments[s];
    const std::int32_t node = c.segment_node[s];
    return node < 0 ? segment.tokens : c.seen(node, segment.row_end) - segment.node_token;
  }

  KOKKOS_FUNCTION void narrow_tile(std::int64_t t) const {
    detail::FusedTile& tile = c.narrow_tiles[t];
    const std::int32_t last = tile.segment_end - 1;
    const std::int32_t end = c.tile_end[t];
    if ((tile.flags & detail::kTileGathered) != 0 || (end != kOpen && tile.segment_begin == last)) return;
    std::int32_t tokens = (end == kOpen ? tokens_now(last) : end) - tile.skip;
    for (std::int32_t s = tile.segment_begin; s < last; ++s) tokens += tokens_now(s);
    tile.tokens = tokens;
  }

  KOKKOS_FUNCTION void wide_tile(std::int64_t t) const {
    detail::FusedTile& tile = c.wide_tiles[t];
    if (c.wide_open[t] == 0) return;
    std::int32_t tokens = -tile.skip;
    for (std::int32_t s = tile.segment_begin; s < tile.segment_end; ++s) tokens += tokens_now(s);
    tile.tokens = tokens;
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
