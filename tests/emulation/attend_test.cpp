// The HIP kernels, run lane by lane, against the oracle.

#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <type_traits>

#include "support/problem.hpp"
#include "tests/emulation/cases.hpp"
#include "tests/emulation/emulated_kernels.hpp"
#include "tests/emulation/params_of.hpp"

namespace espalier::test {
namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;

const std::vector<Architecture> kArchitectures{Architecture::gfx90a, Architecture::gfx942};

const std::vector<int> kBlockTokens{16, 1, 17, 64, 5};

/// Attends on an emulated GPU and compares with the oracle.
template <class Element>
void check(Architecture architecture, const Tree& tree, const HeadShape& heads, const Inputs& inputs,
           const Setup& setup) {
  INFO((architecture == Architecture::gfx90a ? "gfx90a; " : "gfx942; ") << description_of<Element>(tree, heads, setup));
  Problem<Exec, Element> problem(Exec(), tree, heads, inputs, setup);
  const espalier::detail::AttendParams params = params_of(problem, heads, setup);
  emulated_attend(architecture, params);
  const Result result = problem.result(Exec());
  CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, inputs, setup.options), heads, kScalarOf<Element>,
                     tolerance_of(tree, heads, inputs, setup.options,
                                  emulated_on_matrix_units(params) ? kWeightUnit<Element> : 0)) == "");
}

/// Every tree with every head shape; the other choices take turns.
/// @param architectures  both, where they differ
/// @param cache_layouts  an array with gaps is not aligned, so that the matrix units cannot read it
template <class Element>
void check_trees(const std::vector<Architecture>& architectures, const std::vector<HeadShape>& head_shapes,
                 const std::vector<CacheLayout>& cache_layouts) {
  std::size_t turn = 0;
  for (const Tree& tree : named_trees())
    for (const HeadShape& heads : head_shapes) {
      Setup setup;
      setup.strategy = kPlanStrategies[turn % std::size(kPlanStrategies)];
      setup.block_tokens = kBlockTokens[turn % kBlockTokens.size()];
      setup.cache_layout = cache_layouts[turn / 2 % cache_layouts.size()];
      setup.options.scale = turn % 3 == 1 ? 0.11f : 0.0f;
      setup.options.soft_cap = turn % 4 == 2 ? 1.5f : 0.0f;
      setup.wants_lse = turn % 7 != 0;
      const Inputs inputs = random_inputs<Element>(tree, heads, std::uint32_t(turn));
      for (const Architecture architecture : architectures) check<Element>(architecture, tree, heads, inputs, setup);
      ++turn;
    }
}

const std::vector<CacheLayout> kWithGaps{CacheLayout::tokens_first, CacheLayout::heads_first, CacheLayout::padded};
const std::vector<CacheLayout> kWithoutGaps{CacheLayout::tokens_first, CacheLayout::heads_first};

TEMPLATE_TEST_CASE("emulated SIMT kernels agree with the oracle on every tree", "[emulation]", float, float16,
                   bfloat16) {
  check_trees<TestType>({Architecture::gfx942}, {{1, 1, 17}, {4, 2, 96}, {5, 1, 40}, {1, 1, 256}}, kWithGaps);
}

TEMPLATE_TEST_CASE("emulated matrix kernels of head_dim 64 agree with the oracle on every tree", "[emulation]", float16,
                   bfloat16) {
  check_trees<TestType>(kArchitectures, {{1, 1, 64}, {4, 1, 64}, {10, 2, 64}, {8, 1, 64}}, kWithoutGaps);
}

TEMPLATE_TEST_CASE("emulated matrix kernels of head_dim 128 agree with the oracle on every tree", "[emulation]",
                   float16, bfloat16) {
  check_trees<TestType>(kArchitectures, {{2, 2, 128}, {4, 1, 128}, {5, 1, 128}, {16, 2, 128}}, kWithoutGaps);
}

TEMPLATE_TEST_CASE("emulated matrix kernels of head_dim 256 agree with the oracle on every tree", "[emulation]",
                   float16, bfloat16) {
  check_trees<TestType>(kArchitectures, {{1, 1, 256}, {8, 2, 256}, {5, 1, 256}, {8, 1, 256}}, kWithoutGaps);
}

TEMPLATE_TEST_CASE("emulated matrix kernels agree with the oracle for every strategy", "[emulation]", float16,
                   bfloat16) {
  for (const Architecture architecture : kArchitectures)
    check_strategies<TestType>([&](const auto&... problem) { check<TestType>(architecture, problem...); });
}

