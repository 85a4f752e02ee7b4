// The planner of the fused kernels. How long update and grow take, and update behind the derivation of the tree's order, on a GPU
// inside a captured graph; the device's plan is compared with that of one host thread, bit by bit. With --compare, instead: what
// its plans and those of the host reference are predicted to take, by one formula, on the 20 workloads of perf/results/h200.csv.
//
//   espalier_stack_plans [--compare | TREE...]

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "espalier/tree_arrays.hpp"
#include "perf/described_tree.hpp"
#include "perf/gpu/fused_planner.hpp"
#include "plan/stacks/halves.hpp"
#include "plan/stacks/stack_plan.hpp"
#include "support/captured.hpp"
#include "support/fused_plan.hpp"

namespace espalier::perf {
namespace {

using test::fused_plan_arrays;
using test::FusedPlanArrays;

struct Problem {
  std::string workload;
  int query_heads, kv_heads;
};

const Problem kProblems[] = {
    {"layers:1,1024/2048,32", 16, 1},
    {"layers:1,16,64/1024,256,32", 16, 1},
    {"layers:1,10/4096,416", 32, 8},
    {"layers:1,1024/2048,32", 32, 8},
    {"layers:1,16,64/1024,256,32", 32, 8},
    {"layers:1,20/4000,200", 32, 8},
    {"layers:1,256/2048,64", 32, 8},
    {"layers:1,256/256,32", 32, 8},
    {"layers:1,256/6000,16", 32, 8},
    {"layers:1,4,16,512/1024,256,128,32", 32, 8},
    {"layers:1,4,16,64,256,1024/256,32,256,64,32,256", 32, 8},
    {"layers:1,64/20000,16", 32, 8},
    {"layers:1,8,16,32,64,256,1024/256,128,64,32,32,32,32", 32, 8},
    {"layers:1,8,512/32,2048,256", 32, 8},
    {"layers:2,8,16,256/256,256,32,32", 32, 8},
    {"layers:256/1024", 32, 8},
    {"layers:8,16,32,256/512,512,256,32", 32, 8},
    {"layers:1,16,64/1024,256,32", 32, 32},
    {"layers:1,64/20000,32", 32, 32},
    {"layers:1,1024/2048,32", 64, 8},
};

/// What a plan is predicted to take, in microseconds, from its tiles alone.
struct Prediction {
  double us = 0;  ///< of the worker with the most, and partials
  std::size_t tiles = 0;
  std::int64_t partials = 0;
};

Prediction predict(const FusedPlanArrays& plan_arrays, int group) {
  const PlannerConfig c;
  Prediction p;
  p.tiles = plan_arrays.tiles.size();
  for (const detail::FusedWorker& worker : plan_arrays.worker) {
    double time = 0;
    for (std::int32_t t = worker.tile_begin; t < worker.tile_end; ++t) {
      const detail::FusedTile& tile = plan_arrays.tiles[std::size_t(t)];
      time += c.tile + (tile.segment_end > tile.segment_begin + 1 ? c.more_segments : 0.0);
      for (const int halves : plan::stacks::halves_of_blocks(tile, plan_arrays.segments, group))
        time += tile.pairs <= detail::kTilePairs / 2  ? c.small_block
                : halves == plan::stacks::kBothHalves ? c.block
                                                      : c.half_block;
      if ((tile.flags & detail::kTileDirect) == 0) p.partials += tile.pairs;
    }
    p.us = std::max(p.us, time);
  }
  p.us += double(p.partials) * c.partial_bytes / (c.memory_rate * 1e3);
  return p;
}

FusedPlanArrays arrays_of(const FusedPlan& plan) {
  FusedPlanArrays a{};
  a.header = plan.header;
  a.segments = plan.segments;
  a.tiles = plan.tiles;
  a.worker = plan.worker;
  a.merge_begin = plan.merge_begin;
  a.merge_entries = plan.merge_entries;
  return a;
}

constexpr int kBlockTokens = 32;

struct Input {
  std::vector<espalier::NodeSpec> nodes;
  std::vector<espalier::RowSpec> rows;

