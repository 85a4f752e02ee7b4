// The planner of the fused kernels. How long update and grow take, on a GPU inside a captured graph; the device's plan is
// compared with that of one host thread, bit by bit. With --compare, instead: what its plans and those of the host reference are
// predicted to take, by one formula, on the 20 workloads of perf/results/h200.csv.
//
//   espalier_stream_plans [--compare]

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "espalier/tree_arrays.hpp"
#include "perf/gpu/fused_planner.hpp"
#include "plan/streams/stream_plan.hpp"
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
  double us = 0;
  int wide_workers = 0;
  std::size_t wide = 0, narrow = 0, queued = 0;
  std::int64_t partials = 0;
};

/// When the eight warps of a worker have taken its narrow tiles in order, each the next one when it is free.
class Warps {
 public:
  void take(double us) {
    double& first = *std::min_element(std::begin(busy_), std::end(busy_));
    first += us;
  }
  [[nodiscard]] double end() const { return *std::max_element(std::begin(busy_), std::end(busy_)); }
  [[nodiscard]] double sum() const { return std::accumulate(std::begin(busy_), std::end(busy_), 0.0); }

 private:
  double busy_[8] = {};
};

Prediction predict(const FusedPlanArrays& plan) {
  const PlannerConfig c;
  const auto steps = [&](const detail::FusedTile& tile) {
    std::int32_t count = 0, left = tile.tokens;
    if ((tile.flags & detail::kTileGathered) != 0) return (left + 15) / 16;
    for (std::int32_t s = tile.segment_begin; s < tile.segment_end; ++s) {
      const std::int32_t skip = s == tile.segment_begin ? tile.skip : 0;
      const std::int32_t now = std::min(plan.segments[std::size_t(s)].tokens - skip, left);
      count += (now + 15) / 16;
      left -= now;
    }
    return count;
  };
  const auto wide_us = [&](std::int32_t t) {
    const detail::FusedTile& tile = plan.wide_tiles[std::size_t(t)];
    const double block = tile.pairs <= detail::kWidePairs / 2 ? c.wide_half_block : c.wide_block;
    const double chain = tile.segment_end > tile.segment_begin + 1 ? c.wide_chain : 0.0;
    return (tile.tokens + 127) / 128 * block + c.wide_fixed + chain;
  };
  const auto narrow_us = [&](std::int32_t t) {
    const detail::FusedTile& tile = plan.narrow_tiles[std::size_t(t)];
    const bool gathered = (tile.flags & detail::kTileGathered) != 0;
    const std::int32_t count = steps(tile), segments = gathered ? count : tile.segment_end - tile.segment_begin;
    return c.narrow_fixed + count * c.narrow_step + segments * c.narrow_segment;
  };
  double all_steps = 0;
  for (const auto& tile : plan.narrow_tiles) all_steps += steps(tile);
  Prediction p;
  p.wide = plan.wide_tiles.size();
  p.narrow = plan.narrow_tiles.size();
  p.queued = std::size_t(plan.header.queue_end - plan.header.queue_begin);
  double sum = 0, longest = 0, longest_wide = 0;
  std::vector<double> begins;
  for (const auto& worker : plan.worker) {
    double wide = 0;
    for (std::int32_t t = worker.wide_begin; t < worker.wide_end; ++t) wide += wide_us(t);
    Warps warps;
    for (std::int32_t t = worker.narrow_begin; t < worker.narrow_end; ++t) warps.take(narrow_us(t));
    p.wide_workers += wide > 0 ? 1 : 0;
    const double begin = wide > 0 && worker.narrow_begin < worker.narrow_end ? wide + c.turn : wide;
    begins.push_back(begin);
    longest_wide = std::max(longest_wide, wide);
    longest = std::max(longest, begin + warps.end());
    sum += begin + warps.sum() / 8;
  }
  for (std::int32_t t = plan.header.queue_begin; t < plan.header.queue_end; ++t) sum += narrow_us(t) / 8;
  longest = std::max(longest, sum / double(plan.worker.size()));
  std::sort(begins.begin(), begins.end());
  double time = 0, left = all_steps * 16.0 * c.head_dim * 4;
  for (std::size_t i = 0; left > 0; ++i) {
    const double bytes_us = std::min(double(i + 1) * c.narrow_rate, c.memory_rate) * 1e3;
    const double next = i + 1 < begins.size() ? begins[i + 1] : 1e30;
    time = std::max(time, begins[i]);
    if (time + left / bytes_us <= next || i + 1 == begins.size()) {
      time += left / bytes_us;
      left = 0;
    } else {
      left -= (next - time) * bytes_us;
      time = next;
    }
  }
  for (const auto* tiles : {&plan.wide_tiles, &plan.narrow_tiles})
    for (const auto& tile : *tiles) p.partials += (tile.flags & detail::kTileDirect) != 0 ? 0 : tile.pairs;
  p.us = std::max(longest, time) + 0.02 * longest_wide + double(p.partials) * c.partial_bytes / (c.memory_rate * 1e3);
  return p;
}

