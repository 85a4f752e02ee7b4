#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "espalier/fasttree.hpp"
#include "grid.hpp"
#include "plan/prepare.hpp"
#include "relaxed_load.hpp"

namespace espalier::plan {

/// @throws Error{invalid_argument} naming the parameter that makes no sense, and the function that was called
void check_fasttree(const FastTreeParams& params, const char* function);

/// Sizes of the tiles of the two phases.
struct FastTreeTiles {
  std::int32_t rows[2];    // TSQ
  std::int32_t tokens[2];  // TSK
  std::int32_t split[2];   // tokens of a tile

  KOKKOS_FUNCTION int phase(std::int32_t node_rows) const { return node_rows > rows[1] ? 0 : 1; }
};

/// What the threads of a walk share.
struct FastTreeState {
  FastTreeTiles tiles;
  std::int32_t queued;
  std::int32_t again;      // the tiles have changed
  std::int64_t sum[2][2];  // tiles of one KV head, by phase, with long and short splits
};

/// What is known of each node after the walk, in the memory of the execution space.
struct FastTreeArrays {
  FastTreeState* state;         // [1]
  std::int32_t* queue;          // [nodes]
  std::int32_t* takes_copy;     // [nodes]
  std::int32_t* rows;           // [nodes]  that read the node's line with its tiles
  std::int32_t* line_tokens;    // [nodes]  of the copied ancestors and the node
  std::int32_t* line_segments;  // [nodes]  those of them that are not empty
  std::int32_t* path_tokens;    // [nodes]  tokens of all nodes above
  std::int32_t* run_end;        // [nodes]  end of the node's rows that follow row_begin without a gap
  std::int32_t*
      later_run_end;  // [nodes]  end of the run of its parent's rows that begins with this child, or row_begin

  KOKKOS_FUNCTION static FastTreeArrays in(Scratch& scratch, std::size_t nodes) {
    FastTreeArrays a{};
    a.state = scratch.take<FastTreeState>(1);
    a.queue = scratch.take<std::int32_t>(nodes);
    a.takes_copy = scratch.take<std::int32_t>(nodes);
    a.rows = scratch.take<std::int32_t>(nodes);
    a.line_tokens = scratch.take<std::int32_t>(nodes);
    a.line_segments = scratch.take<std::int32_t>(nodes);
    a.path_tokens = scratch.take<std::int32_t>(nodes);
    a.run_end = scratch.take<std::int32_t>(nodes);
    a.later_run_end = scratch.take<std::int32_t>(nodes);
    return a;
  }
};

/// FastTree's cost rule, in doubles that are rounded as they are written: a fused multiplication and addition could
/// turn a tie into a difference, and a plan would depend on the compiler.
struct FastTreeCost {
  double alpha, beta, gamma;
  std::int32_t group;

  KOKKOS_FUNCTION double of(const FastTreeTiles& tiles, std::int32_t rows, std::int64_t tokens) const {
    const int p = tiles.phase(rows);
    const std::int32_t missing_rows = (tiles.rows[p] - rows % tiles.rows[p]) % tiles.rows[p];
    const std::int64_t missing_tokens = tokens < tiles.tokens[p] ? tiles.tokens[p] - tokens : 0;
    return rounded(alpha * missing_rows * group * double(tokens)) +
           rounded(beta * double(missing_tokens) * rows * group);
  }

  KOKKOS_FUNCTION double of_merging(std::int32_t rows) const { return rounded(gamma * rows); }

 private:
  KOKKOS_FUNCTION static double rounded(double product) {
    volatile double stored = product;
    return stored;
  }
};

/// The walk down the tree, by one team. A node is settled by one thread, its children in turn, after its parent; the
/// order in which nodes of one level are settled does not matter. Chains stay with their thread.
struct FastTreeWalk {
  detail::TreeView tree;
  FastTreeCost cost;
  FastTreeTiles tiles;  // of the first round
  std::int32_t short_split;
  std::int32_t enough_tiles[2];
  std::int32_t enough_tiles_then[2];
  std::int32_t kv_heads;
  FastTreeArrays a;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    if (team.team_rank() == 0) a.state->tiles = tiles;
    walk(team);
    if (team.team_rank() == 0) adapt(*a.state);
    team.team_barrier();
    if (a.state->again != 0) walk(team);
  }

