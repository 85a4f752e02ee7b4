#pragma once
// PlanStrategy::automatic. The line of nodes is cut into groups, each of which is one run of the line:
//
//   pack   a whole subtree in one masked tile, where that costs less than its nodes one by one: a draft tree of
//          one-token nodes, a few short leaves. Every row of the subtree then has one partial less per level.
//   chain  a node and the descendants that the very same rows see: one tile without a mask.
//   copy   a node without rows of its own that is read once more by every child's group, in front of the group's own
//          tokens, where that costs less than a tile and a partial for each of its rows: many short levels.
//
// A group's rows are cut by what a tile holds, and its tokens where one tile would keep a worker busy long after the
// others are done. All decisions compare costs of the cost model; all sums are integers, so order does not matter.
//
//   alone(v)   cost of node v as a tile of its own (of a chained node: of its tokens)
//   apart(v)   sum of alone over v's subtree, a difference of prefix sums
//   packed(v)  cost of v's subtree as one masked tile
//   v is packed where packed(v) < apart(v), and no ancestor is.
//   v is copied where the tokens of v, and of the nodes above that are copied into it, cost less in all children's tiles
//   than as a tile of v. Of nodes in a row that might be, the first kMostAbove are asked, from above.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "cuts/cut.hpp"
#include "espalier/cost_model.hpp"
#include "prepare.hpp"

namespace espalier::plan {

/// Sums over the nodes before a position.
struct LineSums {
  std::int64_t tokens = 0;
  std::int64_t alone = 0;
  KOKKOS_FUNCTION LineSums& operator+=(const LineSums& other) {
    tokens += other.tokens;
    alone += other.alone;
    return *this;
  }
};

/// Cost of the tiles of some rows, which are cut by what a tile holds: fixed + tokens * token.
struct RowsCost {
  std::int64_t fixed = 0;    // of tiles that read nothing
  std::int64_t partial = 0;  // of results that are merged
  std::int64_t token = 0;

  [[nodiscard]] KOKKOS_FUNCTION std::int64_t of(std::int64_t tokens, bool merged = true) const {
    if (tokens == 0) return 0;
    return fixed + (merged ? partial : 0) + tokens * token;
  }
};

/// What the group that begins at a node holds, and how it is cut.
struct Group {
  std::int64_t tokens = 0;        // 0 where no group begins, or it is copied
  std::int64_t tokens_above = 0;  // those of them that are copied
  std::int32_t above = 0;         // copied nodes that the group reads first, or kCopied
  std::int32_t end = 0;
  std::int32_t row_tiles = 0;
  std::int32_t pieces = 0;
  std::int32_t masked = 0;
};

/// What the automatic cut works on, in the memory of the execution space.
struct AutomaticArrays {
  RowsCost* cost;             // [nodes]  of each node's rows
  LineSums* before;           // [nodes + 1]
  std::int32_t* packed_end;   // [nodes]  end of the packed subtree that begins here, else 0
  std::int32_t* number;       // [nodes + 1]  groups that begin before this position
  std::int32_t* group_begin;  // [nodes + 1]  positions where groups begin, then `nodes`
  std::int64_t* share;        // [1]  of the cost of all tiles; what is much dearer is cut
  std::int64_t* child_rate;   // [nodes]  cost of one more token in the tiles of all children
  Group* group;               // [nodes]

  KOKKOS_FUNCTION static AutomaticArrays in(Scratch& scratch, std::size_t nodes) {
    return {scratch.take<RowsCost>(nodes),         scratch.take<LineSums>(nodes + 1),
            scratch.take<std::int32_t>(nodes),     scratch.take<std::int32_t>(nodes + 1),
            scratch.take<std::int32_t>(nodes + 1), scratch.take<std::int64_t>(1),
            scratch.take<std::int64_t>(nodes),     scratch.take<Group>(nodes)};
  }
};

inline constexpr std::int32_t kMostAbove = 8;
inline constexpr std::int32_t kCopied = -1;

struct AutomaticContext {
  CutContext c;
  detail::TileCost cost;
  AutomaticArrays a;

