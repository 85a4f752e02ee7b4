#pragma once
// The plan of the fused kernels: plain arrays that a planner writes and a kernel reads. Its tiles are spans of *stacks*: what
// up to 128 neighbouring pairs see, whole subtrees included. What it needs beyond `Segment` and `Tile` of params.hpp, and why:
//  - *pairs* instead of rows. A pair is one (row, query head) of one KV head: pair = row * group + head in the group,
//    rows in line order. A tile of the matrix units holds 128 pairs, whatever the group is.
//  - segments that only some pairs of a tile see. A token costs the matrix units as much for one pair as for 64, but memory
//    brings it no faster, and the fewer tiles a pair is in, the fewer partials it has.
//  - a list of tiles for each worker, and merge lists by blocks of 16 pairs, so that one read of a list serves many rows.

#include <cstdint>

namespace espalier::detail {

inline constexpr std::int32_t kTilePairs = 128;  ///< most pairs of a tile
inline constexpr std::int32_t kTileSlots = 128;  ///< a tile begins a multiple of this into its stack
inline constexpr std::int32_t kStackSlots = 16;  ///< each segment of a stack begins at a multiple of this
inline constexpr std::int32_t kMergePairs = 16;  ///< pairs of one merge list

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
  std::int32_t tokens;        ///< 1 or more
  std::int32_t row_begin;     ///< rows in line order
  std::int32_t row_end;
  std::int32_t own_row_end;  ///< row_begin where every row of the interval sees the whole segment
  std::int32_t node_token;   ///< position of the first token inside its node
};
static_assert(sizeof(FusedSegment) == 32);

/// What a tile does with its results.
enum FusedTileFlags : std::uint16_t {
  kTileDirect = 1,  ///< its pairs have no other partial: it writes the output itself
};

/// The unit of work: `slots` slots of consecutive segments for pairs [pair_begin, pair_begin + pairs) of one KV head. Each
/// segment fills stack_slots() of its tokens, and is seen by those of the tile's pairs that are in the interval of its own
/// rows, and that row_visible lets see a token. Pair p writes partial `partial_begin + p - pair_begin`, or its row of the
/// output where the tile is direct.
struct FusedTile {
  std::int32_t segment_begin;
  std::int32_t segment_end;
  std::int32_t skip;   ///< slots of the first segment in front of the tile, a multiple of 16
  std::int32_t slots;  ///< over all segments, at least 1; the last segment may go on behind them
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

/// The tiles of one thread block, one after another.
struct FusedWorker {
  std::int32_t tile_begin;
  std::int32_t tile_end;
};
static_assert(sizeof(FusedWorker) == 8);

/// The numbers of a plan that change while a captured graph that uses it stays valid.
struct FusedPlanHeader {
  std::int32_t rows;
};

/// A finished plan, in device memory. Every (pair, KV head, token of the pair's path) is in exactly one tile.
struct FusedPlanView {
  std::int32_t workers;   ///< thread blocks of the main launch
  std::int32_t max_rows;  ///< the capacity; the plan's own rows are in the header
  std::int32_t merges;    ///< 0: no plan in these arrays has anything to merge, so that no merge is launched
  const FusedPlanHeader* header;
  const FusedSegment* segments;
  const FusedTile* tiles;
  const FusedWorker* worker;        ///< [workers]
  const std::int32_t* merge_begin;  ///< [ceil(rows * group / 16) * kv_heads + 1]  entries of each (pair block, KV head)
  const MergeEntry* merge_entries;
  const std::int32_t* row_visible;  ///< [rows]
  const std::int32_t* row_index;    ///< [rows]  the caller's number of the row
  const std::int32_t* block_table;
  void* partial_out;   ///< [partials, head_dim]  of the scalar type of q
  float* partial_lse;  ///< [partials]  base 2, -inf marks an empty partial
};

}  // namespace espalier::detail
