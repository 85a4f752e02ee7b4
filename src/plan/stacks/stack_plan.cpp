#include "stack_plan.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "espalier/error.hpp"
#include "grow.hpp"
#include "halves.hpp"
#include "plan/checks.hpp"
#include "plan/report.hpp"
#include "storage.hpp"

namespace espalier::plan {

using detail::expects;
using namespace stacks;

namespace {

constexpr std::int64_t kMostIndex = 2147483647;

/// One thread that takes the place of team `league_rank`.
struct OneThread {
  std::int32_t league;
  [[nodiscard]] KOKKOS_FUNCTION int league_rank() const { return league; }
  KOKKOS_FUNCTION static void team_barrier() {}
  KOKKOS_FUNCTION static int team_rank() { return 0; }
  KOKKOS_FUNCTION static int team_size() { return 1; }
};

/// What orders a plan, in one team.
template <class Exec>
struct CutTreeOnTeam {
  static constexpr const char* kLabel = "espalier::StackPlan::cut_tree";
  using Policy = Kokkos::TeamPolicy<Exec, Kokkos::LaunchBounds<kFrontThreads, 1>>;
  using Team = typename Policy::member_type;
  static constexpr std::size_t kScratchBytes = OnTeam<Team>::kScratchBytes;
  Context c;

  KOKKOS_FUNCTION void operator()(const Team& team) const { CutTree{}(OnTeam<Team>(team, c)); }
};

template <class Exec>
std::int32_t workers_for(const Exec& exec) {
  if constexpr (kRunsOnHost<Exec>) return 16 * exec.concurrency();
  constexpr int kThreadsOfMultiprocessor = 2048;
  return std::max(1, exec.concurrency() / kThreadsOfMultiprocessor);
}

/// Tokens of a tile: of the last segment those in front of its end.
std::int64_t tokens_of(const detail::FusedTile& tile, const std::vector<detail::FusedSegment>& segments) {
  std::int64_t tokens = 0;
  std::int32_t left = tile.slots, skip = tile.skip;
  for (std::int32_t i = tile.segment_begin; i < tile.segment_end; ++i) {
    const std::int32_t of_segment = segments[std::size_t(i)].tokens;
    const std::int32_t slots = std::min(detail::stack_slots(of_segment) - skip, left);
    tokens += std::min(of_segment - skip, slots);
    left -= slots;
    skip = 0;
  }
  return tokens;
}

/// What a tile is predicted to take.
double time_of(const detail::FusedTile& tile, const std::vector<detail::FusedSegment>& segments, const Context& c) {
  const BlockCosts costs(c, tile.pairs);
  double time = double(c.costs.tile);
  for (const int halves : halves_of_blocks(tile, segments, c.group))
    time += double(halves == kBothHalves ? costs.full : costs.half);
  return time;
}

/// Checks a configuration and fills in what the caller left to us.
PlanConfig with_defaults(PlanConfig config, std::int32_t workers) {
  check_shape(config);
  const HeadShape& heads = config.heads;
  PlanCapacity& capacity = config.capacity;
  if (config.workers == 0) config.workers = std::min(workers, 1024);
  expects(config.workers >= 1 && config.workers <= 1024, ErrorCode::invalid_argument, "plan: workers is ",
          config.workers, ", expected 1 to 1024 for the fused kernels");
  const std::int64_t group = heads.group(), kv_heads = heads.kv_heads;
  const std::int64_t tiles_of_row = div_up(group, std::int64_t(detail::kTilePairs));
  const auto or_default = [](std::int32_t& given, std::int64_t value, const char* name) {
    given = capacity_or_default(given, value, name);
  };
  or_default(capacity.segments, capacity.nodes + std::int64_t(32) * capacity.rows, "segments");
  or_default(capacity.tiles, kv_heads * (capacity.nodes + tiles_of_row * capacity.rows) + config.workers, "tiles");
  or_default(capacity.partials,
             kv_heads * 16 * capacity.rows + div_up(std::int64_t(2) * detail::kTilePairs * config.workers, group),
             "partials");
  expects(tiles_of_row * (capacity.rows + std::int64_t(capacity.nodes)) * kv_heads <= kMostIndex,
          ErrorCode::invalid_argument, "plan: ", capacity.rows, " rows of ", heads.query_heads,
          " query heads are more than the fused kernels can address");
  return config;
}

}  // namespace

template <ExecutionSpace Exec>
struct StackPlan<Exec>::Impl {
  using Memory = typename Exec::memory_space;

  PlanConfig config;
  bool updated = false;
  detail::TreeView tree{};
  Storage<Memory> storage;
  Kokkos::View<char*, Memory> partial_out;  // 16-bit elements
  Kokkos::View<float*, Memory> partial_lse;

