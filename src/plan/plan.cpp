#include "espalier/plan.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <queue>
#include <vector>

#include "backends/portable/attend.hpp"
#include "build.hpp"
#include "checks.hpp"
#include "choose_kernel.hpp"
#include "espalier/error.hpp"
#include "report.hpp"
#include "settled.hpp"
#include "stacks/stack_plan.hpp"

namespace espalier {

using detail::expects;

const char* name_of(PlanStrategy strategy) {
  switch (strategy) {
    case PlanStrategy::sequence: return "sequence";
    case PlanStrategy::sequence_split: return "sequence_split";
    case PlanStrategy::node: return "node";
    case PlanStrategy::node_chunk: return "node_chunk";
    case PlanStrategy::flatten: return "flatten";
    case PlanStrategy::fasttree: return "fasttree";
    case PlanStrategy::automatic: return "automatic";
  }
  return "unknown";
}

std::optional<PlanStrategy> strategy_from_name(std::string_view name) {
  for (const PlanStrategy strategy : kPlanStrategies)
    if (name == name_of(strategy)) return strategy;
  return std::nullopt;
}

/// What the kernel that a plan is for wants of it.
namespace plan {
struct TileRule {
  std::int32_t pairs;
  std::int32_t workers;
  std::int32_t workers_at_a_time;
  bool joins_heads;
};
}  // namespace plan

namespace {

using plan::kRunsOnHost;
using plan::kWorkersPerThread;
using plan::TileRule;

PlanConfig checked(const PlanConfig& config) {
  plan::check_shape(config);
  if (config.cost_model) static_cast<void>(detail::tile_cost_of(*config.cost_model, config.heads, config.scalar));
  const CutParams& cuts = config.cuts;
  for (const auto& [value, name] :
       {std::pair{cuts.sequence_chunk, "sequence_chunk"}, std::pair{cuts.node_chunk, "node_chunk"},
        std::pair{cuts.flatten_chunk, "flatten_chunk"}})
    expects(value >= 0, ErrorCode::invalid_argument, "plan: ", name, " is ", value, ", expected 0 or more");
  plan::check_fasttree(cuts.fasttree, "plan");
  expects(config.workers >= 0, ErrorCode::invalid_argument, "plan: workers is ", config.workers,
          ", expected 0 (chosen for the kernel) or more");
  return config;
}

/// Several per thread of a CPU, so that threads that run out of work find some; on a GPU enough teams to fill it.
template <class Exec>
std::int32_t workers_for(const Exec& exec) {
  constexpr bool kOnHost = bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);
  return kOnHost ? kWorkersPerThread * exec.concurrency() : std::max(1, exec.concurrency() / 256);
}

/// How many workers run together: a thread of a CPU takes one after another, a GPU has room for all.
template <class Exec>
std::int32_t workers_at_a_time(std::int32_t workers) {
  constexpr bool kOnHost = bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);
  return kOnHost ? std::max(1, workers / kWorkersPerThread) : workers;
}

/// When the last of some jobs ends, if `at_a_time` of them run together and the next begins where one ends.
std::int64_t makespan(const std::vector<std::int64_t>& jobs, std::int32_t at_a_time) {
  std::priority_queue<std::int64_t, std::vector<std::int64_t>, std::greater<>> ends;
  std::int64_t last = 0;
  for (const std::int64_t job : jobs) {
    std::int64_t begin = 0;
    if (std::int32_t(ends.size()) >= at_a_time) {
      begin = ends.top();
      ends.pop();
    }
    ends.push(begin + job);
    last = std::max(last, begin + job);
  }
  return last;
}

/// Fills in what does not depend on capacities.
template <class Exec>
PlanConfig for_device(PlanConfig config, const Exec& exec, const TileRule& rule) {
  config.workers = rule.workers;
  if (!config.cost_model) config.cost_model = default_cost_model(exec, config.workers);
  return config;
}

PlanConfig with_capacities(PlanConfig config) {
  const std::int64_t nodes = config.capacity.nodes;
  const std::int64_t rows = config.capacity.rows;
  const std::int64_t kv_heads = config.heads.kv_heads;
  config.capacity.segments = plan::capacity_or_default(config.capacity.segments, nodes + 16 * rows, "segments");
  const std::int64_t shares = 4 * std::int64_t(config.workers);
  config.capacity.tiles =
      plan::capacity_or_default(config.capacity.tiles, kv_heads * 2 * (nodes + rows) + shares, "tiles");
  config.capacity.partials =
      plan::capacity_or_default(config.capacity.partials, kv_heads * 16 * rows + shares, "partials");
  return config;
}

