#pragma once
// How far a result may be from the oracle's, in one place, and what to print where it is further.

#include <span>
#include <string>
#include <vector>

#include "espalier/types.hpp"
#include "support/oracle.hpp"

namespace espalier::test {

/// What attention in float arithmetic may add to the error of rounding the output to its type.
struct Tolerance {
  double by_norm = 0;  ///< |out - expected| / |expected|, over all elements
  double each = 0;     ///< |out - expected| of any element
  double lse = 0;      ///< |lse - expected| of any (row, query head)
};

/// What decides the tolerance of an attention.
struct ErrorSources {
  double largest_score;    ///< a bound on |scale * q.k|
  double soft_cap;         ///< 0: none
  double largest_value;    ///< of |v|
  double longest_path;     ///< tokens
  double weight_unit = 0;  ///< of rounding the softmax weights; 0: they are floats
};

/// Rounding to float is off by up to u = 2^-24 of the value.
///   A score sums products in float, and is scaled for base 2:            2 u |score|, and 4 u cap for tanh
///   A weight is off by what its score and the peak are off:              twice that
///   Weights that are rounded to 16 bits are off by their own unit  weight_unit, of an element at most |v| of that
///   Sums over the path, of weights and of values, err like random walks: u sqrt(path), and a few roundings at the ends
/// Single elements may be worse than the norm by the tail of a normal distribution, for which 5 is enough. The result
/// stays below the 1e-5 that is promised for f32 while scores are below 30 and paths below 2,000 tokens.
[[nodiscard]] Tolerance tolerance_of(const ErrorSources& sources);

/// Compares a result, element by element and by norm. For 16-bit types the error by norm may be twice that of rounding
/// the expected output, and each element half a unit in the last place away, on top of the tolerance.
///
/// Infinities and NaNs must be where the oracle has them. Errors must not lean to one side: their mean, counted away
/// from zero, is bounded too.
/// @param out  [rows, query_heads, head_dim]
/// @param lse  [rows, query_heads]; empty: not compared
/// @return nothing if all is well; else what is wrong, with the worst elements
[[nodiscard]] std::string disagreement(std::span<const float> out, std::span<const float> lse,
                                       const oracle::Result& expected, const HeadShape& heads, Scalar scalar,
                                       const Tolerance& tolerance);

}  // namespace espalier::test
