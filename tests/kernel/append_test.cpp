// append(): every token in its slot, and nothing else touched.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <random>

#include "support/problem.hpp"
#include "support/spaces_and_elements.hpp"

namespace espalier::test {
namespace {

struct Shape {
  std::size_t blocks, block_tokens, kv_heads, head_dim;
};

/// Distinct values that all types hold exactly.
float value_of(std::size_t i) { return float(i % 251) - 125.0f; }

/// Tokens with k = value_of(place), v = value_of(place + 1000).
template <class Exec, class Element>
void fill_new(StridedArray<Exec, Element, 3>& k_new, StridedArray<Exec, Element, 3>& v_new, std::size_t tokens,
              const Shape& shape) {
  std::size_t place = 0;
  for (std::size_t token = 0; token < tokens; ++token)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (std::size_t d = 0; d < shape.head_dim; ++d, ++place) {
        k_new.at({token, head, d}) = from_float<Element>(value_of(place));
        v_new.at({token, head, d}) = from_float<Element>(value_of(place + 1000));
      }
  k_new.upload();
  v_new.upload();
}

/// What the cache should hold: NaN (here as 1e30) but in the slots.
std::vector<float> expected_cache(const std::vector<std::int64_t>& slots, const Shape& shape, std::size_t shift) {
  const std::size_t token_size = shape.kv_heads * shape.head_dim;
  std::vector<float> cache(shape.blocks * shape.block_tokens * token_size, 1e30f);
  for (std::size_t token = 0; token < slots.size(); ++token)
    for (std::size_t i = 0; slots[token] >= 0 && i < token_size; ++i)
      cache[std::size_t(slots[token]) * token_size + i] = value_of(token * token_size + i + shift);
  return cache;
}

std::vector<float> without_nan(std::vector<float> values) {
  for (float& value : values)
    if (std::isnan(value)) value = 1e30f;
  return values;
}

template <class On>
void check_append(const std::vector<std::int64_t>& slots, const Shape& shape, std::array<int, 4> cache_order,
                  std::array<int, 3> new_order, std::size_t gap) {
  using Exec = typename On::Exec;
  using Element = typename On::Element;
  const Exec exec;
  StridedArray<Exec, Element, 4> k({shape.blocks, shape.block_tokens, shape.kv_heads, shape.head_dim}, cache_order,
                                   gap);
  StridedArray<Exec, Element, 4> v({shape.blocks, shape.block_tokens, shape.kv_heads, shape.head_dim}, cache_order,
                                   gap);
  StridedArray<Exec, Element, 3> k_new({slots.size(), shape.kv_heads, shape.head_dim}, new_order, gap);
  StridedArray<Exec, Element, 3> v_new({slots.size(), shape.kv_heads, shape.head_dim}, new_order, gap);
  fill_new(k_new, v_new, slots.size(), shape);
  append(exec, to_view<Exec>(slots), k_new.view(), v_new.view(), KvCache{k.view(), v.view()});
  exec.fence();
  CHECK(without_nan(k.download()) == expected_cache(slots, shape, 0));
  CHECK(without_nan(v.download()) == expected_cache(slots, shape, 1000));
}

TEMPLATE_LIST_TEST_CASE("append writes each token into its slot, in any layout", "[append]", SpacesAndElements) {
  const std::vector<std::int64_t> slots{17, 0, 44, 3, 2, 20, 43};
  for (const Shape& shape : {Shape{15, 3, 2, 16}, Shape{3, 16, 1, 17}, Shape{45, 1, 3, 1}, Shape{1, 64, 5, 128}})
    for (const auto& cache_order : {std::array{0, 1, 2, 3}, std::array{0, 2, 1, 3}})
      for (const auto& new_order : {std::array{0, 1, 2}, std::array{1, 0, 2}})  // also [kv_heads, tokens, head_dim]
        for (const std::size_t gap : {0u, 3u}) check_append<TestType>(slots, shape, cache_order, new_order, gap);
}

TEMPLATE_LIST_TEST_CASE("append skips negative slots", "[append]", SpacesAndElements) {
  check_append<TestType>({-1, 5, -7, 0, -1}, {2, 4, 2, 16}, {0, 1, 2, 3}, {0, 1, 2}, 0);
  check_append<TestType>({-1}, {2, 4, 2, 16}, {0, 1, 2, 3}, {0, 1, 2}, 0);
}

TEMPLATE_LIST_TEST_CASE("append of no tokens writes nothing", "[append]", SpacesAndElements) {
  check_append<TestType>({}, {2, 4, 2, 16}, {0, 1, 2, 3}, {0, 1, 2}, 0);
}

TEMPLATE_LIST_TEST_CASE("append fills a whole cache in random order", "[append]", SpacesAndElements) {
  const Shape shape{40, 16, 2, 24};
  std::vector<std::int64_t> slots(shape.blocks * shape.block_tokens);
  std::iota(slots.begin(), slots.end(), 0);
  std::mt19937 random(11);
  std::shuffle(slots.begin(), slots.end(), random);
  check_append<TestType>(slots, shape, {0, 1, 2, 3}, {0, 1, 2}, 0);
}

TEMPLATE_LIST_TEST_CASE("what append wrote is what attend reads", "[append]", SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const Exec exec;
  const Tree tree = random_forest(5);
  const HeadShape heads{4, 2, 32};
  const Inputs inputs = random_inputs<Element>(tree, heads, 5);
  const Setup setup{.block_tokens = 4};
  const Result expected = attend<Element>(exec, tree, heads, inputs, setup);

  // The same cache, filled by append: blocks stay where make_snapshot puts them.
  const std::vector<std::int64_t> slots = slots_in_node_order(tree.nodes, setup.block_tokens);
  const auto tokens = std::size_t(tree.tokens());
  StridedArray<Exec, Element, 3> k_new({tokens, 2, 32}, {0, 1, 2}, 0), v_new({tokens, 2, 32}, {0, 1, 2}, 0);
  for (std::size_t i = 0; i < inputs.k.size(); ++i) {
    k_new.at({i / 64, i / 32 % 2, i % 32}) = from_float<Element>(inputs.k[i]);
    v_new.at({i / 64, i / 32 % 2, i % 32}) = from_float<Element>(inputs.v[i]);
  }
  k_new.upload();
  v_new.upload();
  // Plain Views this time, as most callers have them.
  const std::size_t blocks = std::size_t(slots.back()) / 4 + 1;
  const KvCache cache{Kokkos::View<Element****, Kokkos::LayoutRight, Exec>("k", blocks, 4, 2, 32),
                      Kokkos::View<Element****, Kokkos::LayoutRight, Exec>("v", blocks, 4, 2, 32)};
  append(exec, to_view<Exec>(slots), k_new.view(), v_new.view(), cache);

  Problem<Exec, Element> problem(exec, tree, heads, inputs, setup);
  const TreeArrays<Exec> arrays(exec, snapshot_of(tree, setup.block_tokens));
  problem.plan().update(exec, arrays);
  espalier::attend(exec, problem.plan(), problem.q(), cache, problem.out(), problem.lse());
  CHECK(problem.result(exec) == expected);
}

}  // namespace
}  // namespace espalier::test