 private:
  template <class Team>
  KOKKOS_FUNCTION void walk(const Team& team) const {
    FastTreeState& state = *a.state;
    if (team.team_rank() == 0) {
      state.queued = 0;
      for (int i = 0; i < 4; ++i) state.sum[i / 2][i % 2] = 0;
    }
    team.team_barrier();
    for (std::int32_t node = team.team_rank(); node < tree.nodes; node += team.team_size())
      if (tree.parent[node] < 0) {
        reach(node, -1, false);
        queue(node);
      }
    const FastTreeTiles round = state.tiles;
    std::int64_t sum[2][2] = {};
    for (std::int32_t begin = 0, end = queued(team); begin < end; begin = end, end = queued(team))
      for (std::int32_t i = begin + team.team_rank(); i < end; i += team.team_size())
        for (std::int32_t node = a.queue[i]; node >= 0;) node = settle(round, node, sum);
    for (int i = 0; i < 4; ++i) Kokkos::atomic_add(&state.sum[i / 2][i % 2], sum[i / 2][i % 2]);
    team.team_barrier();
  }

  /// How many nodes the team has queued so far: nobody goes on to queue the next level before all know.
  template <class Team>
  KOKKOS_FUNCTION std::int32_t queued(const Team& team) const {
    team.team_barrier();
    const std::int32_t nodes = detail::relaxed_load(&a.state->queued);
    team.team_barrier();
    return nodes;
  }

  KOKKOS_FUNCTION void queue(std::int32_t node) const { a.queue[Kokkos::atomic_fetch_inc(&a.state->queued)] = node; }

  /// What a node is told by its parent, which is settled.
  KOKKOS_FUNCTION void reach(std::int32_t node, std::int32_t parent, bool takes_copy) const {
    a.takes_copy[node] = takes_copy ? 1 : 0;
    a.line_tokens[node] = tree.tokens[node] + (takes_copy ? a.line_tokens[parent] : 0);
    a.line_segments[node] = (tree.tokens[node] > 0 ? 1 : 0) + (takes_copy ? a.line_segments[parent] : 0);
    a.path_tokens[node] = parent < 0 ? 0 : a.path_tokens[parent] + tree.tokens[parent];
    a.later_run_end[node] = tree.row_begin[node];
  }

  /// Decides for the children of a node, and queues them.
  /// @return an only child instead of queueing it, else -1
  KOKKOS_FUNCTION std::int32_t settle(const FastTreeTiles& round, std::int32_t node, std::int64_t (&sum)[2][2]) const {
    const std::int32_t end = tree.subtree_end[node];
    const std::int32_t tokens = a.line_tokens[node];
    const bool only_child = node + 1 < end && tree.subtree_end[node + 1] == end;
    std::int32_t rows = tree.row_end[node] - tree.row_begin[node];
    double cost_of_rows = cost.of(round, rows, tokens);
    // The node's rows are its own and those of the children without a copy: runs between the children that take one.
    a.run_end[node] = node + 1 < end ? tree.row_begin[node + 1] : tree.row_end[node];
    std::int32_t* run_end = &a.run_end[node];
    for (std::int32_t child = node + 1; child < end; child = tree.subtree_end[child]) {
      const std::int32_t child_rows = tree.row_end[child] - tree.row_begin[child];
      const std::int64_t child_tokens = tree.tokens[child];
      const double cost_of_rest = cost.of(round, rows - child_rows, tokens);
      const double split_k = cost_of_rows + cost.of(round, child_rows, child_tokens) + cost.of_merging(child_rows);
      const double split_q = cost_of_rest + cost.of(round, child_rows, child_tokens + tokens);
      const bool takes_copy = split_k > split_q;
      reach(child, node, takes_copy);
      if (takes_copy) {
        rows -= child_rows;
        cost_of_rows = cost_of_rest;
        run_end = nullptr;
      } else {
        if (run_end == nullptr) run_end = &a.later_run_end[child];
        *run_end = tree.row_end[child];
      }
      if (!only_child) queue(child);
    }
    a.rows[node] = rows;
    if (rows > 0) {
      const int p = round.phase(rows);
      sum[p][0] += ceil_div(rows, round.rows[p]) * ceil_div(tokens, tiles.split[p]);
      sum[p][1] += ceil_div(rows, round.rows[p]) * ceil_div(tokens, short_split);
    }
    return only_child ? node + 1 : -1;
  }

