// The plan of the fused kernels, checked without them: every pair reads each token that it sees once, merge lists and flags
// follow the format, and a kernel in double precision that reads the plan agrees with the oracle.

#include "plan/streams/stream_plan.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <random>

#include "espalier/error.hpp"
#include "support/errors.hpp"
#include "support/execution_spaces.hpp"
#include "support/fused_plan.hpp"
#include "support/instances.hpp"
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
  return setting;
}

template <class Exec>
std::string wrong_in(const Exec& exec, const StreamPlan<Exec>& plan, const TreeSnapshot& snapshot,
                     bool grown = false) {
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
  config.capacity = StreamPlan<Exec>::required_capacity(snapshot, config, exec);
  StreamPlan<Exec> plan(exec, config);
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

TEMPLATE_LIST_TEST_CASE("streams of hundreds of random forests let each pair read each token it sees once",
                        "[streams]", ExecutionSpaces) {
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    INFO("forest and setting of seed " << seed);
    check_forest<TestType>(seed % 3 == 0 ? random_forest(seed) : random_streams(seed), random_setting(seed));
  }
}

}  // namespace
}  // namespace espalier::test
