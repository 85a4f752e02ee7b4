#pragma once
// What all cuts share. A cut walks over items (nodes or rows); each item yields some segments and, for every KV head
// alike, some tiles. Cuts only answer questions about one item, so the same code counts, fills and, on the host, sizes
// a plan.

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

}  // namespace espalier::plan