  /// The first two of the three rounds: neither changes what the walk that precedes the other has found.
  KOKKOS_FUNCTION void adapt(FastTreeState& state) const {
    state.again = 0;
    bool splits_shorter = false;
    std::int64_t found[2];
    for (int p = 0; p < 2; ++p) {
      found[p] = state.sum[p][0] * kv_heads;
      if (found[p] == 0 || found[p] >= enough_tiles[p]) continue;
      state.tiles.split[p] = short_split;
      found[p] = state.sum[p][1] * kv_heads;
      splits_shorter = true;
    }
    if (!splits_shorter) return;
    int better;
    if (found[0] > 0 && found[0] < enough_tiles_then[0])
      better = 1;
    else if (found[1] > 0 && found[1] < enough_tiles_then[1])
      better = 0;
    else
      return;
    for (int p = 0; p < 2; ++p) {
      state.tiles.rows[p] = tiles.rows[better];
      state.tiles.tokens[p] = tiles.tokens[better];
    }
    state.again = 1;
  }
};

/// PlanStrategy::fasttree: a node is read together with the ancestors it took a copy of, by the rows that did not go on
/// to a child with a copy, in tiles of its phase.
///
/// Those rows need not be contiguous: each maximal run of them gets tiles of its own. The published kernel lists the
/// rows of a tile one by one, and packs several runs into one tile; so here a node with scattered rows has more tiles,
/// each of which reads the node again. The published assignments and sums do not know of it, and are not changed.
///
/// Items are nodes, for their segments and the run that begins at row_begin; nodes again, for the later runs of their
/// parents; and rows, for runs with rows that see only the beginning of their own node.
struct FastTreeCut {
  CutContext c;
  FastTreeArrays a;

  static std::int64_t most_items(std::int64_t nodes, std::int64_t rows) { return 2 * nodes + rows; }
  static void reserve(Scratch& scratch, std::size_t nodes) { FastTreeArrays::in(scratch, nodes); }

  struct Rule {
    FastTreeParams params;
    std::int32_t kv_heads;
  };

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION static FastTreeCut prepare(const Runner& run, const CutContext& c, const Rule& rule,
                                             Scratch scratch) {
    const FastTreeArrays a = FastTreeArrays::in(scratch, std::size_t(c.tree.nodes));
    run.team("espalier::Plan::fasttree", walk(c.tree, rule.params, rule.kv_heads, c.group, a));
    return {c, a};
  }

  KOKKOS_FUNCTION static FastTreeWalk walk(const detail::TreeView& tree, const FastTreeParams& params,
                                           std::int32_t kv_heads, std::int32_t group, const FastTreeArrays& a) {
    FastTreeWalk walk{};
    walk.tree = tree;
    walk.cost = {params.alpha, params.beta, params.gamma, group};
    for (int p = 0; p < 2; ++p) {
      const std::int32_t published_rows = p == 0 ? 64 : 16;
      walk.tiles.rows[p] = params.tile_rows[p] > 0 ? params.tile_rows[p] : Kokkos::max(1, published_rows / group);
      walk.tiles.tokens[p] = params.tile_tokens[p];
      walk.tiles.split[p] = params.split_tokens[0];
      walk.enough_tiles[p] = params.enough_tiles[p];
      walk.enough_tiles_then[p] = params.enough_tiles_then[p];
    }
    walk.short_split = params.split_tokens[1];
    walk.kv_heads = kv_heads;
    walk.a = a;
    return walk;
  }

