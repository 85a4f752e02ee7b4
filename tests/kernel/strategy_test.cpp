// Every strategy cuts every forest so that each row reads each token that it sees once: checked on the plans alone.
// That their results agree with the oracle is in attend_test.cpp, which runs all strategies too.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <random>

#include "espalier/block_tables.hpp"
#include "espalier/error.hpp"
#include "espalier/plan.hpp"
#include "support/block_table_model.hpp"
#include "support/instances.hpp"
#include "support/plan_arrays.hpp"
#include "support/problem.hpp"
#include "support/sanitized.hpp"
#include "support/spaces_and_elements.hpp"
#include "support/trees.hpp"

namespace espalier::test {
namespace {

/// Numbers that cut small trees in many places.
struct Cutting {
  HeadShape heads;
  CutParams cuts;
  std::int32_t workers;
};

Cutting random_cutting(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto one_of = [&](std::initializer_list<std::int32_t> values) {
    return values.begin()[random() % values.size()];
  };
  const std::int32_t kv_heads = one_of({1, 1, 2});
  Cutting cutting{{kv_heads * one_of({1, 4, 64, 100}), kv_heads, 1}, {}, one_of({0, 1, 5, 1000})};
  cutting.cuts.sequence_chunk = one_of({0, 1, 7, 16, 64});
  cutting.cuts.node_chunk = one_of({0, 1, 7, 16, 64});
  cutting.cuts.flatten_chunk = one_of({0, 1, 7, 16, 64});
  FastTreeParams& fasttree = cutting.cuts.fasttree;
  fasttree.gamma = one_of({0, 1, 1, 100000});
  for (int p = 0; p < 2; ++p) {
    fasttree.tile_rows[p] = one_of({0, 1, 3, 16});
    fasttree.tile_tokens[p] = one_of({1, 8, 32, 128});
    fasttree.split_tokens[p] = one_of({1, 5, 16, 1024});
    fasttree.enough_tiles[p] = one_of({0, 8, 132});
    fasttree.enough_tiles_then[p] = one_of({0, 8, 132});
  }
  return cutting;
}

template <class Exec>
PlanConfig config_of(const Cutting& cutting, PlanStrategy strategy, const TreeSnapshot& snapshot) {
  PlanConfig config;
  config.heads = cutting.heads;
  config.strategy = strategy;
  config.workers = cutting.workers;
  config.cuts = cutting.cuts;
  config.capacity = Plan<Exec>::required_capacity(snapshot, config);
  return config;
}

EmptyPartials empty_partials_of(PlanStrategy strategy) {
  return strategy == PlanStrategy::automatic ? EmptyPartials::allowed : EmptyPartials::wrong;
}

template <class Exec>
void check_plan(const Tree& tree, const Cutting& cutting, PlanStrategy strategy) {
  const Exec exec;
  const TreeSnapshot snapshot = snapshot_of(tree, 16);
  const PlanConfig config = config_of<Exec>(cutting, strategy, snapshot);
  Plan<Exec> plan(exec, config);
  const TreeArrays<Exec> arrays(exec, snapshot);
  plan.update(exec, arrays);
  const PlanArrays found = plan_arrays(exec, plan);
  CHECK(wrong_in_plan(found, snapshot, empty_partials_of(strategy)) == "");
  CHECK(std::max(found.report.segments, 1) == config.capacity.segments);
  CHECK(std::max(found.report.tiles, 1) == config.capacity.tiles);
  CHECK(std::max(found.report.partials, 1) == config.capacity.partials);
}

TEMPLATE_LIST_TEST_CASE("every strategy cuts every named tree so that each row reads each token it sees once", "[plan]",
                        ExecutionSpaces) {
  for (const Tree& tree : named_trees())
    for (const PlanStrategy strategy : kPlanStrategies)
      for (std::uint32_t seed = 0; seed < 10; ++seed) {
        INFO(tree.name << ", " << name_of(strategy) << ", cutting of seed " << seed);
        check_plan<TestType>(tree, random_cutting(seed), strategy);
      }
}

TEMPLATE_LIST_TEST_CASE(
    "every strategy cuts thousands of random forests so that each row reads each token it sees once", "[plan]",
    ExecutionSpaces) {
  for (std::uint32_t seed = 0; seed < random_cases(3000); ++seed)
    for (const PlanStrategy strategy : kPlanStrategies) {
      INFO(name_of(strategy) << ", forest and cutting of seed " << seed);
      check_plan<TestType>(random_forest(seed), random_cutting(seed), strategy);
    }
}

TEMPLATE_LIST_TEST_CASE("one plan follows forests of any shape within its capacity", "[plan]", ExecutionSpaces) {
  const TestType exec;
  for (const PlanStrategy strategy : kPlanStrategies) {
    PlanConfig config;
    config.heads = {4, 2, 1};
    config.strategy = strategy;
    config.workers = 7;
    config.cuts.sequence_chunk = config.cuts.node_chunk = config.cuts.flatten_chunk = 16;
    config.capacity = {64, 64, 4000, 8000, 20000};
    Plan<TestType> plan(exec, config);
    TreeArrays<TestType> arrays(exec, TreeCapacity{64, 64, 4000});
    for (std::uint32_t seed = 0; seed < random_cases(200); ++seed) {
      INFO(name_of(strategy) << ", forest of seed " << seed);
      const TreeSnapshot snapshot = snapshot_of(random_forest(seed), 16);
      arrays.upload(exec, snapshot);
      plan.update(exec, arrays);
      CHECK(wrong_in_plan(plan_arrays(exec, plan), snapshot, empty_partials_of(strategy)) == "");
    }
  }
}

TEMPLATE_LIST_TEST_CASE("results of every strategy agree with the oracle however small the pieces", "[plan]",
                        ExecutionSpaces) {
  const TestType exec;
  for (std::uint32_t seed = 0; seed < 40; ++seed) {
    const Tree tree = random_forest(seed);
    Cutting cutting = random_cutting(seed);
    cutting.heads = {cutting.heads.kv_heads * 3, cutting.heads.kv_heads, 24};
    const Inputs inputs = random_inputs<float>(tree, cutting.heads, seed);
    const oracle::Result expected = oracle_of(tree, cutting.heads, inputs);
    for (const PlanStrategy strategy : kPlanStrategies) {
      INFO(name_of(strategy) << ", forest and cutting of seed " << seed);
      Setup setup;
      setup.strategy = strategy;
      setup.workers = cutting.workers;
      setup.cuts = cutting.cuts;
      const auto result = attend<float>(exec, tree, cutting.heads, inputs, setup);
      CHECK(disagreement(result.out, result.lse, expected, cutting.heads, Scalar::f32,
                         tolerance_of(tree, cutting.heads, inputs)) == "");
    }
  }
}

/// Thousands of nodes and rows: plans of smaller trees are made in one thread on a CPU.
Tree large_forest(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::int32_t end) { return std::int32_t(random() % std::uint32_t(end)); };
  Tree tree{"large forest, seed " + std::to_string(seed), {}, {}};
  const std::int32_t reach = 1 << (2 + seed % 11);  // how far back a parent is: deep trees, then wide ones
  for (std::int32_t node = 0; node < 3000; ++node) {
    const std::int32_t parent = node == 0 || below(100) == 0 ? -1 : node - 1 - below(std::min(node, reach));
    tree.nodes.push_back({parent, below(200) == 0 ? below(100) : below(4)});
  }
  for (std::int32_t row = 0; row < 1200; ++row) {
    const std::int32_t node = below(below(2) == 0 ? 3000 : 30);
    tree.rows.push_back({node, below(2) == 0 ? -1 : below(tree.nodes[std::size_t(node)].tokens + 1)});
  }
  return tree;
}

TEMPLATE_LIST_TEST_CASE("large forests are cut by many threads as by one, so that each row reads each token once",
                        "[plan]", ExecutionSpaces) {
  for (std::uint32_t seed = 0; seed < 11; seed += kSanitized ? 5 : 1) {  // deep ones, wide ones, between
    const Tree tree = large_forest(seed);
    const TreeSnapshot snapshot = snapshot_of(tree, 16);
    Cutting cutting = random_cutting(seed);
    cutting.heads = {4, 1, 1};
    if (cutting.workers == 0) cutting.workers = 3;  // the default depends on the threads
    for (const PlanStrategy strategy : kPlanStrategies) {
      INFO(tree.name << ", " << name_of(strategy));
      const PlanConfig config = config_of<TestType>(cutting, strategy, snapshot);
      const auto planned_on = [&](const TestType& exec) {
        Plan<TestType> plan(exec, config);
        const TreeArrays<TestType> arrays(exec, snapshot);
        plan.update(exec, arrays);
        return plan_arrays(exec, plan);
      };
      const PlanArrays planned = planned_on(TestType());
      CHECK(wrong_in_plan(planned, snapshot, empty_partials_of(strategy)) == "");
      for (const TestType& exec : instances<TestType>({1, 4})) {
        CAPTURE(exec.concurrency());
        CHECK(same_plan(planned, planned_on(exec)));
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("the tree of page tables is planned by every strategy, with nodes to spare", "[plan]",
                        ExecutionSpaces) {
  const TestType exec;
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    TableStyle style;
    style.sequences = 1 + std::int32_t(random() % 30);
    style.block_tokens = 1 + int(random() % 9);
    style.shared = 0.1 * double(random() % 11);
    const HostTables host = random_tables(style, seed);
    const auto max_blocks = std::size_t(std::max(host.max_blocks(), 1));
    std::vector<std::int32_t> entries;
    for (const std::vector<std::int32_t>& blocks : host.blocks) {
      entries.insert(entries.end(), blocks.begin(), blocks.end());
      entries.resize(entries.size() + max_blocks - blocks.size(), -1);
    }
    const auto memory = to_view<TestType>(entries), lengths = to_view<TestType>(host.lengths);
    BlockTables<TestType> tables;
    tables.blocks = decltype(tables.blocks)(
        memory.data(), Kokkos::LayoutStride(std::size_t(host.sequences()), max_blocks, max_blocks, 1));
    tables.lengths = lengths;
    tables.block_tokens = host.block_tokens;
    BlockTableReader<TestType> reader(exec, {host.sequences(), host.pool_blocks});
    TreeArrays<TestType> tree(exec, TreeCapacity{2 * host.sequences(), host.sequences(), host.all_blocks()});
    reader.update(exec, tables, tree);  // the plan's update does not wait for what it found
    const TreeSnapshot expected = tree_of(host);
    for (const PlanStrategy strategy : kPlanStrategies) {
      INFO(name_of(strategy) << ", tables of seed " << seed);
      PlanConfig config = config_of<TestType>(random_cutting(seed), strategy, expected);
      config.capacity.nodes = tree.nodes();
      config.capacity.segments += tree.nodes() - expected.nodes();
      Plan<TestType> plan(exec, config);
      plan.update(exec, tree);
      CHECK(wrong_in_plan(plan_arrays(exec, plan), expected, EmptyPartials::allowed) == "");
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a plan of nodes with hundreds of millions of tokens is as small as that of short ones",
                        "[plan]", ExecutionSpaces) {
  const TestType exec;
  std::vector<NodeSpec> nodes{{-1, 1 << 28}};
  for (std::int32_t leaf = 0; leaf < 60; ++leaf) nodes.push_back({0, 1 << 20});
  const TreeSnapshot snapshot = make_snapshot(nodes, {}, 256);
  const TreeArrays<TestType> arrays(exec, snapshot);
  for (const PlanStrategy strategy : kPlanStrategies) {
    INFO(name_of(strategy));
    Cutting cutting{{8, 2, 64}, {}, 16};
    for (std::int32_t& tokens : cutting.cuts.fasttree.split_tokens) tokens = 1 << 20;  // it cuts by a fixed length
    const PlanConfig config = config_of<TestType>(cutting, strategy, snapshot);
    CHECK(config.capacity.tiles < 20000);
    Plan<TestType> plan(exec, config);
    plan.update(exec, arrays);
    CHECK(plan.report(exec).tiles == config.capacity.tiles);
  }
}

TEMPLATE_LIST_TEST_CASE("automatic spreads trees with enough work within 5 % of evenly", "[plan]", ExecutionSpaces) {
  const TestType exec;
  for (const auto& [above, leaf] : {std::pair{4096, 256}, {1024, 32}, {20000, 16}, {300, 700}})
    for (const std::int32_t leaves : {16, 64, 500}) {
      std::vector<NodeSpec> nodes{{-1, above}};
      for (std::int32_t i = 0; i < leaves; ++i) nodes.push_back({0, leaf + i % 7});
      INFO(above << " tokens above " << leaves << " leaves of " << leaf);
      const TreeSnapshot snapshot = make_snapshot(nodes, {}, 16);
      // Of 32 workers of a CPU two run at a time, of a GPU all. With 32 at a time five of these trees are not enough work:
      // what a tile costs by itself keeps it from being cut so finely that its neighbours share it evenly.
      constexpr bool kOnHost =
          bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename TestType::memory_space>::accessible);
      const PlanConfig config =
          config_of<TestType>({{32, 8, 128}, {}, kOnHost ? 32 : 8}, PlanStrategy::automatic, snapshot);
      Plan<TestType> plan(exec, config);
      const TreeArrays<TestType> arrays(exec, snapshot);
      plan.update(exec, arrays);
      CHECK(plan.report(exec).imbalance < 0.05);
    }
}

TEMPLATE_LIST_TEST_CASE("a plan that lacks one segment, tile or partial says so, whatever its strategy", "[plan]",
                        ExecutionSpaces) {
  const TestType exec;
  const TreeSnapshot snapshot = snapshot_of(random_forest(5), 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  Cutting cutting = random_cutting(5);
  cutting.cuts.sequence_chunk = cutting.cuts.node_chunk = cutting.cuts.flatten_chunk = 16;
  for (const PlanStrategy strategy : kPlanStrategies)
    for (const auto member : {&PlanCapacity::segments, &PlanCapacity::tiles, &PlanCapacity::partials}) {
      PlanConfig config = config_of<TestType>(cutting, strategy, snapshot);
      const std::int32_t needed = config.capacity.*member;
      config.capacity.*member = needed - 1;
      INFO(name_of(strategy) << " with " << needed - 1 << " of " << needed);
      Plan<TestType> plan(exec, config);
      plan.update(exec, arrays);
      try {
        static_cast<void>(plan.report(exec));
        FAIL_CHECK("no error");
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::capacity_exceeded);
        CHECK(std::string(error.what()).find(std::to_string(needed)) != std::string::npos);
      }
    }
}

TEMPLATE_LIST_TEST_CASE("a plan of 100,000 nodes takes every strategy", "[plan]", ExecutionSpaces) {
  const TestType exec;
  std::mt19937 random(1);
  std::vector<NodeSpec> nodes{{-1, 300}};
  while (nodes.size() < 100000) nodes.push_back({std::int32_t(random() % nodes.size()), std::int32_t(random() % 5)});
  const TreeSnapshot snapshot = make_snapshot(nodes, {}, 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  for (const PlanStrategy strategy : kPlanStrategies) {
    INFO(name_of(strategy));
    const PlanConfig config = config_of<TestType>({{4, 1, 1}, {}, 0}, strategy, snapshot);
    Plan<TestType> plan(exec, config);
    plan.update(exec, arrays);
    CHECK(plan.report(exec).partials == config.capacity.partials);
  }
}

TEMPLATE_LIST_TEST_CASE("a chain of depth 10,000 takes every strategy", "[plan]", ExecutionSpaces) {
  const TestType exec;
  std::vector<NodeSpec> nodes;
  for (std::int32_t node = 0; node < 10000; ++node) nodes.push_back({node - 1, 1 + node % 3});
  const TreeSnapshot snapshot = make_snapshot(nodes, std::vector<RowSpec>{{9999}, {5000}, {9999, 0}}, 16);
  const TreeArrays<TestType> arrays(exec, snapshot);
  for (const PlanStrategy strategy : kPlanStrategies) {
    INFO(name_of(strategy));
    const PlanConfig config = config_of<TestType>({{4, 1, 1}, {}, 0}, strategy, snapshot);
    Plan<TestType> plan(exec, config);
    plan.update(exec, arrays);
    CHECK(plan.report(exec).partials == config.capacity.partials);
  }
}

TEST_CASE("every strategy is found by its name, and nothing else is", "[plan]") {
  for (const PlanStrategy strategy : kPlanStrategies) CHECK(strategy_from_name(name_of(strategy)) == strategy);
  CHECK(strategy_from_name("") == std::nullopt);
  CHECK(strategy_from_name("Node") == std::nullopt);
  CHECK(strategy_from_name("unknown") == std::nullopt);
}

}  // namespace
}  // namespace espalier::test
