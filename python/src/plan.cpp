#include "espalier/plan.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <sstream>
#include <string>

#include "arrays.hpp"
#include "bind.hpp"
#include "objects.hpp"

namespace espalier::python {
namespace {

using namespace nb::literals;
using Pair = std::array<std::int32_t, 2>;

PlanStrategy strategy_of(const std::string& name) {
  if (const auto strategy = strategy_from_name(name)) return *strategy;
  std::ostringstream names;
  for (const PlanStrategy strategy : kPlanStrategies) names << " '" << name_of(strategy) << "'";
  detail::fail(std::source_location::current(), ErrorCode::invalid_argument, "strategy is '", name,
               "', expected one of", names.str());
}

/// The kernel by what it does or by its name.
void set_kernel(PlanConfig& config, const std::string& name) {
  const auto kernel = kernel_from_name(name);
  config.kernel = kernel.value_or(Kernel::automatic);
  config.kernel_name = kernel ? "" : name;
}

std::string kernel_name_of(const PlanConfig& config) {
  if (config.kernel == Kernel::portable) return "portable";
  if (config.kernel == Kernel::fused) return "fused";
  return config.kernel_name.empty() ? "automatic" : config.kernel_name;
}

/// Two numbers, indexed by FastTree's phase, as a tuple.
template <class Class, class Member>
void def_pair(Class& bound, const char* name, Member member, const char* doc) {
  bound.def_prop_rw(
      name, [member](const FastTreeParams& params) { return Pair{(params.*member)[0], (params.*member)[1]}; },
      [member](FastTreeParams& params, const Pair& pair) {
        (params.*member)[0] = pair[0];
        (params.*member)[1] = pair[1];
      },
      doc);
}

void bind_fasttree(nb::module_& m) {
  auto params = nb::class_<FastTreeParams>(m, "FastTreeParams", "The numbers of FastTree's cost rule.")
                    .def(nb::init<>())
                    .def_rw("alpha", &FastTreeParams::alpha, "Weight of a padding query head times a token.")
                    .def_rw("beta", &FastTreeParams::beta, "Weight of a padding token times a query head.")
                    .def_rw("gamma", &FastTreeParams::gamma, "Weight of a partial that has to be merged.");
  def_pair(params, "tile_rows", &FastTreeParams::tile_rows, "TSQ: rows of a tile; 0: 64 / group and 16 / group.");
  def_pair(params, "tile_tokens", &FastTreeParams::tile_tokens, "TSK: tokens that a tile reads at once.");
  def_pair(params, "split_tokens", &FastTreeParams::split_tokens, "Tokens of a tile at first, and where tiles lack.");
  def_pair(params, "enough_tiles", &FastTreeParams::enough_tiles, "In the first round: fewer are split finer.");
  def_pair(params, "enough_tiles_then", &FastTreeParams::enough_tiles_then, "In the second round.");

  nb::class_<FastTreeAssignments>(m, "FastTreeAssignments", "What FastTree decides about a tree; nodes in line order.")
      .def_ro("takes_copy", &FastTreeAssignments::takes_copy,
              "[nodes]  1: Split-Q, reads its parent's tokens too; 0: Split-K")
      .def_ro("rows", &FastTreeAssignments::rows, "[nodes]  rows that read the node with its tile")
      .def_ro("tokens", &FastTreeAssignments::tokens, "[nodes]  its own and those it took a copy of")
      .def_prop_ro("tile_rows", [](const FastTreeAssignments& a) { return Pair{a.tile_rows[0], a.tile_rows[1]}; })
      .def_prop_ro("tile_tokens", [](const FastTreeAssignments& a) { return Pair{a.tile_tokens[0], a.tile_tokens[1]}; })
      .def_prop_ro("split_tokens",
                   [](const FastTreeAssignments& a) { return Pair{a.split_tokens[0], a.split_tokens[1]}; });

  m.def("fasttree_assignments", &fasttree_assignments, "snapshot"_a, "heads"_a, "params"_a = FastTreeParams(),
        Unlocked(), "The assignments that the strategy 'fasttree' makes, made on the host. Raises ValueError.");
}

void bind_config(nb::module_& m) {
  nb::class_<HeadShape>(m, "HeadShape", "Heads of a layer: query head h reads KV head h / (query_heads / kv_heads).")
      .def(
          "__init__",
          [](HeadShape* self, int query_heads, int kv_heads, int head_dim) {
            new (self) HeadShape{query_heads, kv_heads, head_dim};
          },
          "query_heads"_a, "kv_heads"_a, "head_dim"_a)
      .def_ro("query_heads", &HeadShape::query_heads)
      .def_ro("kv_heads", &HeadShape::kv_heads)
      .def_ro("head_dim", &HeadShape::head_dim)
      .def("__repr__", [](const HeadShape& heads) {
        std::ostringstream text;
        text << "HeadShape(query_heads=" << heads.query_heads << ", kv_heads=" << heads.kv_heads
             << ", head_dim=" << heads.head_dim << ")";
        return text.str();
      });

  nb::class_<PlanCapacity>(m, "PlanCapacity",
                           "How much a plan can hold, for good. 0: a default that follows the others.")
      .def(
          "__init__",
          [](PlanCapacity* self, std::int32_t nodes, std::int32_t rows, std::int32_t segments, std::int32_t tiles,
             std::int32_t partials) { new (self) PlanCapacity{nodes, rows, segments, tiles, partials}; },
          nb::kw_only(), "nodes"_a = 0, "rows"_a = 0, "segments"_a = 0, "tiles"_a = 0, "partials"_a = 0)
      .def_rw("nodes", &PlanCapacity::nodes)
      .def_rw("rows", &PlanCapacity::rows)
      .def_rw("segments", &PlanCapacity::segments)
      .def_rw("tiles", &PlanCapacity::tiles, "Over all KV heads.")
      .def_rw("partials", &PlanCapacity::partials, "Sum over tiles of their rows.");

  nb::class_<CostModel>(m, "CostModel", "What the tiles of an attention cost on one worker while all are busy.")
      .def(
          "__init__",
          [](CostModel* self, double tile_us, double lane_us, double partial_us, double read_gbs, double math_gflops,
             std::int32_t lane_step, bool overlaps, std::int32_t panel_lanes) {
            new (self) CostModel{tile_us, lane_us, partial_us, read_gbs, math_gflops, lane_step, overlaps, panel_lanes};
          },
          nb::kw_only(), "tile_us"_a, "lane_us"_a, "partial_us"_a, "read_gbs"_a, "math_gflops"_a, "lane_step"_a,
          "overlaps"_a, "panel_lanes"_a = 0)
      .def_rw("tile_us", &CostModel::tile_us)
      .def_rw("lane_us", &CostModel::lane_us)
      .def_rw("partial_us", &CostModel::partial_us)
      .def_rw("read_gbs", &CostModel::read_gbs)
      .def_rw("math_gflops", &CostModel::math_gflops)
      .def_rw("lane_step", &CostModel::lane_step)
      .def_rw("overlaps", &CostModel::overlaps)
      .def_rw("panel_lanes", &CostModel::panel_lanes);

  nb::class_<CutParams>(m, "CutParams",
                        "Numbers of the strategies that have some. A chunk of 0 is chosen by each update.")
      .def(nb::init<>())
      .def_rw("sequence_chunk", &CutParams::sequence_chunk)
      .def_rw("node_chunk", &CutParams::node_chunk)
      .def_rw("flatten_chunk", &CutParams::flatten_chunk)
      .def_rw("fasttree", &CutParams::fasttree);

  nb::class_<PlanConfig>(m, "PlanConfig", "What a plan is made for.")
      .def(
          "__init__",
          [](PlanConfig* self, const HeadShape& heads, const std::string& dtype, const PlanCapacity& capacity,
             const std::string& strategy, std::int32_t workers, const std::optional<CostModel>& cost_model,
             const CutParams& cuts, const std::string& kernel) {
            PlanConfig config{heads, scalar_from_name(dtype), capacity, strategy_of(strategy), workers};
            config.cost_model = cost_model;
            config.cuts = cuts;
            set_kernel(config, kernel);
            new (self) PlanConfig(config);
          },
          "heads"_a, "dtype"_a = "f32", nb::kw_only(), "capacity"_a = PlanCapacity{}, "strategy"_a = "automatic",
          "workers"_a = 0, "cost_model"_a = nb::none(), "cuts"_a = CutParams{}, "kernel"_a = "automatic",
          R"(dtype       type of q, k, v and out: 'f32', 'f16' or 'bf16'
strategy    'sequence', 'sequence_split', 'node', 'node_chunk', 'flatten', 'fasttree' or 'automatic'
workers     0: chosen for the kernel
cost_model  None: that of the device; a plan's own config has it
kernel      'automatic': the fastest that can do this; 'portable', 'fused', or a name of kernels(): that one, or the plan
            raises NotImplementedError saying why not)")
      .def_ro("heads", &PlanConfig::heads)
      .def_prop_ro("dtype", [](const PlanConfig& config) { return name_of(config.scalar); })
      .def_rw("capacity", &PlanConfig::capacity)
      .def_prop_rw(
          "strategy", [](const PlanConfig& config) { return name_of(config.strategy); },
          [](PlanConfig& config, const std::string& name) { config.strategy = strategy_of(name); })
      .def_rw("workers", &PlanConfig::workers)
      .def_rw("cost_model", &PlanConfig::cost_model)
      .def_rw("cuts", &PlanConfig::cuts)
      .def_prop_rw("kernel", &kernel_name_of, &set_kernel);
}

void bind_report(nb::module_& m) {
  nb::class_<PlanReport>(m, "PlanReport", "What a plan will do. Bytes and operations are those of one layer.")
      .def_ro("nodes", &PlanReport::nodes)
      .def_ro("rows", &PlanReport::rows)
      .def_ro("segments", &PlanReport::segments)
      .def_ro("tiles", &PlanReport::tiles)
      .def_ro("workers", &PlanReport::workers)
      .def_ro("partials", &PlanReport::partials, "(row, KV head) results that tiles produce.")
      .def_ro("merged_rows", &PlanReport::merged_rows, "(row, KV head) pairs with more than one partial.")
      .def_ro("kv_bytes", &PlanReport::kv_bytes, "K and V that tiles read, shared reads counted once per tile.")
      .def_ro("unique_kv_bytes", &PlanReport::unique_kv_bytes, "K and V of the tree, each token once.")
      .def_ro("flops", &PlanReport::flops)
      .def_ro("imbalance", &PlanReport::imbalance,
              "predicted_us over what it were if all workers had the same to do, minus 1.")
      .def_ro("predicted_us", &PlanReport::predicted_us, "Time of the attention by the cost model.");
}

void bind_plans(nb::module_& m) {
  nb::class_<PlanObject>(m, "Plan", nb::is_weak_referenceable(),
                         R"(Tiles, their workers and the merge lists, for one tree on one device.

Capacities are fixed at construction; update() allocates nothing and waits for nothing. One plan serves one attention
at a time: the layers of a model, one after another.)")
      .def(
          "__init__",
          [](PlanObject* self, const PlanConfig& config, std::uintptr_t stream) {
            const Exec& exec = instance_on(stream);
            new (self) PlanObject{Held<Plan<Exec>>(exec, config), nb::none()};
          },
          "config"_a, "stream"_a = 0, "Raises ValueError for a head shape or capacity that makes no sense.")
      .def_static(
          "required_capacity",
          [](const TreeSnapshot& snapshot, const PlanConfig& config, std::uintptr_t stream) {
            return launch(stream,
                          [&](const Exec& exec) { return Plan<Exec>::required_capacity(snapshot, config, exec); });
          },
          "snapshot"_a, "config"_a, "stream"_a = 0, "The capacity that planning this tree takes; computed on the host.")
      .def_prop_ro(
          "config", [](PlanObject& self) { return self.plan->config(); },
          "The configuration, with the defaults filled in.")
      .def_prop_ro(
          "kernel", [](PlanObject& self) { return self.plan->kernel(); },
          "The KernelInfo of what attend() will run, and why it is the portable one where that was not asked for.")
      .def_prop_ro(
          "rows", [](PlanObject& self) { return self.plan->rows(); }, "Rows of the tree of the last update.")
      .def_prop_ro("block_tokens", [](PlanObject& self) { return self.plan->block_tokens(); })
      .def(
          "update",
          [](PlanObject& self, nb::object arrays, std::uintptr_t stream) {
            auto& tree = nb::cast<HeldArrays&>(arrays);
            launch(stream, [&](const Exec& exec) { self.plan->update(exec, *tree); });
            self.arrays = std::move(arrays);
          },
          "arrays"_a, "stream"_a = 0, nb::sig("def update(self, arrays: TreeArrays, stream: int = 0) -> None"),
          "Plans the tree; enqueued on the stream. The plan keeps the arrays alive; they must not change until the\n"
          "attentions that use this plan have run. Raises CapacityError if the tree has too many nodes or rows; what\n"
          "only the device can check is told by report().")
      .def(
          "grow",
          [](PlanObject& self, nb::object arrays, std::uintptr_t stream) {
            auto& tree = nb::cast<HeldArrays&>(arrays);
            launch(stream, [&](const Exec& exec) { self.plan->grow(exec, *tree); });
            self.arrays = std::move(arrays);
          },
          "arrays"_a, "stream"_a = 0, nb::sig("def grow(self, arrays: TreeArrays, stream: int = 0) -> None"),
          "Brings the plan up to date with the same nodes and rows, but longer ones. Raises StalePlanError before the\n"
          "first update, or if the tree has another number of nodes or rows.")
      .def(
          "report",
          [](PlanObject& self, std::uintptr_t stream) {
            return launch(stream, [&](const Exec& exec) { return self.plan->report(exec); });
          },
          "stream"_a = 0,
          "Waits for the stream and describes the plan. Raises StalePlanError before the first update, CapacityError\n"
          "if the last update did not fit, naming what was exceeded.");
}

}  // namespace

void bind_plan(nb::module_& m) {
  bind_config(m);
  bind_fasttree(m);
  bind_report(m);
  bind_plans(m);
}

}  // namespace espalier::python
