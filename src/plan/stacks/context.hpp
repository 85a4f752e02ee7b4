#pragma once
// What the steps of a StackPlan work on: plain pointers and counts.
//
// Words: pairs, segments, tiles as in espalier/detail/fused_plan.hpp. A node is *big* where it has more pairs than a tile;
// below the big nodes hang small subtrees. A *unit* is a small subtree, or one row of a big node: units cut the rows into
// intervals. A *stack* is what neighbouring units below one big node see, at most a tile of pairs, or one row where its group
// alone is more:
//
//   slots  [ the big nodes above | small nodes that the middle pair is inside of | the others, by turns of the two halves ]
//   or     [ a block of the topmost | the others, by turns of the two halves | the rest above and around the middle ]
//
// A node seen by the first 64 pairs alone is in the first *half*, one seen by the others in the second; a *turn* is some
// blocks of 128 slots of one half, so that the two warpgroups of a kernel, each of which has 64 pairs and leaves out what
// only the other's see, both have work. Big nodes that would be in many more stacks than they have tiles of pairs are *alone*:
// each is a stack of its own. A stack and a KV head, and a tile of pairs where a row has several, are a *stream*; the streams
// are one line, cut into a span for each worker.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "costs.hpp"
#include "espalier/detail/fused_plan.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::plan::stacks {

/// Alignment of what lies in arrays of structs: a GPU then moves 16 bytes at a time. Where neighbouring threads have
/// neighbouring structs, each access of a warp takes as many cycles as it has threads, however few bytes it asks for.
inline constexpr std::size_t kSumBytes = 16;

/// Sums over the nodes before one.
struct alignas(kSumBytes) NodeSums {
  std::int32_t alone = 0;   ///< nodes
  std::int32_t listed = 0;  ///< small nodes with tokens that are in a half
  std::int32_t slots = 0;   ///< of those
  std::int32_t runs = 0;    ///< of 16 tokens, of all nodes: what memory brings for one KV head

  KOKKOS_FUNCTION NodeSums& operator+=(const NodeSums& other) {
    alone += other.alone;
    listed += other.listed;
    slots += other.slots;
    runs += other.runs;
    return *this;
  }
};

inline constexpr std::int32_t kTooMany = INT32_MAX;  ///< or more: what no capacity is enough for

/// The sum of two counts, of which none is negative.
KOKKOS_INLINE_FUNCTION std::int32_t sum_or_too_many(std::int32_t a, std::int32_t b) {
  return std::int32_t(Kokkos::min(std::uint32_t(a) + std::uint32_t(b), std::uint32_t(kTooMany)));
}

/// Sums over the stacks before one.
struct alignas(kSumBytes) StackSums {
  std::int64_t cost = 0;       ///< of the streams of one KV head
  std::int64_t half_cost = 0;  ///< of their blocks that one half alone sees
  std::int64_t pairs = 0;      ///< of stacks that are merged even where they are not cut
  std::int32_t tiles = 0;      ///< of pairs; at most kTooMany
  std::int32_t segments = 0;   ///< that there is room for; at most kTooMany

  KOKKOS_FUNCTION StackSums& operator+=(const StackSums& other) {
    cost += other.cost;
    half_cost += other.half_cost;
    pairs += other.pairs;
    tiles = sum_or_too_many(tiles, other.tiles);
    segments = sum_or_too_many(segments, other.segments);
    return *this;
  }
};

enum NodeKind : std::int32_t { kSmall, kBig, kAlone };

/// What those who walk up the tree read of a node, all at once.
struct alignas(kSumBytes) PathNode {
  std::int32_t parent;
  std::int32_t row_begin;
  std::int32_t tokens;  ///< that any of its rows sees
  NodeKind kind;
};

/// Number of what comes before one.
struct Count {
  std::int32_t count = 0;
  KOKKOS_FUNCTION Count& operator+=(const Count& other) {
    count += other.count;
    return *this;
  }
};

/// The unit of a row.
struct alignas(kSumBytes) Unit {
  std::int32_t row;         ///< where it begins
  std::int32_t node;        ///< root of the small subtree, or node of the row
  std::int32_t above;       ///< the lowest big node that sees it; -1: none
  std::int32_t unused = 0;  ///< all 16 bytes are written together
};

