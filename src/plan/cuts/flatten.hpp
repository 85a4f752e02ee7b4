#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "grid.hpp"
#include "plan/prepare.hpp"

namespace espalier::plan {

/// Rows that see a token of one chunk, without a gap.
struct RowRun {
  std::int32_t begin;
  std::int32_t end;
};

/// A chunk that begins in one node and goes on behind it.
struct Overhang {
  std::int32_t last_node;  ///< the node that holds its last token
  RowRun first_run;        ///< of the rows that see a token of it; the others follow gaps
  RowRun common;           ///< rows that see all of it
};

/// Rows behind a gap: rows before them, of an empty node or one they see nothing of, see no token of the chunk.
struct RunBehindGap {
  std::int32_t chunk_node;  ///< the node in which the chunk begins
  RowRun run;
};

/// Arrays of the flatten cut, in the memory of the execution space. The line holds the tokens that any row sees.
struct FlattenArrays {
  std::int32_t* line_begin;   // [nodes]  place of the node's first token in the line
  std::int64_t* line_tokens;  // [1]
  std::int32_t* share;        // [1]
  Overhang* overhang;         // [nodes]
  RunBehindGap* behind_gap;   // [nodes]  the run that begins at the first row of this node that lies behind a gap

  KOKKOS_FUNCTION static FlattenArrays in(Scratch& scratch, std::size_t nodes) {
    return {scratch.take<std::int32_t>(nodes), scratch.take<std::int64_t>(1), scratch.take<std::int32_t>(1),
            scratch.take<Overhang>(nodes), scratch.take<RunBehindGap>(nodes)};
  }
};

struct LayOutLine {
  using value_type = std::int64_t;
  detail::TreeView tree;
  FlattenArrays a;
  ChunkRule rule;
  KOKKOS_FUNCTION void operator()(std::int32_t node, std::int64_t& tokens, bool final) const {
    if (final) {
      a.line_begin[node] = std::int32_t(tokens);
      a.overhang[node] = {};
      a.behind_gap[node] = {};
    }
    tokens += tokens_seen(tree, node);
    if (final && node == tree.nodes - 1) {
      *a.line_tokens = tokens;
      *a.share = rule.share_of(tokens);
    }
  }
};

/// PlanStrategy::flatten: the line of all tokens is cut in equal chunks, regardless of where nodes end.
///
/// The chunks that begin in a node are cut by the node alone: those that lie inside it form a grid. The last one may
/// hang over into the nodes behind; its rows are the hull of their intervals, cut into runs where some rows of the hull
/// see no token, and into tiles of tile_rows. Items are nodes, then nodes again for runs behind gaps, then rows for
/// runs of the grids with rows that see only the beginning of their own node.
struct FlattenCut {
  using Rule = ChunkRule;
  CutContext c;
  Chunk chunk;
  FlattenArrays a;

  static std::int64_t most_items(std::int64_t nodes, std::int64_t rows) { return 2 * nodes + rows; }
  static void reserve(Scratch& scratch, std::size_t nodes) { FlattenArrays::in(scratch, nodes); }

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION static FlattenCut prepare(const Runner& run, const CutContext& c, const ChunkRule& rule,
                                            Scratch scratch);

  KOKKOS_FUNCTION std::int32_t items() const { return 2 * c.tree.nodes + c.tree.rows; }

  KOKKOS_FUNCTION Counts count(std::int32_t item) const {
    if (item >= 2 * c.tree.nodes) {
      const std::int32_t row = item - 2 * c.tree.nodes;
      const std::int32_t node = c.tree.row_node[row];
      if (c.tree.row_visible[row] == c.tree.tokens[node]) return {};
      const Grid g = grid(node);
      return g.limited_run_begins_at(row) ? g.count_limited(row) : Counts{};
    }
    if (item >= c.tree.nodes) {
      const RunBehindGap& behind = a.behind_gap[item - c.tree.nodes];
      return count_run(behind.run, overhang_tokens(behind.chunk_node));
    }
    Counts counts = grid(item).count();
    counts += count_run(a.overhang[item].first_run, overhang_tokens(item));
    counts.segments = 1;
    return counts;
  }