  KOKKOS_FUNCTION std::int32_t rows(std::int32_t node) const { return c.tree.row_end[node] - c.tree.row_begin[node]; }

  /// The same rows see the node and the one before it in the line, its parent.
  KOKKOS_FUNCTION bool chained(std::int32_t node) const {
    return node > 0 && c.tree.parent[node] == node - 1 && c.tree.row_begin[node] == c.tree.row_begin[node - 1] &&
           c.tree.row_end[node] == c.tree.row_end[node - 1];
  }

  KOKKOS_FUNCTION RowsCost cost_of_rows(std::int32_t rows) const {
    const std::int32_t full = rows / c.tile_rows;
    const std::int32_t rest = rows % c.tile_rows;
    const std::int64_t lanes = std::int64_t(rows) * c.group;
    return {(full + (rest > 0 ? 1 : 0)) * cost.tile_ps + lanes * cost.lane_ps, lanes * cost.partial_ps,
            full * cost.tokens(std::int64_t(c.tile_rows) * c.group, 1) +
                (rest > 0 ? cost.tokens(std::int64_t(rest) * c.group, 1) : 0)};
  }

  /// The node is a group of its own, and its rows are those of its children.
  KOKKOS_FUNCTION bool may_be_copied(std::int32_t node) const {
    const bool alone_in_group = a.number[node + 1] > a.number[node] && a.group_begin[a.number[node + 1]] == node + 1;
    return alone_in_group && a.packed_end[node] == 0 && c.tree.subtree_end[node] > node + 1 && rows(node) > 0 &&
           c.tree.tokens[node] > 0 && c.tree.row_node[c.tree.row_begin[node]] != node;
  }

  /// It costs less to read `tokens` tokens in the tiles of the node's children than in its own.
  KOKKOS_FUNCTION bool better_copied(std::int32_t node, std::int64_t tokens) const {
    return tokens * a.child_rate[node] < a.cost[node].of(tokens);
  }

  /// @param own  of the node's rows
  KOKKOS_FUNCTION std::int64_t alone(std::int32_t node, const RowsCost& own) const {
    if (rows(node) == 0) return 0;
    if (chained(node)) return cost.tokens(std::int64_t(rows(node)) * c.group, c.tree.tokens[node]);
    return own.of(c.tree.tokens[node]);
  }