/// One stack: of alone nodes first, in line order, then those of the units.
struct alignas(kSumBytes) Stack {
  StackSums before;
  std::int32_t row_begin, row_end;
  std::int32_t above;   ///< the lowest big node that sees its rows; -1: none
  std::int32_t alone;   ///< 1: it is that node's own
  std::int32_t merged;  ///< 1: its rows have partials of other stacks, too
  std::int32_t tiles;   ///< of pairs
  std::int32_t slots;
  std::int32_t above_segments, above_slots;
  std::int32_t inner;  ///< the lowest small node that the middle is inside of; -1: none
  std::int32_t inner_segments, inner_slots;
  /// The first half's small nodes are some of [first, middle), the second half's of [middle, end).
  std::int32_t first_node, middle_node, end_node;
  std::int32_t half_slots[2];
  std::int32_t turn_slots;  ///< of a turn, a multiple of 128
  std::int32_t top_slots;   ///< of the topmost node that both halves see

  KOKKOS_FUNCTION std::int32_t shared_slots() const { return above_slots + inner_slots; }
  /// Of the topmost node in front of halves that come early: a block, which others read, too. Behind none of it every worker
  /// would begin with a long wait. But few slots stay together.
  KOKKOS_FUNCTION std::int32_t early_slots() const {
    if (shared_slots() < kFewBlocks * detail::kTileSlots) return 0;
    return top_slots < detail::kTileSlots ? top_slots : std::int32_t(detail::kTileSlots);
  }
  KOKKOS_FUNCTION bool splits_top() const { return early_slots() > 0 && early_slots() < top_slots; }
};

/// A place in the line of streams, which a worker's span begins with: ordered as the line is.
struct alignas(kSumBytes) Cut {
  std::int32_t stream;
  std::int32_t block;
  std::int32_t stack;  ///< of the stream, or one in front of it
  std::int32_t pairs;  ///< of the stream, where the place is inside it
  std::int64_t cost;   ///< of the line in front of it
  KOKKOS_FUNCTION bool operator==(const Cut& other) const { return stream == other.stream && block == other.block; }
  /// Not behind where a stream begins.
  [[nodiscard]] KOKKOS_FUNCTION bool is_at_most(std::int32_t begin_of) const {
    return stream < begin_of || (stream == begin_of && block == 0);
  }
};

/// Ways to cut the line.
enum WayNumber : std::int32_t { kWhole, kCut, kCutAlike, kWays };

/// What spans that one way cuts the line into come to. With those of another way: the ones of the way with the greater number,
/// so that a prefix sum over all ways begins each afresh.
struct alignas(kSumBytes) Spans {
  std::int32_t way = 0;
  std::uint32_t longest = 0;   ///< time of a worker, in nanoseconds
  std::uint32_t partials = 0;  ///< of streams that are cut
  std::int32_t pieces = 0;

  KOKKOS_FUNCTION Spans& operator+=(const Spans& other) {
    if (other.way > way) *this = Spans{.way = other.way};
    if (other.way == way) {
      longest = Kokkos::max(longest, other.longest);
      partials += other.partials;
      pieces += other.pieces;
    }
    return *this;
  }
};

/// Totals of a plan. One that does not fit has no tiles; `need` then says what it wanted.
struct Totals {
  std::int32_t stacks;  ///< of units
  NodeSums nodes;
  StackSums all;
  std::int32_t alternate;  ///< 1: every other stack has its halves early
  std::int32_t alike;      ///< 1: kCutAlike cuts each stream into as many parts
  Spans spans[kWays];
  std::int32_t way;  ///< the best one
  std::int32_t tiles;
  std::int64_t need_segments, need_tiles, need_partials;
  std::int32_t fits;
};

inline constexpr std::int64_t kSmallTree = 6000;  ///< nodes and rows, together, that a small tree has at most
inline constexpr std::int32_t kMergeShare = 128;  ///< merge lists of a team

struct Context {
  detail::TreeView tree;
  Costs costs;
  std::int32_t group;
  std::int32_t kv_heads;
  std::int32_t workers;
  std::int32_t stack_rows;   ///< at most, of a stack of several
  std::int32_t window_rows;  ///< between places where packing begins afresh
  std::int32_t small_rows;   ///< that a small node has at most
  std::int32_t half_rows;    ///< that the first half of a tile's pairs has all of,
  std::int32_t half_last;    ///< and the last one that it has any of
  std::int64_t segment_capacity, tile_capacity, partial_capacity;