  KOKKOS_FUNCTION void write_segments(std::int32_t item, detail::Segment* segments) const {
    if (item >= c.tree.nodes) return;
    segments[0] = segment_of_node(c.tree, item);
    segments[0].tokens = tokens_seen(c.tree, item);
  }

  KOKKOS_FUNCTION std::int32_t segment_item(std::int32_t item) const {
    if (item < c.tree.nodes) return item;
    return item < 2 * c.tree.nodes ? a.behind_gap[item - c.tree.nodes].chunk_node
                                   : c.tree.row_node[item - 2 * c.tree.nodes];
  }

  KOKKOS_FUNCTION detail::Tile tile(std::int32_t item, std::int32_t k, const detail::Segment*, Counts& before) const {
    const std::int32_t node = segment_item(item);
    if (item >= 2 * c.tree.nodes)
      return tile_in_node(node, grid(node).limited_piece(item - 2 * c.tree.nodes, k, before));
    if (item >= c.tree.nodes) return overhang_tile(node, a.behind_gap[item - c.tree.nodes].run, k, before);
    const Grid g = grid(node);
    const Counts inside = g.count();
    if (k < inside.tiles) return tile_in_node(node, g.piece(k, before));
    const detail::Tile tile = overhang_tile(node, a.overhang[node].first_run, k - std::int32_t(inside.tiles), before);
    before += inside;
    return tile;
  }

 private:
  friend struct FindOverhangs;

  /// Of the chunks that begin in the node, the place of the first one, counted from the node's first token.
  KOKKOS_FUNCTION std::int64_t first_chunk(std::int32_t node) const {
    const std::int64_t begin = a.line_begin[node];
    return ceil_div(begin, chunk.tokens()) * chunk.tokens() - begin;
  }

  /// Tokens of the node in chunks that lie inside it.
  KOKKOS_FUNCTION std::int64_t tokens_in_grid(std::int32_t node) const {
    const std::int64_t rest = tokens_seen(c.tree, node) - first_chunk(node);
    return rest > 0 ? rest / chunk.tokens() * chunk.tokens() : 0;
  }

  /// Where the chunk that hangs over begins, counted from the node's first token; may be the node's end.
  KOKKOS_FUNCTION std::int64_t overhang_begin(std::int32_t node) const {
    return first_chunk(node) + tokens_in_grid(node);
  }

  /// Tokens of the chunk that hangs over: the line may end before it is full.
  KOKKOS_FUNCTION std::int64_t overhang_tokens(std::int32_t node) const {
    const std::int64_t begin = a.line_begin[node] + overhang_begin(node);
    return Kokkos::min<std::int64_t>(chunk.tokens(), *a.line_tokens - begin);
  }

  KOKKOS_FUNCTION Grid grid(std::int32_t node) const {
    Grid grid{};
    grid.row_visible = c.tree.row_visible;
    grid.row_begin = c.tree.row_begin[node];
    grid.row_end = c.tree.row_end[node];
    grid.tokens = std::int32_t(tokens_in_grid(node));
    grid.ahead = -std::int32_t(first_chunk(node));
    grid.limited_end = grid.tokens == 0 ? grid.row_begin : first_row_seeing(c.tree, node, overhang_begin(node) - 1);
    grid.chunk_tokens = chunk.tokens();
    grid.tile_rows = c.tile_rows;
    grid.group = c.group;
    return grid;
  }

  KOKKOS_FUNCTION detail::Tile tile_in_node(std::int32_t node, const Piece& piece) const {
    detail::Tile tile = tile_of(piece);
    tile.skip += std::int32_t(first_chunk(node));
    return tile;
  }