TEMPLATE_TEST_CASE("emulated matrix kernels do not overflow on large scores", "[emulation]", float16, bfloat16) {
  check_large_scores<TestType>([](const auto&... problem) { check<TestType>(Architecture::gfx90a, problem...); });
}

TEMPLATE_TEST_CASE("rows whose scores are all very low are not lost on an emulated GPU", "[emulation]", float, float16,
                   bfloat16) {
  const Tree tree{"siblings", {{-1, 30}, {0, 70}, {0, 12}, {-1, 5}}, {{1}, {2}, {0}, {3}}};
  const HeadShape heads{4, 2, 64};
  Inputs inputs = random_inputs<TestType>(tree, heads, 9);
  std::fill(inputs.q.begin(), inputs.q.end(), 1.0f);
  std::fill(inputs.k.begin(), inputs.k.end(), 1.0f);
  std::fill(inputs.v.begin(), inputs.v.end(), 3.0f);
  for (const float score : {-1e6f, -1e30f, -1e32f, -1e37f})  // of every token
    for (const PlanStrategy strategy : kPlanStrategies) {
      Setup setup;
      setup.strategy = strategy;
      setup.options.scale = score / 64;
      CAPTURE(score, name_of(strategy));
      Problem<Exec, TestType> problem(Exec(), tree, heads, inputs, setup);
      emulated_attend(Architecture::gfx942, params_of(problem, heads, setup));
      const Result result = problem.result(Exec());
      const auto is = [](float expected) {
        return [expected](float value) { return std::abs(value - expected) <= 1e-5f * std::abs(expected); };
      };
      CHECK(std::all_of(result.out.begin(), result.out.end(), is(3.0f)));
      CHECK(std::all_of(result.lse.begin(), result.lse.end(), is(score)));
    }
}

TEMPLATE_TEST_CASE("emulated waves that run ahead of each other leave the same bits", "[emulation]", float16,
                   bfloat16) {
  const Tree tree{"siblings", {{-1, 150}, {0, 70}, {0, 12}, {-1, 90}}, {{1}, {2}, {2}, {0}, {3}}};
  // One wave has all pairs of a tile, or two of them half each: four or two waves share its tokens and merge in LDS.
  for (const HeadShape& heads : {HeadShape{4, 1, 64}, HeadShape{32, 2, 64}, HeadShape{4, 1, 256}}) {
    const Inputs inputs = random_inputs<TestType>(tree, heads, 12);
    Setup setup;
    setup.strategy = PlanStrategy::node;
    Problem<Exec, TestType> problem(Exec(), tree, heads, inputs, setup);
    const auto results = [&](std::uint32_t run_ahead_seed) {
      emulated_attend(Architecture::gfx942, params_of(problem, heads, setup), run_ahead_seed);
      return problem.result(Exec());
    };
    const Result in_step = results(0);
    for (std::uint32_t seed = 1; seed <= 8; ++seed) {
      CAPTURE(heads.query_heads, heads.head_dim, seed);
      CHECK(results(seed) == in_step);
    }
  }
}

TEMPLATE_TEST_CASE("a NaN in k reaches the rows that see it, and no others, on emulated matrix units", "[emulation]",
                   float16, bfloat16) {
  const HeadShape heads{6, 2, 64};
  check_nan_in_k<TestType>(heads, [&](const Tree& tree, std::size_t, const Inputs& inputs) {
    for (const PlanStrategy strategy : kPlanStrategies) {
      Setup setup;
      setup.strategy = strategy;
      check<TestType>(Architecture::gfx942, tree, heads, inputs, setup);
    }
  });
}

TEMPLATE_TEST_CASE("an infinity in v of a tile's last token stays one on emulated matrix units", "[emulation]", float16,
                   bfloat16) {
  const Tree tree{"one node", {{-1, 41}}, {{0}, {0}}};
  const HeadShape heads{2, 1, 64};
  Inputs inputs = random_inputs<TestType>(tree, heads, 8);
  inputs.v[40 * 64 + 9] = std::numeric_limits<float>::infinity();
  Setup setup;
  setup.strategy = PlanStrategy::node;
  check<TestType>(Architecture::gfx942, tree, heads, inputs, setup);
}

