#pragma once
// The plan of the fused kernels: plain arrays that a planner writes and a kernel reads. What it needs beyond
// `Segment` and `Tile` of params.hpp, and why:
//  - *pairs* instead of rows. A pair is one (row, query head) of one KV head: pair = row * group + head in the group,
//    rows in line order. A matrix tile holds 16 or 128 pairs, whatever the group is.
//  - two lists for each worker. Wide tiles are bound by the matrix units, narrow ones by memory; a machine on which
//    some workers begin with one kind and some with the other keeps both busy.
//  - merge lists by blocks of 16 pairs, so that one read of a list serves many rows.

#include <cstdint>

namespace espalier::detail {

inline constexpr std::int32_t kNarrowPairs = 16;   ///< most pairs of a narrow tile
inline constexpr std::int32_t kWidePairs = 128;    ///< most pairs of a wide tile
inline constexpr std::int32_t kStackSlots = 16;    ///< each segment of a stack begins at a multiple of this
inline constexpr std::int32_t kMergePairs = 16;    ///< pairs of one merge list
inline constexpr std::int32_t kNarrowTokens = 16;  ///< a narrow tile begins a multiple of this into its segment

/// Slots of a stack that so many tokens of one segment fill: the next segment begins at a multiple of 16.
constexpr std::int32_t stack_slots(std::int32_t tokens) {
  return (tokens + kStackSlots - 1) / kStackSlots * kStackSlots;
}

/// A token range of one node, addressed through the block table: token t lies at place p = block_offset + t, in block
/// `block_table[table_begin + p / block_tokens]`. Rows [row_begin, row_end) see it, but a row below own_row_end only
/// where node_token + t < row_visible[row].
struct FusedSegment {
  std::int32_t table_begin;   ///< entry of the block table that holds the segment's first token
  std::int32_t first_block;   ///< block_table[table_begin]: spares short segments a dependent load
  std::int32_t block_offset;  ///< place of the first token inside that block, 0 .. block_tokens - 1
  std::int32_t tokens;        ///< 1 .. 2^23 - 1
  std::int32_t row_begin;     ///< rows in line order
  std::int32_t row_end;
  std::int32_t own_row_end;  ///< row_begin where every row of the interval sees the whole segment
  std::int32_t node_token;   ///< position of the first token inside its node
};
static_assert(sizeof(FusedSegment) == 32);

/// One token of a gathered tile: seen by pairs [pair_lo, pair_hi) of the tile.
struct GatheredToken {
  std::int32_t slot;  ///< block * block_tokens + offset
  std::int16_t pair_lo;
  std::int16_t pair_hi;
};
static_assert(sizeof(GatheredToken) == 8);

/// What a tile does with its results, and how its tokens are listed.
enum FusedTileFlags : std::uint16_t {
  kTileDirect = 1,    ///< its pairs have no other partial: it writes the output itself
  kTileGathered = 2,  ///< narrow only: segment_begin .. segment_end number GatheredTokens, `skip` is 0
  kTileLimited = 4,   ///< wide only: row_visible hides a token of the tile's last segment from one of its rows
};

/// The unit of work: `tokens` tokens of consecutive segments for pairs [pair_begin, pair_begin + pairs) of one KV head.
/// Pair p writes partial `partial_begin + p - pair_begin`, or its row of the output where the tile is direct.
///
/// Wide tiles: up to 128 pairs, any number of segments, each of which all pairs of the tile see: a node, or a chain of
/// nodes from an ancestor down. `skip` is any number of tokens, below that of the first segment. Rows may be limited by
/// row_visible in the last segment only (the nodes above it have no rows of their own in the tile).
/// Stacks, the wide tiles of a stacked plan: up to 128 pairs, any number of segments, each of which sees of the tile's pairs
/// the interval of its own rows, and those row_visible lets see a token: the nodes above a few subtrees, and the subtrees.
/// `skip` and `tokens` count slots, of which each segment fills stack_slots() of its tokens; `skip` is a multiple of 16 below
/// the slots of the first segment. Flags: kTileDirect.
/// Narrow tiles: up to 16 pairs, any number of segments, each of which sees of the tile's pairs the interval of its own
/// rows. No row of a narrow tile's segment is limited by row_visible: such tokens come as gathered ones.
struct FusedTile {
  std::int32_t segment_begin;
  std::int32_t segment_end;
  std::int32_t skip;    ///< tokens of the first segment that do not belong to the tile; narrow: a multiple of 16
  std::int32_t tokens;  ///< over all segments, at least 1
  std::int32_t pair_begin;
  std::int32_t partial_begin;
  std::uint16_t pairs;
  std::uint16_t kv_head;
  std::uint16_t flags;
  std::uint16_t unused;
};
static_assert(sizeof(FusedTile) == 32);

/// One partial interval in a merge list: pairs [pair_lo, pair_hi) of the block, pair i in partial `partial + i`.
/// A pair with an empty path gets an entry whose partial is kNoPartial, so that its output is written as zero.
struct MergeEntry {
  std::int32_t partial;
  std::uint16_t pair_lo;
  std::uint16_t pair_hi;
};
static_assert(sizeof(MergeEntry) == 8);
inline constexpr std::int32_t kNoPartial = INT32_MIN;

/// What one thread block does: its wide tiles one after another, then its narrow ones, the longest first.
struct FusedWorker {
  std::int32_t wide_begin;
  std::int32_t wide_end;
  std::int32_t narrow_begin;
  std::int32_t narrow_end;
};
static_assert(sizeof(FusedWorker) == 16);

/// The numbers of a plan that change while a captured graph that uses it stays valid.
struct FusedPlanHeader {
  std::int32_t rows;
  std::int32_t queue_begin;  ///< narrow tiles [queue_begin, queue_end) belong to whichever warp is free
  std::int32_t queue_end;
  std::int32_t unused;
};
static_assert(sizeof(FusedPlanHeader) == 16);

/// A finished plan, in device memory. Every (pair, KV head, token of the pair's path) is in exactly one tile.
struct FusedPlanView {
  std::int32_t workers;   ///< thread blocks of the main launch
  std::int32_t max_rows;  ///< the capacity; the plan's own rows are in the header
  std::int32_t merges;    ///< 0: no plan in these arrays has anything to merge, so that no merge is launched
  std::int32_t stacked;   ///< 1: every tile is a stack
  const FusedPlanHeader* header;
  const FusedSegment* segments;
  const GatheredToken* gathered;
  const FusedTile* wide_tiles;
  const FusedTile* narrow_tiles;
  const FusedWorker* worker;        ///< [workers]
  std::uint32_t* queue_next;        ///< [1]  zero between main launches, which leave it so
  const std::int32_t* merge_begin;  ///< [ceil(rows * group / 16) * kv_heads + 1]  entries of each (pair block, KV head)
  const MergeEntry* merge_entries;
  const std::int32_t* row_visible;  ///< [rows]
  const std::int32_t* row_index;    ///< [rows]  the caller's number of the row
  const std::int32_t* block_table;
  void* partial_out;   ///< [partials, head_dim]  of the scalar type of q
  float* partial_lse;  ///< [partials]  base 2, -inf marks an empty partial
};

}  // namespace espalier::detail