/// @param config  checked; workers may be 0
template <class Exec>
TileRule tile_rule_of(const Exec& exec, const PlanConfig& config, const KernelChoice& kernel) {
  if (kernel.reads_stacks()) return {detail::kTilePairs, config.workers, 0, false};  // its planner knows
  if (kernel.fused != nullptr) {
    const backend::TileSize size = kernel.fused->tile_size(shape_of(config, 0));
    const std::int32_t workers = config.workers > 0 ? config.workers : std::max(1, size.workers);
    return {size.pairs, workers, workers, false};
  }
  const std::int32_t workers = config.workers > 0 ? config.workers : workers_for(exec);
  return {portable::kTileLanes<Exec>, workers, workers_at_a_time<Exec>(workers), portable::kJoinsHeads<Exec>};
}

plan::CutContext context_of(const detail::TreeView& tree, const PlanConfig& config, const TileRule& rule) {
  const HeadShape& heads = config.heads;
  plan::CutContext context{};
  context.tree = tree;
  context.tile_rows = std::max(1, rule.pairs / heads.group());
  context.group = heads.group();
  context.kv_heads = heads.kv_heads;
  context.workers_at_a_time = rule.workers_at_a_time;
  context.joins_heads = rule.joins_heads;
  return context;
}

}  // namespace

template <ExecutionSpace Exec>
struct Plan<Exec>::Impl {
  using Memory = typename Exec::memory_space;
  template <class T>
  using Array = Kokkos::View<T*, Memory>;

  KernelChoice choice;
  KernelInfo kernel;
  TileRule rule;
  PlanConfig config;
  bool updated = false;
  detail::TreeView tree{};
  plan::Settled settled;
  std::unique_ptr<plan::StackPlan<Exec>> stacks;  // instead of all that follows
  Array<plan::Totals> totals;
  Array<plan::Counts> before;
  Array<detail::Segment> segments;
  Array<detail::Tile> tiles;
  Array<std::int32_t> end_in_last;
  Array<std::int64_t> cost_before;
  Array<std::int32_t> worker_begin, merge_begin, merge_cursor, merge_partials, merge_entered, partial_row;
  Array<float> partial_out, partial_lse;
  Array<std::int32_t> next_worker;
  Array<char> scratch;

