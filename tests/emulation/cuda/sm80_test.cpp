// The kernels of sm_80, run lane by lane, against the oracle.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "support/problem.hpp"
#include "tests/emulation/cases.hpp"
#include "tests/emulation/cuda/emulated_kernels.hpp"
#include "tests/emulation/params_of.hpp"

namespace espalier::test {
namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;

constexpr int kBlockTokens[] = {16, 1, 17, 64, 5};
constexpr CacheLayout kWithGaps[] = {CacheLayout::tokens_first, CacheLayout::heads_first, CacheLayout::padded};

/// Attends on an emulated GPU and compares with the oracle.
template <class Element>
void check(const Tree& tree, const HeadShape& heads, const Inputs& inputs, const Setup& setup) {
  INFO(description_of<Element>(tree, heads, setup));
  Problem<Exec, Element> problem(Exec(), tree, heads, inputs, setup);
  const espalier::detail::AttendParams params = params_of(problem, heads, setup);
  emulated_sm80_attend(params);
  const Result result = problem.result(Exec());
  CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, inputs, setup.options), heads, kScalarOf<Element>,
                     tolerance_of(tree, heads, inputs, setup.options,
                                  emulated_sm80_takes(params) ? kWeightUnit<Element> : 0)) == "");
}

/// Every tree with every head shape; the other choices take turns.
template <class Element>
void check_trees(const std::vector<Tree>& trees, const std::vector<HeadShape>& head_shapes) {
  std::size_t turn = 0;
  for (const Tree& tree : trees)
    for (const HeadShape& heads : head_shapes) {
      Setup setup;
      setup.strategy = kPlanStrategies[turn % std::size(kPlanStrategies)];
      setup.block_tokens = kBlockTokens[turn % std::size(kBlockTokens)];
      setup.cache_layout = kWithGaps[turn / 2 % 2];
      setup.options.scale = turn % 3 == 1 ? 0.11f : turn % 11 == 5 ? -0.1f : 0.0f;
      setup.options.soft_cap = turn % 4 == 2 ? 1.5f : 0.0f;
      setup.workers = turn % 5 == 3 ? 1 : 0;
      setup.wants_lse = turn % 7 != 0;
      check<Element>(tree, heads, random_inputs<Element>(tree, heads, std::uint32_t(turn)), setup);
      ++turn;
    }
}

/// Tiles of every kind: 1 to 200 pairs by the group, long and short ones, with and without masks.
std::vector<Tree> wide_trees() {
  Tree short_nodes{"40 rows of one token", {{-1, 1}}, {}};
  for (int i = 0; i < 40; ++i) short_nodes.rows.push_back({0});
  return {prompt_with_branches(), rows_inside_a_node(), short_nodes};
}

TEMPLATE_TEST_CASE("emulated SIMT kernels of 32 lanes agree with the oracle", "[emulation]", float, float16, bfloat16) {
  check_trees<TestType>({random_forest(2), random_forest(3)}, {{1, 1, 17}, {4, 2, 80}, {5, 1, 40}, {1, 1, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_80 agree with the oracle on every tree", "[emulation]", float16, bfloat16) {
  check_trees<TestType>(named_trees(), {{1, 1, 64}, {4, 1, 96}, {10, 2, 128}, {8, 1, 192}, {4, 2, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_80 agree with the oracle on tiles of every kind", "[emulation]", float16,
                   bfloat16) {
  check_trees<TestType>(
      wide_trees(),
      {{5, 1, 64}, {4, 1, 64}, {8, 1, 96}, {1, 1, 96}, {8, 2, 128}, {5, 1, 128}, {4, 1, 192}, {2, 1, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_80 agree with the oracle for every strategy", "[emulation]", float16,
                   bfloat16) {
  check_strategies<TestType>(check<TestType>);
}

TEMPLATE_TEST_CASE("emulated kernels of sm_80 do not overflow on large scores", "[emulation]", float16, bfloat16) {
  check_large_scores<TestType>(check<TestType>);
}

TEMPLATE_TEST_CASE("a NaN in k reaches the rows that see it, and no others, in emulated kernels of sm_80",
                   "[emulation]", float16, bfloat16) {
  const HeadShape heads{6, 2, 64};
  check_nan_in_k<TestType>(heads, [&](const Tree& tree, std::size_t, const Inputs& inputs) {
    for (const PlanStrategy strategy : kPlanStrategies) {
      Setup setup;
      setup.strategy = strategy;
      check<TestType>(tree, heads, inputs, setup);
    }
  });
}

TEST_CASE("kernels of sm_80 take 16-bit types of five head sizes where everything is aligned", "[emulation]") {
  const auto takes = []<class Element>(Element, int head_dim, CacheLayout layout) {
    return answer<Element>(emulated_sm80_takes, head_dim, layout);
  };
  for (const int head_dim : {64, 96, 128, 192, 256}) {
    CHECK(takes(float16{}, head_dim, CacheLayout::tokens_first));
    CHECK(takes(bfloat16{}, head_dim, CacheLayout::heads_first));
    CHECK_FALSE(takes(float16{}, head_dim, CacheLayout::padded));
    CHECK_FALSE(takes(float{}, head_dim, CacheLayout::tokens_first));
    CHECK(emulated_sm80_most_pairs(head_dim) == (head_dim <= 128 ? 128 : 64));
  }
  CHECK_FALSE(takes(float16{}, 80, CacheLayout::tokens_first));
}

}  // namespace
}  // namespace espalier::test