  /// End of the node's subtree if it is better packed, else 0.
  KOKKOS_FUNCTION std::int32_t pack_end(std::int32_t node) const {
    const std::int32_t end = c.tree.subtree_end[node];
    if (end == node + 1 || rows(node) == 0) return 0;
    const std::int64_t tokens = a.before[end].tokens - a.before[node].tokens;
    // At a root nothing is left to merge with.
    const std::int64_t packed = a.cost[node].of(tokens, c.tree.parent[node] >= 0);
    return packed < a.before[end].alone - a.before[node].alone ? end : 0;
  }
};

/// Of each node's rows; those of the nodes themselves are in `before` until they are summed.
struct CostNodes {
  AutomaticContext x;
  KOKKOS_FUNCTION void operator()(std::int32_t node) const {
    const RowsCost own = x.cost_of_rows(x.rows(node));
    x.a.cost[node] = own;
    x.a.before[node] = {x.c.tree.tokens[node], x.alone(node, own)};
    x.a.child_rate[node] = 0;
  }
};

struct SumLine {
  using value_type = LineSums;
  static constexpr std::int64_t kSharesAtATime = 8;  // for each worker of those that run at a time
  AutomaticContext x;
  KOKKOS_FUNCTION void init(LineSums& sums) const { sums = LineSums{}; }
  KOKKOS_FUNCTION void join(LineSums& sums, const LineSums& other) const { sums += other; }
  KOKKOS_FUNCTION void operator()(std::int32_t node, LineSums& sums, bool final) const {
    const LineSums own = x.a.before[node];
    if (final) x.a.before[node] = sums;
    sums += own;
    if (!final || node < x.c.tree.nodes - 1) return;
    x.a.before[node + 1] = sums;
    *x.a.share = sums.alone * x.c.kv_heads / (kSharesAtATime * x.c.workers_at_a_time);
  }
};

/// In `packed_end` until nested ones are found.
struct EndPacks {
  AutomaticContext x;
  KOKKOS_FUNCTION void operator()(std::int32_t node) const {
    x.a.packed_end[node] = x.pack_end(node);
    const std::int32_t parent = x.c.tree.parent[node];
    if (parent >= 0 && x.a.cost[node].token > 0) Kokkos::atomic_add(&x.a.child_rate[parent], x.a.cost[node].token);
  }
};

/// Keeps of nested packs the outermost: one that begins before the furthest end so far lies inside another.
struct FindPacks {
  using value_type = std::int32_t;
  AutomaticContext x;
  KOKKOS_FUNCTION void init(std::int32_t& furthest) const { furthest = 0; }
  KOKKOS_FUNCTION void join(std::int32_t& furthest, const std::int32_t& other) const {
    furthest = furthest > other ? furthest : other;
  }
  KOKKOS_FUNCTION void operator()(std::int32_t node, std::int32_t& furthest, bool final) const {
    const std::int32_t end = x.a.packed_end[node];
    if (final) {
      // In `number` until groups are counted: the node lies inside a pack that began before it.
      x.a.number[node] = furthest > node ? 1 : 0;
      x.a.packed_end[node] = furthest > node ? 0 : end;
    }
    furthest = furthest > end ? furthest : end;
  }
};

/// A group begins at a pack, and at every node outside packs that is not chained to the one before it.
struct FindGroups {
  using value_type = std::int32_t;
  AutomaticContext x;
  KOKKOS_FUNCTION void operator()(std::int32_t node, std::int32_t& groups, bool final) const {
    const bool inside = x.a.number[node] != 0;
    const bool begins = !inside && (x.a.packed_end[node] != 0 || !x.chained(node) || ends_before(node));
    if (final) {
      x.a.number[node] = groups;
      if (begins) x.a.group_begin[groups] = node;
    }
    groups += begins ? 1 : 0;
    if (final && node == x.c.tree.nodes - 1) {
      x.a.number[node + 1] = groups;
      x.a.group_begin[groups] = node + 1;
    }
  }

 private:
  /// The node follows a pack: it cannot continue it.
  KOKKOS_FUNCTION bool ends_before(std::int32_t node) const { return node > 0 && x.a.packed_end[node - 1] == node; }
};

/// Which nodes are copied, how many of those above each node its group reads first, and what the group comes to.
struct ShapeGroups {
  AutomaticContext x;
  KOKKOS_FUNCTION void operator()(std::int32_t node) const { x.a.group[node] = group_of(node, nodes_above(node)); }

 private:
  /// Copied nodes that the node's group reads first, or kCopied.
  KOKKOS_FUNCTION std::int32_t nodes_above(std::int32_t node) const {
    std::int32_t run[kMostAbove];  // of nodes that may be copied, from the parent up
    std::int32_t length = 0;
    std::int32_t ancestor = x.c.tree.parent[node];
    for (; length < kMostAbove && ancestor >= 0 && x.may_be_copied(ancestor); ancestor = x.c.tree.parent[ancestor])
      run[length++] = ancestor;
    const bool longer = length == kMostAbove && ancestor >= 0 && x.may_be_copied(ancestor);
    std::int32_t above = 0;
    std::int64_t tokens = 0;
    for (std::int32_t i = longer ? 0 : length; i > 0; --i) {
      tokens += x.c.tree.tokens[run[i - 1]];
      const bool copied = x.better_copied(run[i - 1], tokens);
      above = copied ? above + 1 : 0;
      tokens = copied ? tokens : 0;
    }
    const bool copied =
        length < kMostAbove && x.may_be_copied(node) && x.better_copied(node, tokens + x.c.tree.tokens[node]);
    return copied ? kCopied : above;
  }

