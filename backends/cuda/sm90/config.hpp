#pragma once
// Sizes of the sm_90 kernels, and the budget they come from: 227 KB of shared memory and 64 K registers per block.

#include <cuda.h>

#include <cstdint>

#include "espalier/detail/fused_plan.hpp"

namespace espalier::gpu::sm90 {

inline constexpr int kThreads = 384;    ///< three warpgroups: wide tiles are fed by the first, computed by the others
inline constexpr int kNarrowWarps = 8;  ///< those that compute
inline constexpr int kChunk = 64;       ///< elements of one 128-byte swizzled row

/// Head sizes are padded to whole chunks in shared memory; the copy engine fills the padding with zeros.
template <int HeadDim>
struct Config {
  static constexpr int kPadded = (HeadDim + kChunk - 1) / kChunk * kChunk;
  static constexpr int kChunks = kPadded / kChunk;
  static constexpr int kRowBytes = kPadded * 2;

  // Registers of a thread, of 168 that the launch gives it. ptxas serialises wgmma when wide consumers get 184. Feeders
  // must not spill: local memory misses the little of L1 that is left.
  static constexpr int kFeederRegisters = 72;
  static constexpr int kConsumerRegisters = 216;
  static_assert(128 * kFeederRegisters + 256 * kConsumerRegisters <= 168 * kThreads);

  // Wide tiles: 128 pairs x kWideTokens a stage. 128 tokens were best at head_dim 128 (96, 160 and 176 were not);
  // above 128 the output alone takes 96 or 128 registers a thread and Q 48 or 64 KB, so stages halve.
  static constexpr int kWideTokens = kPadded <= 128 ? 128 : 64;
  static constexpr int kWideStages = kPadded <= 192 ? 3 : 2;  // of K, and of V
  static constexpr int kWideStageBytes = kWideTokens * kRowBytes;
  static constexpr int kWideQBytes = detail::kWidePairs * kRowBytes;
  static constexpr int kWideBytes = kWideQBytes + 2 * kWideStages * kWideStageBytes;

  // Narrow tiles: each computing warp has a ring of stages that hold K or V of kSteps steps of 16 tokens, laid out
  // [chunk][token][64], or Q of 16 pairs on its way to the place behind the ring, where it stays while its tile lasts.
  static constexpr int kSteps = kPadded <= 128 ? 2 : 1;
  static constexpr int kStageTokens = kSteps * detail::kNarrowTokens;
  static constexpr int kStageBytes = kStageTokens * kRowBytes;
  static constexpr int kNarrowStages = kPadded == 64 ? 6 : kPadded <= 192 ? 3 : 2;
  static constexpr int kRingBytes = kNarrowStages * kStageBytes;
  static constexpr int kQueryBytes = detail::kNarrowPairs * kRowBytes;
  static constexpr int kNarrowBytes = kNarrowWarps * (kRingBytes + kQueryBytes);

  // The two kinds of tiles use the same memory one after the other.
  static constexpr int kDynamicBytes = kWideBytes > kNarrowBytes ? kWideBytes : kNarrowBytes;

  static_assert(HeadDim % 8 == 0 && HeadDim <= 256);
  static_assert(kStageBytes % 1024 == 0, "a swizzled stage begins at a multiple of 1024 bytes");
  static_assert(kQueryBytes % 1024 == 0 && kQueryBytes <= kStageBytes);
  static_assert(kDynamicBytes <= 224 * 1024, "3 KB are static");
};

/// Divides non-negative 31-bit numbers by a fixed number.
struct Divisor {
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
  CUtensorMap k_stage, v_stage;  ///< box of a narrow stage, all chunks
  CUtensorMap k_run, v_run;      ///< box 16 tokens x one chunk
  CUtensorMap k_page, v_page;    ///< box page_tokens x one chunk: a page of a wide stage
  CUtensorMap k_token, v_token;  ///< box 1 token x one chunk
  CUtensorMap q_rows;            ///< box (128 / group) rows x group heads x one chunk, where the group divides 128
  CUtensorMap q_group;           ///< box 1 row x group heads x one chunk, where the group is at most 16
  CUtensorMap q_pair;            ///< box 1 row x 1 head x one chunk
  const void* q;
  std::int64_t q_row_stride, q_head_stride;
  std::int32_t block_tokens;
  std::int32_t page_tokens;         ///< tokens of one page copy, 128, 64, 32 or 16; 0 where blocks fit none of them
  std::int32_t stage_copies;        ///< blocks hold whole narrow stages, so that k_stage and v_stage may be used
  std::int32_t rows_per_wide_tile;  ///< 128 / group, 0 where the group does not divide 128
  Divisor by_block_tokens;
  float weight_scale;  ///< softmax weight = 2^(weight_scale * score)
  float score_scale;   ///< where `transform`: score = cap * tanh(score_scale * q.k), plain scale * q.k without a cap
  float peak_slack;    ///< scores may exceed the peak of a softmax by this much: a factor of 2^8 in the weights
  float soft_cap;      ///< 0: none
  std::int32_t wait_first;  ///< the launch in front of this one may have written the plan
  std::int32_t transform;   ///< scores are changed before the softmax: soft cap, or a scale that is not positive
};

}  // namespace espalier::gpu::sm90