  Totals* totals;
  std::uint32_t* updates;      // [1]  of this plan, with this one
  PathNode* path_node;         // [nodes]
  std::int32_t* alone_node;    // [nodes]  those that have tiles of their own
  NodeSums* before;            // [nodes + 1]
  Unit* unit;                  // [rows]
  std::int32_t* stack_end;     // [rows]  where a stack that began here would end
  std::int32_t* begins;        // [rows]  1: a stack begins here
  std::int32_t* stack_of;      // [rows]  number of the row's stack, not counting alone nodes
  std::int32_t* stack_row;     // [rows + 1]  where each stack begins
  Stack* stack;                // [nodes + rows + 1]
  std::int32_t* turn_node;     // [rows * 2 * kTurns]  node that holds the first slot of a stack's turn
  std::uint32_t* inside;       // [rows]  bits of those of a stack's turns that begin inside a node
  Cut* cuts;                   // [kWays * (workers + 1)]  where spans begin, each way
  std::int32_t* tiles_before;  // [kWays * (workers + 1)]
  std::uint64_t* tile_pairs;   // [tile_capacity]  TilePairs::stored
  std::int32_t* tile_end;      // [tile_capacity]  slots of the last segment that are the tile's; kOpen: all of them
  std::int32_t* segment_node;  // [segment_capacity]  ~node where the segment does not grow, kNoNode where there is none

  detail::FusedPlanHeader* header;
  detail::FusedSegment* segments;  // [segment_capacity]
  detail::FusedTile* tiles;        // [tile_capacity]
  detail::FusedWorker* worker;     // [workers]
  std::int32_t* merge_count;       // [merge lists]  entries
  std::int32_t* share_entries;     // [merge_shares]  entries of each kMergeShare lists, and 1; 0: not counted yet
  std::int32_t* merge_begin;       // [merge lists + 1]
  detail::MergeEntry* merge_entries;

  KOKKOS_FUNCTION std::int32_t pair_blocks() const {
    return std::int32_t((std::int64_t(tree.rows) * group + detail::kMergePairs - 1) / detail::kMergePairs);
  }
  [[nodiscard]] bool is_small() const { return std::int64_t(tree.nodes) + tree.rows <= kSmallTree; }
  KOKKOS_FUNCTION std::int32_t merge_lists() const { return pair_blocks() * kv_heads; }
  KOKKOS_FUNCTION std::int32_t merge_shares() const {  // the last, which may be empty, writes the end
    return merge_lists() / kMergeShare + 1;
  }
  KOKKOS_FUNCTION bool is_big(std::int32_t node) const {
    return tree.row_end[node] - tree.row_begin[node] > small_rows;
  }

  /// Tokens of the node that any of its rows sees.
  KOKKOS_FUNCTION std::int32_t seen(std::int32_t node) const {
    const std::int32_t row_begin = tree.row_begin[node], row_end = tree.row_end[node], tokens = tree.tokens[node];
    if (row_begin == row_end) return 0;
    // Neither waits for the other.
    const std::int32_t last_node = tree.row_node[row_end - 1], visible = tree.row_visible[row_end - 1];
    return last_node == node ? visible : tokens;
  }

  KOKKOS_FUNCTION std::int32_t stacks() const { return totals->nodes.alone + totals->stacks; }

  /// Calls visit(node, tokens) for what lies above the small nodes of a stack, from below.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_above(const Stack& s, const Visit& visit) const {
    if (s.alone != 0) return visit(s.above, path_node[s.above].tokens);
    for (std::int32_t number = s.above; number >= 0;) {
      const PathNode node = path_node[number];
      if (node.kind != kAlone && node.tokens > 0) visit(number, node.tokens);
      number = node.parent;
    }
  }
  /// The same for the small nodes that its middle is inside of.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_inner(const Stack& s, const Visit& visit) const {
    for (std::int32_t number = s.inner; number >= 0;) {
      const PathNode node = path_node[number];
      if (node.kind != kSmall) return;
      if (node.tokens > 0) visit(number, node.tokens);
      number = node.parent;
    }
  }
};

KOKKOS_INLINE_FUNCTION std::int32_t div_up(std::int32_t count, std::int32_t size) { return (count + size - 1) / size; }
KOKKOS_INLINE_FUNCTION std::int64_t div_up(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

KOKKOS_INLINE_FUNCTION std::int32_t bits_of(std::uint32_t bits) { return Kokkos::Experimental::popcount_builtin(bits); }

/// The last of [begin, end) for which before(i) holds, which it does up to some place, and for `begin`. Looks at three places
/// at a time, which do not wait for each other.
template <class Before>
KOKKOS_INLINE_FUNCTION std::int32_t last_where(std::int32_t begin, std::int32_t end, const Before& before) {
  while (end - begin > 1) {
    const std::int32_t step = (end - begin + 3) / 4, last = end - 1;
    const std::int32_t a = begin + step, b = Kokkos::min(a + step, last), d = Kokkos::min(b + step, last);
    const bool at_a = before(a), at_b = before(b), at_d = before(d);
    end = !at_a ? a : !at_b ? b : !at_d ? d : end;
    begin = at_d ? d : at_b ? b : at_a ? a : begin;
  }
  return begin;
}

}  // namespace espalier::plan::stacks