  Impl(const Exec& exec, const PlanConfig& given)
      : choice(choose_kernel(checked(given), Exec::name())),
        kernel{choice.fused != nullptr ? choice.fused->name : "portable", Exec::name(), true, choice.why_not,
               choice.fused != nullptr && choice.fused->is_emulated},
        rule(tile_rule_of(exec, given, choice)),
        config(for_device(given, exec, rule)) {
    if (choice.reads_stacks()) {
      stacks = std::make_unique<plan::StackPlan<Exec>>(exec, config);
      config = stacks->config();
      return;
    }
    config = with_capacities(config);
    const PlanCapacity& capacity = config.capacity;
    const auto allocate = [&](auto& view, const char* label, std::size_t count) {
      view = std::decay_t<decltype(view)>(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, std::string(label)),
                                          count);
    };
    allocate(totals, "espalier::Plan::totals", 1);
    const plan::Room room = plan::room_of(config.strategy, capacity.nodes, capacity.rows);
    expects(room.items <= 2147483647, ErrorCode::invalid_argument, "plan: ", capacity.nodes, " nodes and ",
            capacity.rows, " rows are more than strategy ", name_of(config.strategy), " can plan");
    allocate(before, "espalier::Plan::before", room.items);
    allocate(scratch, "espalier::Plan::scratch", room.scratch_bytes);
    allocate(segments, "espalier::Plan::segments", capacity.segments);
    allocate(tiles, "espalier::Plan::tiles", capacity.tiles / config.heads.kv_heads);
    allocate(end_in_last, "espalier::Plan::end_in_last", tiles.extent(0));
    allocate(cost_before, "espalier::Plan::cost_before", tiles.extent(0) + 1);
    allocate(worker_begin, "espalier::Plan::worker_begin", config.workers + 1);
    allocate(merge_begin, "espalier::Plan::merge_begin", std::size_t(capacity.rows) + 1);
    allocate(merge_cursor, "espalier::Plan::merge_cursor", capacity.rows);
    allocate(merge_partials, "espalier::Plan::merge_partials", capacity.partials / config.heads.kv_heads);
    if constexpr (!kRunsOnHost<Exec>)
      allocate(merge_entered, "espalier::Plan::merge_entered", merge_partials.extent(0));
    allocate(partial_row, "espalier::Plan::partial_row", merge_partials.extent(0));
    const std::size_t partial_rows = std::size_t(capacity.partials) * config.heads.group();
    allocate(partial_out, "espalier::Plan::partial_out", partial_rows * config.heads.head_dim);
    allocate(partial_lse, "espalier::Plan::partial_lse", partial_rows);
    if constexpr (kRunsOnHost<Exec>) {
      allocate(next_worker, "espalier::Plan::next_worker", 1);
      next_worker(0) = 0;
    }
    portable::reserve_scratch(exec, config.scalar, config.heads.head_dim, config.workers);
  }

  [[nodiscard]] plan::Arrays arrays(std::int32_t stride) const {
    plan::Arrays a{};
    a.stride = stride;
    a.kv_heads = config.heads.kv_heads;
    a.rows = tree.rows;
    a.workers = config.workers;
    a.segment_capacity = config.capacity.segments;
    a.tile_capacity = config.capacity.tiles;
    a.partial_capacity = config.capacity.partials;
    a.totals = totals.data();
    a.before = before.data();
    a.segments = segments.data();
    a.tiles = tiles.data();
    a.end_in_last = end_in_last.data();
    a.cost_before = cost_before.data();
    a.worker_begin = worker_begin.data();
    a.merge_begin = merge_begin.data();
    a.merge_cursor = merge_cursor.data();
    a.merge_partials = merge_partials.data();
    a.merge_entered = merge_entered.data();
    a.partial_row = partial_row.data();
    return a;
  }

  /// Threads for work whose size is known on the device alone: enough for an even share, but no more than tiles can be.
  [[nodiscard]] std::int32_t stride(const Exec& exec) const {
    const std::int64_t threads = 16 * std::int64_t(exec.concurrency());
    return std::int32_t(std::clamp<std::int64_t>(config.capacity.tiles, 1, std::min<std::int64_t>(threads, 1 << 16)));
  }

  /// Small trees are planned in the calling thread of a CPU, whose threads take longer to wake, or in one team of a GPU,
  /// where launches would cost more than the rest of the device gains.
  [[nodiscard]] bool is_small() const {
    constexpr std::int64_t kSmall = kRunsOnHost<Exec> ? 4096 : 1024;
    return std::int64_t(tree.nodes) + tree.rows <= kSmall;
  }

  template <class Cut>
  void build(const Exec& exec, const plan::CutRecipe<Cut>& recipe) const {
    using Steps = plan::BuildPlan<Cut>;
    using Order = plan::OrderItems<Cut>;
    if constexpr (kRunsOnHost<Exec>) {
      if (is_small()) return Steps{{recipe, arrays(1)}}(plan::OnHost{});
    } else {
      if (is_small())
        return plan::run_team(exec, "espalier::Plan::update",
                              plan::StepsOnTeam<Steps, Exec>{{{recipe, arrays(plan::kTeamThreads)}}});
      // In one team while that takes no longer than the launches of so many small steps.
      constexpr std::int32_t kFewItems = 2048;
      if (const Cut cut = recipe.prepare(plan::Nowhere{}); cut.items() <= kFewItems) {
        plan::run_team(exec, "espalier::Plan::order",
                       plan::StepsOnTeam<Order, Exec>{{recipe, arrays(plan::kTeamThreads)}});
        return Steps{{recipe, arrays(stride(exec))}}.fill(plan::OnInstance<Exec>(exec), cut);
      }
    }
    Steps{{recipe, arrays(stride(exec))}}(plan::OnInstance<Exec>(exec));
  }
};

template <ExecutionSpace Exec>
Plan<Exec>::Plan(const Exec& exec, const PlanConfig& config) : impl_(std::make_unique<Impl>(exec, config)) {}

template <ExecutionSpace Exec>
Plan<Exec>::~Plan() = default;

template <ExecutionSpace Exec>
Plan<Exec>::Plan(Plan&&) noexcept = default;

template <ExecutionSpace Exec>
Plan<Exec>& Plan<Exec>::operator=(Plan&&) noexcept = default;

template <ExecutionSpace Exec>
const PlanConfig& Plan<Exec>::config() const {
  return impl_->config;
}

