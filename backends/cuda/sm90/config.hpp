#pragma once
// Sizes of the sm_90 kernels, and the budget they come from: 227 KB of shared memory and 64 K registers per block.

#include <cuda.h>

#include <cstdint>

#include "espalier/detail/fused_plan.hpp"

namespace espalier::gpu::sm90 {

inline constexpr int kGroupThreads = 128;           ///< of a warpgroup
inline constexpr int kThreads = 3 * kGroupThreads;  ///< the first warpgroup feeds, the others compute
inline constexpr int kFeedingWarps = 4, kConsumingWarps = 8;
inline constexpr int kHalfPairs = detail::kTilePairs / 2;  ///< pairs of each computing warpgroup
inline constexpr int kChunk = 64;                          ///< elements of one 128-byte swizzled row
inline constexpr int kChunkBytes = 2 * kChunk;

// How L2 makes room: what createpolicy gives for all of an access, as constants, which take one register, not two.
inline constexpr std::uint64_t kFirstPolicy = 0x12F0000000000000;      ///< of this first (evict_first)
inline constexpr std::uint64_t kUnchangedPolicy = 0x10F0000000000000;  ///< as without a policy (evict_unchanged)
inline constexpr std::uint64_t kLastPolicy = 0x14F0000000000000;       ///< of this last (evict_last)

/// Head sizes are padded to whole chunks in shared memory; the copy engine fills the padding with zeros.
template <int HeadDim>
struct Config {
  static constexpr int kPadded = (HeadDim + kChunk - 1) / kChunk * kChunk;
  static constexpr int kChunks = kPadded / kChunk;
  static constexpr int kRowBytes = kPadded * 2;

  // Registers of a thread, of 168 that the launch gives it. ptxas serialises wgmma when consumers get 184. Feeders must not
  // spill: local memory misses the little of L1 that is left.
  static constexpr int kFeederRegisters = 72;
  static constexpr int kConsumerRegisters = 216;
  static_assert(kGroupThreads * (kFeederRegisters + 2 * kConsumerRegisters) <= 168 * kThreads);

  // Of what no other tile reads. (At head_dim 96 and 256 evict_first gained nothing where nodes are shared, and cost 3 % where
  // nothing is.)
  static constexpr std::uint64_t kReadOncePolicy = HeadDim == 96 || HeadDim == 256 ? kUnchangedPolicy : kFirstPolicy;

  // A stage of K or V. 128 slots were best at head_dim 128 (96, 160 and 176 were not); above 128 the output alone takes 96
  // or 128 registers a thread and Q 48 or 64 KB, so stages halve.
  static constexpr int kStageSlots = kPadded <= 128 ? 128 : 64;
  static constexpr int kStages = kPadded <= 192 ? 3 : 2;  // of K, and of V
  static constexpr int kStageBytes = kStageSlots * kRowBytes;
  static constexpr int kQueryBytes = detail::kTilePairs * kRowBytes;
  static constexpr int kDynamicBytes = kQueryBytes + 2 * kStages * kStageBytes;

  static_assert(HeadDim % 8 == 0 && HeadDim <= 256);
  static_assert(kStageSlots % detail::kStackSlots == 0 && detail::kTileSlots % kStageSlots == 0);
  static_assert(kStages < kFeedingWarps, "each stage has a warp that fills it, and Q has one");
  static_assert(kStageBytes % 1024 == 0 && kQueryBytes % 1024 == 0,
                "swizzled operands begin at multiples of 1024 bytes");
  static_assert(kDynamicBytes <= 224 * 1024, "3 KB are static");
};

/// Divides non-negative 31-bit numbers by a fixed number. Aligned, so that one load brings multiplier and shift.
struct alignas(8) Divisor {
  std::uint32_t multiplier;
  std::uint32_t shift;
  std::int32_t divisor;
};

/// @param divisor  1 or more
inline Divisor make_divisor(std::int32_t divisor) {
  std::uint32_t shift = 0;
  while ((std::int64_t{1} << shift) < divisor) ++shift;
  if (shift == 0) return {0, 0, divisor};
  const std::uint64_t one = 1;
  return {static_cast<std::uint32_t>(((one << (31 + shift)) + static_cast<std::uint64_t>(divisor) - 1) /
                                     static_cast<std::uint64_t>(divisor)),
          shift - 1, divisor};
}

/// Kernel arguments of the merge: the plan, and where results lie. A launch costs less the less it is passed.
struct MergeArguments {
  detail::FusedPlanView plan;
  void* out;
  float* lse;  ///< may be null
  std::int64_t out_row_stride, out_head_stride;
  std::int64_t lse_row_stride;
  std::int32_t group;
  std::int32_t kv_heads;
  Divisor by_group;
};

/// Kernel arguments of the main launch: also the problem, and the maps of the copy engine (64 bytes aligned by CUtensorMap).
struct Arguments : MergeArguments {
  CUtensorMap k_page, v_page;    ///< box page_tokens x one chunk
  CUtensorMap k_run, v_run;      ///< box 16 tokens x one chunk
  CUtensorMap k_token, v_token;  ///< box 1 token x one chunk
  CUtensorMap q_rows;            ///< box (128 / group) rows x group heads x one chunk, where the group divides 128
  CUtensorMap q_pair;            ///< box 1 row x 1 head x one chunk
  std::int32_t block_tokens;
  std::int32_t page_tokens;    ///< tokens of one page copy, 128, 64, 32 or 16; 0 where blocks fit none of them
  std::int32_t rows_per_tile;  ///< 128 / group, 0 where the group does not divide 128
  Divisor by_block_tokens;
  float weight_scale;  ///< softmax weight = 2^(weight_scale * score)
  float score_scale;   ///< where `transform`: score = cap * tanh(score_scale * q.k), plain scale * q.k without a cap
  float soft_cap;      ///< 0: none
  std::int32_t wait_first;  ///< the launch in front of this one may have written the plan
  std::int32_t transform;   ///< scores are changed before the softmax: soft cap, or a scale that is not positive
};

}  // namespace espalier::gpu::sm90