  KOKKOS_FUNCTION Group group_of(std::int32_t node, std::int32_t above) const {
    const CutContext& c = x.c;
    Group group;
    const std::int32_t number = x.a.number[node];
    if (above == kCopied) group.above = kCopied;
    if (x.a.number[node + 1] == number || above == kCopied || x.rows(node) == 0) return group;
    group.end = x.a.group_begin[number + 1];
    for (std::int32_t copied = c.tree.parent[node]; group.above < above; copied = c.tree.parent[copied]) {
      group.tokens_above += c.tree.tokens[copied];
      ++group.above;
    }
    group.tokens = group.tokens_above + x.a.before[group.end].tokens - x.a.before[node].tokens;
    if (group.tokens == 0) return group;
    const std::int32_t rows = x.rows(node);
    group.row_tiles = (rows + c.tile_rows - 1) / c.tile_rows;
    group.pieces = pieces_of(rows < c.tile_rows ? rows : c.tile_rows, group.tokens);
    group.masked = x.a.packed_end[node] != 0 || hides_tokens(node, group.end) ? 1 : 0;
    return group;
  }

  /// Pieces of about a share each; but none is short, or costs as a tile more than a part of its work.
  KOKKOS_FUNCTION std::int32_t pieces_of(std::int32_t rows, std::int64_t tokens) const {
    const std::int64_t lanes = std::int64_t(rows) * x.c.group;
    const std::int64_t tile = x.cost.tile(lanes, tokens, lanes);
    const std::int64_t fixed = x.cost.tile(lanes, 0, lanes);
    const std::int64_t share = *x.a.share;
    if (share == 0) return 1;
    const auto wanted = std::int64_t(double(2 * tile * x.c.heads_together(rows) + share) / double(2 * share));
    // Where the tile alone would take longer than everything evenly spread, others would wait for it: then pieces may
    // cost as much by themselves as their work does.
    const bool is_last = tile > SumLine::kSharesAtATime * share;
    const std::int64_t work = is_last ? kLastPieceWork : kPieceWork;
    const std::int64_t most = Kokkos::min(tokens / kPieceTokens, fixed > 0 ? tile / (work * fixed) : tokens);
    return std::int32_t(Kokkos::max<std::int64_t>(1, Kokkos::min(wanted, most)));
  }
  /// A row whose node lies in the group may see only the beginning of it.
  KOKKOS_FUNCTION bool hides_tokens(std::int32_t node, std::int32_t end) const {
    // In a chain only the last node has rows of its own, sorted by what they see.
    const std::int32_t row = x.c.tree.row_begin[node];
    return row < x.c.tree.row_end[node] && x.c.tree.row_node[row] >= node && x.c.tree.row_node[row] < end &&
           x.c.tree.row_visible[row] < x.c.tree.tokens[x.c.tree.row_node[row]];
  }

  static constexpr std::int64_t kPieceTokens = 64;   ///< a piece is not shorter
  static constexpr std::int64_t kPieceWork = 16;     ///< a piece costs at least so many times what any tile costs
  static constexpr std::int64_t kLastPieceWork = 2;  ///< likewise, of a tile for which all others would wait
};

/// The cut over positions of the line: a position that begins no group yields nothing but its segment.
struct AutomaticCut {
  using Rule = detail::TileCost;

  CutContext c;
  AutomaticContext x;

  static std::int64_t most_items(std::int64_t nodes, std::int64_t) { return nodes; }
  static void reserve(Scratch& scratch, std::size_t nodes) { AutomaticArrays::in(scratch, nodes); }

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION static AutomaticCut prepare(const Runner& run, const CutContext& c, const Rule& rule,
                                              Scratch scratch) {
    const std::int32_t nodes = c.tree.nodes;
    const AutomaticContext x{c, rule, AutomaticArrays::in(scratch, std::size_t(nodes))};
    run.each("espalier::Plan::costs", nodes, CostNodes{x});
    run.scan("espalier::Plan::line_sums", nodes, SumLine{x});
    run.each("espalier::Plan::pack_ends", nodes, EndPacks{x});
    run.scan("espalier::Plan::packs", nodes, FindPacks{x});
    run.scan("espalier::Plan::groups", nodes, FindGroups{x});
    run.each("espalier::Plan::shape_groups", nodes, ShapeGroups{x});
    return {c, x};
  }