  Impl(const Exec& exec, const PlanConfig& given)
      : config(with_defaults(given, workers_for(exec))), storage(exec, config, true) {
    const std::int64_t partials = std::int64_t(config.capacity.partials) * config.heads.group();
    expects(partials <= kMostIndex, ErrorCode::invalid_argument, "plan: capacity of partials is ",
            config.capacity.partials, ", with a group of ", config.heads.group(), " more than 2147483647 results");
    const auto uninitialised = [&](const char* label) {
      return Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, std::string(label));
    };
    partial_out = decltype(partial_out)(uninitialised("espalier::StackPlan::partial_out"),
                                        std::size_t(partials) * std::size_t(config.heads.head_dim) * 2);
    partial_lse = decltype(partial_lse)(uninitialised("espalier::StackPlan::partial_lse"), std::size_t(partials));
  }

  [[nodiscard]] Context context() const { return storage.context(config, tree); }

  /// Small trees are planned in the calling thread of a CPU, whose threads take longer to wake, or with the front steps in
  /// one team of a GPU, where launches would cost more than the rest of the device gains.
  [[nodiscard]] bool is_small() const { return context().is_small(); }

  void make(const Exec& exec, const Context& c, StackRunner runner) const {
    if (runner == StackRunner::by_size) {
      runner = !is_small() ? StackRunner::device : kRunsOnHost<Exec> ? StackRunner::one_thread : StackRunner::one_team;
    }
    const Fill<false> fill{c};
    if constexpr (kRunsOnHost<Exec>) {
      if (runner == StackRunner::one_thread) {
        const OnHost run(c);
        CutTree{}(run);
        for (std::int32_t team = 0; team < fill.teams(); ++team) fill(OneThread{team});
        run.scan<SumEntries>();
        return run.each<FillEntries>();
      }
    }
    const OnInstance<Exec> device(exec, c);
    if (runner == StackRunner::device) {
      CutTree{}(device);
    } else {
      run_one_team(exec, c);
    }
    if (runner != StackRunner::device) return run_teams(exec, Fill<true>{c});
    run_teams(exec, fill);
    device.template scan<SumEntries>();
    device.template each<FillEntries>();
  }

  static void run_one_team(const Exec& exec, const Context& c) {
    using Kernel = CutTreeOnTeam<Exec>;
    using Policy = typename Kernel::Policy;
    const Kernel kernel{c};
    int threads = kFrontThreads;
    if constexpr (kRunsOnHost<Exec>) {
      constexpr int kFew = 4;
      threads = std::min(kFew, Policy(exec, 1, 1).team_size_max(kernel, Kokkos::ParallelForTag{}));
    }
    const auto scratch = Kokkos::PerTeam(Kernel::kScratchBytes);
    Kokkos::parallel_for(Kernel::kLabel, light(Policy(exec, 1, threads).set_scratch_size(0, scratch)), kernel);
  }

  template <class Kernel>
  static void run_teams(const Exec& exec, const Kernel& kernel) {
    constexpr int kThreads = kRunsOnHost<Exec> ? 1 : Kernel::kThreads;
    using Policy = Kokkos::TeamPolicy<Exec, Kokkos::LaunchBounds<Kernel::kThreads, 1>>;
    Kokkos::parallel_for(Kernel::kLabel, light(Policy(exec, kernel.teams(), kThreads)), kernel);
  }
};

template <ExecutionSpace Exec>
StackPlan<Exec>::StackPlan(const Exec& exec, const PlanConfig& config) : impl_(std::make_unique<Impl>(exec, config)) {}

template <ExecutionSpace Exec>
StackPlan<Exec>::~StackPlan() = default;

template <ExecutionSpace Exec>
StackPlan<Exec>::StackPlan(StackPlan&&) noexcept = default;

template <ExecutionSpace Exec>
StackPlan<Exec>& StackPlan<Exec>::operator=(StackPlan&&) noexcept = default;

template <ExecutionSpace Exec>
const PlanConfig& StackPlan<Exec>::config() const {
  return impl_->config;
}

template <ExecutionSpace Exec>
PlanCapacity StackPlan<Exec>::required_capacity(const TreeSnapshot& snapshot, const PlanConfig& given,
                                                const Exec& exec) {
  PlanConfig config = given;
  config.capacity = {snapshot.nodes(), snapshot.rows(), 1, 1, 1};
  config = with_defaults(config, workers_for(exec));
  const Kokkos::DefaultHostExecutionSpace host;
  const Storage<Kokkos::HostSpace> storage(host, config, false);
  host.fence("espalier::StackPlan::required_capacity");
  const Context c = storage.context(config, view_of(snapshot));
  CutTree{}(OnHost(c));
  const Totals& need = *c.totals;
  std::int64_t partials = need.need_partials;
  for (std::int32_t row = 0; row < c.tree.rows; ++row)
    if (sees_nothing(c.tree, row)) partials = std::max(partials, least_partials(c));
  return exact_capacity(snapshot, need.need_segments, need.need_tiles,
                        div_up(partials, std::int64_t(config.heads.group())));
}

