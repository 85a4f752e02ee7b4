#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "cut.hpp"

namespace espalier::plan {

/// PlanStrategy::sequence: an item is a row; one tile reads its whole path.
struct SequenceCut {
  CutContext c;

  KOKKOS_FUNCTION std::int32_t items() const { return c.tree.rows; }

  KOKKOS_FUNCTION Counts count(std::int32_t row) const {
    Counts counts;
    std::int64_t tokens = 0;
    for (std::int32_t node = c.tree.row_node[row]; node >= 0; node = c.tree.parent[node])
      if (const std::int32_t seen = tokens_seen(row, node); seen > 0) {
        ++counts.segments;
        tokens += seen;
      }
    if (tokens > 0) {
      counts.tiles = 1;
      counts.partials = 1;
      counts.cost = tile_cost(1, tokens, c.group);
    }
    return counts;
  }

  KOKKOS_FUNCTION void write_segments(std::int32_t row, detail::Segment* segments) const {
    std::int64_t place = count(row).segments;
    for (std::int32_t node = c.tree.row_node[row]; node >= 0; node = c.tree.parent[node])
      if (const std::int32_t seen = tokens_seen(row, node); seen > 0) {
        detail::Segment& segment = segments[--place];
        segment.table_begin = c.tree.first_block[node];
        segment.block_offset = c.tree.first_offset[node];
        segment.tokens = seen;
        segment.row_begin = row;
        segment.row_end = row + 1;
        segment.own_row_end = row;
        segment.node_token = 0;
        segment.node = node;
      }
  }

  KOKKOS_FUNCTION detail::Tile tile(std::int32_t row, std::int32_t, const detail::Segment* segments, Counts&) const {
    detail::Tile tile{};
    tile.segment_end = std::int32_t(count(row).segments);
    for (std::int32_t s = 0; s < tile.segment_end; ++s) tile.tokens += segments[s].tokens;
    tile.row_begin = row;
    tile.row_end = row + 1;
    return tile;
  }

 private:
  KOKKOS_FUNCTION std::int32_t tokens_seen(std::int32_t row, std::int32_t node) const {
    return node == c.tree.row_node[row] ? c.tree.row_visible[row] : c.tree.tokens[node];
  }
};

}  // namespace espalier::plan
