#include "cli/plan_contents.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cli/stopwatch.hpp"

namespace espalier::cli {
namespace {

using Exec = Kokkos::DefaultExecutionSpace;

template <class T>
std::vector<T> download(const Exec& exec, const T* data, std::int64_t count) {
  std::vector<T> host(std::size_t(count), T{});
  const Kokkos::View<const T*, Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>> source(data, host.size());
  const Kokkos::View<T*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(host.data(), host.size());
  Kokkos::deep_copy(exec, target, source);
  exec.fence("espalier::cli: the plan is on the host");
  return host;
}

}  // namespace

std::int32_t PlanContents::busiest_worker() const {
  return std::int32_t(std::ranges::max_element(worker_us) - worker_us.begin());
}

std::int32_t PlanContents::masked_tiles() const {
  return std::int32_t(std::ranges::count_if(tiles, [](const detail::Tile& tile) { return tile.masked != 0; }));
}

double PlanContents::mean_worker_us() const {
  return std::accumulate(worker_us.begin(), worker_us.end(), 0.0) / double(worker_us.size());
}

int PlanContents::workers_at_a_time() const {
  if (report.predicted_us <= 0) return report.workers;
  const double even_us = report.predicted_us / (1 + report.imbalance);
  return int(std::lround(mean_worker_us() * report.workers / even_us));
}

double PlanContents::computed_flops() const {
  double pairs = 0;
  for (const detail::Tile& tile : tiles) pairs += double(tile.row_end - tile.row_begin) * tile.tokens;
  return 4.0 * config.heads.group() * config.heads.head_dim * pairs;
}

PlanContents contents_of(const Exec& exec, const Plan<Exec>& plan) {
  PlanContents contents{plan.config(), plan.report(exec), {}, {}, {}, {}, {}, {}};
  const detail::PlanView view = plan.view();
  const std::int32_t kv_heads = contents.config.heads.kv_heads, group = contents.config.heads.group();
  contents.segments = download(exec, view.segments, contents.report.segments);
  const std::int32_t partials_of_head = contents.report.partials / kv_heads;
  for (const detail::Tile& tile : download(exec, view.tiles, contents.report.tiles / kv_heads))
    for (std::int32_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
      contents.tiles.push_back(tile);
      contents.tiles.back().kv_head = std::int16_t(kv_head);
      contents.tiles.back().partial_begin += kv_head * partials_of_head;
    }
  const auto worker_begin = download(exec, view.worker_begin, std::int64_t(view.workers) + 1);
  const auto merge_begin = download(exec, view.merge_begin, std::int64_t(view.rows) + 1);
  const detail::TileCost cost = detail::tile_cost_of(contents.config.cost_model.value_or(kCpuCostModel),
                                                     contents.config.heads, contents.config.scalar);
  contents.worker_us.assign(std::size_t(view.workers), 0.0);
  for (std::int32_t worker = 0; worker < view.workers; ++worker) {
    for (std::int32_t t = worker_begin[std::size_t(worker)]; t < worker_begin[std::size_t(worker) + 1]; ++t) {
      const detail::Tile& tile = contents.tiles[std::size_t(t)];
      std::int32_t merged = 0;
      for (auto row = std::size_t(tile.row_begin); row < std::size_t(tile.row_end); ++row)
        merged += merge_begin[row + 1] - merge_begin[row] > 1 ? 1 : 0;
      const double tile_us =
          1e-6 * double(cost.tile((tile.row_end - tile.row_begin) * group, tile.tokens, merged * group));
      contents.tile_worker.push_back(worker);
      contents.merged_rows.push_back(merged);
      contents.tile_us.push_back(tile_us);
      contents.worker_us[std::size_t(worker)] += tile_us;
    }
  }
  return contents;
}

TimedPlan make_timed_plan(const TreeSnapshot& tree, PlanConfig config) {
  constexpr std::size_t kMostRuns = 15;
  constexpr double kEnoughMs = 300;
  const Exec exec;
  config.kernel = Kernel::portable;  // whose plans can be looked into, whatever the strategy
  config.capacity = Plan<Exec>::required_capacity(tree, config);
  Plan<Exec> plan(exec, config);
  const TreeArrays<Exec> arrays(exec, tree);
  plan.update(exec, arrays);  // the first one warms up
  exec.fence("espalier::cli: before a measurement");
  std::vector<double> runs_us;
  for (double all_ms = 0; runs_us.empty() || (runs_us.size() < kMostRuns && all_ms < kEnoughMs);) {
    const Stopwatch watch;
    plan.update(exec, arrays);
    exec.fence("espalier::cli: the plan is made");
    all_ms += watch.elapsed_ms();
    runs_us.push_back(1000 * watch.elapsed_ms());
  }
  std::ranges::nth_element(runs_us, runs_us.begin() + std::ptrdiff_t(runs_us.size() / 2));
  return {contents_of(exec, plan), runs_us[runs_us.size() / 2]};
}

}  // namespace espalier::cli
