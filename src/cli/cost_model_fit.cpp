#include "cli/cost_model_fit.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

namespace espalier::cli {
namespace {

constexpr std::size_t kConstants = 5;
constexpr std::size_t kReading = 3, kProducts = 4;

/// tile_us, lane_us, partial_us, and the inverses of read_gbs and math_gflops.
using Constants = std::array<double, kConstants>;

/// What a linear problem takes as given.
struct Shape {
  std::int32_t lane_step, panel_lanes;
  bool overlaps;
};

/// What each constant is multiplied with, in one sample.
Constants factors_of(const CostSample& sample, const HeadShape& heads, Scalar scalar, const Shape& shape) {
  Constants factors{};
  const double dims = heads.head_dim / 128.0;
  CostModel model = kCpuCostModel;
  model.lane_step = shape.lane_step;
  model.panel_lanes = shape.panel_lanes;
  const detail::TileCost cost = detail::tile_cost_of(model, heads, scalar);
  for (const TileKind& kind : sample.kinds) {
    const std::int64_t lanes = cost.with_padding(kind.lanes);
    factors[0] += kind.tiles;
    factors[1] += kind.tiles * double(kind.lanes) * dims;
    factors[2] += kind.tiles * double(kind.merged_lanes) * dims;
    factors[kReading] += kind.tiles * double(kind.tokens) * 2.0 * heads.head_dim * bytes_of(scalar) * 1e-3;
    factors[kProducts] += kind.tiles * double(kind.tokens) * double(lanes) * 4.0 * heads.head_dim * 1e-3;
  }
  return factors;
}

double dot(const Constants& a, const Constants& b) {
  double sum = 0;
  for (std::size_t i = 0; i < kConstants; ++i) sum += a[i] * b[i];
  return sum;
}

double squared_error(const std::vector<Constants>& rows, const Constants& constants) {
  double sum = 0;
  for (const Constants& row : rows) sum += (dot(row, constants) - 1) * (dot(row, constants) - 1);
  return sum;
}

/// Least squares of row . constants = 1 with the constants of `used` alone, the others 0: the normal equations by
/// elimination with pivots on the diagonal.
std::optional<Constants> solve(const std::vector<Constants>& rows, unsigned used) {
  std::array<std::array<double, kConstants + 1>, kConstants> a{};
  for (std::size_t i = 0; i < kConstants; ++i) {
    if ((used >> i & 1) == 0) continue;
    for (const Constants& row : rows) {
      for (std::size_t j = 0; j < kConstants; ++j)
        if ((used >> j & 1) != 0) a[i][j] += row[i] * row[j];
      a[i][kConstants] += row[i];
    }
  }
  for (std::size_t i = 0; i < kConstants; ++i) {
    if ((used >> i & 1) == 0) continue;
    double scale = 0;
    for (const Constants& row : rows) scale += row[i] * row[i];
    if (!(a[i][i] > 1e-10 * scale)) return {};  // the samples cannot tell it from the constants before it
    for (std::size_t k = 0; k < kConstants; ++k) {
      if (k == i || (used >> k & 1) == 0) continue;
      const double factor = a[k][i] / a[i][i];
      for (std::size_t j = 0; j <= kConstants; ++j) a[k][j] -= factor * a[i][j];
    }
  }
  Constants constants{};
  for (std::size_t i = 0; i < kConstants; ++i)
    if ((used >> i & 1) != 0) constants[i] = a[i][kConstants] / a[i][i];
  return constants;
}

/// Least squares with no constant below 0: the best of all choices of which are not 0.
Constants solve_not_negative(const std::vector<Constants>& rows) {
  Constants best{};
  double least = HUGE_VAL;
  for (unsigned used = 1; used < 1u << kConstants; ++used) {
    const std::optional<Constants> constants = solve(rows, used);
    if (!constants || std::ranges::any_of(*constants, [](double value) { return value < 0; })) continue;
    const double error = squared_error(rows, *constants);
    if (error >= least) continue;
    least = error;
    best = *constants;
  }
  return best;
}

CostModel model_of(const Constants& constants, const Shape& shape) {
  constexpr double kLeastRate = 1e-3, kMostRate = 1e6;  // what a plan takes
  const auto rate = [&](double inverse) {
    return inverse > 0 ? std::clamp(1 / inverse, kLeastRate, kMostRate) : kMostRate;
  };
  return {constants[0],    constants[1],   constants[2],     rate(constants[kReading]), rate(constants[kProducts]),
          shape.lane_step, shape.overlaps, shape.panel_lanes};
}

/// The best model of a shape.
CostModel fit(const std::vector<CostSample>& samples, const HeadShape& heads, Scalar scalar, const CostModel& start,
              const Shape& shape) {
  std::vector<Constants> rows;
  for (const CostSample& sample : samples) {
    Constants row = factors_of(sample, heads, scalar, shape);
    for (double& factor : row) factor /= sample.worker_us;
    rows.push_back(row);
  }
  if (!shape.overlaps) return model_of(solve_not_negative(rows), shape);
  constexpr int kMostRounds = 20;
  double us_per_byte = 1 / start.read_gbs, us_per_flop = 1 / start.math_gflops;
  Constants constants{};
  for (int round = 0; round < kMostRounds; ++round) {
    std::vector<Constants> larger = rows;
    for (Constants& row : larger)
      row[row[kReading] * us_per_byte > row[kProducts] * us_per_flop ? kProducts : kReading] = 0;
    constants = solve_not_negative(larger);
    if (constants[kReading] == us_per_byte && constants[kProducts] == us_per_flop) break;
    if (constants[kReading] > 0) us_per_byte = constants[kReading];
    if (constants[kProducts] > 0) us_per_flop = constants[kProducts];
  }
  return model_of(constants, shape);
}

}  // namespace

CostFit compare(const CostModel& model, const std::vector<CostSample>& samples, const HeadShape& heads, Scalar scalar) {
  const detail::TileCost cost = detail::tile_cost_of(model, heads, scalar);
  double sum = 0, largest = 0;
  for (const CostSample& sample : samples) {
    double us = 0;
    for (const TileKind& kind : sample.kinds)
      us += 1e-6 * kind.tiles * double(cost.tile(kind.lanes, kind.tokens, kind.merged_lanes));
    const double error = std::abs(us / sample.worker_us - 1);
    sum += error * error;
    largest = std::max(largest, error);
  }
  return {model, std::sqrt(sum / double(samples.size())), largest};
}

CostFit fit_cost_model(const std::vector<CostSample>& samples, const HeadShape& heads, Scalar scalar,
                       const CostModel& start) {
  CostFit best{start, HUGE_VAL, HUGE_VAL};
  const auto take = [&](const Shape& shape) {
    constexpr double kBetter = 0.99;  // not by rounding alone
    const CostFit found = compare(fit(samples, heads, scalar, start, shape), samples, heads, scalar);
    if (found.error < kBetter * best.error) best = found;
  };
  take({start.lane_step, start.panel_lanes, start.overlaps});
  for (const std::int32_t lane_step : {1, 2, 4, 8, 16, 32, 64})
    for (std::int32_t panel_lanes = lane_step; panel_lanes <= 64; panel_lanes *= 2)
      for (const bool overlaps : {false, true}) take({lane_step, panel_lanes, overlaps});
  return best;
}

}  // namespace espalier::cli
