#include "compare.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace espalier::validate {
namespace {

std::int64_t longest_path(const NamedTree& tree) {
  std::vector<std::int64_t> path;
  std::int64_t longest = 1;
  for (const NodeSpec& node : tree.nodes) {
    path.push_back(node.tokens + (node.parent < 0 ? 0 : path[std::size_t(node.parent)]));
    longest = std::max(longest, path.back());
  }
  return longest;
}

/// Keeps the element that is furthest from what is allowed.
class Worst {
 public:
  Worst(const Case& it, Comparison& comparison) : case_(it), comparison_(comparison) {}

  /// @param place  [row, query head]
  void add(const char* array, std::size_t place, double actual, double expected, double allowed) {
    double share = std::abs(actual - expected) / allowed;
    if (!std::isfinite(actual) || !std::isfinite(expected))
      share = actual == expected ? 0 : std::numeric_limits<double>::infinity();
    if (!(share > comparison_.share)) return;
    comparison_.share = share;
    if (share <= 1) return;
    std::ostringstream text;
    const auto heads = std::size_t(case_.heads.query_heads);
    text << array << " of row " << place / heads << ", head " << place % heads << " is " << actual << ", expected "
         << expected << ", allowed " << allowed << " away";
    comparison_.fault = text.str();
  }

 private:
  const Case& case_;
  Comparison& comparison_;
};

}  // namespace

Comparison compare(const Result& result, const oracle::Result& expected, const Case& it, double largest_value,
                   double largest_score) {
  const double unit = it.scalar == Scalar::f32 ? 0 : it.scalar == Scalar::f16 ? 0x1p-11 : 0x1p-8;
  const double arithmetic = 1e-5 * std::max(1.0, std::sqrt(double(longest_path(it.tree)) / 1000));
  Comparison comparison;
  Worst worst(it, comparison);
  double squared_error = 0, squared = 0;
  for (std::size_t i = 0; i < result.out.size(); ++i) {
    const double actual = double(result.out[i]), wanted = expected.out[i];
    worst.add("out", i / std::size_t(it.heads.head_dim), actual, wanted,
              (3 * unit + 5 * arithmetic) * std::max(largest_value, 1e-30));
    squared_error += (actual - wanted) * (actual - wanted);
    squared += wanted * wanted;
  }
  for (std::size_t i = 0; i < result.lse.size(); ++i)
    worst.add("lse", i, double(result.lse[i]), expected.lse[i], 10 * arithmetic * (1 + largest_score));
  comparison.error = squared > 0 ? std::sqrt(squared_error / squared) : std::sqrt(squared_error);
  const double share = comparison.error / (unit + arithmetic);
  if (!(share <= comparison.share)) {
    comparison.share = share;
    std::ostringstream text;
    text << "out is off by " << comparison.error << " by norm, allowed " << unit + arithmetic;
    if (share > 1) comparison.fault = text.str();
  }
  return comparison;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double squared_difference = 0, squared = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squared_difference += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
    squared += double(b[i]) * double(b[i]);
  }
  return squared > 0 ? std::sqrt(squared_difference / squared) : std::sqrt(squared_difference);
}

}  // namespace espalier::validate