FusedPlanArrays arrays_of(const FusedPlan& plan) {
  FusedPlanArrays a{};
  a.header = plan.header;
  a.segments = plan.segments;
  a.gathered = plan.gathered;
  a.wide_tiles = plan.wide_tiles;
  a.narrow_tiles = plan.narrow_tiles;
  a.worker = plan.worker;
  a.merge_begin = plan.merge_begin;
  a.merge_entries = plan.merge_entries;
  return a;
}

TreeSnapshot snapshot_of(const Workload& w, int block_tokens) {
  std::vector<espalier::NodeSpec> nodes;
  std::vector<espalier::RowSpec> rows;
  for (const auto& node : w.nodes) nodes.push_back({node.parent, node.tokens});
  for (const auto& row : w.rows) rows.push_back({row.node, row.visible});
  return make_snapshot(nodes, rows, block_tokens);
}

constexpr plan::StreamOptions kOptions{.chains = true};  // as behind attend

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
  const TreeSnapshot snapshot = snapshot_of(workload, 32);
  const Exec exec;
  const PlanConfig config = config_of(snapshot, problem.query_heads, problem.kv_heads);
  plan::StreamPlan<Exec> plan(exec, config, kOptions);
  const TreeArrays<Exec> arrays(exec, snapshot);
  plan.update(exec, arrays.view());
  const Prediction device = predict(fused_plan_arrays(exec, plan.view(), config.heads));
  PlannerConfig planner;
  planner.query_heads = problem.query_heads;
  planner.kv_heads = problem.kv_heads;
  planner.stacks = 0;  // plans of streams have none
  const Tree tree = make_tree(workload, {});
  const Prediction host = predict(arrays_of(plan_fused(tree, planner)));
  std::printf("%-55s %2d/%-2d | %7.1f %7.1f %6.3f | %3d %3d | %5zu %5zu | %5zu %5zu | %4zu %4zu | %7.1f %7.1f\n",
              problem.workload.c_str(), problem.query_heads, problem.kv_heads, host.us, device.us, device.us / host.us,
              host.wide_workers, device.wide_workers, host.wide, device.wide, host.narrow, device.narrow, host.queued,
              device.queued, double(host.partials) * 1e-3, double(device.partials) * 1e-3);
}

/// Microseconds of one call, the mean of a few in a row; on a GPU in a captured graph.
template <class Exec>
double time_calls(const Exec& exec, const std::function<void()>& body) {
  constexpr int kCalls = 10, kRounds = 21;
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
  const TreeSnapshot snapshot = snapshot_of(make_workload(name), 32);
  PlanConfig config = config_of(snapshot, 32, 8);
  const Host host;
  config.capacity = plan::StreamPlan<Host>::required_capacity(snapshot, config, host, kOptions);
  plan::StreamPlan<Host> expected(host, config, kOptions);
  const TreeArrays<Host> host_tree(host, snapshot);
  expected.update(host, host_tree.view());
  const FusedPlanArrays wanted = fused_plan_arrays(host, expected.view(), config.heads);

  const Exec exec = test::capturing_instance<Exec>();
  plan::StreamPlan<Exec> plan(exec, config, kOptions);
  const TreeArrays<Exec> tree(exec, snapshot);
  std::printf("%-60s %6d / %6d:", name.c_str(), snapshot.nodes(), snapshot.rows());
  for (const auto& [runner, label] :
       {std::pair{plan::StreamRunner::by_size, "update"}, std::pair{plan::StreamRunner::one_team, "one team"},
        std::pair{plan::StreamRunner::device, "kernels"}}) {
    if (runner == plan::StreamRunner::one_team && snapshot.nodes() > 20000) continue;
    const double us = time_calls(exec, [&] { plan.update(exec, tree.view(), runner); });
    const bool same = fused_plan_arrays(exec, plan.view(), config.heads) == wanted;
    std::printf(" %s %.1f us%s,", label, us, same ? "" : " (NOT the host's plan)");
  }
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
  for (const char* tree :
       {"layers:1,9/4096,256", "layers:1,99/4096,256", "layers:1,4,16,64,256,1024/256,32,256,64,32,256",
        "layers:1,1024/2048,32", "layers:1,99,900,9000/2048,64,64,16", "layers:1,999,9000,90000/2048,64,64,16"})
    espalier::perf::time_plans(tree);
  return 0;
}
