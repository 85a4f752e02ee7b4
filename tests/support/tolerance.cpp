#include "support/tolerance.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace espalier::test {
namespace {

constexpr double kUnit = 0x1p-24;

double rounded(double value, Scalar scalar) {
  switch (scalar) {
    case Scalar::f32: return double(float(value));
    case Scalar::f16: return double(to_float(from_float<float16>(float(value))));
    case Scalar::bf16: return double(to_float(from_float<bfloat16>(float(value))));
  }
  return value;
}

bool same_kind(double actual, double expected) {
  if (std::isnan(expected) || std::isnan(actual)) return std::isnan(expected) && std::isnan(actual);
  if (std::isinf(expected) || std::isinf(actual)) return actual == expected;
  return true;
}

/// Collects the elements that are off, and prints the worst.
class Offenders {
 public:
  /// @param excess  by how many times the bound is exceeded; infinite for another kind of number
  void add(double excess, std::string where, double actual, double expected) {
    ++count_;
    worst_.push_back({excess, std::move(where), actual, expected});
    std::stable_sort(worst_.begin(), worst_.end(), [](const auto& a, const auto& b) { return a.excess > b.excess; });
    if (worst_.size() > 5) worst_.pop_back();
  }

  void print(std::ostream& stream, const char* array, std::size_t elements) const {
    if (count_ == 0) return;
    stream << count_ << " of " << elements << " elements of " << array << " are off, the worst:\n";
    for (const auto& [excess, where, actual, expected] : worst_)
      stream << "  " << array << where << " is " << actual << ", expected " << expected << ", off by "
             << actual - expected << ", " << excess << " times what is allowed\n";
  }

 private:
  struct Offender {
    double excess;
    std::string where;
    double actual, expected;
  };
  std::size_t count_ = 0;
  std::vector<Offender> worst_;
};

}  // namespace

Tolerance tolerance_of(const ErrorSources& sources) {
  const double capped = sources.soft_cap > 0 ? std::min(sources.largest_score, sources.soft_cap) : 0;
  const double score = 2 * kUnit * std::max(sources.largest_score, capped) + 4 * kUnit * sources.soft_cap;
  const double walk = kUnit * (4 + std::sqrt(sources.longest_path));
  Tolerance tolerance;
  tolerance.by_norm = 2 * score + walk;
  tolerance.each = (5 * tolerance.by_norm + sources.weight_unit) * sources.largest_value;
  tolerance.by_norm += sources.weight_unit;
  tolerance.lse = 5 * (score + walk + kUnit * std::log(sources.longest_path + 1));
  return tolerance;
}

std::string disagreement(std::span<const float> out, std::span<const float> lse, const oracle::Result& expected,
                         const HeadShape& heads, Scalar scalar, const Tolerance& tolerance) {
  std::ostringstream text;
  text.precision(9);
  if (out.size() != expected.out.size() || (!lse.empty() && lse.size() != expected.lse.size())) {
    text << "out has " << out.size() << " elements and lse " << lse.size() << ", expected " << expected.out.size()
         << " and " << expected.lse.size();
    return text.str();
  }
  const auto head_dim = static_cast<std::size_t>(heads.head_dim);
  const auto query_heads = static_cast<std::size_t>(heads.query_heads);
  const auto place = [&](std::size_t row_and_head) {
    return "[row " + std::to_string(row_and_head / query_heads) + ", head " +
           std::to_string(row_and_head % query_heads);
  };
  const auto element = [&](std::size_t i) { return place(i / head_dim) + ", " + std::to_string(i % head_dim) + "]"; };

  double squared_error = 0, squared_rounding = 0, squared = 0, leaning = 0, magnitude = 0;
  Offenders wrong;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double actual = double(out[i]);
    if (!same_kind(actual, expected.out[i])) {
      wrong.add(HUGE_VAL, element(i), actual, expected.out[i]);
    } else if (std::isfinite(actual)) {
      const double error = actual - expected.out[i];
      // Rounding is monotonic, so the result lies between the rounded ends of the allowed interval.
      const double low = rounded(expected.out[i] - tolerance.each, scalar);
      const double high = rounded(expected.out[i] + tolerance.each, scalar);
      if (!(low <= actual && actual <= high))
        wrong.add(std::abs(error) / std::max(high - expected.out[i], expected.out[i] - low), element(i), actual,
                  expected.out[i]);
      const double rounding = rounded(expected.out[i], scalar) - expected.out[i];
      squared_error += error * error;
      squared_rounding += rounding * rounding;
      squared += expected.out[i] * expected.out[i];
      leaning += expected.out[i] < 0 ? -error : error;
      magnitude += std::abs(expected.out[i]);
    }
  }
  wrong.print(text, "out", out.size());

  Offenders wrong_lse;
  for (std::size_t i = 0; i < lse.size(); ++i) {
    const double actual = double(lse[i]);
    const double allowed = tolerance.lse + 2 * kUnit * std::abs(expected.lse[i]);
    if (!same_kind(actual, expected.lse[i]))
      wrong_lse.add(HUGE_VAL, place(i) + "]", actual, expected.lse[i]);
    else if (std::isfinite(actual) && std::abs(actual - expected.lse[i]) > allowed)
      wrong_lse.add(std::abs(actual - expected.lse[i]) / allowed, place(i) + "]", actual, expected.lse[i]);
  }
  wrong_lse.print(text, "lse", lse.size());

  const double rounding = scalar == Scalar::f32 ? 0 : std::sqrt(squared_rounding);
  const double allowed = 2 * rounding + tolerance.by_norm * std::sqrt(squared);
  if (std::sqrt(squared_error) > allowed)
    text << "|out - expected| is " << std::sqrt(squared_error) << ", allowed " << allowed << "; |expected| is "
         << std::sqrt(squared) << "\n";
  // Unbiased errors of this norm add up to about norm * sqrt(elements).
  const double allowed_leaning = allowed * (5 + 0.2 * std::sqrt(double(out.size())));
  if (std::abs(leaning) > allowed_leaning)
    text << "errors lean " << (leaning > 0 ? "away from" : "towards") << " zero: they add up to " << leaning
         << ", allowed " << allowed_leaning << "; |expected| adds up to " << magnitude << "\n";
  return text.str();
}

}  // namespace espalier::test