  KOKKOS_FUNCTION std::int32_t items() const { return 2 * c.tree.nodes + c.tree.rows; }

  KOKKOS_FUNCTION Counts count(std::int32_t item) const {
    if (item < c.tree.nodes) {
      Counts counts = first_run(item).count();
      counts.segments = a.rows[item] > 0 ? a.line_segments[item] : 0;
      return counts;
    }
    if (item < 2 * c.tree.nodes) return later_run(item - c.tree.nodes).count();
    const std::int32_t row = item - 2 * c.tree.nodes;
    const std::int32_t node = c.tree.row_node[row];
    if (c.tree.row_visible[row] == c.tree.tokens[node]) return {};
    const Grid run = first_run(node);
    return run.limited_run_begins_at(row) ? run.count_limited(row) : Counts{};
  }

  KOKKOS_FUNCTION void write_segments(std::int32_t item, detail::Segment* segments) const {
    if (item >= c.tree.nodes || a.rows[item] == 0) return;
    std::int32_t place = a.line_segments[item];
    for (std::int32_t node = item; place > 0; node = c.tree.parent[node])
      if (c.tree.tokens[node] > 0) segments[--place] = segment_of_node(c.tree, node);
  }

  KOKKOS_FUNCTION std::int32_t segment_item(std::int32_t item) const {
    if (item < c.tree.nodes) return item;
    return item < 2 * c.tree.nodes ? c.tree.parent[item - c.tree.nodes] : c.tree.row_node[item - 2 * c.tree.nodes];
  }

  KOKKOS_FUNCTION detail::Tile tile(std::int32_t item, std::int32_t k, const detail::Segment* segments,
                                    Counts& before) const {
    Piece piece;
    if (item < c.tree.nodes)
      piece = first_run(item).piece(k, before);
    else if (item < 2 * c.tree.nodes)
      piece = later_run(item - c.tree.nodes).piece(k, before);
    else
      piece = first_run(segment_item(item)).limited_piece(item - 2 * c.tree.nodes, k, before);
    return tile_on_path(piece, segments, a.line_segments[segment_item(item)], a.path_tokens);
  }

 private:
  KOKKOS_FUNCTION Grid grid(std::int32_t node, std::int32_t row_begin, std::int32_t row_end) const {
    const FastTreeTiles& tiles = a.state->tiles;
    const int p = tiles.phase(a.rows[node]);
    Grid grid{};
    grid.row_visible = c.tree.row_visible;
    grid.row_begin = grid.limited_end = row_begin;
    grid.row_end = row_end;
    grid.tokens = a.line_tokens[node];
    grid.ahead = a.line_tokens[node] - c.tree.tokens[node];
    grid.chunk_tokens = tiles.split[p];
    grid.tile_rows = tiles.rows[p];
    grid.group = c.group;
    return grid;
  }

  KOKKOS_FUNCTION Grid first_run(std::int32_t node) const {
    Grid run = grid(node, c.tree.row_begin[node], a.run_end[node]);
    run.limited_end = first_row_seeing_all(c.tree, node);
    return run;
  }

  /// The run of its parent's rows that begins with this child; may be empty.
  KOKKOS_FUNCTION Grid later_run(std::int32_t child) const {
    if (c.tree.parent[child] < 0) return {};
    return grid(c.tree.parent[child], c.tree.row_begin[child], a.later_run_end[child]);
  }
};

}  // namespace espalier::plan
