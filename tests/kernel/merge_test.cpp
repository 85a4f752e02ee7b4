// merge() against the same sum in double precision.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <random>

#include "support/problem.hpp"
#include "support/spaces_and_elements.hpp"

namespace espalier::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Partials of all rows, one after another; partial_out [partials, heads, head_dim], partial_lse [partials, heads].
struct Partials {
  std::vector<std::int32_t> row_begin;
  std::vector<float> out, lse;
};

template <class Element>
Partials random_partials(const std::vector<std::int32_t>& per_row, const HeadShape& heads, float lse_spread,
                         std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Partials partials;
  partials.row_begin.push_back(0);
  for (const std::int32_t count : per_row) partials.row_begin.push_back(partials.row_begin.back() + count);
  const std::size_t lists = std::size_t(partials.row_begin.back()) * std::size_t(heads.query_heads);
  for (std::size_t i = 0; i < lists; ++i) partials.lse.push_back(lse_spread * normal(random));
  for (std::size_t i = 0; i < lists * std::size_t(heads.head_dim); ++i)
    partials.out.push_back(to_float(from_float<Element>(normal(random))));
  return partials;
}

oracle::Result merged(const Partials& partials, const HeadShape& heads) {
  const std::size_t rows = partials.row_begin.size() - 1;
  const auto query_heads = std::size_t(heads.query_heads), head_dim = std::size_t(heads.head_dim);
  oracle::Result result{std::vector<double>(rows * query_heads * head_dim, 0),
                        std::vector<double>(rows * query_heads, -HUGE_VAL)};
  for (std::size_t at = 0; at < rows * query_heads; ++at) {
    const std::size_t row = at / query_heads;
    const auto begin = std::size_t(partials.row_begin[row]), end = std::size_t(partials.row_begin[row + 1]);
    double top = -HUGE_VAL, weight = 0;
    const auto lse_of = [&](std::size_t p) { return double(partials.lse[p * query_heads + at % query_heads]); };
    for (std::size_t p = begin; p < end; ++p) top = std::max(top, lse_of(p));
    if (top == -HUGE_VAL) continue;
    for (std::size_t p = begin; p < end; ++p) weight += std::exp(lse_of(p) - top);
    result.lse[at] = top + std::log(weight);
    for (std::size_t p = begin; p < end; ++p)
      for (std::size_t d = 0; d < head_dim; ++d)
        if (lse_of(p) != -HUGE_VAL)
          result.out[at * head_dim + d] += std::exp(lse_of(p) - result.lse[at]) *
                                           double(partials.out[(p * query_heads + at % query_heads) * head_dim + d]);
  }
  return result;
}

template <class On>
void check_merge(const Partials& partials, const HeadShape& heads, std::size_t gap = 0, bool wants_lse = true) {
  using Exec = typename On::Exec;
  using Element = typename On::Element;
  const Exec exec;
  const std::size_t count = std::size_t(partials.row_begin.back()), rows = partials.row_begin.size() - 1;
  const auto query_heads = std::size_t(heads.query_heads), head_dim = std::size_t(heads.head_dim);
  StridedArray<Exec, Element, 3> partial_out({count, query_heads, head_dim}, {0, 1, 2}, gap);
  StridedArray<Exec, float, 2> partial_lse({count, query_heads}, {0, 1}, gap);
  StridedArray<Exec, Element, 3> out({rows, query_heads, head_dim}, {0, 1, 2}, gap);
  StridedArray<Exec, float, 2> lse({rows, query_heads}, {0, 1}, gap);
  for (std::size_t i = 0; i < partials.out.size(); ++i)
    partial_out.at({i / head_dim / query_heads, i / head_dim % query_heads, i % head_dim}) =
        from_float<Element>(partials.out[i]);
  for (std::size_t i = 0; i < partials.lse.size(); ++i)
    partial_lse.at({i / query_heads, i % query_heads}) = partials.lse[i];
  partial_out.upload();
  partial_lse.upload();

  merge(exec, partial_out.view(), partial_lse.view(), to_view<Exec>(partials.row_begin), out.view(),
        wants_lse ? lse.view() : decltype(lse.view()){});
  exec.fence();

  double largest = 0;
  for (const float value : partials.lse)
    if (std::isfinite(value)) largest = std::max(largest, std::abs(double(value)));
  const Tolerance tolerance = tolerance_of(
      ErrorSources{.largest_score = largest, .soft_cap = 0, .largest_value = 6, .longest_path = double(count)});
  INFO(Exec::name() << ", " << name_of(kScalarOf<Element>) << "; heads " << heads.query_heads << ", head_dim "
                    << heads.head_dim << ", gap " << gap);
  CHECK(disagreement(out.download(), wants_lse ? lse.download() : std::vector<float>{}, merged(partials, heads), heads,
                     kScalarOf<Element>, tolerance) == "");
}

