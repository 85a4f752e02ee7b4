#pragma once
// What all cuts share. A cut walks over items (nodes, rows, or both); each item yields some segments and, for every KV
// head alike, some tiles. Cuts only answer questions about one item, so the same code counts, fills and, on the host,
// sizes a plan. A cut has
//
//   items()                             how many items there are
//   count(item)                         what the item yields
//   write_segments(item, segments)      writes count(item).segments of them
//   tile(item, k, segments, before)     tile k of the item, its segments counted from `segments`; in `before` what the
//                                       item's earlier tiles yield
//   segment_item(item)                  optional: the item whose segments the tiles of this one read

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
  std::int32_t kv_heads;
  std::int32_t workers_at_a_time;  ///< the others wait until one of these is done
  bool joins_heads;  ///< the kernel attends neighbouring KV heads of a tile together, as far as their lanes fit

  /// KV heads of a tile of `rows` rows that one worker should attend: tiles of few lanes are bound by memory, which is then
  /// read in order.
  KOKKOS_FUNCTION std::int32_t heads_together(std::int32_t rows) const {
    constexpr std::int32_t kFewLanes = 64;
    if (!joins_heads || rows * group > kFewLanes || rows >= tile_rows) return 1;
    const std::int32_t room = tile_rows / rows;
    const std::int32_t runs = (kv_heads + room - 1) / room;
    return (kv_heads + runs - 1) / runs;
  }
};

/// Work of one tile in (query head, token) pairs, with the cost of reading a token counted as `kReadCost` pairs.
KOKKOS_INLINE_FUNCTION std::int64_t tile_cost(std::int64_t rows, std::int64_t tokens, std::int64_t group) {
  constexpr std::int64_t kReadCost = 8;
  return tokens * (rows * group + kReadCost);
}

KOKKOS_INLINE_FUNCTION std::int64_t ceil_div(std::int64_t count, std::int64_t size) {
  return (count + size - 1) / size;
}

/// The first row of the node's interval that sees token `token` of the node. A node's own rows come first, sorted by
/// what they see, so that all rows behind it see the token too.
KOKKOS_INLINE_FUNCTION std::int32_t first_row_seeing(const detail::TreeView& tree, std::int32_t node,
                                                     std::int64_t token) {
  std::int32_t low = tree.row_begin[node];
  const auto blind = [&](std::int32_t row) { return tree.row_node[row] == node && tree.row_visible[row] <= token; };
  if (low == tree.row_end[node] || !blind(low)) return low;
  for (std::int32_t high = tree.row_end[node]; high - low > 1;) {  // row `low` is blind
    const std::int32_t middle = low + (high - low) / 2;
    (blind(middle) ? low : high) = middle;
  }
  return low + 1;
}

/// The first row of the node's interval that sees all of the node, as do all rows behind it.
KOKKOS_INLINE_FUNCTION std::int32_t first_row_seeing_all(const detail::TreeView& tree, std::int32_t node) {
  return first_row_seeing(tree, node, std::int64_t(tree.tokens[node]) - 1);
}

/// Tokens of the node that any row sees: the last row of the interval sees the most.
KOKKOS_INLINE_FUNCTION std::int32_t tokens_seen(const detail::TreeView& tree, std::int32_t node) {
  if (tree.row_begin[node] == tree.row_end[node]) return 0;
  const std::int32_t last = tree.row_end[node] - 1;
  return tree.row_node[last] == node ? tree.row_visible[last] : tree.tokens[node];
}

/// The segment that is a whole node.
KOKKOS_INLINE_FUNCTION detail::Segment segment_of_node(const detail::TreeView& tree, std::int32_t node) {
  detail::Segment segment{};
  segment.table_begin = tree.first_block[node];
  segment.block_offset = tree.first_offset[node];
  segment.tokens = tree.tokens[node];
  segment.row_begin = tree.row_begin[node];
  segment.row_end = tree.row_end[node];
  segment.own_row_end = first_row_seeing_all(tree, node);
  segment.node_token = 0;
  segment.node = node;
  return segment;
}

}  // namespace espalier::plan
