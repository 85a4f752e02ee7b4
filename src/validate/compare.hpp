#pragma once
// How far a kernel's result is from what it should be.

#include <string>
#include <vector>

#include "cases.hpp"
#include "tests/support/oracle.hpp"

namespace espalier::validate {

struct Result {
  std::vector<float> out;  ///< [rows, query_heads, head_dim]
  std::vector<float> lse;  ///< [rows, query_heads]; empty where it is not wanted
};

struct Comparison {
  double error = 0;   ///< |out - expected| / |expected|
  double share = 0;   ///< the largest error of any kind as a share of what is allowed; infinite for a NaN, say
  std::string fault;  ///< where that is more than 1
};

/// What attention may be off by, u being half the distance of 16-bit numbers near 1 (0 for f32), and f = 1e-5, times the
/// square root of the longest path in thousands of tokens if that is more than 1:
///   by norm       u + f           the rounding of weights, partials and output, each 0.4 u of the norm
///   each element  (3 u + 5 f) |v| the same at its worst, v being the largest value
///   lse           10 f (1 + score) score being the largest that any row may have
[[nodiscard]] Comparison compare(const Result& result, const oracle::Result& expected, const Case& it,
                                 double largest_value, double largest_score);

/// |a - b| / |b|; 0 where both are 0.
[[nodiscard]] double difference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace espalier::validate
