// The plan of the fused kernels, checked without them: every pair reads each token that it sees once, merge lists and flags
// follow the format, and a kernel in double precision that reads the plan agrees with the oracle.

#include "plan/streams/stream_plan.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <random>

#include "espalier/error.hpp"
#include "plan/streams/runners.hpp"
#include "support/errors.hpp"
#include "support/execution_spaces.hpp"
#include "support/fused_plan.hpp"
#include "support/instances.hpp"
#include "support/sanitized.hpp"
#include "support/trees.hpp"

namespace espalier::test {
namespace {

using plan::StreamPlan;
using plan::StreamRunner;

/// Wide and narrow nodes, short ones and single tokens, empty ones, several roots, limited rows, rows inside nodes.
Tree random_streams(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto up_to = [&](std::int32_t most) { return std::int32_t(random() % std::uint32_t(most + 1)); };
  Tree tree{"random streams, seed " + std::to_string(seed), {}, {}};
  const std::int32_t nodes = 1 + up_to(40), style = up_to(3);
  for (std::int32_t i = 0; i < nodes; ++i) {
    const std::int32_t parent = i == 0 || up_to(9) == 0 ? -1 : std::max(0, i - 1 - up_to(style == 0 ? 2 : i - 1));
    const std::int32_t length = up_to(9);
    tree.nodes.push_back({parent, length == 0  ? 0
                                  : length < 4 ? 1 + up_to(3)
                                  : length < 8 ? up_to(60)
                                               : up_to(style == 1 ? 600 : 300)});
  }
  const std::int32_t rows = 1 + up_to(style == 2 ? 90 : 30);
  for (std::int32_t i = 0; i < rows; ++i) {
    const std::int32_t node = up_to(nodes - 1);
    tree.rows.push_back({node, up_to(2) == 0 ? up_to(tree.nodes[std::size_t(node)].tokens) : -1});
  }
  return tree;
}

struct Setting {
  PlanConfig config;
  int block_tokens;
  TreeLayout layout;
  plan::StreamOptions options;
};

Setting random_setting(std::uint32_t seed) {
  std::mt19937 random(seed * 7 + 1);
  const auto one_of = [&](std::initializer_list<std::int32_t> values) {
    return values.begin()[random() % values.size()];
  };
  Setting setting{};
  const std::int32_t kv_heads = one_of({1, 1, 2, 3});
  setting.config.heads = {kv_heads * one_of({1, 2, 4, 4, 5, 8, 16, 17, 33}), kv_heads, 4};
  setting.config.scalar = Scalar::bf16;
  setting.config.workers = one_of({1, 2, 5, 24, 132});
  setting.block_tokens = one_of({1, 7, 16, 32, 64, 256});
  setting.layout = random() % 2 == 0 ? TreeLayout::aligned : TreeLayout::contiguous;
  setting.options.chains = random() % 2 == 0;
  return setting;
}

template <class Exec>
std::string wrong_in(const Exec& exec, const StreamPlan<Exec>& plan, const TreeSnapshot& snapshot, bool grown = false) {
  const HeadShape& heads = plan.config().heads;
  const FusedPlanArrays arrays = fused_plan_arrays(exec, plan.view(), heads);
  FusedPlanCheck check(arrays, snapshot, heads, std::int64_t(plan.config().capacity.partials) * heads.group());
  check.grown = grown;
  return check.run();
}

template <class Exec>
void check_forest(const Tree& tree, const Setting& setting) {
  const Exec exec;
  const TreeSnapshot snapshot = snapshot_of(tree, setting.block_tokens, setting.layout);
  PlanConfig config = setting.config;
  config.capacity = StreamPlan<Exec>::required_capacity(snapshot, config, exec, setting.options);
  StreamPlan<Exec> plan(exec, config, setting.options);
  const TreeArrays<Exec> arrays(exec, snapshot);
  plan.update(exec, arrays.view());
  const PlanReport report = plan.report(exec);
  CHECK(std::max(report.tiles, 1) == config.capacity.tiles);
  CHECK(wrong_in(exec, plan, snapshot) == "");
}

TEMPLATE_LIST_TEST_CASE("streams of every named tree let each pair read each token it sees once", "[streams]",
                        ExecutionSpaces) {
  for (const Tree& tree : named_trees())
    for (std::uint32_t seed = 0; seed < 8; ++seed) {
      INFO(tree.name << ", setting of seed " << seed);
      check_forest<TestType>(tree, random_setting(seed));
    }
}

TEMPLATE_LIST_TEST_CASE("streams of hundreds of random forests let each pair read each token it sees once", "[streams]",
                        ExecutionSpaces) {
  for (std::uint32_t seed = 0; seed < random_cases(300); ++seed) {
    INFO("forest and setting of seed " << seed);
    check_forest<TestType>(seed % 3 == 0 ? random_forest(seed) : random_streams(seed), random_setting(seed));
  }
}

TEMPLATE_LIST_TEST_CASE("streams of thousands of small random forests let each pair read each token it sees once",
                        "[streams]", ExecutionSpaces) {
  for (std::uint32_t seed = 1000; seed < 1000 + random_cases(3000); ++seed) {
    INFO("forest and setting of seed " << seed);
    Setting setting = random_setting(seed);
    HeadShape& heads = setting.config.heads;
    heads = {heads.group(), 1, 4};  // more KV heads take long to check, and are cut alike
    check_forest<TestType>(random_forest(seed), setting);
  }
}

TEMPLATE_LIST_TEST_CASE("attention by the plan of streams agrees with the oracle", "[streams]", ExecutionSpaces) {
  const TestType exec;
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    INFO("forest and setting of seed " << seed);
    const Setting setting = random_setting(seed);
    const Tree tree = seed % 2 == 0 ? random_forest(seed) : random_streams(seed);
    const HeadShape& heads = setting.config.heads;
    const TreeSnapshot snapshot = snapshot_of(tree, setting.block_tokens, setting.layout);
    PlanConfig config = setting.config;
    config.capacity = StreamPlan<TestType>::required_capacity(snapshot, config, exec, setting.options);
    StreamPlan<TestType> plan(exec, config, setting.options);
    const TreeArrays<TestType> arrays(exec, snapshot);
    plan.update(exec, arrays.view());
    const Inputs inputs = random_inputs<float>(tree, heads, seed);
    const oracle::Result expected = oracle_of(tree, heads, inputs);
    const oracle::Result found =
        attend_by_plan(fused_plan_arrays(exec, plan.view(), heads), snapshot, tree, heads, inputs, setting.layout);
    const std::vector<float> out(found.out.begin(), found.out.end()), lse(found.lse.begin(), found.lse.end());
    CHECK(disagreement(out, lse, expected, heads, Scalar::f32, tolerance_of(tree, heads, inputs)) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("every runner of streams writes the same plan, with any number of threads", "[streams]",
                        ExecutionSpaces) {
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    INFO("forest and setting of seed " << seed);
    const Setting setting = random_setting(seed);
    const TreeSnapshot snapshot = snapshot_of(random_streams(seed), setting.block_tokens, setting.layout);
    PlanConfig config = setting.config;
    config.capacity = StreamPlan<TestType>::required_capacity(snapshot, config, TestType{}, setting.options);
    FusedPlanArrays first;
    bool is_first = true;
    for (const TestType& exec : instances<TestType>({1, 4})) {
      StreamPlan<TestType> plan(exec, config, setting.options);
      const TreeArrays<TestType> arrays(exec, snapshot);
      for (const StreamRunner runner :
           {StreamRunner::by_size, StreamRunner::one_thread, StreamRunner::one_team, StreamRunner::device}) {
        if (runner == StreamRunner::one_thread && !plan::streams::kRunsOnHost<TestType>) continue;
        plan.update(exec, arrays.view(), runner);
        FusedPlanArrays planned = fused_plan_arrays(exec, plan.view(), config.heads);
        if (is_first)
          first = std::move(planned);
        else
          CHECK(planned == first);
        is_first = false;
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a grown plan of streams covers the tree as it is then", "[streams]", ExecutionSpaces) {
  const TestType exec;
  for (std::uint32_t seed = 0; seed < random_cases(120); ++seed) {
    INFO("forest and setting of seed " << seed);
    const Setting setting = random_setting(seed);
    std::vector<Tree> steps{seed % 3 == 0 ? random_forest(seed) : random_streams(seed)};
    for (std::uint32_t step = 0; step < 2; ++step) steps.push_back(with_longer_leaves(steps.back(), seed * 2 + step));
    // Tokens stay where they are: every step has the last one's blocks.
    std::vector<TreeSnapshot> snapshots;
    for (const Tree& tree : steps) {
      snapshots.push_back(snapshot_of(steps.back(), setting.block_tokens, setting.layout));
      const TreeSnapshot lengths = snapshot_of(tree, setting.block_tokens, setting.layout);
      REQUIRE(lengths.row_index == snapshots.back().row_index);
      snapshots.back().tokens = lengths.tokens;
      snapshots.back().row_visible = lengths.row_visible;
    }
    PlanConfig config = setting.config;
    config.capacity = StreamPlan<TestType>::required_capacity(snapshots[0], config, exec, setting.options);
    StreamPlan<TestType> plan(exec, config, setting.options);
    TreeArrays<TestType> arrays(exec, snapshots[0]);
    plan.update(exec, arrays.view());
    for (std::size_t step = 1; step < snapshots.size(); ++step) {
      arrays.upload(exec, snapshots[step]);
      plan.grow(exec, arrays.view());
      CHECK(wrong_in(exec, plan, snapshots[step], true) == "");
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a plan of streams that lacks one segment, tile or partial says so and has no tiles",
                        "[streams]", ExecutionSpaces) {
  const TestType exec;
  const TreeSnapshot snapshot = snapshot_of(random_streams(7), 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  for (const auto member : {&PlanCapacity::segments, &PlanCapacity::tiles, &PlanCapacity::partials}) {
    PlanConfig config = random_setting(7).config;
    config.heads = {8, 2, 4};
    config.capacity = StreamPlan<TestType>::required_capacity(snapshot, config, exec);
    const std::int32_t needed = config.capacity.*member;
    config.capacity.*member = needed - 1;
    INFO(needed - 1 << " of " << needed);
    StreamPlan<TestType> plan(exec, config);
    plan.update(exec, arrays.view());
    CHECK(wrong_error(ErrorCode::capacity_exceeded, std::to_string(needed) + " ",
                      [&] { static_cast<void>(plan.report(exec)); }) == "");
    const FusedPlanArrays planned = fused_plan_arrays(exec, plan.view(), config.heads);
    CHECK(planned.wide_tiles.empty());
    CHECK(planned.narrow_tiles.empty());
    CHECK(planned.merge_entries.empty());
    plan.grow(exec, arrays.view());
  }
}

/// A plan of streams, and the tree that it was made for.
template <class Exec>
struct Planned {
  TreeArrays<Exec> arrays;
  StreamPlan<Exec> plan;

  Planned(const Exec& exec, const TreeSnapshot& snapshot, const PlanConfig& config)
      : arrays(exec, snapshot), plan(exec, config) {
    plan.update(exec, arrays.view());
    exec.fence();
  }
};

/// For 32/8/128 heads, with room for this tree alone.
template <class Exec>
PlanConfig model_config(const Exec& exec, const TreeSnapshot& snapshot, std::int32_t workers) {
  PlanConfig config;
  config.heads = {32, 8, 128};
  config.scalar = Scalar::bf16;
  config.workers = workers;
  config.capacity = StreamPlan<Exec>::required_capacity(snapshot, config, exec);
  return config;
}

TEMPLATE_LIST_TEST_CASE("a plan of streams has no merge where its capacity says that nothing can need one", "[streams]",
                        ExecutionSpaces) {
  const TestType exec;
  const auto sequences = [](std::int32_t first, std::int32_t second) {
    return make_snapshot(std::vector<NodeSpec>{{-1, first}, {-1, second}}, {}, 16);
  };
  for (const auto& [heads, always_merges] : {std::pair{HeadShape{8, 2, 4}, false}, {HeadShape{34, 2, 4}, true}}) {
    PlanConfig config;
    config.heads = heads;
    config.workers = 2;
    const auto exact = [&](const TreeSnapshot& snapshot) {
      return StreamPlan<TestType>::required_capacity(snapshot, config, exec);
    };
    const TreeSnapshot whole = sequences(30, 20);
    config.capacity = exact(whole);
    CHECK(config.capacity.partials == 1);
    CHECK((Planned(exec, whole, config).plan.view().merges != 0) == always_merges);

    // A row that sees nothing is written by the merge.
    const TreeSnapshot empty = sequences(30, 0);
    const auto report_of_empty = [&] { return Planned(exec, empty, config).plan.report(exec); };
    if (!always_merges)
      CHECK(wrong_error(ErrorCode::capacity_exceeded, "2 partials (capacity 1)", report_of_empty) == "");
    config.capacity = exact(empty);
    CHECK(Planned(exec, empty, config).plan.view().merges != 0);
    CHECK(report_of_empty().rows == 2);

    std::vector<NodeSpec> shared(8, NodeSpec{0, 20});  // too many pairs for a narrow tile below it
    shared[0] = {-1, 90};
    const TreeSnapshot cut = make_snapshot(shared, {}, 16);
    config.capacity = exact(cut);
    CHECK(Planned(exec, cut, config).plan.view().merges != 0);
    CHECK(Planned(exec, cut, config).plan.report(exec).merged_rows > 0);
  }
}

TEMPLATE_LIST_TEST_CASE("a plan of streams with a node of more tokens than a segment holds says so", "[streams]",
                        ExecutionSpaces) {
  const TestType exec;
  constexpr std::int32_t kMost = (1 << 23) - 1;
  for (const std::int32_t rows : {1, 20})  // narrow tiles, and wide ones
    for (const std::int32_t tokens : {kMost, kMost + 1}) {
      INFO(rows << " rows, " << tokens << " tokens");
      const TreeSnapshot snapshot =
          make_snapshot(std::vector<NodeSpec>{{-1, tokens}}, std::vector<RowSpec>(std::size_t(rows), RowSpec{0}), 256);
      const TreeArrays<TestType> arrays(exec, snapshot);
      PlanConfig config = random_setting(7).config;
      config.heads = {2, 1, 4};
      config.capacity = StreamPlan<TestType>::required_capacity(snapshot, config, exec);
      StreamPlan<TestType> plan(exec, config);
      plan.update(exec, arrays.view());
      if (tokens == kMost)
        CHECK(plan.report(exec).tiles == config.capacity.tiles);
      else
        CHECK(wrong_error(ErrorCode::capacity_exceeded, "8388608 tokens in one node (capacity 8388607)",
                          [&] { static_cast<void>(plan.report(exec)); }) == "");
    }
}

TEMPLATE_LIST_TEST_CASE("a plan of streams spreads trees with enough work within 8 % of evenly", "[streams]",
                        ExecutionSpaces) {
  const TestType exec;
  constexpr double kEnoughUs = 40;  // pieces are long beside less
  int plans = 0;
  for (const auto& [above, leaf] : {std::pair{4096, 416}, {2048, 64}, {20000, 16}, {300, 700}})
    for (const std::int32_t leaves : {64, 256, 1000}) {
      INFO(above << " tokens above " << leaves << " leaves of " << leaf);
      std::vector<NodeSpec> nodes{{-1, above}};
      for (std::int32_t i = 0; i < leaves; ++i) nodes.push_back({0, leaf});
      const TreeSnapshot snapshot = make_snapshot(nodes, {}, 16);
      const PlanReport report = Planned(exec, snapshot, model_config(exec, snapshot, 132)).plan.report(exec);
      if (report.predicted_us < kEnoughUs) continue;
      CHECK(report.imbalance < 0.08);  // 128 of 132 workers are whole gangs, and 120 are the next fewer
      ++plans;
    }
  CHECK(plans >= 8);
}

TEMPLATE_LIST_TEST_CASE("wide streams of one node are not cut where cutting gains nothing", "[streams]",
                        ExecutionSpaces) {
  const TestType exec;
  const std::vector<NodeSpec> nodes{{-1, 512}};
  const std::vector<RowSpec> rows(1024, RowSpec{0});
  const TreeSnapshot snapshot = make_snapshot(nodes, rows, 32);
  const PlanConfig config = model_config(exec, snapshot, 88);  // 11 gangs for 32 streams: three each, but for one
  const Planned planned(exec, snapshot, config);
  const FusedPlanArrays tiles = fused_plan_arrays(exec, planned.plan.view(), config.heads);
  CHECK(tiles.wide_tiles.size() == 1024 * 4 / detail::kWidePairs * 8);  // rows * group / pairs of a tile * KV heads
  for (const detail::FusedTile& tile : tiles.wide_tiles) CHECK(tile.tokens == 512);
}

TEMPLATE_LIST_TEST_CASE("narrow tiles of a small tree are one round of each worker's warps", "[streams]",
                        ExecutionSpaces) {
  const TestType exec;
  std::vector<NodeSpec> nodes{{-1, 1024}};
  for (std::int32_t i = 0; i < 16; ++i) nodes.push_back({0, 256});
  for (std::int32_t i = 0; i < 64; ++i) nodes.push_back({1 + i / 4, 32});
  const TreeSnapshot snapshot = make_snapshot(nodes, {}, 32);
  const PlanConfig config = model_config(exec, snapshot, 132);
  const Planned planned(exec, snapshot, config);
  for (const detail::FusedWorker& worker : fused_plan_arrays(exec, planned.plan.view(), config.heads).worker)
    CHECK(worker.narrow_end - worker.narrow_begin <= 8);
}

TEMPLATE_LIST_TEST_CASE("streams stay whole where nothing is shared and every warp has one", "[streams]",
                        ExecutionSpaces) {
  const TestType exec;
  PlanConfig config;
  config.heads = {32, 8, 256};  // large, so that memory is saturated for long
  config.scalar = Scalar::bf16;
  config.workers = 16;
  // 31 sequences of 8 KV heads are nearly two rounds of 16 blocks of 8 warps; 17 are a round and a bit, where the bit would
  // leave most warps idle; with one longer than what a warp has on average, the others still stay whole.
  struct Batch {
    std::int32_t sequences, first;
    bool whole;
  };
  for (const Batch& batch : {Batch{31, 1024, true}, {17, 1024, false}, {31, 12000, true}}) {
    INFO(batch.sequences << " sequences of 1,024 tokens, but for the first, of " << batch.first);
    std::vector<NodeSpec> nodes{{-1, batch.first}};
    for (std::int32_t i = 1; i < batch.sequences; ++i) nodes.push_back({-1, 1024});
    const TreeSnapshot snapshot = make_snapshot(nodes, {}, 32);
    config.capacity = StreamPlan<TestType>::required_capacity(snapshot, config, exec);
    StreamPlan<TestType> plan(exec, config);
    const TreeArrays<TestType> arrays(exec, snapshot);
    plan.update(exec, arrays.view());
    CHECK(wrong_in(exec, plan, snapshot) == "");
    const FusedPlanArrays planned = fused_plan_arrays(exec, plan.view(), config.heads);
    std::int32_t cut = 0;
    for (const detail::FusedTile& tile : planned.narrow_tiles)
      if (tile.tokens != 1024) ++cut;
    CHECK((planned.header.queue_begin == planned.header.queue_end) == batch.whole);
    if (!batch.whole) {
      CHECK(cut > batch.sequences);
    } else if (batch.first == 1024) {
      CHECK(cut == 0);
      CHECK(planned.merge_entries.empty());
      for (const detail::FusedWorker& worker : planned.worker) CHECK(worker.narrow_end - worker.narrow_begin <= 16);
    } else {
      CHECK(cut > 8 * 12000 / (2 * 1024));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a plan of streams checks what it is given", "[streams]", ExecutionSpaces) {
  const TestType exec;
  const auto make = [&](const PlanConfig& config) { StreamPlan<TestType>(exec, config); };
  PlanConfig config;
  config.heads = {4, 2, 64};
  config.capacity = {10, 10};
  config.workers = 1025;
  CHECK(wrong_error(ErrorCode::invalid_argument, "workers is 1025", [&] { make(config); }) == "");
  config.workers = 4;
  StreamPlan<TestType> plan(exec, config);
  const TreeArrays<TestType> tree(exec, snapshot_of(random_streams(3), 16));
  CHECK(wrong_error(ErrorCode::stale_plan, "before the first update", [&] { plan.grow(exec, tree.view()); }) == "");
  CHECK(wrong_error(ErrorCode::stale_plan, "before its first update", [&] { static_cast<void>(plan.view()); }) == "");
  CHECK(wrong_error(ErrorCode::capacity_exceeded, "the plan's capacity is 10",
                    [&] { plan.update(exec, tree.view()); }) == "");
}

TEMPLATE_LIST_TEST_CASE("tiles whose rows see nothing else write the output themselves", "[streams]", ExecutionSpaces) {
  const TestType exec;
  // Single prompts that one worker each could take, and a chunk of a prompt.
  Tree apart{"apart", {}, {}};
  for (std::int32_t node = 0; node < 40; ++node) {
    apart.nodes.push_back({-1, 20 + node % 10});
    apart.rows.push_back({node});
  }
  Tree chunk{"chunk", {{-1, 100}}, {}};
  for (std::int32_t row = 0; row < 50; ++row) chunk.rows.push_back({0, row + 1});
  for (const Tree& tree : {apart, chunk}) {
    INFO(tree.name);
    const TreeSnapshot snapshot = snapshot_of(tree, 16);
    PlanConfig config;
    config.heads = {4, 1, 4};
    config.workers = 1;
    config.capacity = StreamPlan<TestType>::required_capacity(snapshot, config, exec);
    StreamPlan<TestType> plan(exec, config);
    const TreeArrays<TestType> arrays(exec, snapshot);
    plan.update(exec, arrays.view());
    const FusedPlanArrays planned = fused_plan_arrays(exec, plan.view(), config.heads);
    FusedPlanCheck check(planned, snapshot, config.heads, 1 << 16);
    CHECK(check.run() == "");
    CHECK(check.lonely() == 0);
    CHECK(planned.merge_entries.empty());
  }
}

TEMPLATE_LIST_TEST_CASE("streams of 100,000 nodes are the same on many threads as on one", "[streams]",
                        ExecutionSpaces) {
  const TestType all;
  std::mt19937 random(1);
  std::vector<NodeSpec> nodes{{-1, 300}};
  while (nodes.size() < 100000)
    nodes.push_back({std::int32_t(random() % nodes.size() / (1 + random() % 8)), std::int32_t(random() % 50)});
  const TreeSnapshot snapshot = make_snapshot(nodes, {}, 16);
  PlanConfig config;
  config.heads = {4, 1, 1};
  config.workers = 24;
  config.capacity = StreamPlan<TestType>::required_capacity(snapshot, config, all);
  const auto planned_on = [&](const TestType& exec) {
    StreamPlan<TestType> plan(exec, config);
    const TreeArrays<TestType> arrays(exec, snapshot);
    plan.update(exec, arrays.view());
    CHECK(plan.report(exec).tiles == config.capacity.tiles);
    return fused_plan_arrays(exec, plan.view(), config.heads);
  };
  const FusedPlanArrays planned = planned_on(all);
  for (const TestType& exec : instances<TestType>({1, 2, 4})) CHECK(planned_on(exec) == planned);
}

}  // namespace
}  // namespace espalier::test