  KOKKOS_FUNCTION std::int32_t items() const { return c.tree.nodes; }

  KOKKOS_FUNCTION Counts count(std::int32_t node) const {
    Counts counts;
    const Group& group = x.a.group[node];
    counts.segments = group.above == kCopied ? 0 : 1 + group.above;
    if (group.tokens == 0) return counts;
    counts.tiles = group.row_tiles * group.pieces;
    counts.partials = std::int64_t(x.rows(node)) * group.pieces;
    counts.cost = x.a.cost[node].of(group.tokens);
    return counts;
  }

  KOKKOS_FUNCTION void write_segments(std::int32_t node, detail::Segment* segments) const {
    std::int32_t place = x.a.group[node].above;
    if (place == kCopied) return;
    segments[place] = segment_of_node(c.tree, node);
    for (std::int32_t copied = c.tree.parent[node]; place > 0; copied = c.tree.parent[copied])
      segments[--place] = segment_of_node(c.tree, copied);
  }

  /// Tiles of a group go row tile by row tile, each in pieces of about equal length.
  KOKKOS_FUNCTION detail::Tile tile(std::int32_t node, std::int32_t k, const detail::Segment*, Counts& before) const {
    const Group& group = x.a.group[node];
    const std::int32_t row_tile = k / group.pieces;
    const std::int32_t piece = k % group.pieces;
    const std::int64_t begin = group.tokens * piece / group.pieces;
    const std::int64_t end = group.tokens * (piece + 1) / group.pieces;
    detail::Tile tile{};
    tile.row_begin = c.tree.row_begin[node] + row_tile * c.tile_rows;
    tile.row_end = tile.row_begin + c.tile_rows;
    if (tile.row_end > c.tree.row_end[node]) tile.row_end = c.tree.row_end[node];
    tile.tokens = std::int32_t(end - begin);
    const Place first = place_of_token(node, group, begin);
    tile.segment_begin = first.segment;
    tile.segment_end = place_of_token(node, group, end - 1).segment + 1;
    tile.skip = std::int32_t(begin - first.begin);
    tile.masked = std::int8_t(group.masked);
    const std::int64_t rows_before = std::int64_t(row_tile) * c.tile_rows;
    before.partials = group.pieces * rows_before + piece * std::int64_t(tile.row_end - tile.row_begin);
    before.cost = row_tile > 0 ? x.cost_of_rows(std::int32_t(rows_before)).of(group.tokens) : 0;
    if (piece > 0) {
      const RowsCost own = group.row_tiles == 1 ? x.a.cost[node] : x.cost_of_rows(tile.row_end - tile.row_begin);
      before.cost += own.of(group.tokens) * piece / group.pieces;
    }
    return tile;
  }

 private:
  /// A segment of a group, and how many tokens of the group lie before it.
  struct Place {
    std::int32_t segment;
    std::int64_t begin;
  };

  /// The place that holds token t of the group.
  KOKKOS_FUNCTION Place place_of_token(std::int32_t node, const Group& group, std::int64_t t) const {
    if (t >= group.tokens_above) {
      const std::int32_t holder = node_of_token(node, group.end, t - group.tokens_above);
      return {group.above + holder - node, group.tokens_above + x.a.before[holder].tokens - x.a.before[node].tokens};
    }
    std::int32_t copied = c.tree.parent[node];
    Place place{group.above - 1, group.tokens_above - c.tree.tokens[copied]};
    for (; place.begin > t; --place.segment) {
      copied = c.tree.parent[copied];
      place.begin -= c.tree.tokens[copied];
    }
    return place;
  }

  /// The node among [begin, end) that holds token t of the group.
  KOKKOS_FUNCTION std::int32_t node_of_token(std::int32_t begin, std::int32_t end, std::int64_t t) const {
    const std::int64_t target = x.a.before[begin].tokens + t;
    while (end - begin > 1) {
      const std::int32_t middle = begin + (end - begin) / 2;
      if (x.a.before[middle].tokens <= target)
        begin = middle;
      else
        end = middle;
    }
    return begin;
  }
};

}  // namespace espalier::plan
