#pragma once
// What the fused sm_90 kernels cost, as the balance of a StackPlan needs it.

#include <cmath>
#include <cstdint>

#include "espalier/detail/fused_plan.hpp"
#include "espalier/types.hpp"

namespace espalier::plan::stacks {

/// How stacks are made. Small integers, tuned with the kernels.
inline constexpr std::int32_t kShortTokens = 40;  ///< nodes with fewer tokens never get tiles of their own
inline constexpr std::int32_t kTurns = 16;        ///< that each half of a stack's pairs has, at most
inline constexpr std::int32_t kFewBlocks = 4;     ///< that both halves see: none of fewer come before early halves
inline constexpr std::int32_t kWindowOfSmall =
    8;  ///< full stacks between places where packing begins afresh, of a small tree,
inline constexpr std::int32_t kWindowOfLarge = 32;  ///< and of a large one

/// Costs in microseconds on an H200, from time stamps of every tile.
struct StackCosts {
  double block = 1.64;        ///< 128 pairs x 128 slots at head_dim 128 on one multiprocessor
  double small_block = 1.05;  ///< the same for a stack of at most 64 pairs
  double half_block = 1.2;    ///< the same where half of more pairs see none of it
  double tile = 3.0;          ///< a tile's fixed cost: Q, the first stage, and the drain
  double merge = 2;           ///< of a plan with anything to merge
  double alike = 1;           ///< less for streams that are cut alike: no partial is of a small rest
  double memory_gbs = 4200;
  double partial_bytes = 512;  ///< written and read again for one partial
};

/// The same for one head shape, in whole units of 1/32 ns: sums of integers do not depend on their order. The unit is
/// coarse enough for most sums of a plan to fit into 32 bits, with which a GPU divides several times faster.
inline constexpr double kCostsPerMicrosecond = 32000;

struct Costs {
  std::int64_t block;
  std::int64_t small_block;
  std::int64_t half_block;
  std::int64_t tile;
  std::int64_t merge;
  std::int64_t alike;
  std::int64_t partial;
  std::int64_t memory_run;  ///< 16 tokens of one KV head, if they had all the memory's bandwidth
};

inline Costs costs_of(const StackCosts& us, const HeadShape& heads) {
  const auto whole = [](double microseconds) {
    return std::int64_t(std::llround(microseconds * kCostsPerMicrosecond));
  };
  const double elements = heads.head_dim / 128.0;
  const double run_bytes = 2.0 * 2 * detail::kStackSlots * heads.head_dim;  // K and V of 16-bit elements
  Costs costs{};
  costs.block = whole(us.block * elements);
  costs.small_block = whole(us.small_block * elements);
  costs.half_block = whole(us.half_block * elements);
  costs.tile = whole(us.tile);
  costs.merge = whole(us.merge);
  costs.alike = whole(us.alike);
  costs.partial = whole(us.partial_bytes / us.memory_gbs * 1e-3);
  costs.memory_run = whole(run_bytes / us.memory_gbs * 1e-3);
  return costs;
}

}  // namespace espalier::plan::stacks
