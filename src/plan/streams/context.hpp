#pragma once
// What the steps of a StreamPlan work on: plain pointers and counts.
//
// Words: pairs, streams, gangs as in espalier/detail/fused_plan.hpp. A node is *big* where it has more pairs than a narrow
// tile; below the big nodes hang small subtrees. A *unit* is a small subtree, or one row of a big node: units cut the rows
// into intervals. A *pack* is a run of units, at most a narrow tile of pairs, or one row where its group alone is more. A
// *strip* is what a narrow tile holds of a pack: all of it, or 16 pairs of its one row. A strip has up to two *lists* of
// 16-token steps: of segments, and of gathered tokens. A list and a KV head are a narrow stream.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "costs.hpp"
#include "espalier/detail/fused_plan.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::plan::streams {

/// Alignment of what lies in arrays of structs: a GPU then moves 16 bytes at a time. Where neighbouring threads have
/// neighbouring structs, each access of a warp takes as many cycles as it has threads, however few bytes it asks for.
inline constexpr std::size_t kSumBytes = 16;

/// Sums over the nodes before one.
struct alignas(kSumBytes) NodeSums {
  std::int32_t segments = 0;  ///< of small nodes
  std::int32_t gathered = 0;
  std::int32_t steps = 0;
  std::int32_t tokens = 0;  ///< of those segments
  std::int32_t wide = 0;    ///< nodes
  std::int32_t wide_segments = 0;
  std::int32_t tiles = 0;   ///< row tiles of wide nodes
  std::int64_t blocks = 0;  ///< of those row tiles
  std::int64_t pairs = 0;

  KOKKOS_FUNCTION NodeSums& operator+=(const NodeSums& other) {
    segments += other.segments;
    gathered += other.gathered;
    steps += other.steps;
    tokens += other.tokens;
    wide += other.wide;
    wide_segments += other.wide_segments;
    tiles += other.tiles;
    blocks += other.blocks;
    pairs += other.pairs;
    return *this;
  }
};

/// Sums over the packs before one, all their strips counted.
struct alignas(kSumBytes) PackSums {
  std::int32_t packs = 0;
  std::int32_t lists = 0;
  std::int64_t segments = 0;
  std::int64_t gathered = 0;
  std::int64_t steps = 0;

  KOKKOS_FUNCTION PackSums& operator+=(const PackSums& other) {
    packs += other.packs;
    lists += other.lists;
    segments += other.segments;
    gathered += other.gathered;
    steps += other.steps;
    return *this;
  }
};

/// Sums over the narrow streams before one.
struct alignas(kSumBytes) StreamSums {
  std::int64_t pieces = 0;
  std::int64_t slots = 0;  ///< partials

  KOKKOS_FUNCTION StreamSums& operator+=(const StreamSums& other) {
    pieces += other.pieces;
    slots += other.slots;
    return *this;
  }
};

/// Sums over the workers before one.
struct alignas(8) WorkerSums {
  std::int32_t room = 0;         ///< for narrow work, in units of 1 << room_bits
  std::int32_t wide_pieces = 0;  ///< of the gang with that number

  KOKKOS_FUNCTION WorkerSums& operator+=(const WorkerSums& other) {
    room += other.room;
    wide_pieces += other.wide_pieces;
    return *this;
  }
};

/// One wide node, with the absorbed ones above it, whose tokens lie in front of its own.
struct alignas(kSumBytes) WideNode {
  std::int64_t tile_blocks_before;
  std::int64_t pairs_before;
  std::int32_t tiles_before;
  std::int32_t segments_before;
  std::int32_t node;
  std::int32_t blocks;
  std::int32_t tokens;
  std::int32_t alone;  ///< 1: its rows see nothing above them
};

/// Sums over the big children of a node.
struct ChildSums {
  std::int32_t rows;
  std::int32_t tiles;
  std::int32_t tokens;  ///< the least
};

/// One pack, by its first row. Counts are those of one strip: all strips of a pack have the same.
struct alignas(kSumBytes) Pack {
  PackSums before;
  std::int32_t end;         ///< row
  std::int32_t first_node;  ///< its small nodes are some of [first_node, end_node)
  std::int32_t end_node;
  std::int32_t copied_segments;  ///< they come first in the list of segments
  std::int32_t copied_steps;
  std::int32_t copied_tokens;
  std::int32_t copied_gathered;
  std::int32_t segments;
  std::int32_t steps;
  std::int32_t tokens;
  std::int32_t gathered;
  std::int32_t below_wide;  ///< 1: a wide node sees some of its rows
};

