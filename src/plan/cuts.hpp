#pragma once
// How each strategy cuts the line of tokens into tiles.

#include <algorithm>

#include "automatic.hpp"
#include "cuts/cut.hpp"
#include "cuts/fasttree.hpp"
#include "cuts/flatten.hpp"
#include "cuts/node.hpp"
#include "cuts/sequence.hpp"
#include "espalier/plan.hpp"
#include "prepare.hpp"

namespace espalier::plan {

/// What a strategy needs at most for trees of so many nodes and rows.
struct Room {
  std::int64_t items;
  std::size_t scratch_bytes;
};

template <class Cut>
Room room_of(std::int64_t nodes, std::int64_t rows) {
  Scratch scratch;
  Cut::reserve(scratch, std::size_t(nodes));
  return {Cut::most_items(nodes, rows), scratch.bytes()};
}

inline Room room_of(PlanStrategy strategy, std::int64_t nodes, std::int64_t rows) {
  switch (strategy) {
    case PlanStrategy::sequence:
    case PlanStrategy::sequence_split: return room_of<SequenceCut>(nodes, rows);
    case PlanStrategy::node:
    case PlanStrategy::node_chunk: return room_of<NodeCut>(nodes, rows);
    case PlanStrategy::flatten: return room_of<FlattenCut>(nodes, rows);
    case PlanStrategy::fasttree: return room_of<FastTreeCut>(nodes, rows);
    case PlanStrategy::automatic: return room_of<AutomaticCut>(nodes, rows);
  }
  return {};
}

/// On a CPU: threads that run out of work take the next worker's.
inline constexpr std::int32_t kWorkersPerThread = 16;

/// A cut that is still to be prepared. Plain values, so that a kernel can carry it.
template <class CutOfStrategy>
struct CutRecipe {
  using Cut = CutOfStrategy;
  CutContext context;
  typename Cut::Rule rule;
  Scratch memory;  ///< room_of(...).scratch_bytes, where the kernels run

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION Cut prepare(const Runner& run) const {
    return Cut::prepare(run, context, rule, memory);
  }
};

/// Calls body with the recipe of the configured strategy.
template <class Body>
void with_recipe(const PlanConfig& config, const CutContext& context, void* scratch, const Body& body) {
  constexpr std::int32_t kMost = 2147483647;
  const ChunkRule whole{kMost, 0, 1};
  const auto chunk = [&](std::int32_t given, std::int32_t smallest) {
    constexpr std::int64_t kTilesPerWorker = 2;
    const std::int64_t tiles = ceil_div(kTilesPerWorker * config.workers, config.heads.kv_heads);
    return ChunkRule{given, smallest, std::int32_t(std::clamp<std::int64_t>(tiles, 1, kMost))};
  };
  const CutParams& cuts = config.cuts;
  const Scratch memory(scratch);
  switch (config.strategy) {
    case PlanStrategy::sequence: return body(CutRecipe<SequenceCut>{context, whole, memory});
    case PlanStrategy::sequence_split:
      return body(CutRecipe<SequenceCut>{context, chunk(cuts.sequence_chunk, 128), memory});
    case PlanStrategy::node: return body(CutRecipe<NodeCut>{context, whole, memory});
    case PlanStrategy::node_chunk: return body(CutRecipe<NodeCut>{context, chunk(cuts.node_chunk, 512), memory});
    case PlanStrategy::flatten: return body(CutRecipe<FlattenCut>{context, chunk(cuts.flatten_chunk, 512), memory});
    case PlanStrategy::fasttree:
      return body(CutRecipe<FastTreeCut>{context, {cuts.fasttree, config.heads.kv_heads}, memory});
    case PlanStrategy::automatic:
      return body(CutRecipe<AutomaticCut>{
          context, detail::tile_cost_of(config.cost_model.value_or(kCpuCostModel), config.heads, config.scalar),
          memory});
  }
}

}  // namespace espalier::plan