  explicit Input(const Workload& workload) {
    for (const auto& node : workload.nodes) nodes.push_back({node.parent, node.tokens});
    for (const auto& row : workload.rows) rows.push_back({row.node, row.visible});
  }
  [[nodiscard]] TreeSnapshot snapshot() const { return make_snapshot(nodes, rows, kBlockTokens); }
};

PlanConfig config_of(const TreeSnapshot& snapshot, int query_heads, int kv_heads) {
  PlanConfig config;
  config.heads = {query_heads, kv_heads, 128};
  config.scalar = Scalar::bf16;
  config.workers = 132;
  config.capacity = {snapshot.nodes(), snapshot.rows()};
  return config;
}

void compare(const Problem& problem) {
  using Exec = Kokkos::DefaultHostExecutionSpace;
  const Workload workload = make_workload(problem.workload);
  const TreeSnapshot snapshot = Input(workload).snapshot();
  const Exec exec;
  const PlanConfig config = config_of(snapshot, problem.query_heads, problem.kv_heads);
  plan::StackPlan<Exec> plan(exec, config);
  const TreeArrays<Exec> arrays(exec, snapshot);
  plan.update(exec, arrays.view());
  const int group = config.heads.group();
  const Prediction device = predict(fused_plan_arrays(exec, plan.view(), config.heads), group);
  PlannerConfig planner;
  planner.query_heads = problem.query_heads;
  planner.kv_heads = problem.kv_heads;
  const Tree tree = make_tree(workload, {});
  const Prediction host = predict(arrays_of(plan_fused(tree, planner)), group);
  std::printf("%-55s %2d/%-2d | %7.1f %7.1f %6.3f | %5zu %5zu | %7.1f %7.1f\n", problem.workload.c_str(),
              problem.query_heads, problem.kv_heads, host.us, device.us, device.us / host.us, host.tiles, device.tiles,
              double(host.partials) * 1e-3, double(device.partials) * 1e-3);
}

/// Microseconds of one call, the mean of some in a row; on a GPU in a captured graph.
template <class Exec>
double time_calls(const Exec& exec, const std::function<void()>& body) {
  constexpr int kCalls = 40, kRounds = 21;
  body();
  exec.fence();
  const test::Captured<Exec> calls(exec, [&] {
    for (int i = 0; i < kCalls; ++i) body();
  });
  std::vector<double> us;
  for (int round = 0; round < kRounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    calls.run(exec);
    exec.fence();
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / kCalls);
  }
  std::sort(us.begin(), us.end());
  return us[us.size() / 2];
}

void time_plans(const std::string& name) {
  using Exec = Kokkos::DefaultExecutionSpace;
  using Host = Kokkos::DefaultHostExecutionSpace;
  const Input input(make_workload(name));
  const TreeSnapshot snapshot = input.snapshot();
  PlanConfig config = config_of(snapshot, 32, 8);
  const Host host;
  config.capacity = plan::StackPlan<Host>::required_capacity(snapshot, config, host);
  plan::StackPlan<Host> expected(host, config);
  const TreeArrays<Host> host_tree(host, snapshot);
  expected.update(host, host_tree.view());
  const FusedPlanArrays wanted = fused_plan_arrays(host, expected.view(), config.heads);

  const Exec exec = test::capturing_instance<Exec>();
  plan::StackPlan<Exec> plan(exec, config);
  TreeArrays<Exec> tree(exec, snapshot);
  const auto says = [&] {
    return fused_plan_arrays(exec, plan.view(), config.heads) == wanted ? "" : " (NOT the host's plan)";
  };
  std::printf("%-60s %6d / %6d:", name.c_str(), snapshot.nodes(), snapshot.rows());
  for (const auto& [runner, label] :
       {std::pair{plan::StackRunner::by_size, "update"}, std::pair{plan::StackRunner::one_team, "one team"},
        std::pair{plan::StackRunner::device, "kernels"}}) {
    if (runner == plan::StackRunner::one_team && snapshot.nodes() > 20000) continue;
    const double us = time_calls(exec, [&] { plan.update(exec, tree.view(), runner); });
    std::printf(" %s %.1f us%s,", label, us, says());
  }
  const DescribedTree<Exec> described(input.nodes, input.rows, kBlockTokens);
  DeviceOrder<Exec> order(exec, snapshot.nodes(), snapshot.rows());
  const double derived = time_calls(exec, [&] {
    order.update(exec, described.view(), kBlockTokens, tree);
    plan.update(exec, tree.view());
  });
  static_cast<void>(order.report(exec));  // throws if the description was wrong
  std::printf(" derived and updated %.1f us%s,", derived, says());
  std::printf(" grow %.1f us\n", time_calls(exec, [&] { plan.grow(exec, tree.view()); }));
  std::fflush(stdout);
}

}  // namespace
}  // namespace espalier::perf

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard guard(argc, argv);
  if (argc > 1 && std::string(argv[1]) == "--compare") {
    for (const auto& problem : espalier::perf::kProblems) espalier::perf::compare(problem);
    return 0;
  }
  std::vector<std::string> trees(argv + 1, argv + argc);
  if (trees.empty())
    trees = {"layers:1,9/4096,256",
             "layers:1,99/4096,256",
             "layers:1,4,16,64,256,1024/256,32,256,64,32,256",
             "layers:1,1024/2048,32",
             "layers:1,99,900,9000/2048,64,64,16",
             "layers:1,999,9000,90000/2048,64,64,16"};
  for (const std::string& tree : trees) espalier::perf::time_plans(tree);
  return 0;
}
