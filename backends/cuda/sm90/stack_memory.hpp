#pragma once
// What the feeding and the computing warps of a block share: stages of K and V, Q, what is told of each stage, and barriers.
//
//   Q         [chunk][128 pairs][64]                        one tile
//   K, V      [stage][chunk][kStageSlots][64], each         all with the 128-byte swizzle of the copy engine
//   notes     [stage]                                       which pairs of the tile see which slots
//
// K and V of a stage come and go by barriers of their own; the notes come and go with K.

#include "backends/cuda/sm90/common.hpp"

namespace espalier::gpu::sm90 {

/// What the feeders tell of a stage.
enum StageFlags : std::uint32_t {
  kSeen = 1,             ///< and 2: a row of each consumer warpgroup sees a token of it
  kSeenPartly = 4,       ///< and 8: but not every row every token of a full stage
  kStageOfTileEnd = 16,  ///< the last of its tile
  kStageGaps = 32,       ///< some of its slots hold no token; it is then seen partly by all
};

template <int HeadDim>
struct StageNotes {
  std::uint32_t what;                ///< flags, then the number of intervals << 16
  std::uint32_t tokens_of_slots[2];  ///< where kStageGaps: the tokens in each 16 slots, one a byte
  /// Slots [begin, end) of the stage are seen by pairs [low, high) of the tile: begin | end << 8 | low << 16 | high << 24.
  std::uint32_t intervals[Config<HeadDim>::kStageSlots];
};

/// Full: what the copy engine brings has arrived. Empty: each consuming warp has given it back for itself. Notes come and go
/// with K, so that all lanes arrive there: those that wrote them, and those that have read them.
template <int HeadDim>
struct StackBarriers {
  static constexpr int kStages = Config<HeadDim>::kStages;
  std::uint64_t k_full[kStages], k_empty[kStages];
  std::uint64_t v_full[kStages], v_empty[kStages];
  std::uint64_t q_full, q_empty;

  __device__ __forceinline__ void init() {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(shared_address(&k_full[stage]), kWaveLanes);
      barrier_init(shared_address(&k_empty[stage]), kConsumingWarps * kWaveLanes);
      barrier_init(shared_address(&v_full[stage]), 1);
      barrier_init(shared_address(&v_empty[stage]), kConsumingWarps);
    }
    barrier_init(shared_address(&q_full), 1);
    barrier_init(shared_address(&q_empty), kConsumingWarps);
  }
};

/// Named barriers of the block.
enum NamedBarrier : int {
  kTurn = 1,   ///< and 2: the turn of each consumer warpgroup on the matrix units
  kGroup = 4,  ///< and 5: within a consumer warpgroup
};

template <int HeadDim>
struct StackMemory {
  using C = Config<HeadDim>;
  std::uint32_t base;  ///< of dynamic shared memory
  StackBarriers<HeadDim>* barriers;
  StageNotes<HeadDim>* notes;  ///< [kStages]

  __device__ __forceinline__ std::uint32_t q() const { return base; }
  __device__ __forceinline__ std::uint32_t k(int stage) const { return base + C::kQueryBytes + stage * C::kStageBytes; }
  __device__ __forceinline__ std::uint32_t v(int stage) const { return k(C::kStages + stage); }
};

}  // namespace espalier::gpu::sm90