TEST_CASE("emulated kernels are listed, and attend through plans made for them", "[emulation][kernel]") {
  std::string names;
  for (const KernelInfo& kernel : available_kernels())
    if (kernel.backend == Exec::name() && kernel.available) names += kernel.name + " ";
  CHECK(names ==
        "cuda-sm90-emulated cuda-sm80-emulated hip-gfx942-emulated hip-gfx90a-emulated hip-simt-emulated portable ");
  const Tree tree = random_forest(5);
  const HeadShape heads{6, 2, 64};
  const Inputs inputs = random_inputs<float16>(tree, heads, 5);
  const std::string of_stacks = "cuda-sm90-emulated";
  for (const std::string& name : {of_stacks, std::string("cuda-sm80-emulated"), std::string("hip-gfx942-emulated"),
                                  std::string("hip-gfx90a-emulated"), std::string("hip-simt-emulated")})
    for (const PlanStrategy strategy : kPlanStrategies) {
      if (name == of_stacks && strategy != PlanStrategy::automatic) continue;
      Setup setup;
      setup.strategy = strategy;
      setup.kernel_name = name;
      CAPTURE(name, name_of(strategy));
      const Exec exec;
      Problem<Exec, float16> problem(exec, tree, heads, inputs, setup);
      CHECK(problem.plan().kernel().name == name);
      problem.attend(exec);
      const Result result = problem.result(exec);
      const double weight_unit = (name == of_stacks ? 2 : 1) * kWeightUnit<float16>;  // 16-bit partials, too
      CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, inputs), heads, Scalar::f16,
                         tolerance_of(tree, heads, inputs, {}, weight_unit)) == "");
    }
}

TEST_CASE("matrix kernels take 16-bit types of three head sizes where everything is aligned", "[emulation]") {
  const auto takes = []<class Element>(Element, int head_dim, CacheLayout layout) {
    return answer<Element>(emulated_on_matrix_units, head_dim, layout);
  };
  for (const int head_dim : {64, 128, 256}) {
    CHECK(takes(float16{}, head_dim, CacheLayout::tokens_first));
    CHECK(takes(bfloat16{}, head_dim, CacheLayout::heads_first));
    CHECK_FALSE(takes(float16{}, head_dim, CacheLayout::padded));
    CHECK_FALSE(takes(float{}, head_dim, CacheLayout::tokens_first));
  }
  CHECK_FALSE(takes(float16{}, 96, CacheLayout::tokens_first));
}

TEMPLATE_TEST_CASE("an emulated append fills the slots it was given, and skips negative ones", "[emulation]", float,
                   float16, bfloat16) {
  constexpr int kTokens = 7, kHeads = 2, kDim = 20, kOfBlock = 3, kBlocks = 4;
  const std::vector<std::int64_t> slots{10, 3, -1, 0, 7, 11, 5};
  std::vector<TestType> k_new, v_new;
  for (int i = 0; i < kTokens * kHeads * kDim; ++i) {
    k_new.push_back(from_float<TestType>(float(i)));
    v_new.push_back(from_float<TestType>(float(-i)));
  }
  const std::size_t size = std::size_t(kBlocks) * kOfBlock * kHeads * kDim;
  std::vector<TestType> k(size, from_float<TestType>(0.5f)), v = k, expected_k = k, expected_v = k;
  for (std::size_t token = 0; token < slots.size(); ++token)
    if (slots[token] >= 0)
      for (std::size_t i = 0; i < kHeads * kDim; ++i) {
        expected_k[std::size_t(slots[token]) * kHeads * kDim + i] = k_new[token * kHeads * kDim + i];
        expected_v[std::size_t(slots[token]) * kHeads * kDim + i] = v_new[token * kHeads * kDim + i];
      }
  espalier::detail::AppendParams params{};
  params.scalar = kScalarOf<TestType>;
  params.tokens = kTokens;
  params.kv_heads = kHeads;
  params.head_dim = kDim;
  params.block_tokens = kOfBlock;
  params.slots = slots.data();
  params.k_new = k_new.data();
  params.v_new = v_new.data();
  params.k = k.data();
  params.v = v.data();
  params.k_new_token_stride = params.v_new_token_stride = params.k_token_stride = params.v_token_stride = kHeads * kDim;
  params.k_new_head_stride = params.v_new_head_stride = params.k_head_stride = params.v_head_stride = kDim;
  params.k_block_stride = params.v_block_stride = std::int64_t(kOfBlock) * kHeads * kDim;
  emulated_append(Architecture::gfx942, params);
  CHECK(std::memcmp(k.data(), expected_k.data(), size * sizeof(TestType)) == 0);
  CHECK(std::memcmp(v.data(), expected_v.data(), size * sizeof(TestType)) == 0);
}

}  // namespace
}  // namespace espalier::test
