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
inline constexpr std::int32_t kLeastCut = 4;  ///< steps of a narrow tile: shorter ones cost more than they balance
inline constexpr std::int32_t kPiecesPerWorker = 2 * kWarpsPerWorker;  ///< of its own, where there is a queue
inline constexpr std::int32_t kLeastBeforeQueue = 8;                   ///< steps of such a piece,
inline constexpr std::int32_t kMostBeforeQueue = 48;                   ///< and at most
inline constexpr std::int32_t kMostQueued = 8;       ///< at most, in the queue, whose tiles are the last to end
inline constexpr std::int32_t kMostPieces = 64;      ///< of a worker's share; beyond, tiles become longer instead
inline constexpr std::int32_t kWindowPacks = 16;     ///< full packs between places where packing begins afresh
inline constexpr std::int32_t kFewestWide = 8;       ///< workers that take wide tiles, if any do
inline constexpr std::int32_t kSplitsBefore = 2;     ///< costed with more wide workers than the best of even spans,
inline constexpr std::int32_t kSplitsFrom = 4;       ///< and with no more than that
inline constexpr std::int32_t kSortedPieces = 2048;  ///< of one worker: with more, no single one matters

/// Costs in microseconds on an H200, from time stamps of every tile. A narrow tile takes one of eight warps.
struct StreamCosts {
  double wide_block = 1.64;      ///< 128 pairs x 128 tokens at head_dim 128 on one multiprocessor
  double wide_fixed = 0.7;       ///< a wide tile's fixed cost: Q and the drain
  double narrow_fixed = 2.85;    ///< a narrow tile's
  double narrow_step = 0.57;     ///< 16 tokens of it at head_dim 128
  double narrow_segment = 0.81;  ///< a segment of it
  double turn = 3;               ///< a worker's turn from wide to narrow
  double narrow_gbs = 50;        ///< that one multiprocessor asks of the memory
  double memory_gbs = 4200;      ///< that it gives all of them
  double partial_bytes = 512;    ///< written and read again for one partial
  double large_bytes = 120e6;    ///< narrow bytes above which memory is saturated for long
  double queue_share = 0.6;      ///< of the narrow work, for whichever worker is free; where large
};

/// The same for one head shape, in whole units of 1/32 ns: sums of integers do not depend on their order. The unit is
/// coarse enough for most sums of a plan to fit into 32 bits, with which a GPU divides several times faster.
inline constexpr double kCostsPerMicrosecond = 32000;

struct Costs {
  std::int64_t wide_block;
  std::int64_t wide_fixed;
  std::int64_t step;  ///< of narrow tiles, for a worker all of whose warps are busy
  std::int64_t segment;
  std::int64_t step_fixed;
  std::int64_t turn;
  std::int64_t stream_step;  ///< a step, by what one multiprocessor asks of the memory
  std::int64_t memory_step;  ///< a step, if it had all the memory's bandwidth
  std::int64_t partial;
  std::int64_t large_steps;  ///< over all KV heads
  std::int32_t queue_permille;
};

inline Costs costs_of(const StreamCosts& us, const HeadShape& heads) {
  const auto whole = [](double microseconds) {
    return std::int64_t(std::llround(microseconds * kCostsPerMicrosecond));
  };
  const double elements = heads.head_dim / 128.0;
  const double step_bytes = 2.0 * 2 * kStepTokens * heads.head_dim;  // K and V of 16-bit elements
  Costs costs{};
  costs.wide_block = whole(us.wide_block * elements);
  costs.wide_fixed = whole(us.wide_fixed);
  costs.step = whole(us.narrow_step * elements / kWarpsPerWorker);
  costs.segment = whole(us.narrow_segment * elements / kWarpsPerWorker);
  costs.step_fixed = whole(us.narrow_fixed / kWarpsPerWorker);
  costs.turn = whole(us.turn);
  costs.stream_step = whole(step_bytes / us.narrow_gbs * 1e-3);
  costs.memory_step = whole(step_bytes / us.memory_gbs * 1e-3);
  costs.partial = whole(us.partial_bytes / us.memory_gbs * 1e-3);
  costs.large_steps = std::int64_t(us.large_bytes / step_bytes);
  costs.queue_permille = std::int32_t(us.queue_share * 1000);
  return costs;
}

}  // namespace espalier::plan::streams
