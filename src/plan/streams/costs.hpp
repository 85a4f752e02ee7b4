#pragma once
// What the fused sm_90 kernels cost, as the balance of a StreamPlan needs it.

#include <cmath>
#include <cstdint>

#include "espalier/types.hpp"

namespace espalier::plan::streams {

inline constexpr std::int32_t kStepTokens = 16;             ///< tokens of a narrow step
inline constexpr std::int32_t kBlockTokens = 128;           ///< tokens of a wide block
inline constexpr std::int32_t kMostTokens = (1 << 23) - 1;  ///< of a segment, by the format

/// Where nodes go, and how streams are cut. Small integers, tuned with the kernels.
inline constexpr std::int32_t kShortTokens = 40;  ///< wide nodes with fewer tokens are copied into narrow streams
inline constexpr std::int32_t kGatherTokens = 8;  ///< runs of fewer tokens are listed token by token
inline constexpr std::int32_t kLeastPack = 16;    ///< steps that neighbouring subtrees may always be packed to
inline constexpr std::int32_t kMostPack = 48;     ///< and at most, where there is enough for all workers
inline constexpr std::int32_t kPacksPerWorker = 16;
inline constexpr std::int32_t kGang = 8;  ///< row tiles of a node that walk its KV together, so that it stays in L2
inline constexpr std::int32_t kWarpsPerWorker = 8;  ///< of a block that take narrow tiles
inline constexpr std::int32_t kPiecesPerWorker = 2 * kWarpsPerWorker;
inline constexpr std::int32_t kLeastCut = 8;      ///< steps of a narrow tile: shorter ones cost more than they balance
inline constexpr std::int32_t kMostCut = 48;      ///< longer ones would let the other warps wait
inline constexpr std::int32_t kMostQueued = 16;   ///< the same in the queue, whose tiles are the last to end
inline constexpr std::int32_t kMostPieces = 64;   ///< of a worker's share; beyond, tiles become longer instead
inline constexpr std::int32_t kWindowPacks = 16;  ///< full packs between places where packing begins afresh
inline constexpr std::int32_t kFewestWide = 8;    ///< workers that take wide tiles, if any do
inline constexpr std::int32_t kSplitsBefore = 1;  ///< costed with more wide workers than the best of even spans,
inline constexpr std::int32_t kSplitsFrom = 3;    ///< and with no more than that
inline constexpr std::int32_t kSortedPieces = 2048;  ///< of one worker: with more, no single one matters

/// Costs in microseconds on an H200, measured with the kernels.
struct StreamCosts {
  double wide_block = 1.72;                ///< 128 pairs x 128 tokens at head_dim 128 on one multiprocessor
  double wide_fixed_blocks[2] = {0.5, 1};  ///< a wide tile's fixed cost: Q and the drain
  double narrow_gbs[2] = {50, 50};         ///< that one multiprocessor streams
  double narrow_fixed_steps = 3;           ///< a narrow piece's fixed cost
  double turn[2] = {6, 10};                ///< a worker's turn from wide to narrow
  double memory_gbs = 4000;                ///< of all multiprocessors
  double partial_bytes = 512;              ///< written and read again for one partial
  double large_bytes = 120e6;              ///< narrow bytes above which memory is saturated for long: index 1 above
  double queue_share = 0.6;                ///< of the narrow work, for whichever worker is free; where large
};

/// The same for one head shape, in whole units of 1/32 ns: sums of integers do not depend on their order. The unit is
/// coarse enough for most sums of a plan to fit into 32 bits, with which a GPU divides several times faster.
inline constexpr double kCostsPerMicrosecond = 32000;

struct Costs {
  std::int64_t wide_block;
  std::int64_t wide_fixed[2];
  std::int64_t step[2];
  std::int64_t step_fixed[2];
  std::int64_t turn[2];
  std::int64_t memory_step;  ///< a step, if it had all the memory's bandwidth
  std::int64_t partial;
  std::int64_t large_steps;  ///< over all KV heads
  std::int32_t queue_permille;
};

inline Costs costs_of(const StreamCosts& us, const HeadShape& heads) {
  const auto whole = [](double microseconds) {
    return std::int64_t(std::llround(microseconds * kCostsPerMicrosecond));
  };
  const double block = us.wide_block * heads.head_dim / 128;
  const double step_bytes = 2.0 * 2 * kStepTokens * heads.head_dim;  // K and V of 16-bit elements
  Costs costs{};
  costs.wide_block = whole(block);
  for (int large = 0; large < 2; ++large) {
    const double step = step_bytes / us.narrow_gbs[large] * 1e-3;
    costs.wide_fixed[large] = whole(us.wide_fixed_blocks[large] * block);
    costs.step[large] = whole(step);
    costs.step_fixed[large] = whole(us.narrow_fixed_steps * step);
    costs.turn[large] = whole(us.turn[large]);
  }
  costs.memory_step = whole(step_bytes / us.memory_gbs * 1e-3);
  costs.partial = whole(us.partial_bytes / us.memory_gbs * 1e-3);
  costs.large_steps = std::int64_t(us.large_bytes / step_bytes);
  costs.queue_permille = std::int32_t(us.queue_share * 1000);
  return costs;
}

}  // namespace espalier::plan::streams
