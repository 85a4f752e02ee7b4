#pragma once
// How each strategy cuts the line of tokens into tiles.

#include <algorithm>

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
    case PlanStrategy::automatic: break;  // has a cut of its own
  }
  return {std::max(nodes, rows), 0};
}

/// Calls body with the cut of a strategy, after running the kernels that prepare it.
/// @param scratch  room_of(...).scratch_bytes, where the kernels run
template <class Runner, class Body>
void with_cut(const PlanConfig& config, const CutContext& context, const Runner& run, void* scratch, const Body& body) {
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
    case PlanStrategy::sequence: return body(SequenceCut::prepare(run, context, whole, memory));
    case PlanStrategy::sequence_split:
      return body(SequenceCut::prepare(run, context, chunk(cuts.sequence_chunk, 128), memory));
    case PlanStrategy::node: return body(NodeCut::prepare(run, context, whole, memory));
    case PlanStrategy::node_chunk: return body(NodeCut::prepare(run, context, chunk(cuts.node_chunk, 512), memory));
    case PlanStrategy::flatten: return body(FlattenCut::prepare(run, context, chunk(cuts.flatten_chunk, 512), memory));
    case PlanStrategy::fasttree:
      return body(FastTreeCut::prepare(run, context, cuts.fasttree, config.heads.kv_heads, memory));
    case PlanStrategy::automatic: return;  // has a cut of its own
  }
}

}  // namespace espalier::plan