template <ExecutionSpace Exec>
void StackPlan<Exec>::update(const Exec& exec, const detail::TreeView& tree, StackRunner runner) {
  check_fits(tree.nodes, tree.rows, impl_->config.capacity);
  impl_->tree = tree;
  impl_->updated = true;
  impl_->make(exec, impl_->context(), runner);
}

template <ExecutionSpace Exec>
void StackPlan<Exec>::grow(const Exec& exec, const detail::TreeView& tree) {
  check_growth(impl_->updated, impl_->tree, tree.nodes, tree.rows);
  impl_->tree = tree;
  const Context c = impl_->context();
  if constexpr (kRunsOnHost<Exec>) {
    if (c.is_small()) return GrowOnHost{c, 1}(0);
    const std::int32_t threads = exec.concurrency();
    Kokkos::parallel_for(GrowOnHost::kLabel,
                         light(Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec, 0, threads)),
                         GrowOnHost{c, threads});
  } else {
    using Kernel = GrowOnDevice<Exec>;
    const Kernel kernel{c};
    Kokkos::parallel_for(
        Kernel::kLabel, light(typename Kernel::Policy(exec, kernel.teams(), Kernel::kThreads, Kernel::kLanes)), kernel);
  }
}

template <ExecutionSpace Exec>
detail::FusedPlanView StackPlan<Exec>::view() const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: used before its first update");
  const auto& storage = impl_->storage;
  detail::FusedPlanView view{};
  view.workers = impl_->config.workers;
  view.max_rows = impl_->config.capacity.rows;
  view.merges = impl_->config.capacity.partials > 1 || always_merges(impl_->config.heads.group()) ? 1 : 0;
  view.header = storage.header.data();
  view.segments = storage.segments.data();
  view.tiles = storage.tiles.data();
  view.worker = storage.worker.data();
  view.merge_begin = storage.merge_begin.data();
  view.merge_entries = storage.merge_entries.data();
  view.row_visible = impl_->tree.row_visible;
  view.row_index = impl_->tree.row_index;
  view.block_table = impl_->tree.block_table;
  view.partial_out = impl_->partial_out.data();
  view.partial_lse = impl_->partial_lse.data();
  return view;
}

template <ExecutionSpace Exec>
PlanReport StackPlan<Exec>::report(const Exec& exec) const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: report before the first update");
  const PlanConfig& config = impl_->config;
  const Context c = impl_->context();
  const Totals totals = download(exec, c.totals, 1)[0];
  Exceeded exceeded;
  const std::int64_t group = config.heads.group();
  exceeded.compare(totals.need_segments, config.capacity.segments, "segments");
  exceeded.compare(totals.need_tiles, config.capacity.tiles, "tiles");
  exceeded.compare(div_up(totals.need_partials, group), config.capacity.partials, "partials");
  exceeded.check();

  const auto worker = download(exec, c.worker, c.workers);
  const auto tiles = download(exec, c.tiles, totals.tiles);
  const auto segments = download(exec, c.segments, totals.need_segments);

  PlanReport report{};
  describe_tree(exec, c.tree, config, report);
  report.segments = std::int32_t(
      std::ranges::count_if(segments, [](const detail::FusedSegment& segment) { return segment.tokens > 0; }));
  report.tiles = std::int32_t(totals.need_tiles);
  report.workers = c.workers;
  const double token_bytes = kv_bytes_of_token(config);
  std::vector<std::int32_t> results(std::size_t(report.rows) * std::size_t(c.kv_heads), 0);
  std::int64_t pairs = 0;
  for (const detail::FusedTile& tile : tiles) {
    report.kv_bytes += token_bytes * tokens_of(tile, segments);
    pairs += tile.pairs;
    const std::int64_t last = (std::int64_t(tile.pair_begin) + tile.pairs - 1) / group;
    for (std::int64_t row = tile.pair_begin / group; row <= last; ++row) {
      ++report.partials;
      ++results[std::size_t(row) * std::size_t(c.kv_heads) + tile.kv_head];
    }
  }
  for (const std::int32_t partials : results) report.merged_rows += partials > 1 ? 1 : 0;
  double all = 0, longest = 0;
  for (const detail::FusedWorker& w : worker) {
    double time = 0;
    for (std::int32_t t = w.tile_begin; t < w.tile_end; ++t) time += time_of(tiles[std::size_t(t)], segments, c);
    longest = std::max(longest, time);
    all += time;
  }
  // However evenly work is spread, it takes as long as the memory does.
  const double memory = double(totals.nodes.runs) * c.kv_heads * double(c.costs.memory_run);
  const double even = std::max(all / c.workers, memory);
  longest = std::max(longest, even);
  report.imbalance = all > 0 ? longest / even - 1 : 0;
  report.predicted_us = (longest + double(pairs) * double(c.costs.partial)) / kCostsPerMicrosecond;
  return report;
}

#define ESPALIER_INSTANTIATE(Exec) template class StackPlan<Exec>;
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::plan
