#include "stream_plan.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "espalier/error.hpp"
#include "grow.hpp"
#include "plan/checks.hpp"
#include "plan/report.hpp"
#include "storage.hpp"

namespace espalier::plan {

using detail::expects;
using namespace streams;

namespace {

constexpr std::int64_t kMostIndex = 2147483647;

/// One thread that takes the place of team `league_rank`.
struct OneThread {
  std::int32_t league;
  [[nodiscard]] KOKKOS_FUNCTION int league_rank() const { return league; }
  KOKKOS_FUNCTION static int team_rank() { return 0; }
  KOKKOS_FUNCTION static int team_size() { return 1; }
  KOKKOS_FUNCTION static void team_barrier() {}
};

/// What orders a plan, in one team.
template <class Exec>
struct CutTreeOnTeam {
  static constexpr const char* kLabel = "espalier::StreamPlan::cut_tree";
  using Policy = Kokkos::TeamPolicy<Exec, Kokkos::LaunchBounds<kFrontThreads, 1>>;
  using Team = typename Policy::member_type;
  static constexpr std::size_t kScratchBytes = OnTeam<Team>::kScratchBytes + kSumBytes;
  Context c;

  KOKKOS_FUNCTION void operator()(const Team& team) const { CutTree{}(OnTeam<Team>(team, c), c); }
};

/// What kernels take work by; they leave it at 0 themselves.
template <class Memory>
struct ClearCounter {
  Kokkos::View<std::uint32_t*, Memory> counter;
  KOKKOS_FUNCTION void operator()(std::int32_t) const { counter(0) = 0; }
};

template <class Exec>
std::int32_t workers_for(const Exec& exec) {
  if constexpr (kRunsOnHost<Exec>) return 16 * exec.concurrency();
  constexpr int kThreadsOfMultiprocessor = 2048;
  return std::max(1, exec.concurrency() / kThreadsOfMultiprocessor);
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
  const std::int64_t strips = div_up(group, std::int64_t(detail::kNarrowPairs));
  const auto or_default = [](std::int32_t& given, std::int64_t value, const char* name) {
    given = capacity_or_default(given, value, name);
  };
  or_default(capacity.segments, capacity.nodes + 16 * strips * capacity.rows, "segments");
  or_default(capacity.tiles, kv_heads * (capacity.nodes + strips * capacity.rows) + 66 * config.workers, "tiles");
  or_default(capacity.partials, kv_heads * 16 * capacity.rows + div_up(std::int64_t(1200) * config.workers, group),
             "partials");
  expects(2 * strips * capacity.rows * kv_heads <= kMostIndex, ErrorCode::invalid_argument, "plan: ", capacity.rows,
          " rows of ", heads.query_heads, " query heads are more than the fused kernels can address");
  return config;
}

}  // namespace

template <ExecutionSpace Exec>
struct StreamPlan<Exec>::Impl {
  using Memory = typename Exec::memory_space;

  PlanConfig config;
  StreamOptions options;
  bool updated = false;
  detail::TreeView tree{};
  Storage<Memory> storage;
  Kokkos::View<std::uint32_t*, Memory> queue_next;
  Kokkos::View<char*, Memory> partial_out;  // 16-bit elements
  Kokkos::View<float*, Memory> partial_lse;

  Impl(const Exec& exec, const PlanConfig& given, const StreamOptions& what)
      : config(with_defaults(given, workers_for(exec))), options(what), storage(exec, config, true) {
    const std::int64_t partials = std::int64_t(config.capacity.partials) * config.heads.group();
    expects(partials <= kMostIndex, ErrorCode::invalid_argument, "plan: capacity of partials is ",
            config.capacity.partials, ", with a group of ", config.heads.group(), " more than 2147483647 results");
    const auto uninitialised = [&](const char* label) {
      return Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, std::string(label));
    };
    queue_next = decltype(queue_next)(uninitialised("espalier::StreamPlan::queue_next"), 1);
    Kokkos::parallel_for("espalier::StreamPlan::clear", light(Kokkos::RangePolicy<Exec>(exec, 0, 1)),
                         ClearCounter<Memory>{queue_next});
    partial_out = decltype(partial_out)(uninitialised("espalier::StreamPlan::partial_out"),
                                        std::size_t(partials) * std::size_t(config.heads.head_dim) * 2);
    partial_lse = decltype(partial_lse)(uninitialised("espalier::StreamPlan::partial_lse"), std::size_t(partials));
  }

  [[nodiscard]] Context context() const { return storage.context(config, options, tree); }

