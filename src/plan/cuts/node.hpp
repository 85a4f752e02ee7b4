#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "grid.hpp"
#include "plan/prepare.hpp"

namespace espalier::plan {

struct ShareNodeTokens {
  using value_type = std::int64_t;
  detail::TreeView tree;
  ChunkRule rule;
  std::int32_t* share;  // [1]
  KOKKOS_FUNCTION void operator()(std::int32_t node, std::int64_t& sum, bool final) const {
    sum += tokens_seen(tree, node);
    if (final && node == tree.nodes - 1) *share = rule.share_of(sum);
  }
};

/// PlanStrategy::node and node_chunk: a node's tokens are one chunk, or cut in equal ones; its rows are cut into runs.
/// The first items are nodes, the others rows, for runs with rows that see only the beginning of their own node.
struct NodeCut {
  using Rule = ChunkRule;
  CutContext c;
  Chunk chunk;

  static std::int64_t most_items(std::int64_t nodes, std::int64_t rows) { return nodes + rows; }
  static void reserve(Scratch& scratch, std::size_t) { scratch.take<std::int32_t>(1); }

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION static NodeCut prepare(const Runner& run, const CutContext& c, const ChunkRule& rule,
                                         Scratch scratch) {
    auto* share = scratch.take<std::int32_t>(1);
    if (rule.given == 0) run.scan("espalier::Plan::share", c.tree.nodes, ShareNodeTokens{c.tree, rule, share});
    return {c, {rule.given, share}};
  }

  KOKKOS_FUNCTION std::int32_t items() const { return c.tree.nodes + c.tree.rows; }

  KOKKOS_FUNCTION Counts count(std::int32_t item) const {
    if (item < c.tree.nodes) {
      Counts counts = grid(item).count();
      counts.segments = 1;
      return counts;
    }
    const std::int32_t row = item - c.tree.nodes;
    const std::int32_t node = c.tree.row_node[row];
    if (c.tree.row_visible[row] == c.tree.tokens[node]) return {};
    const Grid g = grid(node);
    return g.limited_run_begins_at(row) ? g.count_limited(row) : Counts{};
  }

  KOKKOS_FUNCTION void write_segments(std::int32_t item, detail::Segment* segments) const {
    if (item < c.tree.nodes) segments[0] = segment_of_node(c.tree, item);
  }

  KOKKOS_FUNCTION std::int32_t segment_item(std::int32_t item) const {
    return item < c.tree.nodes ? item : c.tree.row_node[item - c.tree.nodes];
  }

  KOKKOS_FUNCTION detail::Tile tile(std::int32_t item, std::int32_t k, const detail::Segment*, Counts& before) const {
    const Grid g = grid(segment_item(item));
    return tile_of(item < c.tree.nodes ? g.piece(k, before) : g.limited_piece(item - c.tree.nodes, k, before));
  }

 private:
  KOKKOS_FUNCTION Grid grid(std::int32_t node) const {
    Grid grid{};
    grid.row_visible = c.tree.row_visible;
    grid.row_begin = c.tree.row_begin[node];
    grid.row_end = c.tree.row_end[node];
    grid.limited_end = first_row_seeing_all(c.tree, node);
    grid.tokens = c.tree.tokens[node];
    grid.chunk_tokens = chunk.tokens();
    grid.tile_rows = c.tile_rows;
    grid.group = c.group;
    return grid;
  }
};

}  // namespace espalier::plan