/// One list: steps_before counts those of the lists before it.
struct alignas(kSumBytes) List {
  std::int32_t row;   ///< of its pack
  std::int32_t part;  ///< of the pack's strips
  std::int32_t gathered;
  std::int32_t steps_before;
};

/// A split of the workers between wide and narrow tiles. 32 bits: a GPU adds 64 in a loop that threads leave one by one.
struct Split {
  std::uint32_t longest;   ///< wide time of a worker, in nanoseconds
  std::int32_t pieces;     ///< wide ones of all gangs
  std::uint32_t partials;  ///< beyond one for each stream
};

/// A place in a line of streams, which a worker's span begins with: ordered as the line is.
struct alignas(8) Cut {
  std::int32_t stream;
  std::int32_t offset;  ///< block or step
  KOKKOS_FUNCTION bool operator==(const Cut& other) const { return stream == other.stream && offset == other.offset; }
  KOKKOS_FUNCTION bool operator<=(const Cut& other) const {
    return stream < other.stream || (stream == other.stream && offset <= other.offset);
  }
};

/// Totals of a plan. One that does not fit has no tiles; `need` then says what it wanted.
struct Totals {
  NodeSums nodes;
  PackSums packs;
  StreamSums streams;
  WorkerSums workers;
  std::int64_t entries;
  std::int64_t bound;       ///< time and number of the split that is best by even spans
  std::int64_t best;        ///< predicted time and number of the split
  std::int64_t finish;      ///< of the narrow work, where all workers finish together
  std::int64_t wide_share;  ///< of a gang, of the wide line
  std::int64_t uncut;       ///< steps up to which narrow streams stay whole
  std::int64_t need_segments, need_gathered, need_tiles, need_partials, longest;
  std::int32_t tile_counts;  ///< of all wide nodes, combined by or
  std::int32_t gang_bits;    ///< a gang is 1 << gang_bits row tiles of a wide node that walk its KV together
  std::int32_t gangs;        ///< that take wide tiles
  std::int32_t room_bits;    ///< such that finish >> room_bits is below kRoom
  std::int32_t queue_most;   ///< steps of a piece in the queue
  std::int32_t large;        ///< 1: narrow work saturates memory for long
  std::int32_t fits;
};

inline constexpr std::int64_t kRoom = 8192;       ///< sums for all workers then fit into 32 bits
inline constexpr std::int32_t kMergeParts = 4;    ///< of a small tree's merge list; larger trees keep all threads busy
inline constexpr std::int64_t kSmallTree = 6000;  ///< nodes and rows, together, that a small tree has at most
inline constexpr std::int32_t kMergeShare = 256;  ///< parts of lists that a team writes

/// What becomes of a node's tokens.
enum NodeKind : std::int32_t {
  kSmall,     ///< no more pairs than a narrow tile holds: in the list of its strip
  kEmpty,     ///< big, and its rows see no token of it
  kCopied,    ///< big and short: in the lists of all its strips
  kWide,      ///< big: wide tiles
  kAbsorbed,  ///< big: in front of its children's tokens in their wide tiles
};

struct Context {
  detail::TreeView tree;
  Costs costs;
  std::int32_t group;
  std::int32_t kv_heads;
  std::int32_t workers;
  std::int32_t strips;       ///< of a pack
  std::int32_t pack_rows;    ///< at most
  std::int32_t small_rows;   ///< that a small node has at most
  std::int32_t absorbs;      ///< 1: wide tiles may have several segments
  std::int32_t merge_parts;  ///< of a merge list, each for a thread
  std::int64_t segment_capacity, tile_capacity, partial_capacity;