  /// Small trees are planned in the calling thread of a CPU, whose threads take longer to wake, or with the front steps in
  /// one team of a GPU, where launches would cost more than the rest of the device gains.
  [[nodiscard]] bool is_small() const { return context().is_small(); }

  void make(const Exec& exec, const Context& c, StreamRunner runner) const {
    if (runner == StreamRunner::by_size) {
      runner = !is_small()         ? StreamRunner::device
               : kRunsOnHost<Exec> ? StreamRunner::one_thread
                                   : StreamRunner::one_team;
    }
    const Fill fill{c};
    if constexpr (kRunsOnHost<Exec>) {
      if (runner == StreamRunner::one_thread) {
        const OnHost run(c);
        CutTree{}(run, c);
        for (std::int32_t team = 0; team < fill.teams(); ++team) fill(OneThread{team});
        run.scan<SumEntries>();
        return run.each<FillEntries>();
      }
    }
    const OnInstance<Exec> device(exec, c);
    if (runner == StreamRunner::device) {
      CutTree{}(device, c);
    } else {
      run_one_team(exec, c);
    }
    run_teams(exec, fill);
    if (runner != StreamRunner::device) return run_teams(exec, FillLists{c});
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
    const auto scratch = Kokkos::PerTeam(Kernel::kScratchBytes);
    Kokkos::parallel_for(Kernel::kLabel, light(Policy(exec, kernel.teams(), kThreads).set_scratch_size(0, scratch)),
                         kernel);
  }
};

template <ExecutionSpace Exec>
StreamPlan<Exec>::StreamPlan(const Exec& exec, const PlanConfig& config, const StreamOptions& options)
    : impl_(std::make_unique<Impl>(exec, config, options)) {}

template <ExecutionSpace Exec>
StreamPlan<Exec>::~StreamPlan() = default;

template <ExecutionSpace Exec>
StreamPlan<Exec>::StreamPlan(StreamPlan&&) noexcept = default;

template <ExecutionSpace Exec>
StreamPlan<Exec>& StreamPlan<Exec>::operator=(StreamPlan&&) noexcept = default;

template <ExecutionSpace Exec>
const PlanConfig& StreamPlan<Exec>::config() const {
  return impl_->config;
}

template <ExecutionSpace Exec>
PlanCapacity StreamPlan<Exec>::required_capacity(const TreeSnapshot& snapshot, const PlanConfig& given,
                                                 const Exec& exec, const StreamOptions& options) {
  PlanConfig config = given;
  config.capacity = {snapshot.nodes(), snapshot.rows(), 1, 1, 1};
  config = with_defaults(config, workers_for(exec));
  const Kokkos::DefaultHostExecutionSpace host;
  const Storage<Kokkos::HostSpace> storage(host, config, false);
  host.fence("espalier::StreamPlan::required_capacity");
  const Context c = storage.context(config, options, view_of(snapshot));
  CutTree{}(OnHost(c), c);
  const Totals& need = *c.totals;
  std::int64_t partials = need.need_partials;
  for (std::int32_t row = 0; row < c.tree.rows; ++row)
    if (sees_nothing(c.tree, row)) partials = std::max(partials, least_partials(c));
  return exact_capacity(snapshot, std::max(need.need_segments, need.need_gathered), need.need_tiles,
                        div_up(partials, std::int64_t(config.heads.group())));
}

template <ExecutionSpace Exec>
void StreamPlan<Exec>::update(const Exec& exec, const detail::TreeView& tree, StreamRunner runner) {
  check_fits(tree.nodes, tree.rows, impl_->config.capacity);
  impl_->tree = tree;
  impl_->updated = true;
  impl_->make(exec, impl_->context(), runner);
}

template <ExecutionSpace Exec>
void StreamPlan<Exec>::grow(const Exec& exec, const detail::TreeView& tree) {
  check_growth(impl_->updated, impl_->tree, tree.nodes, tree.rows);
  impl_->tree = tree;
  if constexpr (kRunsOnHost<Exec>) {
    if (impl_->is_small()) return Grow{impl_->context(), 1}(0);
  }
  // Enough threads for an even share, but no more than there can be tiles or segments.
  const std::int64_t most = std::int64_t(impl_->config.capacity.tiles) + impl_->config.capacity.segments;
  const auto threads = std::int32_t(std::min(most, std::int64_t(1) << 15));
  Kokkos::parallel_for(Grow::kLabel,
                       light(Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec, 0, threads)),
                       Grow{impl_->context(), threads});
}

