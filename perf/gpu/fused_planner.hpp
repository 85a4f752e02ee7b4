#pragma once
// A planner for the fused kernels on the host: the reference of the format in espalier/detail/fused_plan.hpp. It favours
// being read over being fast. A plan has streams or stacks, whichever is predicted to take less time.

#include "perf/gpu/stack_planner.hpp"
#include "perf/gpu/stream_planner.hpp"

namespace espalier::perf {

inline FusedPlan plan_fused(const Tree& tree, const PlannerConfig& config) {
  const bool possible = config.query_heads / config.kv_heads <= detail::kWidePairs && config.stacks != 0;
  FusedPlan plan;
  plan.predicted = 1e30;
  if (!possible || config.stacks < 0) plan = StreamPlanner(tree, config).plan();
  for (const bool whole : {false, true}) {
    if (!possible) break;
    FusedPlan stacked = StackPlanner(tree, config).plan(whole);
    if (stacked.predicted < plan.predicted) plan = std::move(stacked);
  }
  return plan;
}

}  // namespace espalier::perf
