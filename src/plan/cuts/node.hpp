#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "cut.hpp"

namespace espalier::plan {

/// PlanStrategy::node: an item is a node; its rows are cut into runs of tile_rows.
struct NodeCut {
  CutContext c;

  KOKKOS_FUNCTION std::int32_t items() const { return c.tree.nodes; }

  KOKKOS_FUNCTION Counts count(std::int32_t node) const {
    const std::int64_t rows = c.tree.row_end[node] - c.tree.row_begin[node];
    const std::int64_t tokens = c.tree.tokens[node];
    Counts counts;
    counts.segments = 1;
    if (rows > 0 && tokens > 0) {
      counts.tiles = (rows + c.tile_rows - 1) / c.tile_rows;
      counts.partials = rows;
      counts.cost = tile_cost(rows, tokens, c.group) + (counts.tiles - 1) * tile_cost(0, tokens, c.group);
    }
    return counts;
  }

  KOKKOS_FUNCTION void write_segments(std::int32_t node, detail::Segment* segments) const {
    segments[0] = segment_of_node(c.tree, node);
  }

  /// Tile k of the item, and in `before` what the item's earlier tiles contribute.
  KOKKOS_FUNCTION detail::Tile tile(std::int32_t node, std::int32_t k, const detail::Segment* segments,
                                    Counts& before) const {
    detail::Tile tile{};
    tile.segment_end = 1;
    tile.tokens = segments[0].tokens;
    tile.row_begin = segments[0].row_begin + k * c.tile_rows;
    tile.row_end =
        tile.row_begin + c.tile_rows < segments[0].row_end ? tile.row_begin + c.tile_rows : segments[0].row_end;
    tile.masked = tile.row_begin < segments[0].own_row_end ? 1 : 0;
    before.partials = std::int64_t(k) * c.tile_rows;
    before.cost = k * tile_cost(c.tile_rows, tile.tokens, c.group);
    static_cast<void>(node);
    return tile;
  }
};

}  // namespace espalier::plan