template <ExecutionSpace Exec>
void Plan<Exec>::update(const Exec& exec, const TreeArrays<Exec>& tree) {
  plan::check_fits(tree.nodes(), tree.rows(), impl_->config.capacity);
  if (const backend::FusedKernel* const kernel = impl_->choice.fused) {
    const std::string reason = kernel->why_not_shape(shape_of(impl_->config, tree.block_tokens()));
    expects(reason.empty(), ErrorCode::unsupported, "plan: kernel ", kernel->name, " cannot take the tree: ", reason,
            "; a plan with PlanConfig::kernel = Kernel::portable takes any");
  }
  impl_->tree = tree.view();
  impl_->updated = true;
  impl_->settled.forget();
  if (impl_->stacks) return impl_->stacks->update(exec, impl_->tree);
  plan::with_recipe(impl_->config, context_of(impl_->tree, impl_->config, impl_->rule), impl_->scratch.data(),
                    [&](const auto& recipe) { impl_->build(exec, recipe); });
}

template <ExecutionSpace Exec>
void Plan<Exec>::grow(const Exec& exec, const TreeArrays<Exec>& tree) {
  plan::check_growth(impl_->updated, impl_->tree, tree.nodes(), tree.rows());
  impl_->tree = tree.view();
  impl_->settled.forget();
  if (impl_->stacks) return impl_->stacks->grow(exec, impl_->tree);
  const auto grow_with = [&](const auto& run, std::int32_t stride) {
    run.each("espalier::Plan::grow", stride, plan::GrowPlan{{impl_->tree, impl_->arrays(stride)}});
  };
  if (kRunsOnHost<Exec> && impl_->is_small())
    grow_with(plan::OnHost{}, 1);
  else
    grow_with(plan::OnInstance<Exec>(exec), impl_->stride(exec));
}

template <ExecutionSpace Exec>
PlanCapacity Plan<Exec>::required_capacity(const TreeSnapshot& snapshot, const PlanConfig& given, const Exec& exec) {
  const KernelChoice choice = choose_kernel(checked(given), Exec::name());
  if (choice.reads_stacks()) return plan::StackPlan<Exec>::required_capacity(snapshot, given, exec);
  const TileRule rule = tile_rule_of(exec, given, choice);
  const PlanConfig config = for_device(given, exec, rule);
  const detail::TreeView tree = plan::view_of(snapshot);
  plan::Counts sum;
  std::vector<char> scratch(plan::room_of(config.strategy, tree.nodes, tree.rows).scratch_bytes);
  plan::with_recipe(config, context_of(tree, config, rule), scratch.data(), [&](const auto& recipe) {
    const auto cut = recipe.prepare(plan::OnHost{});
    for (std::int32_t item = 0; item < cut.items(); ++item) sum += cut.count(item);
  });
  const std::int64_t kv_heads = config.heads.kv_heads;
  return plan::exact_capacity(snapshot, sum.segments, sum.tiles * kv_heads, sum.partials * kv_heads);
}