  Totals* totals;
  ChildSums* children;         // [nodes]
  std::int32_t* kind;          // [nodes]  NodeKind
  NodeSums* before;            // [nodes + 1]
  WideNode* wide;              // [nodes + 1]
  std::int32_t* unit_end;      // [rows]  where a unit begins, else 0
  std::int32_t* unit_node;     // [rows]  root of the small subtree, or node of the row
  std::int32_t* pack_end;      // [rows]  where a pack that began here would end
  std::int32_t* begins;        // [rows]  1: a pack begins here
  Pack* pack;                  // [rows]  where one begins
  std::int32_t* pack_row;      // [rows + 1]
  std::int32_t* pack_of;       // [rows]
  List* lists;                 // [2 * strips * rows + 1]
  Split* splits;               // [workers]
  Cut* wide_cut;               // [workers + 1]  of each gang
  std::int64_t* wide_blocks;   // [workers + 1]  of the line before each gang's begin
  WorkerSums* worker_sums;     // [workers + 1]
  Cut* narrow_cut;             // [workers + 2]  of each span; the last is the queue's
  std::int64_t* narrow_steps;  // [workers + 2]  of the line before each span
  std::int32_t* span_pieces;   // [workers + 2]  of the stream that each span begins inside, before it
  StreamSums* streams;         // [lists * kv_heads + 1]
  std::int32_t* piece_stream;  // [tile_capacity]  stream of each narrow piece
  std::int64_t* keys;          // [tile_capacity]  order of narrow tiles
  std::uint32_t* piece_pairs;  // [tile_capacity]  of the strip, lo | hi << 16, by number of the narrow piece
  std::int32_t* tile_end;      // [tile_capacity]  where narrow tiles end in their last segment; kOpen: at its end
  std::int32_t* wide_open;     // [tile_capacity]  1: the wide tile ends with its segment
  std::int32_t* segment_node;  // [segment_capacity]  ~node where the segment does not grow

  detail::FusedPlanHeader* header;
  detail::FusedSegment* segments;   // [segment_capacity]
  detail::GatheredToken* gathered;  // [segment_capacity]
  detail::FusedTile* wide_tiles;    // [tile_capacity]
  detail::FusedTile* narrow_tiles;  // [tile_capacity]
  detail::FusedWorker* worker;      // [workers]
  std::int32_t* merge_count;        // [merge lists * merge_parts]  a part's entries; after SumEntries, where it begins
  std::int32_t* share_entries;      // [merge_shares]  entries of each kMergeShare parts of lists
  std::int32_t* merge_begin;        // [merge lists + 1]
  detail::MergeEntry* merge_entries;

  KOKKOS_FUNCTION std::int32_t pair_blocks() const {
    return std::int32_t((std::int64_t(tree.rows) * group + detail::kMergePairs - 1) / detail::kMergePairs);
  }
  [[nodiscard]] bool is_small() const { return std::int64_t(tree.nodes) + tree.rows <= kSmallTree; }
  KOKKOS_FUNCTION std::int32_t merge_lists() const { return pair_blocks() * kv_heads; }
  KOKKOS_FUNCTION std::int32_t merge_shares() const {  // the last, which may be empty, writes the end
    return merge_lists() * merge_parts / kMergeShare + 1;
  }
  KOKKOS_FUNCTION std::int64_t pairs_of(std::int32_t node) const {
    return std::int64_t(tree.row_end[node] - tree.row_begin[node]) * group;
  }
  KOKKOS_FUNCTION bool is_big(std::int32_t node) const {
    return tree.row_end[node] - tree.row_begin[node] > small_rows;
  }
  KOKKOS_FUNCTION bool is_leaf(std::int32_t node) const { return tree.subtree_end[node] == node + 1; }

  /// Tokens of the node that any of the rows before `row_end`, which are below the node, sees.
  KOKKOS_FUNCTION std::int32_t seen(std::int32_t node, std::int32_t row_end) const {
    return tree.row_node[row_end - 1] == node ? tree.row_visible[row_end - 1] : tree.tokens[node];
  }
  KOKKOS_FUNCTION std::int32_t seen(std::int32_t node) const {
    return tree.row_begin[node] < tree.row_end[node] ? seen(node, tree.row_end[node]) : 0;
  }

  KOKKOS_FUNCTION std::int32_t row_tiles(std::int32_t node) const {
    return std::int32_t((pairs_of(node) + detail::kWidePairs - 1) / detail::kWidePairs);
  }
  KOKKOS_FUNCTION bool is_wide(std::int32_t node) const { return kind[node] == kWide; }
  KOKKOS_FUNCTION bool is_copied(std::int32_t node) const { return kind[node] == kCopied; }