TEMPLATE_LIST_TEST_CASE("merge agrees with double precision", "[merge]", SpacesAndElements) {
  using Element = typename TestType::Element;
  for (const HeadShape& heads : {HeadShape{4, 4, 64}, HeadShape{1, 1, 1}, HeadShape{3, 3, 17}, HeadShape{2, 2, 256}})
    for (const std::size_t gap : {0u, 2u})
      for (const bool wants_lse : {true, false})
        check_merge<TestType>(random_partials<Element>({3, 0, 1, 2, 40, 0, 7}, heads, 5, 1), heads, gap, wants_lse);
}

TEMPLATE_LIST_TEST_CASE("merge of empty partials, of no partials and of no rows", "[merge]", SpacesAndElements) {
  using Element = typename TestType::Element;
  const HeadShape heads{2, 2, 20};
  Partials partials = random_partials<Element>({2, 3, 0, 1, 2}, heads, 1, 2);
  for (const std::size_t empty : {0u, 1u, 2u, 5u})  // both of row 0, the first of row 1, the only one of row 3
    for (std::size_t head = 0; head < 2; ++head) partials.lse[empty * 2 + head] = -kInfinity;
  partials.lse[6 * 2 + 1] = -kInfinity;  // of one head alone
  check_merge<TestType>(partials, heads);
  check_merge<TestType>(random_partials<Element>({}, heads, 1, 3), heads);
  check_merge<TestType>(random_partials<Element>({0, 0}, heads, 1, 4), heads);
}

TEMPLATE_LIST_TEST_CASE("an empty partial's output is never looked at", "[merge]", SpacesAndElements) {
  const HeadShape heads{1, 1, 16};
  Partials partials = random_partials<typename TestType::Element>({3}, heads, 1, 5);
  partials.lse[1] = -kInfinity;
  for (std::size_t d = 0; d < 16; ++d) partials.out[16 + d] = std::numeric_limits<float>::quiet_NaN();
  check_merge<TestType>(partials, heads);
}

TEMPLATE_LIST_TEST_CASE("merge of far apart and of huge lse does not overflow", "[merge]", SpacesAndElements) {
  using Element = typename TestType::Element;
  const HeadShape heads{2, 2, 32};
  check_merge<TestType>(random_partials<Element>({5, 2, 9}, heads, 1e3f, 6), heads);
  Partials partials = random_partials<Element>({2, 2}, heads, 1, 7);
  partials.lse = {3e38f, -3e38f, 3e38f, -3e38f, -1e30f, 88, -1e30f, 88};
  check_merge<TestType>(partials, heads);
}

TEMPLATE_LIST_TEST_CASE("a NaN among the partials is not lost", "[merge]", SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const Exec exec;
  const std::vector<float> partial_lses{0.5f, std::numeric_limits<float>::quiet_NaN()};
  StridedArray<Exec, Element, 3> partial_out({2, 1, 4}, {0, 1, 2}, 0), out({1, 1, 4}, {0, 1, 2}, 0);
  StridedArray<Exec, float, 2> partial_lse({2, 1}, {0, 1}, 0), lse({1, 1}, {0, 1}, 0);
  for (const bool first : {true, false}) {
    for (std::size_t p = 0; p < 2; ++p) {
      partial_lse.at({p, 0}) = partial_lses[first ? p : 1 - p];
      for (std::size_t d = 0; d < 4; ++d) partial_out.at({p, 0, d}) = from_float<Element>(1);
    }
    partial_out.upload();
    partial_lse.upload();
    merge(exec, partial_out.view(), partial_lse.view(), to_view<Exec>(std::vector<std::int32_t>{0, 2}), out.view(),
          lse.view());
    exec.fence();
    for (const float value : out.download()) CHECK(std::isnan(value));
    CHECK(std::isnan(lse.download()[0]));
  }
}

TEMPLATE_LIST_TEST_CASE("merging attentions over parts of a path gives the attention over all of it", "[merge]",
                        SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  if (!std::is_same_v<Element, float>) return;  // rounding of the parts is not what is tested
  const HeadShape heads{4, 4, 32};
  const Tree whole{"whole", {{-1, 90}}, {{0}}};
  const Inputs inputs = random_inputs<Element>(whole, heads, 8);
  Partials partials{{0, 3}, {}, {}};
  for (const auto& [begin, end] : {std::pair{0, 40}, std::pair{40, 40}, std::pair{40, 90}}) {
    const Tree part{"part", {{-1, end - begin}}, {{0}}};
    std::vector<std::int64_t> tokens(std::size_t(end - begin));
    std::iota(tokens.begin(), tokens.end(), begin);
    const Result result = attend<Element>(Exec(), part, heads, moved(inputs, tokens, heads));
    partials.out.insert(partials.out.end(), result.out.begin(), result.out.end());
    partials.lse.insert(partials.lse.end(), result.lse.begin(), result.lse.end());
  }
  const oracle::Result expected = oracle_of(whole, heads, inputs);
  const oracle::Result result = merged(partials, heads);
  for (std::size_t i = 0; i < expected.out.size(); ++i) CHECK(std::abs(result.out[i] - expected.out[i]) < 1e-5);
  check_merge<TestType>(partials, heads);
}

}  // namespace
}  // namespace espalier::test
