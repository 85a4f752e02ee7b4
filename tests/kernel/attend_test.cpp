// attend() of every execution space against the oracle.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#include "support/problem.hpp"
#include "support/sanitized.hpp"
#include "support/spaces_and_elements.hpp"

namespace espalier::test {
namespace {

const std::vector<HeadShape> kHeadShapes{{32, 8, 128}, {1, 1, 16},   {5, 1, 64},  {8, 8, 80},  {6, 2, 96},
                                         {16, 1, 192}, {12, 3, 256}, {7, 7, 32},  {71, 1, 24}, {4, 2, 17},
                                         {300, 1, 16}, {2, 1, 1},    {3, 3, 100}, {10, 2, 31}, {9, 1, 129}};
const std::vector<int> kBlockTokens{1, 3, 16, 17, 64, 256};
const std::vector<CacheLayout> kCacheLayouts{CacheLayout::tokens_first, CacheLayout::heads_first, CacheLayout::padded};

std::string describe(const Tree& tree, const HeadShape& heads, const Setup& setup) {
  const char* cache_layouts[] = {"tokens first", "heads first", "padded"};
  std::ostringstream text;
  text << tree.name << "; heads " << heads.query_heads << "/" << heads.kv_heads << "/" << heads.head_dim
       << "; block_tokens " << setup.block_tokens << "; cache " << cache_layouts[int(setup.cache_layout)] << "; tree "
       << (setup.tree_layout == TreeLayout::aligned ? "aligned" : "contiguous") << "; strategy "
       << name_of(setup.strategy) << "; workers " << setup.workers << "; scale " << setup.options.scale << "; soft_cap "
       << setup.options.soft_cap << "; lse " << setup.wants_lse;
  return text.str();
}

/// Attends and compares with the oracle's result.
template <class On>
void check(const Tree& tree, const HeadShape& heads, const Inputs& inputs, Setup setup,
           const oracle::Result& expected) {
  // Gaps of 5 elements leave nothing aligned: a plan for a kernel that needs that would be refused.
  if (setup.cache_layout == CacheLayout::padded) setup.kernel = Kernel::portable;
  INFO(On::Exec::name() << ", " << name_of(kScalarOf<typename On::Element>) << "; " << describe(tree, heads, setup));
  const auto result = attend<typename On::Element>(typename On::Exec(), tree, heads, inputs, setup);
  CHECK(disagreement(result.out, result.lse, expected, heads, kScalarOf<typename On::Element>,
                     tolerance_of(tree, heads, inputs, setup.options,
                                  fused_weight_unit<typename On::Exec, typename On::Element>())) == "");
}

TEMPLATE_LIST_TEST_CASE("attend agrees with the oracle on every tree, head shape and strategy", "[attend]",
                        SpacesAndElements) {
  // The other choices take turns, so that each meets many trees and head shapes.
  std::size_t turn = 0;
  const std::size_t share = kSanitized ? 3 : 1;
  std::size_t first = std::size_t(kScalarOf<typename TestType::Element>);
  for (const Tree& tree : named_trees()) {
    first = (first + 1) % share;
    for (std::size_t shape = first; shape < kHeadShapes.size(); shape += share) {
      const HeadShape& heads = kHeadShapes[shape];
      Setup setup;
      setup.options.scale = turn % 3 == 1 ? 0.11f : 0.0f;
      setup.options.soft_cap = turn % 4 == 2 ? 1.5f : 0.0f;
      const Inputs inputs = random_inputs<typename TestType::Element>(tree, heads, std::uint32_t(turn));
      const oracle::Result expected = oracle_of(tree, heads, inputs, setup.options);
      for (const PlanStrategy strategy : kPlanStrategies) {
        setup.strategy = strategy;
        setup.block_tokens = kBlockTokens[turn % kBlockTokens.size()];
        setup.cache_layout = kCacheLayouts[turn / 2 % kCacheLayouts.size()];
        setup.tree_layout = turn % 5 == 0 ? TreeLayout::contiguous : TreeLayout::aligned;
        setup.wants_lse = turn % 7 != 0;
        check<TestType>(tree, heads, inputs, setup, expected);
        ++turn;
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("attend agrees with the oracle for every block size, layout, strategy and number of workers",
                        "[attend]", SpacesAndElements) {
  const Tree tree = random_forest(3);
  const HeadShape heads{6, 2, 40};
  const Inputs inputs = random_inputs<typename TestType::Element>(tree, heads, 3);
  const oracle::Result expected = oracle_of(tree, heads, inputs);
  std::size_t number = 0;
  for (const int block_tokens : kBlockTokens)
    for (const CacheLayout cache_layout : kCacheLayouts)
      for (const TreeLayout tree_layout : {TreeLayout::aligned, TreeLayout::contiguous})
        for (const PlanStrategy strategy : kPlanStrategies)
          for (const std::int32_t workers : {0, 1, 5, 1000}) {
            if (!takes_case(kScalarOf<typename TestType::Element>, number++)) continue;
            Setup setup;
            setup.block_tokens = block_tokens;
            setup.cache_layout = cache_layout;
            setup.tree_layout = tree_layout;
            setup.strategy = strategy;
            setup.workers = workers;
            check<TestType>(tree, heads, inputs, setup, expected);
          }
}

TEMPLATE_LIST_TEST_CASE("attend agrees with the oracle on random forests", "[attend]", SpacesAndElements) {
  for (std::uint32_t seed = 100; seed < 130; ++seed) {
    const Tree tree = random_forest(seed);
    const HeadShape heads = kHeadShapes[seed % kHeadShapes.size()];
    const Inputs inputs = random_inputs<typename TestType::Element>(tree, heads, seed);
    const oracle::Result expected = oracle_of(tree, heads, inputs);
    for (const PlanStrategy strategy : kPlanStrategies) {
      Setup setup;
      setup.strategy = strategy;
      setup.block_tokens = 1 + int(seed % 23);
      check<TestType>(tree, heads, inputs, setup, expected);
    }
  }
}

TEST_CASE("the tolerance of f32 is below the 1e-5 that is promised", "[attend]") {
  for (const Tree& tree : named_trees())
    for (const HeadShape& heads : kHeadShapes)
      CHECK(tolerance_of(tree, heads, random_inputs<float>(tree, heads, 0)).by_norm < 1e-5);
}

TEMPLATE_LIST_TEST_CASE("large scores do not overflow", "[attend]", SpacesAndElements) {
  const Tree tree = random_forest(4);
  const HeadShape heads{4, 2, 64};
  for (const float magnitude : {1e2f, 1e4f})
    for (const float soft_cap : {0.0f, 30.0f})
      for (const PlanStrategy strategy : kPlanStrategies) {
        const Inputs inputs = random_inputs<typename TestType::Element>(tree, heads, 4, magnitude);
        Setup setup;
        setup.strategy = strategy;
        setup.options.soft_cap = soft_cap;
        check<TestType>(tree, heads, inputs, setup, oracle_of(tree, heads, inputs, setup.options));
      }
}

TEMPLATE_LIST_TEST_CASE("scores near the largest float still weigh their tokens", "[attend]", SpacesAndElements) {
  // Float cannot tell such scores apart, so the values are alike and only the sum of the weights matters.
  const Tree tree{"two nodes", {{-1, 70}, {0, 10}, {0, 3}}, {{1}, {2}, {0, 5}}};
  const HeadShape heads{4, 2, 16};
  for (const float sign : {1.0f, -1.0f})
    for (const PlanStrategy strategy : kPlanStrategies) {
      Inputs inputs = random_inputs<typename TestType::Element>(tree, heads, 5);
      for (float& value : inputs.q) value = sign * 32768.0f;
      for (float& value : inputs.k) value = 32768.0f;
      for (float& value : inputs.v) value = 0.75f;
      Setup setup;
      setup.strategy = strategy;
      setup.options.scale = 0x1p92f;  // 16 * 2^30 * 2^92 = 2^126
      const oracle::Result expected = oracle_of(tree, heads, inputs, setup.options);
      Tolerance tolerance = tolerance_of(ErrorSources{
          .largest_score = 0, .soft_cap = 0, .largest_value = 5, .longest_path = double(tree.longest_path())});
      INFO(describe(tree, heads, setup));
      const Result result = attend<typename TestType::Element>(typename TestType::Exec(), tree, heads, inputs, setup);
      CHECK(disagreement(result.out, result.lse, expected, heads, kScalarOf<typename TestType::Element>, tolerance) ==
            "");
    }
}

TEMPLATE_LIST_TEST_CASE("a NaN or an infinity reaches the rows that see it, and no others", "[attend]",
                        SpacesAndElements) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Tree tree{"siblings", {{-1, 30}, {0, 70}, {0, 12}, {2, 9}, {-1, 5}}, {{1}, {2}, {3}, {0}, {4}, {3, 4}}};
  const HeadShape heads{6, 2, 20};
  const auto at = [&](std::int64_t token, int head, int d) {
    return std::size_t((token * heads.kv_heads + head) * heads.head_dim + d);
  };
  for (const PlanStrategy strategy : kPlanStrategies)
    for (const std::int64_t token : {3, 95, 105, 113, 125}) {  // one in each node
      Inputs inputs = random_inputs<typename TestType::Element>(tree, heads, 6);
      const Inputs clean = inputs;
      Setup setup;
      setup.strategy = strategy;
      const Tolerance tolerance = tolerance_of(tree, heads, clean);
      const auto compare = [&](const char* what) {
        INFO(what << " at token " << token << "; " << describe(tree, heads, setup));
        const Result result = attend<typename TestType::Element>(typename TestType::Exec(), tree, heads, inputs, setup);
        CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, inputs), heads,
                           kScalarOf<typename TestType::Element>, tolerance) == "");
        inputs = clean;
      };
      inputs.v[at(token, 1, 7)] = kInfinity;
      compare("infinity in v");
      inputs.v[at(token, 0, 19)] = kNaN;
      compare("NaN in v");
      inputs.k[at(token, 1, 0)] = kNaN;
      compare("NaN in k");
    }
}

TEMPLATE_LIST_TEST_CASE("a row with an empty path gets zeros and an lse of -inf", "[attend]", SpacesAndElements) {
  const Tree tree{"empty paths beside others", {{-1, 0}, {0, 0}, {-1, 9}}, {{1}, {2, 0}, {0}, {2, 3}}};
  const HeadShape heads{4, 2, 16};
  const Inputs inputs = random_inputs<typename TestType::Element>(tree, heads, 1);
  for (const PlanStrategy strategy : kPlanStrategies) {
    Setup setup;
    setup.strategy = strategy;
    const Result result = attend<typename TestType::Element>(typename TestType::Exec(), tree, heads, inputs, setup);
    for (std::size_t row = 0; row < 3; ++row) {
      for (std::size_t i = 0; i < 64; ++i) CHECK(result.out[row * 64 + i] == 0);
      for (std::size_t head = 0; head < 4; ++head)
        CHECK(result.lse[row * 4 + head] == -std::numeric_limits<float>::infinity());
    }
    CHECK(std::isfinite(result.lse[3 * 4]));
  }
}

}  // namespace
}  // namespace espalier::test
