#pragma once
// The arithmetic of one panel of lanes over one chunk of tokens. Arrays of a panel are [token or dimension][lane], so
// `p[i * kWidth]` walks down them; kVectors vectors side by side are the kWidth lanes.

#include <Kokkos_Core.hpp>

#include "lanes.hpp"

namespace espalier::portable {

inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2 = 0.693147180559945309f;
inline constexpr float kInfinity = __builtin_huge_valf();
inline constexpr float kLargest = 0x1.fffffep127f;

/// c[i][lane] = rescale[lane] * c[i][lane] + sum_k a(i, k) * b[k][lane] for kRows rows i; without rescale c is written.
template <int kWidth, int kRows, class Vector, int kVectors, class A>
KOKKOS_FORCEINLINE_FUNCTION void block_product(int depth, const A& a, const float* b, float* c, const float* rescale) {
  Vector sum[kRows][kVectors];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j)
      sum[i][j] = rescale
                      ? Vector::load(c + i * kWidth + j * Vector::kFloats) * Vector::load(rescale + j * Vector::kFloats)
                      : Vector::broadcast(0);
  for (int k = 0; k < depth; ++k) {
    Vector row[kVectors];
    for (int j = 0; j < kVectors; ++j) row[j] = Vector::load(b + k * kWidth + j * Vector::kFloats);
    for (int i = 0; i < kRows; ++i) {
      const float factor = a(i, k);
      for (int j = 0; j < kVectors; ++j) sum[i][j] = multiply_add(factor, row[j], sum[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) sum[i][j].store(c + i * kWidth + j * Vector::kFloats);
}

/// score = soft_cap * tanh(score / soft_cap), in base 2; the division has been done in q.
template <int kWidth, class Vector, int kVectors>
KOKKOS_FUNCTION void cap_scores(int tokens, float soft_cap, float* s) {
  const Vector one = Vector::broadcast(1);
  const Vector two = Vector::broadcast(2);
  const Vector limit = Vector::broadcast(20);  // beyond it tanh is 1 in float
  const Vector cap = Vector::broadcast(soft_cap * kLog2E);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < kVectors; ++j) {
      float* score = s + t * kWidth + j * Vector::kFloats;
      const Vector x = max(Vector::broadcast(0) - limit, Vector::load(score));  // in this order it keeps a NaN
      const Vector bounded = where_between(x, 20.0f, kInfinity, limit, x);
      const Vector e = exp2(Vector::broadcast(2 * kLog2E) * bounded);  // tanh(x) = 1 - 2 / (e^2x + 1)
      (cap * (one - two / (e + one))).store(score);
    }
}

/// Scores of tokens that a lane's row does not see become -inf.
template <int kWidth, class Vector, int kVectors>
KOKKOS_FUNCTION void mask_scores(int tokens, const float* row_begin, const float* row_end, const float* lane_row,
                                 float* s) {
  const Vector hidden = Vector::broadcast(-kInfinity);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < kVectors; ++j) {
      float* score = s + t * kWidth + j * Vector::kFloats;
      const Vector rows = Vector::load(lane_row + j * Vector::kFloats);
      where_between(rows, row_begin[t], row_end[t], Vector::load(score), hidden).store(score);
    }
}

/// Online softmax: scores become weights against the new peak; `rescale` brings older sums to that peak.
template <int kWidth, class Vector, int kVectors>
KOKKOS_FUNCTION void weigh_scores(int tokens, float* s, float* peak, float* weight, float* rescale) {
  for (int j = 0; j < kVectors; ++j) {
    const int lane = j * Vector::kFloats;
    const Vector old_peak = Vector::load(peak + lane);
    Vector top = old_peak;
    for (int t = 0; t < tokens; ++t) top = max(top, Vector::load(s + t * kWidth + lane));
    // While a row has seen nothing its peak is -inf; a finite stand-in avoids -inf - -inf.
    const Vector reference = max(top, Vector::broadcast(-kLargest));
    Vector sum = Vector::broadcast(0);
    for (int t = 0; t < tokens; ++t) {
      const Vector w = exp2(Vector::load(s + t * kWidth + lane) - reference);
      w.store(s + t * kWidth + lane);
      sum = sum + w;
    }
    const Vector scale = exp2(old_peak - reference);
    (Vector::load(weight + lane) * scale + sum).store(weight + lane);
    top.store(peak + lane);
    scale.store(rescale + lane);
  }
}

// -- narrow panels, on a CPU: vectors run along the dimensions; q and o are [lane][head_dim]

/// s[t][lane] = k[t] . q[lane] for kTokens tokens and 4 lanes.
template <int kWidth, int kTokens, class Element>
void dot_products(int head_dim, const Element* const* k, const float* q, float* s) {
  constexpr int kLanes = 4;
  using Vector = Lanes<kVectorFloats>;
  Vector sum[kTokens][kLanes];
  for (int t = 0; t < kTokens; ++t)
    for (int lane = 0; lane < kLanes; ++lane) sum[t][lane] = Vector::broadcast(0);
  int d = 0;
  for (; d + kVectorFloats <= head_dim; d += kVectorFloats) {
    Vector query[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) query[lane] = Vector::load(q + lane * head_dim + d);
    for (int t = 0; t < kTokens; ++t) {
      const Vector key = Vector::load(k[t] + d);
      for (int lane = 0; lane < kLanes; ++lane) sum[t][lane] = query[lane] * key + sum[t][lane];
    }
  }
  for (int t = 0; t < kTokens; ++t) sums(sum[t][0], sum[t][1], sum[t][2], sum[t][3]).store(s + t * kWidth);
  for (; d < head_dim; ++d)
    for (int t = 0; t < kTokens; ++t)
      for (int lane = 0; lane < kLanes; ++lane) s[t * kWidth + lane] += to_float(k[t][d]) * q[lane * head_dim + d];
}

/// o[lane][:] = rescale[lane] * o[lane][:] + sum_t s[t][lane] * v[t][:] for 4 lanes.
template <int kWidth, class Element>
void weighted_values(int head_dim, int tokens, const Element* const* v, const float* s, const float* rescale,
                     float* o) {
  constexpr int kLanes = 4;
  const auto run = [&](auto vector, auto vectors, int d) {
    using Vector = decltype(vector);
    constexpr int kVectors = decltype(vectors)::value;
    Vector sum[kLanes][kVectors];
    for (int lane = 0; lane < kLanes; ++lane)
      for (int j = 0; j < kVectors; ++j)
        sum[lane][j] = Vector::load(o + lane * head_dim + d + j * Vector::kFloats) * Vector::broadcast(rescale[lane]);
    for (int t = 0; t < tokens; ++t)
      for (int j = 0; j < kVectors; ++j) {
        const Vector value = Vector::load(v[t] + d + j * Vector::kFloats);
        for (int lane = 0; lane < kLanes; ++lane)
          sum[lane][j] = multiply_add(s[t * kWidth + lane], value, sum[lane][j]);
      }
    for (int lane = 0; lane < kLanes; ++lane)
      for (int j = 0; j < kVectors; ++j) sum[lane][j].store(o + lane * head_dim + d + j * Vector::kFloats);
  };
  constexpr int kRun = 4;
  int d = 0;
  for (; d + kRun * kVectorFloats <= head_dim; d += kRun * kVectorFloats)
    run(Lanes<kVectorFloats>{}, std::integral_constant<int, kRun>{}, d);
  for (; d + kVectorFloats <= head_dim; d += kVectorFloats)
    run(Lanes<kVectorFloats>{}, std::integral_constant<int, 1>{}, d);
  for (; d < head_dim; ++d) run(Lanes<1>{}, std::integral_constant<int, 1>{}, d);
}

}  // namespace espalier::portable
