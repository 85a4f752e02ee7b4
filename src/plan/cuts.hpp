#pragma once
// How each strategy cuts the line of tokens into tiles. A cut walks over items (nodes or rows); each item yields some
// segments and, for every KV head alike, some tiles. Cuts only answer questions about one item, so the same code
// counts, fills and, on the host, sizes a plan.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "espalier/detail/params.hpp"

namespace espalier::plan {

/// What one item, or all items before it, contribute for one KV head.
struct Counts {
  std::int64_t segments = 0;
  std::int64_t tiles = 0;
  std::int64_t partials = 0;
  std::int64_t cost = 0;

  KOKKOS_FUNCTION Counts& operator+=(const Counts& other) {
    segments += other.segments;
    tiles += other.tiles;
    partials += other.partials;
    cost += other.cost;
    return *this;
  }
};

/// What every cut knows.
struct CutContext {
  detail::TreeView tree;
  std::int32_t tile_rows;  ///< rows that a tile may hold
  std::int32_t group;
};

/// Work of one tile in (query head, token) pairs, with the cost of reading a token counted as `kReadCost` pairs.
KOKKOS_INLINE_FUNCTION std::int64_t tile_cost(std::int64_t rows, std::int64_t tokens, std::int64_t group) {
  constexpr std::int64_t kReadCost = 8;
  return tokens * (rows * group + kReadCost);
}

/// The segment that is a whole node.
KOKKOS_INLINE_FUNCTION detail::Segment segment_of_node(const detail::TreeView& tree, std::int32_t node) {
  detail::Segment segment{};
  segment.table_begin = tree.first_block[node];
  segment.block_offset = tree.first_offset[node];
  segment.tokens = tree.tokens[node];
  segment.row_begin = tree.row_begin[node];
  segment.row_end = tree.row_end[node];
  segment.node_token = 0;
  segment.node = node;
  // Own rows come first and are sorted by what they see: only those before the first that sees all need the mask.
  segment.own_row_end = segment.row_begin;
  while (segment.own_row_end < segment.row_end && tree.row_node[segment.own_row_end] == node &&
         tree.row_visible[segment.own_row_end] < segment.tokens)
    ++segment.own_row_end;
  return segment;
}

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

/// Calls body with the cut of a strategy.
template <class Body>
auto with_cut(PlanStrategy strategy, const CutContext& context, const Body& body) {
  switch (strategy) {
    case PlanStrategy::sequence: return body(SequenceCut{context});
    case PlanStrategy::node: break;
  }
  return body(NodeCut{context});
}

}  // namespace espalier::plan
