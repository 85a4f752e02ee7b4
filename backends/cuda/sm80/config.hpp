#pragma once
// Sizes of the sm_80 kernels, and the budget they come from: 164 KB of shared memory and 64 K registers for two blocks.

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu::sm80 {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * kWaveLanes;
inline constexpr int kRows = 16;                  ///< of a matrix product: pairs, or tokens of a step
inline constexpr int kBatchTiles = kThreads / 2;  ///< tiles of a worker that are looked at together
inline constexpr int kAloneTokens = 64;           ///< a narrow tile of so many tokens is done by one warp alone
inline constexpr int kSharedTokens = 2 * kRows;   ///< of K and V in a slot that all warps read

template <int kHeadDim>
struct Config {
  static_assert(kHeadDim % 32 == 0 && kHeadDim <= 256);
  static constexpr int kRowBytes = 2 * kHeadDim;
  static constexpr int kPartBytes = kRows * kRowBytes;  ///< what one warp brings into a slot: 16 rows of Q, K or V
  static constexpr int kSlotBytes = kWarps * kPartBytes;
  static constexpr int kSlots = kHeadDim == 64 ? 8 : kHeadDim == 96 ? 6 : kHeadDim == 128 ? 4 : kHeadDim == 192 ? 3 : 2;
  static constexpr int kWideBlocks = kHeadDim <= 128 ? 2 : 1;  ///< of 16 pairs that a warp can hold
  static constexpr int kMostPairs = kWarps * kRows * kWideBlocks;
  static_assert(kSlots >= 2 && kPartBytes % 128 == 0);
};

/// How a tile is done.
enum Kind : int {
  kWide,    ///< more than 64 pairs: 32 for each warp; all warps read the same K and V
  kMedium,  ///< more than 16 pairs: 16 for each warp; all warps read the same K and V
  kSplit,   ///< up to 16 pairs: each warp has a quarter of the tokens
  kAlone,   ///< up to 16 pairs and kAloneTokens: one warp does it while the others do other tiles
  kKinds
};

template <int kHeadDim>
__device__ __forceinline__ Kind kind_of(int pairs, int tokens) {
  if (pairs > kRows) return pairs > kWarps * kRows && Config<kHeadDim>::kWideBlocks > 1 ? kWide : kMedium;
  return tokens > kAloneTokens ? kSplit : kAlone;
}

/// Rows in line order that see a token.
struct RowInterval {
  int begin, end;
};

/// What has been looked up: where rows of Q, K and V begin, in elements, and who sees the tokens. One place for each thread.
struct FoundRows {
  std::int64_t key[kThreads];  ///< or query
  std::int64_t value[kThreads];
  RowInterval seen_by[kThreads];
};

/// What a slot is to be filled with.
struct FeedPlace {
  int next, first_pair;  ///< piece
  int query_block;       ///< of 16 pairs, whose Q it is; past the last one: tokens
  int first, end;        ///< tokens that are left
  int place;             ///< where the first of them is found
};

/// Products to scores in base 2: multiplied, and capped where there is a cap.
struct ScoreFactors {
  float factor;  ///< gives the score, or twice the argument of its tanh in base 2
  float cap;     ///< in base 2; 0: none
};

template <int kHeadDim>
struct SharedMemory {
  using C = Config<kHeadDim>;
  alignas(128) unsigned char ring[C::kSlots * C::kSlotBytes];
  RowInterval seen_by[C::kSlots][kWarps][kRows];  ///< of the tokens in the slot, where not all rows see all of them
  FoundRows found;
  FeedPlace feed_place[C::kSlots];  ///< where all warps fill together: kept here, not in registers
  ScoreFactors score;
  int row_of_pair[kWarps][C::kWideBlocks * kRows];  ///< of the pairs that a warp has
  detail::Tile tiles[kBatchTiles];
  unsigned char order[kKinds][kBatchTiles];  ///< the tiles of each kind, as the plan orders them
  int count[kKinds];
  int count_of_warp[kWarps][kKinds];
  float peak[kWarps][kRows], weight[kWarps][kRows];  ///< where warps merge the parts of a tile
};

}  // namespace espalier::gpu::sm80
