// Plans of every strategy, checked from their arrays: what their tiles cover, how partials find their rows, what they
// say about themselves. No attention is computed but where a plan must be safe to attend with.

#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "support/errors.hpp"
#include "support/instances.hpp"
#include "support/plan_arrays.hpp"
#include "support/problem.hpp"
#include "support/spaces_and_elements.hpp"

namespace espalier::test {
namespace {

const std::vector<HeadShape> kHeadShapes{{32, 8, 128}, {3, 3, 16}, {12, 2, 64}, {300, 1, 16}};

template <class Exec>
PlanConfig config_of(const TreeSnapshot& snapshot, const HeadShape& heads, PlanStrategy strategy,
                     std::int32_t workers = 0) {
  PlanConfig config;
  config.heads = heads;
  config.strategy = strategy;
  config.workers = workers;
  config.kernel = Kernel::portable;  // others may read plans of another form
  config.capacity = Plan<Exec>::required_capacity(snapshot, config);
  return config;
}

/// Calls body(tree, heads, strategy) for named trees, random forests, head shapes and strategies.
template <class Body>
void for_plans(const Body& body) {
  std::vector<Tree> trees = named_trees();
  for (std::uint32_t seed = 300; seed < 320; ++seed) trees.push_back(random_forest(seed));
  for (const Tree& tree : trees)
    for (const HeadShape& heads : kHeadShapes)
      for (const PlanStrategy strategy : kPlanStrategies) {
        INFO(tree.name << "; heads " << heads.query_heads << "/" << heads.kv_heads << "; strategy "
                       << name_of(strategy));
        body(tree, heads, strategy);
      }
}

TEMPLATE_LIST_TEST_CASE("tiles cover each token that a row sees exactly once, and the merge lists name them", "[plan]",
                        ExecutionSpaces) {
  const TestType exec;
  std::int32_t turn = 0;
  for_plans([&](const Tree& tree, const HeadShape& heads, PlanStrategy strategy) {
    const TreeSnapshot snapshot = snapshot_of(tree, 1 + turn % 20);
    const TreeArrays<TestType> arrays(exec, snapshot);
    const std::int32_t workers = turn % 3 == 0 ? 0 : turn % 3 == 1 ? 1 : 50;
    ++turn;
    Plan<TestType> plan(exec, config_of<TestType>(snapshot, heads, strategy, workers));
    plan.update(exec, arrays);
    const PlanArrays planned = plan_arrays(exec, plan);
    CHECK(wrong_in_plan(planned, snapshot) == "");
  });
}

TEMPLATE_LIST_TEST_CASE("a plan reports what its arrays and its tree say", "[plan]", ExecutionSpaces) {
  const TestType exec;
  for_plans([&](const Tree& tree, const HeadShape& heads, PlanStrategy strategy) {
    const TreeSnapshot snapshot = snapshot_of(tree, 16);
    const TreeArrays<TestType> arrays(exec, snapshot);
    PlanConfig config = config_of<TestType>(snapshot, heads, strategy, 6);
    config.scalar = Scalar::bf16;
    config.capacity = Plan<TestType>::required_capacity(snapshot, config);  // the cost model weighs other bytes
    Plan<TestType> plan(exec, config);
    plan.update(exec, arrays);
    const PlanReport report = plan.report(exec);
    const PlanArrays planned = plan_arrays(exec, plan);

    CHECK(report.nodes == std::int32_t(tree.nodes.size()));
    CHECK(report.rows == std::int32_t(tree.rows.size()));
    CHECK(report.workers == 6);
    std::int64_t partials = 0, tile_tokens = 0, merged = 0, pairs = 0;
    for (const espalier::detail::Tile& tile : planned.tiles) {
      partials += tile.row_end - tile.row_begin;
      tile_tokens += tile.tokens;
    }
    for (std::size_t list = 0; list + 1 < planned.merge_begin.size(); ++list)
      merged += planned.merge_begin[list + 1] - planned.merge_begin[list] > 1 ? 1 : 0;
    for (const RowSpec& row : tree.rows) pairs += tree.path_tokens(row);
    CHECK(report.partials == partials);
    CHECK(report.merged_rows == merged);
    const double token_bytes = 2.0 * 2.0 * heads.head_dim;  // K and V, 2 bytes each
    CHECK(report.kv_bytes == token_bytes * double(tile_tokens));
    CHECK(report.unique_kv_bytes == token_bytes * heads.kv_heads * double(tree.tokens()));
    CHECK(report.flops == 4.0 * heads.head_dim * heads.query_heads * double(pairs));
    CHECK(report.imbalance >= 0);
    CHECK(report.imbalance <= 5);  // all work on one of six
  });
}

TEMPLATE_LIST_TEST_CASE("the predicted time is the cost model's, of the workers that run together", "[plan]",
                        ExecutionSpaces) {
  const TestType exec;
  Tree tree{"64 chains of 256 tokens and 44", {}, {}};
  for (std::int32_t chain = 0; chain < 64; ++chain) {
    tree.nodes.push_back({-1, 256});
    tree.nodes.push_back({2 * chain, 44});
    tree.rows.push_back({2 * chain + 1});
  }
  const TreeSnapshot snapshot = snapshot_of(tree, 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  PlanConfig config = config_of<TestType>(snapshot, {2, 1, 128}, PlanStrategy::node, 32);
  config.cost_model = {.tile_us = 2,
                       .lane_us = 0.5,
                       .partial_us = 0.25,
                       .read_gbs = 10,
                       .math_gflops = 100,
                       .lane_step = 4,
                       .overlaps = false};
  Plan<TestType> plan(exec, config);
  plan.update(exec, arrays);
  // Two tiles a chain, each of two lanes, computed as four, whose results are merged.
  const double chain_us = 2 * (2 + 2 * 0.5 + 2 * 0.25) + 300 * 2 * 128 * 4 / 10e3 + 300 * 4 * 4 * 128 / 100e3;
  constexpr bool kOnHost =
      bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename TestType::memory_space>::accessible);
  const PlanReport report = plan.report(exec);
  CHECK(report.predicted_us == Catch::Approx(64 * chain_us / (kOnHost ? 2 : 32)).epsilon(0.05));
}

TEMPLATE_LIST_TEST_CASE("reading every token once for all its rows is what node does, sequence reads it for each",
                        "[plan]", ExecutionSpaces) {
  const TestType exec;
  const HeadShape heads{4, 4, 32};
  const Tree tree{
      "a prompt and ten branches",
      {{-1, 1000}, {0, 10}, {0, 10}, {0, 10}, {0, 10}, {0, 10}, {0, 10}, {0, 10}, {0, 10}, {0, 10}, {0, 10}},
      {{1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}}};
  const TreeSnapshot snapshot = snapshot_of(tree, 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  const auto kv_bytes = [&](PlanStrategy strategy) {
    Plan<TestType> plan(exec, config_of<TestType>(snapshot, heads, strategy));
    plan.update(exec, arrays);
    CHECK(plan.report(exec).unique_kv_bytes == 1100 * 4 * 2 * 32 * 4.0);
    return plan.report(exec).kv_bytes;
  };
  CHECK(kv_bytes(PlanStrategy::node) == 1100 * 4 * 2 * 32 * 4.0);
  CHECK(kv_bytes(PlanStrategy::sequence) == 10 * 1010 * 4 * 2 * 32 * 4.0);
}

TEMPLATE_LIST_TEST_CASE("the required capacity is exact: with one less of anything the plan says so and has no tiles",
                        "[plan]", ExecutionSpaces) {
  const TestType exec;
  const HeadShape heads{6, 2, 16};
  for (const PlanStrategy strategy : kPlanStrategies)
    for (std::uint32_t seed = 330; seed < 340; ++seed) {
      const Tree tree = random_forest(seed);
      INFO(tree.name << "; strategy " << name_of(strategy));
      const Inputs inputs = random_inputs<float>(tree, heads, seed);
      Setup setup;
      setup.strategy = strategy;
      Problem<TestType, float> problem(exec, tree, heads, inputs, setup);
      const PlanConfig exact = problem.plan().config();
      const PlanReport report = problem.plan().report(exec);
      CHECK(std::max(report.segments, 1) == exact.capacity.segments);
      CHECK(std::max(report.tiles, 1) == exact.capacity.tiles);
      CHECK(std::max(report.partials, 1) == exact.capacity.partials);
      CHECK(report.nodes == exact.capacity.nodes);
      CHECK(report.rows == exact.capacity.rows);

      for (const auto& [capacity, name] :
           {std::pair{&PlanCapacity::segments, "segments"}, std::pair{&PlanCapacity::tiles, "tiles"},
            std::pair{&PlanCapacity::partials, "partials"}}) {
        PlanConfig small = exact;
        if (--(small.capacity.*capacity) == 0) continue;  // 0 would be the default
        Plan<TestType> plan(exec, small);
        plan.update(exec, problem.tree());
        const std::string need = std::to_string(exact.capacity.*capacity) + " " + name + " (capacity " +
                                 std::to_string(small.capacity.*capacity) + ")";
        CHECK(wrong_error(ErrorCode::capacity_exceeded, "plan: the tree needs " + need,
                          [&] { static_cast<void>(plan.report(exec)); }) == "");

        // Attending with it is harmless: every path counts as empty.
        espalier::attend(exec, plan, problem.q(), problem.cache(), problem.out(), problem.lse());
        const Result nothing = problem.result(exec);
        for (const float value : nothing.out) CHECK(value == 0);
        for (const float value : nothing.lse) CHECK(value == -std::numeric_limits<float>::infinity());

        // A tree that fits makes it a plan again.
        const Tree tiny{"tiny", {{-1, 3}}, {{0}}};
        const TreeArrays<TestType> arrays(exec, snapshot_of(tiny, setup.block_tokens));
        if (small.capacity.tiles >= 8 && small.capacity.partials >= 8 && small.capacity.segments >= 4) {
          plan.update(exec, arrays);
          CHECK(plan.report(exec).tiles >= heads.kv_heads);
        }
      }
    }
}

TEMPLATE_LIST_TEST_CASE("a tree with more nodes or rows than the plan's capacity is refused, the plan stays as it was",
                        "[plan][error]", ExecutionSpaces) {
  const TestType exec;
  const Tree tree{"three nodes", {{-1, 4}, {0, 4}, {0, 4}}, {{1}, {2}}};
  const TreeArrays<TestType> arrays(exec, snapshot_of(tree, 16));
  const TreeArrays<TestType> more_nodes(exec, snapshot_of({"", {{-1, 4}, {0, 4}, {0, 4}, {0, 1}}, {{1}}}, 16));
  const TreeArrays<TestType> more_rows(exec, snapshot_of({"", {{-1, 4}}, {{0}, {0}, {0}}}, 16));
  PlanConfig config;
  config.heads = {4, 2, 16};
  config.capacity.nodes = 3;
  config.capacity.rows = 2;
  Plan<TestType> plan(exec, config);
  plan.update(exec, arrays);
  const PlanReport before = plan.report(exec);
  CHECK(wrong_error(ErrorCode::capacity_exceeded, "plan: the tree has 4 nodes, the plan's capacity is 3",
                    [&] { plan.update(exec, more_nodes); }) == "");
  CHECK(wrong_error(ErrorCode::capacity_exceeded, "plan: the tree has 3 rows, the plan's capacity is 2",
                    [&] { plan.update(exec, more_rows); }) == "");
  CHECK(plan.rows() == 2);
  CHECK(plan.report(exec).nodes == 3);
  CHECK(plan.report(exec).tiles == before.tiles);
}

TEMPLATE_LIST_TEST_CASE("a plan refuses configurations that make no sense", "[plan][error]", ExecutionSpaces) {
  const TestType exec;
  const auto refused = [&](const std::string& text, const auto& spoil) {
    PlanConfig config;
    config.heads = {8, 2, 64};
    config.capacity.nodes = 4;
    config.capacity.rows = 4;
    spoil(config);
    const std::string wrong = wrong_error(ErrorCode::invalid_argument, text, [&] { Plan<TestType>(exec, config); });
    const TreeSnapshot snapshot = snapshot_of({"", {{-1, 4}}, {{0}}}, 16);
    return wrong + wrong_error(ErrorCode::invalid_argument, text,
                               [&] { static_cast<void>(Plan<TestType>::required_capacity(snapshot, config)); });
  };
  CHECK(refused("plan: kv_heads is 0, expected", [](PlanConfig& c) { c.heads.kv_heads = 0; }) == "");
  CHECK(refused("plan: kv_heads is 40000, expected", [](PlanConfig& c) { c.heads = {40000, 40000, 64}; }) == "");
  CHECK(refused("plan: query_heads is 7, expected a positive multiple of kv_heads 2",
                [](PlanConfig& c) { c.heads.query_heads = 7; }) == "");
  CHECK(refused("plan: query_heads is 0", [](PlanConfig& c) { c.heads.query_heads = 0; }) == "");
  CHECK(refused("plan: query_heads is -8", [](PlanConfig& c) { c.heads.query_heads = -8; }) == "");
  CHECK(refused("plan: head_dim is 0, expected 1 to 256", [](PlanConfig& c) { c.heads.head_dim = 0; }) == "");
  CHECK(refused("plan: head_dim is 257, expected 1 to 256", [](PlanConfig& c) { c.heads.head_dim = 257; }) == "");
  CHECK(refused("plan: capacity of nodes is -1", [](PlanConfig& c) { c.capacity.nodes = -1; }) == "");
  CHECK(refused("plan: capacity of rows is -5", [](PlanConfig& c) { c.capacity.rows = -5; }) == "");
  CHECK(refused("plan: capacity of segments is -1", [](PlanConfig& c) { c.capacity.segments = -1; }) == "");
  CHECK(refused("plan: capacity of tiles is -1", [](PlanConfig& c) { c.capacity.tiles = -1; }) == "");
  CHECK(refused("plan: capacity of partials is -1", [](PlanConfig& c) { c.capacity.partials = -1; }) == "");
  CHECK(refused("plan: workers is -2", [](PlanConfig& c) { c.workers = -2; }) == "");
}

TEMPLATE_LIST_TEST_CASE("a plan whose default capacities would not fit into 32 bits asks for them", "[plan][error]",
                        ExecutionSpaces) {
  PlanConfig config;
  config.heads = {64, 64, 64};
  config.capacity.nodes = 1;
  config.capacity.rows = 40000000;
  CHECK(wrong_error(ErrorCode::invalid_argument, "capacity of tiles would be",
                    [&] { Plan<TestType>(TestType(), config); }) == "");
}

TEMPLATE_LIST_TEST_CASE("a plan that was never updated says so", "[plan][error]", ExecutionSpaces) {
  const TestType exec;
  PlanConfig config;
  config.heads = {4, 2, 16};
  config.capacity.nodes = 1;
  config.capacity.rows = 1;
  Plan<TestType> plan(exec, config);
  const TreeArrays<TestType> arrays(exec, snapshot_of({"", {{-1, 4}}, {{0}}}, 16));
  constexpr ErrorCode kStale = ErrorCode::stale_plan;
  CHECK(wrong_error(kStale, "plan:", [&] { static_cast<void>(plan.report(exec)); }) == "");
  CHECK(wrong_error(kStale, "plan:", [&] { static_cast<void>(plan.view()); }) == "");
  CHECK(wrong_error(kStale, "plan:", [&] { static_cast<void>(plan.rows()); }) == "");
  CHECK(wrong_error(kStale, "plan:", [&] { static_cast<void>(plan.block_tokens()); }) == "");
  CHECK(wrong_error(kStale, "plan: grow before the first update", [&] { plan.grow(exec, arrays); }) == "");
}

/// The tree with more tokens in the nodes that have some. Rows that saw all of their node still do.
Tree grown(const Tree& tree, std::uint32_t seed) {
  std::mt19937 random(seed);
  Tree result = tree;
  for (NodeSpec& node : result.nodes)
    if (node.tokens > 0) node.tokens += std::int32_t(random() % 9);
  for (RowSpec& row : result.rows)
    if (row.visible == tree.nodes[std::size_t(row.node)].tokens) row.visible = -1;
  return result;
}

TEMPLATE_LIST_TEST_CASE("a grown plan covers the longer tree", "[plan]", ExecutionSpaces) {
  const TestType exec;
  const HeadShape heads{8, 2, 32};
  for (const PlanStrategy strategy : kPlanStrategies)
    for (std::uint32_t seed = 350; seed < 370; ++seed) {
      const Tree tree = grown(random_forest(seed), 0);  // -1 wherever a row sees all
      INFO(tree.name << "; strategy " << name_of(strategy));
      const TreeSnapshot snapshot = snapshot_of(tree, 4);
      const TreeArrays<TestType> arrays(exec, snapshot);
      Plan<TestType> plan(exec, config_of<TestType>(snapshot, heads, strategy));
      plan.update(exec, arrays);
      Tree longer = tree;
      for (std::uint32_t step = 1; step <= 3; ++step) {
        longer = grown(longer, step);
        const TreeSnapshot longer_snapshot = snapshot_of(longer, 4);
        const TreeArrays<TestType> longer_arrays(exec, longer_snapshot);
        plan.grow(exec, longer_arrays);
        const PlanArrays planned = plan_arrays(exec, plan);
        CHECK(wrong_in_plan(planned, longer_snapshot) == "");
      }
    }
}

TEMPLATE_LIST_TEST_CASE("a plan does not grow into another tree", "[plan][error]", ExecutionSpaces) {
  const TestType exec;
  const Tree tree{"", {{-1, 4}, {0, 4}}, {{1}, {0}}};
  const TreeSnapshot snapshot = snapshot_of(tree, 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  Plan<TestType> plan(exec, config_of<TestType>(snapshot, {4, 2, 16}, PlanStrategy::node));
  plan.update(exec, arrays);
  const TreeArrays<TestType> other(exec, snapshot_of({"", {{-1, 4}}, {{0}}}, 16));
  CHECK(wrong_error(ErrorCode::stale_plan,
                    "plan: grow with a tree of 1 nodes and 1 rows, the plan was updated with 2 and 2",
                    [&] { plan.grow(exec, other); }) == "");
}

TEMPLATE_LIST_TEST_CASE("plans of the same tree are the same, whatever the number of threads", "[plan]",
                        ExecutionSpaces) {
  for_plans([&](const Tree& tree, const HeadShape& heads, PlanStrategy strategy) {
    const TreeSnapshot snapshot = snapshot_of(tree, 16);
    const auto plan_on = [&](const TestType& exec) {
      const TreeArrays<TestType> arrays(exec, snapshot);
      Plan<TestType> plan(exec, config_of<TestType>(snapshot, heads, strategy, 9));
      plan.update(exec, arrays);
      return plan_arrays(exec, plan);
    };
    const PlanArrays expected = plan_on(TestType());
    for (const TestType& exec : instances<TestType>()) CHECK(same_plan(plan_on(exec), expected));
  });
}

}  // namespace
}  // namespace espalier::test
