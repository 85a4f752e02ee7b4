// What each strategy would do with a tree, without any K or V, and which kernels there are to do it.

#include <cstdio>
#include <espalier/espalier.hpp>

using namespace espalier;
using Exec = Kokkos::DefaultHostExecutionSpace;

constexpr HeadShape kHeads{.query_heads = 32, .kv_heads = 8, .head_dim = 128};

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  const Exec exec;

  for (const KernelInfo& kernel : available_kernels())
    std::printf("%-12s %-8s %s\n", kernel.name.c_str(), kernel.backend.c_str(),
                kernel.available ? "runs here" : kernel.why_not.c_str());

  // A prompt with few-shot examples, 16 questions that share it, and two answers to each of them so far.
  BlockPool<Exec> pool(exec, {.blocks = 1024, .block_tokens = 16});
  KvTree tree(exec, pool);
  tree.fork(tree.root(4096), 15);
  tree.append(tree.branches(), 100);
  for (const BranchId question : tree.branches()) tree.fork(question, 1);
  tree.append(tree.branches(), 40);
  const TreeSnapshot snapshot = tree.snapshot();
  const TreeArrays<Exec> arrays(exec, snapshot);

  PlanStrategy cheapest = PlanStrategy::automatic;
  double least_us = 0;
  for (const PlanStrategy strategy : kPlanStrategies) {
    PlanConfig config{.heads = kHeads, .strategy = strategy};
    config.capacity = Plan<Exec>::required_capacity(snapshot, config);
    Plan<Exec> plan(exec, config);
    plan.update(exec, arrays);
    const PlanReport report = plan.report(exec);  // waits: not for the inside of a decode loop
    std::printf("%-14s %5d tiles, reads %.2f times the tree, %6.0f us predicted\n", name_of(strategy), report.tiles,
                report.kv_bytes / report.unique_kv_bytes, report.predicted_us);
    if (least_us == 0 || report.predicted_us < least_us) {
      least_us = report.predicted_us;
      cheapest = strategy;
    }
  }
  std::printf("cheapest: %s\n", name_of(cheapest));
}
