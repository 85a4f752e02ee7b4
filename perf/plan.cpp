// What planning costs on its execution space, the host left out: on a GPU the calls are captured in a graph.
//
//   plan/update/WORKLOAD/heads:QUERY,KV,DIM/STRATEGY   Plan::update from a tree in line order
//   plan/derive/...                                    the tree brought into line order on the device first
//   plan/grow/...                                      Plan::grow
//
// Time is that of one call, the mean of a few in a row.

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "espalier/plan.hpp"
#include "perf/attention_data.hpp"
#include "perf/described_tree.hpp"
#include "support/captured.hpp"

namespace {

using espalier::Plan;
using espalier::PlanConfig;
using espalier::PlanStrategy;
using espalier::perf::Exec;

constexpr int kBlockTokens = 16;

/// A tree of a workload on the device, as it was described and in line order, and its plan.
struct PlanSetup {
  Exec exec = espalier::test::capturing_instance<Exec>();
  espalier::cli::TreeInput input;
  espalier::TreeSnapshot snapshot;
  espalier::TreeArrays<Exec> tree;
  Plan<Exec> plan;

  PlanSetup(const std::string& workload, PlanStrategy strategy)
      : input(espalier::cli::make_workload(workload)),
        snapshot(espalier::make_snapshot(input.nodes, input.rows, kBlockTokens)),
        tree(exec, snapshot),
        plan(exec, config(workload, strategy)) {
    plan.update(exec, tree);
  }

 private:
  [[nodiscard]] PlanConfig config(const std::string& workload, PlanStrategy strategy) const {
    PlanConfig config;
    config.heads = espalier::perf::heads_of(workload);
    config.strategy = strategy;
    config.capacity = Plan<Exec>::required_capacity(snapshot, config);
    return config;
  }
};

/// Times body(), which enqueues work on the instance.
void time_calls(benchmark::State& state, const Exec& exec, const std::function<void()>& body) {
  constexpr int kCalls = 20;
  body();
  exec.fence("espalier::perf::plan");
  const espalier::test::Captured<Exec> calls(exec, [&] {
    for (int call = 0; call < kCalls; ++call) body();
  });
  calls.run(exec);
  exec.fence("espalier::perf::plan");
  using Clock = std::chrono::steady_clock;
  for ([[maybe_unused]] auto step : state) {
    const Clock::time_point begin = Clock::now();
    calls.run(exec);
    exec.fence("espalier::perf::plan");
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count() / kCalls);
  }
}

void report(benchmark::State& state, const PlanSetup& setup) {
  const espalier::PlanReport report = setup.plan.report(setup.exec);  // throws if the plan did not fit
  state.counters["nodes"] = report.nodes;
  state.counters["rows"] = report.rows;
  state.counters["tiles"] = report.tiles;
}

void update(benchmark::State& state, const std::string& workload, PlanStrategy strategy) {
  PlanSetup setup(workload, strategy);
  time_calls(state, setup.exec, [&] { setup.plan.update(setup.exec, setup.tree); });
  report(state, setup);
}

void grow(benchmark::State& state, const std::string& workload, PlanStrategy strategy) {
  PlanSetup setup(workload, strategy);
  time_calls(state, setup.exec, [&] { setup.plan.grow(setup.exec, setup.tree); });
  report(state, setup);
}

void derive(benchmark::State& state, const std::string& workload, PlanStrategy strategy) {
  PlanSetup setup(workload, strategy);
  const espalier::perf::DescribedTree<Exec> described(setup.input.nodes, setup.input.rows, kBlockTokens);
  espalier::DeviceOrder<Exec> order(setup.exec, setup.snapshot.nodes(), setup.snapshot.rows());
  time_calls(state, setup.exec, [&] {
    order.update(setup.exec, described.view(), kBlockTokens, setup.tree);
    setup.plan.update(setup.exec, setup.tree);
  });
  static_cast<void>(order.report(setup.exec));
  report(state, setup);
}

using Run = void (*)(benchmark::State&, const std::string&, PlanStrategy);

[[maybe_unused]] const bool registered = [] {
  std::vector<std::string> workloads = espalier::perf::kWorkloads;
  for (const char* layers :
       {"layers:1,9/4096,256", "layers:1,99/4096,256", "layers:1,4,16,64,256,1024/256,32,256,64,32,256",
        "layers:1,99,900,9000/2048,64,64,16", "layers:1,999,9000,90000/2048,64,64,16"})
    workloads.emplace_back(layers);
  for (const std::string& workload : workloads)
    for (const PlanStrategy strategy : espalier::kPlanStrategies)
      for (const auto& [name, run] :
           {std::pair<const char*, Run>{"update", update}, {"derive", derive}, {"grow", grow}})
        benchmark::RegisterBenchmark("plan/" + std::string(name) + "/" + workload + "/" +
                                         espalier::perf::name_of(espalier::perf::heads_of(workload)) + "/" +
                                         name_of(strategy),
                                     [=](benchmark::State& state) { run(state, workload, strategy); })
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond);
  return true;
}();

}  // namespace