  /// The rows of a run as a grid of one chunk.
  KOKKOS_FUNCTION Grid run_grid(const RowRun& run, std::int64_t tokens) const {
    Grid grid{};
    grid.row_begin = grid.limited_end = run.begin;
    grid.row_end = run.end;
    grid.tokens = grid.chunk_tokens = std::int32_t(tokens);
    grid.tile_rows = c.tile_rows;
    grid.group = c.group;
    return grid;
  }

  KOKKOS_FUNCTION Counts count_run(const RowRun& run, std::int64_t tokens) const {
    return run.begin < run.end ? run_grid(run, tokens).count() : Counts{};
  }

  KOKKOS_FUNCTION detail::Tile overhang_tile(std::int32_t node, const RowRun& run, std::int32_t k,
                                             Counts& before) const {
    const Overhang& overhang = a.overhang[node];
    detail::Tile tile = tile_of(run_grid(run, overhang_tokens(node)).piece(k, before));
    tile.segment_end = overhang.last_node + 1 - node;
    tile.skip = std::int32_t(overhang_begin(node));
    tile.masked = tile.row_begin < overhang.common.begin || tile.row_end > overhang.common.end ? 1 : 0;
    return tile;
  }
};

/// Walks over the nodes that each overhanging chunk touches: every node is entered from one chunk alone.
struct FindOverhangs {
  FlattenCut cut;

  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    const detail::TreeView& tree = cut.c.tree;
    const std::int64_t begin = cut.overhang_begin(first);
    if (begin >= tokens_seen(tree, first)) return;
    const std::int64_t line_end = cut.a.line_begin[first] + begin + cut.overhang_tokens(first);
    Overhang overhang{};
    overhang.last_node = first;
    overhang.first_run.begin = first_row_seeing(tree, first, begin);
    overhang.common = {first_row_seeing_part(first, line_end), tree.row_end[first]};
    RowRun* run = &overhang.first_run;
    std::int32_t covered = tree.row_end[first];  // rows before it see a token of the chunk, or lie in a gap
    for (std::int32_t node = first + 1; node < tree.nodes && cut.a.line_begin[node] < line_end; ++node) {
      if (const std::int32_t gap_end = first_row_seeing(tree, node, 0);
          tree.row_begin[node] >= covered && gap_end > tree.row_begin[node]) {
        run->end = covered;
        run = &cut.a.behind_gap[node].run;
        cut.a.behind_gap[node].chunk_node = first;
        run->begin = covered = gap_end;
      }
      if (tokens_seen(tree, node) == 0) continue;
      overhang.last_node = node;
      overhang.common.begin = Kokkos::max(overhang.common.begin, first_row_seeing_part(node, line_end));
      overhang.common.end = Kokkos::min(overhang.common.end, tree.row_end[node]);
      covered = Kokkos::max(covered, tree.row_end[node]);
    }
    run->end = covered;
    cut.a.overhang[first] = overhang;
  }

 private:
  /// The first row of the node's interval that sees all of the node that lies before line_end.
  KOKKOS_FUNCTION std::int32_t first_row_seeing_part(std::int32_t node, std::int64_t line_end) const {
    const std::int64_t tokens = line_end - cut.a.line_begin[node];
    return first_row_seeing(cut.c.tree, node, Kokkos::min<std::int64_t>(tokens, tokens_seen(cut.c.tree, node)) - 1);
  }
};

ESPALIER_FOR_ANY_RUNNER
template <class Runner>
KOKKOS_FUNCTION FlattenCut FlattenCut::prepare(const Runner& run, const CutContext& c, const ChunkRule& rule,
                                               Scratch scratch) {
  const FlattenArrays a = FlattenArrays::in(scratch, std::size_t(c.tree.nodes));
  const FlattenCut cut{c, {rule.given, a.share}, a};
  run.scan("espalier::Plan::line", c.tree.nodes, LayOutLine{c.tree, a, rule});
  run.each("espalier::Plan::overhangs", c.tree.nodes, FindOverhangs{cut});
  return cut;
}

}  // namespace espalier::plan
