#pragma once
// What the feeding and the computing part of a narrow warp share: the ring of stages, and what is written about each.

#include "backends/cuda/sm90/common.hpp"

namespace espalier::gpu::sm90 {

/// What a step in a stage of K and the one of V behind it is: flags, then tokens << 8, the pairs that see them [lo, hi) as
/// lo << 16 | hi << 24.
enum StageFlags : int {
  kStageLowPairs = 1,   ///< one of the pairs 0 .. 7 sees a token of it
  kStageHighPairs = 2,  ///< one of the pairs 8 .. 15 does
  kStageLast = 4,       ///< the last of its tile
  kStageMasked = 8,     ///< not every pair sees every one of 16 tokens
  kStageByToken = 16,   ///< each token has an interval of pairs of its own
  kStageSingles = 32,   ///< copied token by token
  kStageShared = 64,    ///< other tiles read these tokens, too
};

/// Shared memory of one warp, addressed by offsets, so that the address of each field need not be found again.
template <int HeadDim>
struct NarrowStages {
  using C = Config<HeadDim>;
  std::uint64_t full[C::kNarrowStages];
  int what[C::kNarrowStages][8];  ///< of K: the word of each step; of Q: the tile
  std::uint16_t token_pairs[C::kNarrowStages][C::kSteps][detail::kNarrowTokens];  ///< lo | hi << 8, where kStageByToken

  static constexpr std::uint32_t kWhat = C::kNarrowStages * 8;
  static constexpr std::uint32_t kTokenPairs = kWhat + C::kNarrowStages * 32;

  __device__ __forceinline__ void init() {
    for (int stage = 0; stage < C::kNarrowStages; ++stage) barrier_init(shared_address(&full[stage]), 1);
  }
};

/// The narrow tiles a block may take: its own, then those of the queue.
struct NarrowList {
  const detail::FusedTile* own;
  int own_tiles;
  int total;  ///< own and queue
  const detail::FusedTile* queue;
  int taken;  ///< shared counter of the block

  __device__ __forceinline__ const detail::FusedTile* at(int number) const {
    return number < own_tiles ? own + number : queue + (number - own_tiles);
  }
};

/// What a slot of the ring holds.
enum class StageKind { none, query, keys, values };

/// The ring of one warp: where slots and what is known of them lie.
template <int HeadDim>
struct NarrowRing {
  using C = Config<HeadDim>;
  using S = NarrowStages<HeadDim>;
  static constexpr int kChunkBytes = C::kStageTokens * 128;
  static constexpr int kStepBytes = detail::kNarrowTokens * 128;  ///< of one chunk
  static constexpr int kQueryChunkBytes = detail::kNarrowPairs * 128;

  std::uint32_t ring;
  std::uint32_t stages;  ///< NarrowStages

  [[nodiscard]] __device__ __forceinline__ std::uint32_t slot_of(int slot) const {
    return ring + slot * C::kStageBytes;
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t query() const { return ring + C::kRingBytes; }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t full_of(int slot) const { return stages + slot * 8; }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t what_of(int slot) const {
    return stages + S::kWhat + slot * 32;
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t pairs_of(int slot, int s, int token) const {
    return stages + S::kTokenPairs + ((slot * C::kSteps + s) * detail::kNarrowTokens + token) * 2;
  }
};

}  // namespace espalier::gpu::sm90
