#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "grid.hpp"
#include "plan/prepare.hpp"

namespace espalier::plan {

/// What lies above each node, in the memory of the execution space. Tokens and non-empty nodes are two halves of one
/// integer, so that one scan adds up both.
struct PathArrays {
  static constexpr std::int64_t kOneNode = std::int64_t(1) << 32;
  std::int64_t* leaving;          // [nodes + 1]  tokens and nodes whose subtree ends at this position
  std::int32_t* tokens_before;    // [nodes]  tokens of the nodes above
  std::int32_t* segments_before;  // [nodes]  those of the nodes above that are not empty
  std::int32_t* share;            // [1]  of the tokens that all rows see together

  KOKKOS_FUNCTION static PathArrays in(Scratch& scratch, std::size_t nodes) {
    return {scratch.take<std::int64_t>(nodes + 1), scratch.take<std::int32_t>(nodes), scratch.take<std::int32_t>(nodes),
            scratch.take<std::int32_t>(1)};
  }

  KOKKOS_FUNCTION static std::int64_t packed(const detail::TreeView& tree, std::int32_t node) {
    return tree.tokens[node] > 0 ? kOneNode + tree.tokens[node] : 0;
  }
};

struct ClearPaths {
  PathArrays paths;
  KOKKOS_FUNCTION void operator()(std::int32_t position) const { paths.leaving[position] = 0; }
};

struct LeavePaths {
  detail::TreeView tree;
  PathArrays paths;
  KOKKOS_FUNCTION void operator()(std::int32_t node) const {
    Kokkos::atomic_add(&paths.leaving[tree.subtree_end[node]], PathArrays::packed(tree, node));
  }
};

/// Along the line a node's tokens are added at its position, and taken away where its subtree ends.
struct SumPaths {
  using value_type = std::int64_t;
  detail::TreeView tree;
  PathArrays paths;
  KOKKOS_FUNCTION void operator()(std::int32_t node, std::int64_t& sum, bool final) const {
    sum -= paths.leaving[node];
    if (final) {
      paths.tokens_before[node] = std::int32_t(sum % PathArrays::kOneNode);
      paths.segments_before[node] = std::int32_t(sum / PathArrays::kOneNode);
    }
    sum += PathArrays::packed(tree, node);
  }
};

struct ShareRowTokens {
  using value_type = std::int64_t;
  detail::TreeView tree;
  PathArrays paths;
  ChunkRule rule;
  KOKKOS_FUNCTION void operator()(std::int32_t row, std::int64_t& sum, bool final) const {
    sum += paths.tokens_before[tree.row_node[row]] + tree.row_visible[row];
    if (final && row == tree.rows - 1) *paths.share = rule.share_of(sum);
  }
};

/// PlanStrategy::sequence and sequence_split: an item is a row; its path is read by one tile, or cut in equal chunks.
struct SequenceCut {
  using Rule = ChunkRule;
  CutContext c;
  Chunk chunk;
  PathArrays paths;

  static std::int64_t most_items(std::int64_t, std::int64_t rows) { return rows; }
  static void reserve(Scratch& scratch, std::size_t nodes) { PathArrays::in(scratch, nodes); }

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION static SequenceCut prepare(const Runner& run, const CutContext& c, const ChunkRule& rule,
                                             Scratch scratch) {
    const detail::TreeView& tree = c.tree;
    const PathArrays paths = PathArrays::in(scratch, std::size_t(tree.nodes));
    run.each("espalier::Plan::clear_paths", std::int64_t(tree.nodes) + 1, ClearPaths{paths});
    run.each("espalier::Plan::leave_paths", tree.nodes, LeavePaths{tree, paths});
    run.scan("espalier::Plan::paths", tree.nodes, SumPaths{tree, paths});
    if (rule.given == 0) run.scan("espalier::Plan::share", tree.rows, ShareRowTokens{tree, paths, rule});
    return {c, {rule.given, paths.share}, paths};
  }

  KOKKOS_FUNCTION std::int32_t items() const { return c.tree.rows; }

  KOKKOS_FUNCTION Counts count(std::int32_t row) const {
    Counts counts = grid(row).count();
    counts.segments = segments_of(row);
    return counts;
  }

  KOKKOS_FUNCTION void write_segments(std::int32_t row, detail::Segment* segments) const {
    std::int32_t place = segments_of(row);
    for (std::int32_t node = c.tree.row_node[row]; node >= 0; node = c.tree.parent[node])
      if (const std::int32_t seen = tokens_seen_by(row, node); seen > 0) {
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

  KOKKOS_FUNCTION detail::Tile tile(std::int32_t row, std::int32_t k, const detail::Segment* segments,
                                    Counts& before) const {
    return tile_on_path(grid(row).piece(k, before), segments, segments_of(row), paths.tokens_before);
  }

 private:
  KOKKOS_FUNCTION Grid grid(std::int32_t row) const {
    Grid grid{};
    grid.row_begin = row;
    grid.row_end = row + 1;
    grid.limited_end = row;
    grid.tokens = paths.tokens_before[c.tree.row_node[row]] + c.tree.row_visible[row];
    grid.chunk_tokens = chunk.tokens();
    grid.tile_rows = 1;
    grid.group = c.group;
    return grid;
  }

  KOKKOS_FUNCTION std::int32_t segments_of(std::int32_t row) const {
    return paths.segments_before[c.tree.row_node[row]] + (c.tree.row_visible[row] > 0 ? 1 : 0);
  }

  KOKKOS_FUNCTION std::int32_t tokens_seen_by(std::int32_t row, std::int32_t node) const {
    return node == c.tree.row_node[row] ? c.tree.row_visible[row] : c.tree.tokens[node];
  }
};

}  // namespace espalier::plan
