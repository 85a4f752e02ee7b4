// The plan of the fused kernels, checked without them: every pair reads each token that it sees once, merge lists and flags
// follow the format, and a kernel in double precision that reads the plan agrees with the oracle.

#include "plan/stacks/stack_plan.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <random>

#include "espalier/error.hpp"
#include "plan/stacks/runners.hpp"
#include "support/errors.hpp"
#include "support/execution_spaces.hpp"
#include "support/fused_plan.hpp"
#include "support/instances.hpp"
#include "support/sanitized.hpp"
#include "support/trees.hpp"

namespace espalier::test {
namespace {

using plan::StackPlan;
using plan::StackRunner;

/// Big and small nodes, short ones and single tokens, empty ones, several roots, limited rows, rows inside nodes.
Tree random_tree_of_stacks(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto up_to = [&](std::int32_t most) { return std::int32_t(random() % std::uint32_t(most + 1)); };
  Tree tree{"random stacks, seed " + std::to_string(seed), {}, {}};
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
};

Setting random_setting(std::uint32_t seed) {
  std::mt19937 random(seed * 7 + 1);
  const auto one_of = [&](std::initializer_list<std::int32_t> values) {
    return values.begin()[random() % values.size()];
  };
  Setting setting{};
  const std::int32_t kv_heads = one_of({1, 1, 2, 3});
  setting.config.heads = {kv_heads * one_of({1, 2, 4, 4, 5, 8, 16, 33, 64, 100, 130}), kv_heads, 4};
  setting.config.scalar = Scalar::bf16;
  setting.config.workers = one_of({1, 2, 5, 24, 132});
  setting.block_tokens = one_of({1, 7, 16, 32, 64, 256});
  setting.layout = random() % 2 == 0 ? TreeLayout::aligned : TreeLayout::contiguous;
  return setting;
}

template <class Exec>
std::string wrong_in(const Exec& exec, const StackPlan<Exec>& plan, const TreeSnapshot& snapshot) {
  const HeadShape& heads = plan.config().heads;
  const FusedPlanArrays arrays = fused_plan_arrays(exec, plan.view(), heads);
  return FusedPlanCheck(arrays, snapshot, heads, std::int64_t(plan.config().capacity.partials) * heads.group()).run();
}

template <class Exec>
void check_forest(const Tree& tree, const Setting& setting) {
  const Exec exec;
  const TreeSnapshot snapshot = snapshot_of(tree, setting.block_tokens, setting.layout);
  PlanConfig config = setting.config;
  config.capacity = StackPlan<Exec>::required_capacity(snapshot, config, exec);
  StackPlan<Exec> plan(exec, config);
  const TreeArrays<Exec> arrays(exec, snapshot);
  plan.update(exec, arrays.view());
  const PlanReport report = plan.report(exec);
  CHECK(std::max(report.tiles, 1) == config.capacity.tiles);
  CHECK(wrong_in(exec, plan, snapshot) == "");
}

TEMPLATE_LIST_TEST_CASE("stacks of every named tree let each pair read each token it sees once", "[stacks]",
                        ExecutionSpaces) {
  for (const Tree& tree : named_trees())
    for (std::uint32_t seed = 0; seed < 8; ++seed) {
      INFO(tree.name << ", setting of seed " << seed);
      check_forest<TestType>(tree, random_setting(seed));
    }
}

TEMPLATE_LIST_TEST_CASE("stacks of hundreds of random forests let each pair read each token it sees once", "[stacks]",
                        ExecutionSpaces) {
  for (std::uint32_t seed = 0; seed < random_cases(300); ++seed) {
    INFO("forest and setting of seed " << seed);
    check_forest<TestType>(seed % 3 == 0 ? random_forest(seed) : random_tree_of_stacks(seed), random_setting(seed));
  }
}

TEMPLATE_LIST_TEST_CASE("stacks of thousands of small random forests let each pair read each token it sees once",
                        "[stacks]", ExecutionSpaces) {
  for (std::uint32_t seed = 1000; seed < 1000 + random_cases(3000); ++seed) {
    INFO("forest and setting of seed " << seed);
    Setting setting = random_setting(seed);
    HeadShape& heads = setting.config.heads;
    heads = {heads.group(), 1, 4};  // more KV heads take long to check, and are cut alike
    check_forest<TestType>(random_forest(seed), setting);
  }
}

TEMPLATE_LIST_TEST_CASE("attention by the plan of stacks agrees with the oracle", "[stacks]", ExecutionSpaces) {
  const TestType exec;
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    INFO("forest and setting of seed " << seed);
    const Setting setting = random_setting(seed);
    const Tree tree = seed % 2 == 0 ? random_forest(seed) : random_tree_of_stacks(seed);
    const HeadShape& heads = setting.config.heads;
    const TreeSnapshot snapshot = snapshot_of(tree, setting.block_tokens, setting.layout);
    PlanConfig config = setting.config;
    config.capacity = StackPlan<TestType>::required_capacity(snapshot, config, exec);
    StackPlan<TestType> plan(exec, config);
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

TEMPLATE_LIST_TEST_CASE("every runner of stacks writes the same plan, with any number of threads", "[stacks]",
                        ExecutionSpaces) {
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    INFO("forest and setting of seed " << seed);
    const Setting setting = random_setting(seed);
    const TreeSnapshot snapshot = snapshot_of(random_tree_of_stacks(seed), setting.block_tokens, setting.layout);
    PlanConfig config = setting.config;
    config.capacity = StackPlan<TestType>::required_capacity(snapshot, config, TestType{});
    FusedPlanArrays first;
    bool is_first = true;
    for (const TestType& exec : instances<TestType>({1, 4})) {
      StackPlan<TestType> plan(exec, config);
      const TreeArrays<TestType> arrays(exec, snapshot);
      for (const StackRunner runner :
           {StackRunner::by_size, StackRunner::one_thread, StackRunner::one_team, StackRunner::device}) {
        if (runner == StackRunner::one_thread && !plan::stacks::kRunsOnHost<TestType>) continue;
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

TEMPLATE_LIST_TEST_CASE("a grown plan of stacks covers the tree as it is then", "[stacks]", ExecutionSpaces) {
  const TestType exec;
  for (std::uint32_t seed = 0; seed < random_cases(120); ++seed) {
    INFO("forest and setting of seed " << seed);
    const Setting setting = random_setting(seed);
    std::vector<Tree> steps{seed % 3 == 0 ? random_forest(seed) : random_tree_of_stacks(seed)};
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
    config.capacity = StackPlan<TestType>::required_capacity(snapshots[0], config, exec);
    StackPlan<TestType> plan(exec, config);
    TreeArrays<TestType> arrays(exec, snapshots[0]);
    plan.update(exec, arrays.view());
    for (std::size_t step = 1; step < snapshots.size(); ++step) {
      arrays.upload(exec, snapshots[step]);
      plan.grow(exec, arrays.view());
      CHECK(wrong_in(exec, plan, snapshots[step]) == "");
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a plan of stacks that lacks one segment, tile or partial says so and has no tiles", "[stacks]",
                        ExecutionSpaces) {
  const TestType exec;
  const TreeSnapshot snapshot = make_snapshot(std::vector<NodeSpec>{{-1, 14000}, {0, 300}, {0, 500}}, {}, 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  for (const auto member : {&PlanCapacity::segments, &PlanCapacity::tiles, &PlanCapacity::partials}) {
    PlanConfig config;
    config.heads = {8, 2, 128};
    config.scalar = Scalar::bf16;
    config.workers = 5;
    config.capacity = StackPlan<TestType>::required_capacity(snapshot, config, exec);
    const std::int32_t needed = config.capacity.*member;
    config.capacity.*member = needed - 1;
    INFO(needed - 1 << " of " << needed);
    StackPlan<TestType> plan(exec, config);
    plan.update(exec, arrays.view());
    CHECK(wrong_error(ErrorCode::capacity_exceeded, std::to_string(needed) + " ",
                      [&] { static_cast<void>(plan.report(exec)); }) == "");
    const FusedPlanArrays planned = fused_plan_arrays(exec, plan.view(), config.heads);
    CHECK(planned.tiles.empty());
    CHECK(planned.merge_entries.empty());
    plan.grow(exec, arrays.view());
  }
}

/// A plan of stacks, and the tree that it was made for.
template <class Exec>
struct Planned {
  TreeArrays<Exec> arrays;
  StackPlan<Exec> plan;

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
  config.capacity = StackPlan<Exec>::required_capacity(snapshot, config, exec);
  return config;
}

TEST_CASE("sums of stacks stop at what no capacity is enough for", "[stacks]") {
  plan::stacks::StackSums sums, large;
  sums.segments = 2147483640;
  large.segments = 6;
  large.tiles = 2147483647;
  sums += large;
  CHECK(sums.segments == 2147483646);
  CHECK(sums.tiles == plan::stacks::kTooMany);
  sums += large;
  CHECK(sums.segments == plan::stacks::kTooMany);
  CHECK(sums.tiles == plan::stacks::kTooMany);
}

TEMPLATE_LIST_TEST_CASE("a plan of stacks has no merge where its capacity says that nothing can need one", "[stacks]",
                        ExecutionSpaces) {
  const TestType exec;
  const auto sequences = [](std::int32_t first, std::int32_t second) {
    return make_snapshot(std::vector<NodeSpec>{{-1, first}, {-1, second}}, {}, 16);
  };
  for (const auto& [heads, always_merges] : {std::pair{HeadShape{8, 2, 4}, false}, {HeadShape{260, 2, 4}, true}}) {
    PlanConfig config;
    config.heads = heads;
    config.workers = 2;
    const auto exact = [&](const TreeSnapshot& snapshot) {
      return StackPlan<TestType>::required_capacity(snapshot, config, exec);
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

    std::vector<NodeSpec> shared(91,
                                 NodeSpec{0, 90});  // no two children fit into a stack: the node above them is alone
    for (std::size_t i = 6; i < shared.size(); ++i) shared[i] = {1 + std::int32_t(i % 5), 20};
    shared[0] = {-1, 90};
    const TreeSnapshot cut = make_snapshot(shared, {}, 16);
    config.capacity = exact(cut);
    CHECK(Planned(exec, cut, config).plan.view().merges != 0);
    CHECK(Planned(exec, cut, config).plan.report(exec).merged_rows > 0);
  }
}

TEMPLATE_LIST_TEST_CASE("a plan of stacks spreads trees with enough work within 5 % of evenly", "[stacks]",
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
      CHECK(report.imbalance < 0.05);
      ++plans;
    }
  CHECK(plans >= 8);
}

TEMPLATE_LIST_TEST_CASE("stacks are not cut where cutting gains nothing", "[stacks]", ExecutionSpaces) {
  const TestType exec;
  std::vector<NodeSpec> nodes{{-1, 512}};
  for (std::int32_t i = 0; i < 1024; ++i) nodes.push_back({0, 32});
  const TreeSnapshot snapshot = make_snapshot(nodes, {}, 32);
  const PlanConfig config =
      model_config(exec, snapshot, 132);  // 1,024 * 4 pairs of 8 KV heads: 256 stacks, of 128 pairs
  const Planned planned(exec, snapshot, config);
  const FusedPlanArrays plan = fused_plan_arrays(exec, planned.plan.view(), config.heads);
  CHECK(plan.tiles.size() == 256);
  for (const detail::FusedTile& tile : plan.tiles) {
    CHECK(tile.slots == 512 + 32 * 32);
    CHECK(tile.flags == detail::kTileDirect);
  }
  for (const detail::FusedWorker& worker : plan.worker) CHECK(worker.tile_end - worker.tile_begin <= 2);
}

TEMPLATE_LIST_TEST_CASE("the halves of a stack take turns of whole blocks", "[stacks]", ExecutionSpaces) {
  const TestType exec;
  // Leaves whose slots do not divide a block; a trunk that ends inside one.
  for (const auto& [trunk, leaf] : {std::pair{100, 37}, {512, 32}, {16, 300}, {0, 5000}}) {
    INFO(trunk << " tokens above leaves of " << leaf);
    std::vector<NodeSpec> nodes{{-1, trunk}};
    for (std::int32_t i = 0; i < 32; ++i) nodes.push_back({0, leaf});
    const TreeSnapshot snapshot = make_snapshot(nodes, {}, 16);
    const PlanConfig config = model_config(exec, snapshot, 1);
    const Planned planned(exec, snapshot, config);
    const FusedPlanArrays plan = fused_plan_arrays(exec, planned.plan.view(), config.heads);
    REQUIRE(plan.tiles.size() == 8);
    const detail::FusedTile& tile = plan.tiles[0];
    const int blocks = (tile.slots + 127) / 128, shared = (trunk + 127) / 128;
    std::vector<int> seen_by(std::size_t(blocks), 0);
    int slot = 0;
    for (int s = tile.segment_begin; s < tile.segment_end; ++s) {
      const detail::FusedSegment& segment = plan.segments[std::size_t(s)];
      const int first = slot;
      slot += detail::stack_slots(segment.tokens);
      if (segment.row_end - segment.row_begin > 1) continue;
      for (int block = first / 128; block * 128 < slot; ++block)
        seen_by[std::size_t(block)] |= segment.row_begin < 16 ? 1 : 2;
    }
    int mixed = 0, turns = 0;
    for (int block = shared; block < blocks; ++block) {
      mixed += seen_by[std::size_t(block)] == 3 ? 1 : 0;
      turns += block > shared && seen_by[std::size_t(block)] != seen_by[std::size_t(block - 1)] ? 1 : 0;
    }
    CHECK(mixed <= 1);  // where the first half ends
    CHECK(turns >= std::min(blocks - shared - 2, 20));
  }
}

TEMPLATE_LIST_TEST_CASE("every other stack has its halves early where memory would else have nothing to do above",
                        "[stacks]", ExecutionSpaces) {
  const TestType exec;
  struct Case {
    std::vector<std::int32_t> trunk;  // tokens, from the root down
    int front;                        // slots of it before early halves
  };
  // A trunk of one node, which is parted; one whose root is all of the front, not a block long; the same of a whole block;
  // one that is too short.
  for (const Case& c : {Case{{500}, 128}, {{90, 420}, 96}, {{128, 384}, 128}, {{460}, 0}}) {
    INFO("a trunk of " << c.trunk.size() << " nodes, the root of " << c.trunk[0] << " tokens");
    const auto tree_of = [&](std::int32_t leaf) {
      std::vector<NodeSpec> nodes;
      for (const std::int32_t tokens : c.trunk) nodes.push_back({std::int32_t(nodes.size()) - 1, tokens});
      const auto parent = std::int32_t(nodes.size()) - 1;
      for (std::int32_t i = 0; i < 160; ++i) nodes.push_back({parent, leaf});
      return nodes;
    };
    PlanConfig config;
    config.heads = {64, 1, 128};
    config.scalar = Scalar::bf16;
    config.workers = 88;
    const TreeSnapshot longest = make_snapshot(tree_of(130), {}, 16);
    TreeSnapshot snapshot = longest;
    snapshot.tokens = make_snapshot(tree_of(123), {}, 16).tokens;
    snapshot.row_visible = make_snapshot(tree_of(123), {}, 16).row_visible;
    config.capacity = StackPlan<TestType>::required_capacity(snapshot, config, exec);
    StackPlan<TestType> plan(exec, config);
    TreeArrays<TestType> arrays(exec, snapshot);
    plan.update(exec, arrays.view());
    CHECK(wrong_in(exec, plan, snapshot) == "");
    const FusedPlanArrays planned = fused_plan_arrays(exec, plan.view(), config.heads);
    int early = 0, wrong_front = 0;
    for (const detail::FusedTile& tile : planned.tiles) {
      int front = 0, behind = 0;  // slots of the trunk
      bool after_leaf = false;
      for (int s = tile.segment_begin; s < tile.segment_end; ++s) {
        const detail::FusedSegment& segment = planned.segments[std::size_t(s)];
        const bool is_leaf = segment.row_end - segment.row_begin == 1;
        after_leaf = after_leaf || is_leaf;
        if (!is_leaf) (after_leaf ? behind : front) += detail::stack_slots(segment.tokens);
      }
      early += behind > 0 ? 1 : 0;
      wrong_front += behind > 0 && front != c.front ? 1 : 0;
    }
    CHECK(planned.tiles.size() == 80);
    CHECK(early == 40);
    CHECK(wrong_front == 0);

    arrays.upload(exec, longest);
    plan.grow(exec, arrays.view());
    CHECK(wrong_in(exec, plan, longest) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("a node that would be in many half-empty stacks has tiles of its own", "[stacks]",
                        ExecutionSpaces) {
  const TestType exec;
  std::vector<NodeSpec> nodes{{-1, 1000}};  // 16 subtrees of 20 rows: no two fit into 128 pairs
  for (std::int32_t i = 0; i < 16; ++i) nodes.push_back({0, 64});
  for (std::int32_t i = 0; i < 16 * 20; ++i) nodes.push_back({1 + i % 16, 16});
  const TreeSnapshot snapshot = make_snapshot(nodes, {}, 16);
  const PlanConfig config = model_config(exec, snapshot, 132);
  const Planned planned(exec, snapshot, config);
  CHECK(wrong_in(exec, planned.plan, snapshot) == "");
  const FusedPlanArrays plan = fused_plan_arrays(exec, planned.plan.view(), config.heads);
  int rows = 0;
  for (const detail::FusedTile& tile : plan.tiles) {
    const detail::FusedSegment& first = plan.segments[std::size_t(tile.segment_begin)];
    if (first.row_end - first.row_begin == 320) rows += tile.skip == 0 ? tile.pairs / 4 : 0;
  }
  CHECK(rows == 320 * 8);
}

TEMPLATE_LIST_TEST_CASE("a plan of stacks checks what it is given", "[stacks]", ExecutionSpaces) {
  const TestType exec;
  const auto make = [&](const PlanConfig& config) { StackPlan<TestType>(exec, config); };
  PlanConfig config;
  config.heads = {4, 2, 64};
  config.capacity = {10, 10};
  config.workers = 1025;
  CHECK(wrong_error(ErrorCode::invalid_argument, "workers is 1025", [&] { make(config); }) == "");
  config.workers = 4;
  StackPlan<TestType> plan(exec, config);
  const TreeArrays<TestType> tree(exec, snapshot_of(random_tree_of_stacks(3), 16));
  CHECK(wrong_error(ErrorCode::stale_plan, "before the first update", [&] { plan.grow(exec, tree.view()); }) == "");
  CHECK(wrong_error(ErrorCode::stale_plan, "before its first update", [&] { static_cast<void>(plan.view()); }) == "");
  CHECK(wrong_error(ErrorCode::capacity_exceeded, "the plan's capacity is 10",
                    [&] { plan.update(exec, tree.view()); }) == "");
}

TEMPLATE_LIST_TEST_CASE("tiles whose rows see nothing else write the output themselves", "[stacks]", ExecutionSpaces) {
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
    config.capacity = StackPlan<TestType>::required_capacity(snapshot, config, exec);
    StackPlan<TestType> plan(exec, config);
    const TreeArrays<TestType> arrays(exec, snapshot);
    plan.update(exec, arrays.view());
    const FusedPlanArrays planned = fused_plan_arrays(exec, plan.view(), config.heads);
    FusedPlanCheck check(planned, snapshot, config.heads, 1 << 16);
    CHECK(check.run() == "");
    CHECK(check.lonely() == 0);
    CHECK(planned.merge_entries.empty());
  }
}

TEMPLATE_LIST_TEST_CASE("stacks of 100,000 nodes are the same on many threads as on one", "[stacks]", ExecutionSpaces) {
  const TestType all;
  std::mt19937 random(1);
  std::vector<NodeSpec> nodes{{-1, 300}};
  while (nodes.size() < 100000)
    nodes.push_back({std::int32_t(random() % nodes.size() / (1 + random() % 8)), std::int32_t(random() % 50)});
  const TreeSnapshot snapshot = make_snapshot(nodes, {}, 16);
  PlanConfig config;
  config.heads = {4, 1, 1};
  config.workers = 24;
  config.capacity = StackPlan<TestType>::required_capacity(snapshot, config, all);
  const auto planned_on = [&](const TestType& exec) {
    StackPlan<TestType> plan(exec, config);
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
