#pragma once
// How each strategy cuts the line of tokens into tiles.

#include "cuts/cut.hpp"
#include "cuts/node.hpp"
#include "cuts/sequence.hpp"
#include "espalier/plan.hpp"

namespace espalier::plan {

/// Calls body with the cut of a strategy.
template <class Body>
auto with_cut(PlanStrategy strategy, const CutContext& context, const Body& body) {
  switch (strategy) {
    case PlanStrategy::sequence: return body(SequenceCut{context});
    case PlanStrategy::node:
    case PlanStrategy::automatic: break;  // automatic has a cut of its own, made after some preparation
  }
  return body(NodeCut{context});
}

}  // namespace espalier::plan