  /// Calls visit(node, tokens) for a wide node and the absorbed ones above it, from below, where there are tokens.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_of_chain(std::int32_t node, const Visit& visit) const {
    if (seen(node) > 0) visit(node, seen(node));
    if (absorbs == 0) return;
    for (node = tree.parent[node]; node >= 0 && kind[node] == kAbsorbed; node = tree.parent[node])
      if (tree.tokens[node] > 0) visit(node, tree.tokens[node]);
  }

  /// The nearest big node of a unit that begins at the row: its own, or the one above it; -1: none.
  KOKKOS_FUNCTION std::int32_t big_of_unit(std::int32_t row) const {
    const std::int32_t node = unit_node[row];
    return is_big(node) ? node : tree.parent[node];
  }
  KOKKOS_FUNCTION std::int32_t unit_at(std::int32_t row) const {
    while (unit_end[row] == 0) --row;
    return row;
  }

  /// Calls visit(node) for every big node that some of the rows from `row`, where a unit begins, to row_end are below of;
  /// until it returns false.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_big(std::int32_t row, std::int32_t row_end, const Visit& visit) const {
    for (std::int32_t unit = row; unit < row_end; unit = unit_end[unit])
      for (std::int32_t node = big_of_unit(unit); node >= 0 && (unit == row || tree.row_begin[node] == unit);
           node = tree.parent[node])
        if (!visit(node)) return;
  }

  KOKKOS_FUNCTION std::int32_t large() const { return totals->large; }
  KOKKOS_FUNCTION std::int32_t gang_bits() const { return totals->gang_bits; }
};

KOKKOS_INLINE_FUNCTION std::int32_t div_up(std::int32_t count, std::int32_t size) { return (count + size - 1) / size; }
KOKKOS_INLINE_FUNCTION std::int64_t div_up(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

/// The last of [begin, end) for which before(i) holds, which it does up to some place, and for `begin`.
template <class Before>
KOKKOS_INLINE_FUNCTION std::int32_t last_where(std::int32_t begin, std::int32_t end, const Before& before) {
  while (end - begin > 1) {
    const std::int32_t middle = begin + (end - begin) / 2;
    (before(middle) ? begin : end) = middle;
  }
  return begin;
}

/// How the tokens of a small or copied node come into the lists of a strip.
///   [0, head)       every row sees them: a segment, or gathered where they are few
///   [head, tail)    by some rows only: gathered
///   [tail, seen)    by the rows from tail_row on: a segment, or gathered where they are few
struct Parts {
  std::int32_t head = 0;
  std::int32_t tail = 0;
  std::int32_t seen = 0;
  std::int32_t tail_row = 0;
  bool head_listed = false, tail_listed = false;

  KOKKOS_FUNCTION std::int32_t head_tokens() const { return head_listed ? 0 : head; }
  KOKKOS_FUNCTION std::int32_t tail_tokens() const { return tail_listed ? 0 : seen - tail; }
  KOKKOS_FUNCTION std::int32_t segments() const { return (head_tokens() > 0 ? 1 : 0) + (tail_tokens() > 0 ? 1 : 0); }
  KOKKOS_FUNCTION std::int32_t tokens() const { return head_tokens() + tail_tokens(); }
  KOKKOS_FUNCTION std::int32_t head_steps() const { return div_up(head_tokens(), kStepTokens); }
  KOKKOS_FUNCTION std::int32_t steps() const { return head_steps() + div_up(tail_tokens(), kStepTokens); }
  KOKKOS_FUNCTION std::int32_t gathered() const { return seen - tokens(); }
};

/// @param row_begin  rows of the strip that are below the node
KOKKOS_INLINE_FUNCTION Parts parts_of(const Context& c, std::int32_t node, std::int32_t row_begin,
                                      std::int32_t row_end) {
  Parts parts;
  parts.seen = c.seen(node, row_end);
  const auto limited = [&](std::int32_t row) {
    return c.tree.row_node[row] == node && c.tree.row_visible[row] < parts.seen;
  };
  const bool may_grow = c.is_leaf(node);  // what is gathered does not grow
  if (!limited(row_begin)) {
    parts.head = parts.tail = parts.seen;
    parts.head_listed = parts.seen < kGatherTokens && !may_grow;
    return parts;
  }
  const std::int32_t last = last_where(row_begin, row_end, limited);
  parts.head = c.tree.row_visible[row_begin];
  parts.tail = c.tree.row_visible[last];
  parts.tail_row = last + 1;
  parts.head_listed = parts.head < kGatherTokens;
  parts.tail_listed = parts.seen - parts.tail < kGatherTokens && !may_grow;
  return parts;
}

}  // namespace espalier::plan::streams