template <ExecutionSpace Exec>
PlanReport Plan<Exec>::report(const Exec& exec) const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: report before the first update");
  if (impl_->stacks) return impl_->stacks->report(exec);
  const PlanConfig& config = impl_->config;
  const auto totals = plan::download(exec, impl_->totals.data(), 1)[0];
  plan::Exceeded exceeded;
  exceeded.compare(totals.need_segments, config.capacity.segments, "segments");
  exceeded.compare(totals.need_tiles, config.capacity.tiles, "tiles");
  exceeded.compare(totals.need_partials, config.capacity.partials, "partials");
  exceeded.check();

  const auto segments = plan::download(exec, impl_->segments.data(), totals.segments);
  const std::int32_t kv_heads = config.heads.kv_heads;
  const auto tiles = plan::download(exec, impl_->tiles.data(), totals.of_head.tiles);
  const auto worker_begin = plan::download(exec, impl_->worker_begin.data(), std::int64_t(config.workers) + 1);
  const auto merge_begin = plan::download(exec, impl_->merge_begin.data(), std::int64_t(impl_->tree.rows) + 1);

  PlanReport report{};
  plan::describe_tree(exec, impl_->tree, config, report);
  report.segments = std::int32_t(totals.segments);
  report.tiles = std::int32_t(totals.tiles);
  report.workers = config.workers;
  report.partials = std::int32_t(totals.partials);
  const auto is_merged = [&](std::int32_t row) { return merge_begin[row + 1] - merge_begin[row] > 1; };
  for (std::int32_t row = 0; row < report.rows; ++row) report.merged_rows += is_merged(row) ? kv_heads : 0;

  const double token_bytes = plan::kv_bytes_of_token(config);
  for (const detail::Tile& tile : tiles) report.kv_bytes += token_bytes * kv_heads * tile.tokens;
  const detail::TileCost tile_cost =
      detail::tile_cost_of(config.cost_model.value_or(kCpuCostModel), config.heads, config.scalar);
  const auto picoseconds_of = [&](const detail::Tile& tile) {
    std::int32_t merged = 0;
    for (std::int32_t row = tile.row_begin; row < tile.row_end; ++row) merged += is_merged(row) ? 1 : 0;
    const std::int64_t group = config.heads.group();
    return tile_cost.tile((tile.row_end - tile.row_begin) * group, tile.tokens, merged * group);
  };
  std::vector<std::int64_t> worker_ps(std::size_t(config.workers), 0);
  for (std::int32_t worker = 0; worker < config.workers; ++worker)
    for (std::int32_t t = worker_begin[worker]; t < worker_begin[worker + 1]; ++t)
      worker_ps[worker] += picoseconds_of(tiles[t / kv_heads]);
  const std::int64_t all = std::accumulate(worker_ps.begin(), worker_ps.end(), std::int64_t(0));
  const std::int32_t at_a_time = impl_->rule.workers_at_a_time;
  const auto end = double(makespan(worker_ps, at_a_time));
  report.imbalance = all > 0 ? end * at_a_time / double(all) - 1 : 0;
  report.predicted_us = 1e-6 * end;
  return report;
}

template <ExecutionSpace Exec>
detail::PlanView Plan<Exec>::view() const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: used before its first update");
  expects(impl_->stacks == nullptr, ErrorCode::unsupported, "plan: it was made for kernel ", impl_->kernel.name,
          ", whose tiles have another form than those of view()");
  detail::PlanView view{};
  view.workers = impl_->config.workers;
  view.rows = impl_->tree.rows;
  view.sizes = &impl_->totals.data()->of_head;
  view.segments = impl_->segments.data();
  view.tiles = impl_->tiles.data();
  view.worker_begin = impl_->worker_begin.data();
  view.merge_begin = impl_->merge_begin.data();
  view.merge_partials = impl_->merge_partials.data();
  view.row_visible = impl_->tree.row_visible;
  view.row_index = impl_->tree.row_index;
  view.block_table = impl_->tree.block_table;
  view.partial_out = impl_->partial_out.data();
  view.partial_lse = impl_->partial_lse.data();
  view.next_worker = impl_->next_worker.data();
  return view;
}

template <ExecutionSpace Exec>
detail::FusedPlanView Plan<Exec>::stack_view() const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: used before its first update");
  expects(impl_->stacks != nullptr, ErrorCode::unsupported, "plan: it was made for kernel ", impl_->kernel.name,
          ", whose tiles have another form than those of stack_view()");
  return impl_->stacks->view();
}

template <ExecutionSpace Exec>
bool Plan<Exec>::enter_stream(void* stream, std::uint64_t (*capture_of)(void*)) const {
  return impl_->settled.enter(stream, [&] { return capture_of == nullptr ? plan::kNoCapture : capture_of(stream); });
}

template <ExecutionSpace Exec>
void Plan<Exec>::forget_stream() const {
  impl_->settled.forget();
}

template <ExecutionSpace Exec>
const KernelInfo& Plan<Exec>::kernel() const {
  return impl_->kernel;
}

template <ExecutionSpace Exec>
const backend::FusedKernel* Plan<Exec>::fused_kernel() const {
  return impl_->choice.fused;
}

template <ExecutionSpace Exec>
bool Plan<Exec>::is_kernel_asked_for() const {
  return impl_->choice.is_asked_for;
}

template <ExecutionSpace Exec>
std::int32_t Plan<Exec>::rows() const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: used before its first update");
  return impl_->tree.rows;
}

template <ExecutionSpace Exec>
int Plan<Exec>::block_tokens() const {
  expects(impl_->updated, ErrorCode::stale_plan, "plan: used before its first update");
  return impl_->tree.block_tokens;
}

#define ESPALIER_INSTANTIATE(Exec) template class Plan<Exec>;
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
