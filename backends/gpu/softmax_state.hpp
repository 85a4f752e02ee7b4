#pragma once

#include <cfloat>

#include "backends/gpu/platform.hpp"

namespace espalier::gpu {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr float kNoPeak = -FLT_MAX;  ///< below every score, yet finite: differences of peaks are never inf - inf

/// Softmax over part of the keys, in base 2: weight = sum of 2^(score - peak).
/// An empty part is {kNoPeak, 0} and leaves any other state unchanged when merged.
struct SoftmaxState {
  float peak = kNoPeak;
  float weight = 0.0f;

  /// Factors for what was summed under the old peak, and for what comes with `score`.
  struct Factors {
    float old_part, new_part;
  };

  /// Adds a part whose softmax is (score, part_weight); -inf adds nothing.
  __device__ __forceinline__ Factors add(float score, float part_weight = 1.0f) {
    const float top = fmaxf(peak, score);
    const Factors factors = {exp2_of(peak - top), exp2_of(score - top)};
    weight = weight * factors.old_part + part_weight * factors.new_part;
    peak = top;
    return factors;
  }

  /// Natural log of the denominator, -inf where nothing was added. A NaN stays one.
  [[nodiscard]] __device__ __forceinline__ float lse() const {
    return weight == 0.0f ? -INFINITY : (peak + log2_of(weight)) * kLn2;
  }

  /// What the weighted sum is to be multiplied with, 0 where nothing was added.
  [[nodiscard]] __device__ __forceinline__ float inverse() const { return weight == 0.0f ? 0.0f : 1.0f / weight; }
};

}  // namespace espalier::gpu
