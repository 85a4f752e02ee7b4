#pragma once

// What the tests of emulated kernels have in common, whichever GPU is emulated.

#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

#include "support/problem.hpp"
#include "tests/emulation/params_of.hpp"

namespace espalier::test {

/// Of the weights that matrix units take. The SIMT kernels keep them in float.
template <class Element>
constexpr double kWeightUnit = std::is_same_v<Element, float16> ? 0x1p-11 : 0x1p-8;

/// What a failure says of its problem.
template <class Element>
std::string description_of(const Tree& tree, const HeadShape& heads, const Setup& setup) {
  std::ostringstream text;
  text << name_of(kScalarOf<Element>) << "; " << tree.name << "; heads " << heads.query_heads << "/" << heads.kv_heads
       << "/" << heads.head_dim << "; block_tokens " << setup.block_tokens << "; cache layout "
       << int(setup.cache_layout) << "; tree layout " << int(setup.tree_layout) << "; strategy "
       << name_of(setup.strategy) << "; soft_cap " << setup.options.soft_cap << "; scale " << setup.options.scale
       << "; workers " << setup.workers << "; lse " << setup.wants_lse;
  return text.str();
}

inline Tree prompt_with_branches() {
  Tree tree{"a long prompt, 25 branches", {{-1, 300}}, {}};
  for (int i = 0; i < 25; ++i) tree.nodes.push_back({0, 1 + i * 7 % 40});
  tree.rows = leaf_rows(tree.nodes);
  return tree;
}

inline Tree rows_inside_a_node() {
  Tree tree{"70 rows of one node", {{-1, 130}, {0, 70}}, {}};
  for (int i = 0; i < 70; ++i) tree.rows.push_back({1, i + 1});
  return tree;
}

/// Calls check(tree, heads, inputs, setup) for every strategy, with one to three workers.
template <class Element, class Check>
void check_strategies(const Check& check) {
  const HeadShape heads{5, 1, 64};
  for (const std::uint32_t seed : {11u, 12u, 13u}) {
    const Tree tree = random_forest(seed);
    const Inputs inputs = random_inputs<Element>(tree, heads, seed);
    for (const PlanStrategy strategy : kPlanStrategies) {
      Setup setup;
      setup.strategy = strategy;
      setup.workers = int(seed) - 10;
      check(tree, heads, inputs, setup);
    }
  }
}

/// The same with scores of which a careless exponential would overflow.
template <class Element, class Check>
void check_large_scores(const Check& check) {
  const Tree tree = random_forest(4);
  const HeadShape heads{4, 2, 64};
  for (const float magnitude : {1e2f, 1e4f})
    for (const float soft_cap : {0.0f, 30.0f})
      for (const PlanStrategy strategy : kPlanStrategies) {
        Setup setup;
        setup.strategy = strategy;
        setup.options.soft_cap = soft_cap;
        check(tree, heads, random_inputs<Element>(tree, heads, 4, magnitude), setup);
      }
}

/// Calls check(tree, token, inputs) with a NaN in k of one token, in each node in turn.
template <class Element, class Check>
void check_nan_in_k(const HeadShape& heads, const Check& check) {
  const Tree tree{"siblings", {{-1, 30}, {0, 70}, {0, 12}, {2, 9}, {-1, 5}}, {{1}, {2}, {3}, {0}, {4}, {3, 4}}};
  for (const std::size_t token : {3u, 95u, 105u, 113u, 125u}) {
    Inputs inputs = random_inputs<Element>(tree, heads, 6);
    inputs.k[(token * std::size_t(heads.kv_heads) + 1) * std::size_t(heads.head_dim) + 7] =
        std::numeric_limits<float>::quiet_NaN();
    check(tree, token, inputs);
  }
}

/// What `takes` says of the arrays of a problem.
template <class Element, class Takes>
auto answer(const Takes& takes, int head_dim, CacheLayout layout, int block_tokens = 16) {
  const Tree tree = random_forest(1);
  const HeadShape heads{2, 1, head_dim};
  Setup setup;
  setup.cache_layout = layout;
  setup.block_tokens = block_tokens;
  const Problem<Kokkos::DefaultHostExecutionSpace, Element> problem({}, tree, heads,
                                                                    random_inputs<Element>(tree, heads, 1), setup);
  return takes(params_of(problem, heads, setup));
}

}  // namespace espalier::test
