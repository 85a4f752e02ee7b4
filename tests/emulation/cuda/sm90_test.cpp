// The kernels of sm_90, run lane by lane on plans of streams, against the oracle.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <limits>
#include <random>
#include <sstream>
#include <type_traits>

#include "plan/streams/stream_plan.hpp"
#include "support/problem.hpp"
#include "tests/emulation/cuda/emulated_kernels.hpp"
#include "tests/emulation/params_of.hpp"

namespace espalier::test {
namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;
using plan::StreamPlan;

template <class Element>
constexpr double kWeightUnit = std::is_same_v<Element, float16> ? 0x1p-10 : 0x1p-7;  // partials are rounded, too

struct Choices {
  Setup setup;
  bool chains = true;
  EmulatedTiming timing = {};
};

/// Attends on an emulated GPU and compares with the oracle.
template <class Element>
void check(const Tree& tree, const HeadShape& heads, const Inputs& inputs, const Choices& choices) {
  const Setup& setup = choices.setup;
  std::ostringstream text;
  text << name_of(kScalarOf<Element>) << "; " << tree.name << "; heads " << heads.query_heads << "/" << heads.kv_heads
       << "/" << heads.head_dim << "; block_tokens " << setup.block_tokens << "; cache layout "
       << int(setup.cache_layout) << "; tree layout " << int(setup.tree_layout) << "; soft_cap "
       << setup.options.soft_cap << "; scale " << setup.options.scale << "; workers " << setup.workers << "; lse "
       << setup.wants_lse << "; chains " << choices.chains << "; run ahead " << choices.timing.run_ahead_seed
       << "; late " << choices.timing.arrives_late;
  INFO(text.str());
  const Exec exec;
  Problem<Exec, Element> problem(exec, tree, heads, inputs, setup);
  PlanConfig config = problem.plan().config();
  config.workers = setup.workers;
  const plan::StreamOptions options{.chains = choices.chains};
  config.capacity = StreamPlan<Exec>::required_capacity(problem.snapshot(), config, exec, options);
  StreamPlan<Exec> streams(exec, config, options);
  streams.update(exec, problem.tree().view());
  exec.fence();
  if (tree.rows.empty()) return;  // attend() launches nothing then
  emulated_sm90_attend(params_of(problem, heads, setup), streams.view(), std::int32_t(tree.rows.size()),
                       choices.timing);
  const Result result = problem.result(exec);
  CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, inputs, setup.options), heads, kScalarOf<Element>,
                     tolerance_of(tree, heads, inputs, setup.options, kWeightUnit<Element>)) == "");
}

constexpr int kBlockTokens[] = {16, 32, 1, 128, 64, 17, 256, 5, 48};

/// The choices of a turn: each of them in every combination with its neighbours, sooner or later.
Choices choices_of(std::size_t turn) {
  Choices choices;
  Setup& setup = choices.setup;
  setup.block_tokens = kBlockTokens[turn % std::size(kBlockTokens)];
  setup.cache_layout = turn / 2 % 2 == 0 ? CacheLayout::tokens_first : CacheLayout::heads_first;
  setup.tree_layout = turn / 3 % 2 == 0 ? TreeLayout::aligned : TreeLayout::contiguous;
  setup.options.scale = turn % 3 == 1 ? 0.11f : turn % 11 == 5 ? -0.1f : 0.0f;
  setup.options.soft_cap = turn % 4 == 2 ? 1.5f : 0.0f;
  setup.workers = turn % 5 == 3 ? 1 : 1 + int(turn % 4);
  setup.wants_lse = turn % 7 != 0;
  choices.chains = turn % 2 == 0;
  choices.timing = {turn % 3 == 2 ? std::uint32_t(turn + 1) : 0, turn / 2 % 2 == 1};
  return choices;
}

/// Every tree with every head shape; the other choices take turns.
template <class Element>
void check_trees(const std::vector<Tree>& trees, const std::vector<HeadShape>& head_shapes) {
  std::size_t turn = std::is_same_v<Element, float16> ? 4 : 0;
  for (const Tree& tree : trees)
    for (const HeadShape& heads : head_shapes) {
      check<Element>(tree, heads, random_inputs<Element>(tree, heads, std::uint32_t(turn)), choices_of(turn));
      ++turn;
    }
}

/// Wide and narrow nodes, short and empty ones, several roots, rows inside nodes and limited rows.
Tree random_streams(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto up_to = [&](std::int32_t most) { return std::int32_t(random() % std::uint32_t(most + 1)); };
  Tree tree{"random streams, seed " + std::to_string(seed), {}, {}};
  const std::int32_t nodes = 1 + up_to(20), style = up_to(3);
  for (std::int32_t i = 0; i < nodes; ++i) {
    const std::int32_t parent = i == 0 || up_to(9) == 0 ? -1 : std::max(0, i - 1 - up_to(style == 0 ? 2 : i - 1));
    const std::int32_t length = up_to(9);
    tree.nodes.push_back({parent, length == 0 ? 0 : length < 4 ? 1 + up_to(3) : length < 8 ? up_to(60) : up_to(200)});
  }
  const std::int32_t rows = 1 + up_to(style == 2 ? 60 : 20);
  for (std::int32_t i = 0; i < rows; ++i) {
    const std::int32_t node = up_to(nodes - 1);
    tree.rows.push_back({node, up_to(2) == 0 ? up_to(tree.nodes[std::size_t(node)].tokens) : -1});
  }
  return tree;
}

std::vector<Tree> random_trees(std::uint32_t first_seed, std::uint32_t count) {
  std::vector<Tree> trees;
  for (std::uint32_t seed = first_seed; seed < first_seed + count; ++seed)
    trees.push_back(seed % 3 == 0 ? random_forest(seed) : random_streams(seed));
  return trees;
}

/// Wide tiles of one node and of chains, whole stages and parts of them, one and two warpgroups.
std::vector<Tree> wide_trees() {
  Tree star{"a long prompt, 25 branches", {{-1, 300}}, {}};
  for (int i = 0; i < 25; ++i) star.nodes.push_back({0, 1 + i * 7 % 40});
  star.rows = leaf_rows(star.nodes);
  Tree chunk{"70 rows of one node", {{-1, 130}, {0, 70}}, {}};
  for (int i = 0; i < 70; ++i) chunk.rows.push_back({1, i + 1});
  Tree deep{"short levels above 36 leaves", {{-1, 45}}, {}};
  for (int i = 0; i < 2; ++i) deep.nodes.push_back({0, 9 + i});
  for (int i = 0; i < 4; ++i) deep.nodes.push_back({1 + i / 2, 30});
  for (int i = 0; i < 36; ++i) deep.nodes.push_back({3 + i / 9, 20 + i});
  deep.rows = leaf_rows(deep.nodes);
  return {star, chunk, deep};
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on every tree", "[emulation]", float16, bfloat16) {
  check_trees<TestType>(named_trees(), {{1, 1, 64}, {8, 2, 96}, {5, 1, 128}, {8, 1, 192}, {4, 2, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on wide tiles", "[emulation]", float16, bfloat16) {
  check_trees<TestType>(wide_trees(), {{4, 1, 64}, {10, 2, 96}, {8, 1, 128}, {16, 1, 128}, {4, 1, 192}, {8, 1, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on random streams", "[emulation]", float16,
                   bfloat16) {
  check_trees<TestType>(random_trees(20, 3), {{1, 1, 64}, {4, 1, 96}, {8, 2, 128}, {17, 1, 192}, {5, 1, 256}});
}

}  // namespace
}  // namespace espalier::test
