// What must not change a result: how a tree is described and cut, where its tokens lie, who computes.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <thread>

#include "support/instances.hpp"
#include "support/problem.hpp"
#include "support/spaces_and_elements.hpp"

namespace espalier::test {
namespace {

const HeadShape kHeads{6, 2, 48};

oracle::Result as_expected(const Result& result) {
  return {{result.out.begin(), result.out.end()}, {result.lse.begin(), result.lse.end()}};
}

/// Both results may be off by the tolerance, and round to different neighbours.
std::string difference(const Result& result, const Result& other, Scalar scalar, Tolerance tolerance) {
  tolerance.by_norm *= 2;
  tolerance.each *= 2;
  tolerance.lse *= 2;
  if (scalar != Scalar::f32) {
    const double unit = scalar == Scalar::f16 ? 0x1p-11 : 0x1p-8;  // of rounding
    tolerance.by_norm += unit;
    for (const float value : other.out) tolerance.each = std::max(tolerance.each, 2 * unit * std::abs(double(value)));
  }
  return disagreement(result.out, result.lse, as_expected(other), kHeads, scalar, tolerance);
}

/// Calls body(tree, inputs, result) for a few random forests.
template <class On, class Body>
void for_forests(const Body& body) {
  for (std::uint32_t seed = 200; seed < 208; ++seed) {
    const Tree tree = random_forest(seed);
    INFO(tree.name);
    const Inputs inputs = random_inputs<typename On::Element>(tree, kHeads, seed);
    body(tree, inputs, attend<typename On::Element>(typename On::Exec(), tree, kHeads, inputs));
  }
}

template <class On>
void check_same(const Tree& tree, const Inputs& inputs, const Result& expected, const Setup& setup) {
  INFO(tree.name << "; strategy " << name_of(setup.strategy) << "; block_tokens " << setup.block_tokens << "; workers "
                 << setup.workers);
  const Result result = attend<typename On::Element>(typename On::Exec(), tree, kHeads, inputs, setup);
  CHECK(difference(result, expected, kScalarOf<typename On::Element>, tolerance_of(tree, kHeads, inputs)) == "");
}

/// The same attention over a tree that means the same, by every strategy.
template <class On>
void check_same(const SameTree& same, const Inputs& inputs, const Result& expected) {
  for (const PlanStrategy strategy : kPlanStrategies) {
    Setup setup;
    setup.strategy = strategy;
    check_same<On>(same.tree, moved(inputs, same.token_from, kHeads), expected, setup);
  }
}

TEMPLATE_LIST_TEST_CASE("sharing a prefix gives what private copies of it give", "[attend][property]",
                        SpacesAndElements) {
  for_forests<TestType>([](const Tree& tree, const Inputs& inputs, const Result& result) {
    check_same<TestType>(with_private_copies(tree), inputs, result);
  });
}

TEMPLATE_LIST_TEST_CASE("splitting nodes changes nothing", "[attend][property]", SpacesAndElements) {
  for_forests<TestType>([](const Tree& tree, const Inputs& inputs, const Result& result) {
    check_same<TestType>(with_split_nodes(tree, 1), inputs, result);
    check_same<TestType>(with_split_nodes(with_split_nodes(tree, 2).tree, 3), inputs, result);
  });
}

TEMPLATE_LIST_TEST_CASE("permuting nodes and siblings changes nothing", "[attend][property]", SpacesAndElements) {
  for_forests<TestType>([](const Tree& tree, const Inputs& inputs, const Result& result) {
    check_same<TestType>(with_permuted_nodes(tree, 1), inputs, result);
    check_same<TestType>(with_permuted_nodes(tree, 2), inputs, result);
  });
}

TEMPLATE_LIST_TEST_CASE("strategy, block size and number of workers change nothing", "[attend][property]",
                        SpacesAndElements) {
  for_forests<TestType>([](const Tree& tree, const Inputs& inputs, const Result& result) {
    for (const PlanStrategy strategy : kPlanStrategies)
      for (const int block_tokens : {1, 5, 128})
        for (const std::int32_t workers : {1, 3, 64}) {
          Setup setup;
          setup.strategy = strategy;
          setup.block_tokens = block_tokens;
          setup.workers = workers;
          check_same<TestType>(tree, inputs, result, setup);
        }
  });
}

TEMPLATE_LIST_TEST_CASE("permuting rows permutes results", "[attend][property]", SpacesAndElements) {
  for_forests<TestType>([](const Tree& tree, const Inputs& inputs, const Result& result) {
    const std::size_t rows = tree.rows.size();
    const std::size_t size = std::size_t(kHeads.query_heads) * std::size_t(kHeads.head_dim);
    const auto heads = std::size_t(kHeads.query_heads);
    Tree reversed = tree;
    Inputs reversed_inputs = inputs;
    Result expected = result;
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t from = rows - 1 - row;
      reversed.rows[row] = tree.rows[from];
      std::copy_n(&inputs.q[from * size], size, &reversed_inputs.q[row * size]);
      std::copy_n(&result.out[from * size], size, &expected.out[row * size]);
      std::copy_n(&result.lse[from * heads], heads, &expected.lse[row * heads]);
    }
    check_same<TestType>(reversed, reversed_inputs, expected, Setup{});
  });
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

TEMPLATE_LIST_TEST_CASE("the same plan and inputs give the same bits", "[attend][property]", SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const Exec exec;
  for (const PlanStrategy strategy : kPlanStrategies)
    for_forests<TestType>([&](const Tree& tree, const Inputs& inputs, const Result&) {
      Setup setup;
      setup.strategy = strategy;
      Problem<Exec, Element> problem(exec, tree, kHeads, inputs, setup);
      problem.attend(exec);
      const Result first = problem.result(exec);
      for (int run = 0; run < 5; ++run) {
        problem.attend(exec);
        const Result again = problem.result(exec);
        CHECK(same_bits(again.out, first.out));
        CHECK(same_bits(again.lse, first.lse));
        problem.plan().update(exec, problem.tree());  // planning is as deterministic as attending
      }
    });
}

TEMPLATE_LIST_TEST_CASE("the first thing that a thread does on a GPU may be to attend", "[attend][property]",
                        SpacesAndElements) {
  using Exec = typename TestType::Exec;
  if constexpr (Kokkos::SpaceAccessibility<Exec, Kokkos::HostSpace>::accessible) {
    SKIP("not a GPU");
  } else {
    using Element = typename TestType::Element;
    const Exec exec;
    const HeadShape heads{8, 2, 64};
    const Tree tree = random_forest(208);
    const Inputs inputs = random_inputs<Element>(tree, heads, 208);
    const Result expected = attend<Element>(exec, tree, heads, inputs);
    Problem<Exec, Element> problem(exec, tree, heads, inputs, {});
    std::string error;
    std::thread([&] {
      try {
        problem.attend(exec);
      } catch (const std::exception& thrown) {
        error = thrown.what();
      }
    }).join();
    REQUIRE(error == "");
    const Result result = problem.result(exec);
    CHECK(same_bits(result.out, expected.out));
    CHECK(same_bits(result.lse, expected.lse));
  }
}

TEMPLATE_LIST_TEST_CASE("the number of threads does not change the bits", "[attend][property]", SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  for (const PlanStrategy strategy : kPlanStrategies)
    for_forests<TestType>([&](const Tree& tree, const Inputs& inputs, const Result&) {
      Setup setup;
      setup.strategy = strategy;
      setup.workers = 13;  // by default they depend on the instance
      const Result expected = attend<Element>(Exec(), tree, kHeads, inputs, setup);
      for (const Exec& exec : instances<Exec>()) {
        const Result result = attend<Element>(exec, tree, kHeads, inputs, setup);
        CHECK(same_bits(result.out, expected.out));
        CHECK(same_bits(result.lse, expected.lse));
      }
    });
}

TEMPLATE_LIST_TEST_CASE("a plan serves several attentions, and follows its tree", "[attend][property]",
                        SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const Exec exec;
  const Tree large = random_forest(210);
  const Tree small = random_forest(211);
  for (const PlanStrategy strategy : kPlanStrategies) {
    Setup setup;
    setup.strategy = strategy;
    const auto make_problem = [&](const Tree& tree) {
      return Problem<Exec, Element>(exec, tree, kHeads, random_inputs<Element>(tree, kHeads, 9), setup);
    };
    Problem<Exec, Element> large_problem = make_problem(large);
    Problem<Exec, Element> small_problem = make_problem(small);
    PlanConfig config;
    config.heads = kHeads;
    config.scalar = kScalarOf<Element>;
    config.strategy = strategy;
    const PlanCapacity of_large = Plan<Exec>::required_capacity(large_problem.snapshot(), config);
    const PlanCapacity of_small = Plan<Exec>::required_capacity(small_problem.snapshot(), config);
    config.capacity = {std::max(of_large.nodes, of_small.nodes), std::max(of_large.rows, of_small.rows),
                       std::max(of_large.segments, of_small.segments), std::max(of_large.tiles, of_small.tiles),
                       std::max(of_large.partials, of_small.partials)};
    Plan<Exec> plan(exec, config);
    for (int round = 0; round < 2; ++round)
      for (Problem<Exec, Element>* problem : {&large_problem, &small_problem}) {
        problem->attend(exec);
        const Result expected = problem->result(exec);
        plan.update(exec, problem->tree());
        espalier::attend(exec, plan, problem->q(), problem->cache(), problem->out(), problem->lse());
        const Result result = problem->result(exec);
        CHECK(difference(result, expected, config.scalar,
                         tolerance_of(problem == &large_problem ? large : small, kHeads,
                                      random_inputs<Element>(problem == &large_problem ? large : small, kHeads, 9))) ==
              "");
      }
  }
}

}  // namespace
}  // namespace espalier::test