template <ExecutionSpace Exec>
detail::FusedPlanView StreamPlan<Exec>::view() const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: used before its first update");
  const auto& storage = impl_->storage;
  detail::FusedPlanView view{};
  view.workers = impl_->config.workers;
  view.max_rows = impl_->config.capacity.rows;
  view.merges = impl_->config.capacity.partials > 1 || always_merges(impl_->config.heads.group()) ? 1 : 0;
  view.header = storage.header.data();
  view.segments = storage.segments.data();
  view.gathered = storage.gathered.data();
  view.wide_tiles = storage.wide_tiles.data();
  view.narrow_tiles = storage.narrow_tiles.data();
  view.worker = storage.worker.data();
  view.queue_next = impl_->queue_next.data();
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
PlanReport StreamPlan<Exec>::report(const Exec& exec) const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: report before the first update");
  const PlanConfig& config = impl_->config;
  const Context c = impl_->context();
  const Totals totals = download(exec, c.totals, 1)[0];
  Exceeded exceeded;
  const std::int64_t group = config.heads.group();
  exceeded.compare(totals.need_segments, config.capacity.segments, "segments");
  exceeded.compare(totals.need_gathered, config.capacity.segments, "gathered tokens");
  exceeded.compare(totals.need_tiles, config.capacity.tiles, "tiles");
  exceeded.compare(div_up(totals.need_partials, group), config.capacity.partials, "partials");
  exceeded.compare(totals.longest, kMostTokens, "tokens in one node");
  exceeded.check();

  const auto worker = download(exec, c.worker, c.workers);
  const auto header = download(exec, c.header, 1)[0];
  const auto narrow_tiles = download(exec, c.narrow_tiles, totals.streams.pieces);
  const auto wide_tiles = download(exec, c.wide_tiles, totals.need_tiles - totals.streams.pieces);

  PlanReport report{};
  describe_tree(exec, c.tree, config, report);
  report.segments = std::int32_t(totals.need_segments);
  report.tiles = std::int32_t(totals.need_tiles);
  report.workers = c.workers;
  const double token_bytes = kv_bytes_of_token(config);
  std::vector<std::int32_t> results(std::size_t(report.rows) * std::size_t(c.kv_heads), 0);
  std::int64_t pairs = 0;
  for (const auto* tiles : {&wide_tiles, &narrow_tiles})
    for (const detail::FusedTile& tile : *tiles) {
      report.kv_bytes += token_bytes * tile.tokens;
      pairs += tile.pairs;
      const std::int64_t last = (std::int64_t(tile.pair_begin) + tile.pairs - 1) / group;
      for (std::int64_t row = tile.pair_begin / group; row <= last; ++row) {
        ++report.partials;
        ++results[std::size_t(row) * std::size_t(c.kv_heads) + tile.kv_head];
      }
    }
  for (const std::int32_t partials : results) report.merged_rows += partials > 1 ? 1 : 0;
  const auto cost_of = [&](const detail::FusedTile& tile) {
    return double(div_up(tile.tokens, kStepTokens) * totals.step + c.costs.step_fixed);
  };
  double queued = 0, all = 0, longest = 0, steps = 0;
  for (std::int32_t t = header.queue_begin; t < header.queue_end; ++t) queued += cost_of(narrow_tiles[std::size_t(t)]);
  for (const detail::FusedWorker& w : worker) {
    double wide = 0, narrow = 0;
    for (std::int32_t t = w.wide_begin; t < w.wide_end; ++t)
      wide += double(div_up(wide_tiles[std::size_t(t)].tokens, kBlockTokens) * c.costs.wide_block + c.costs.wide_fixed);
    for (std::int32_t t = w.narrow_begin; t < w.narrow_end; ++t) narrow += cost_of(narrow_tiles[std::size_t(t)]);
    const double time = wide + narrow + (wide > 0 && narrow > 0 ? double(c.costs.turn) : 0.0);
    longest = std::max(longest, time);
    all += time;
  }
  all += queued;
  for (const detail::FusedTile& tile : narrow_tiles) steps += div_up(tile.tokens, kStepTokens);
  // However evenly work is spread, it takes as long as the memory does.
  const double even = std::max(all / c.workers, steps * double(c.costs.memory_step));
  longest = std::max(longest, even);
  report.imbalance = all > 0 ? longest / even - 1 : 0;
  report.predicted_us = (longest + double(pairs) * double(c.costs.partial)) / kCostsPerMicrosecond;
  return report;
}

#define ESPALIER_INSTANTIATE(Exec) template class StreamPlan<Exec>;
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::plan
