#pragma once
// What both kernels, or the parts of one, share: tiles, where rows lie, score transforms, and stores of 16-bit rows.

#include "backends/cuda/sm90/config.hpp"
#include "backends/cuda/sm90/hopper.hpp"
#include "backends/gpu/softmax_state.hpp"

namespace espalier::gpu::sm90 {

__device__ __forceinline__ int divide(int value, const Divisor& by) {
  return by.divisor == 1 ? value : static_cast<int>(__umulhi(static_cast<unsigned>(value), by.multiplier) >> by.shift);
}

__device__ __forceinline__ detail::FusedTile load_tile(const detail::FusedTile* tile) {
  union {
    int4 words[2];
    detail::FusedTile tile;
  } loaded = {{load_plan(reinterpret_cast<const int4*>(tile)), load_plan(reinterpret_cast<const int4*>(tile) + 1)}};
  return loaded.tile;
}

/// One (row, query head): the row as the caller numbers it.
struct PairPlace {
  int row;
  int head;
};

__device__ __forceinline__ PairPlace locate_pair(const MergeArguments& arguments, int pair, int kv_head) {
  const int line_row = divide(pair, arguments.by_group);
  return {load_plan(arguments.plan.row_index + line_row),
          kv_head * arguments.group + pair - line_row * arguments.group};
}

template <class T>
__device__ __forceinline__ T* out_of(const MergeArguments& arguments, PairPlace place) {
  return static_cast<T*>(arguments.out) + place.row * arguments.out_row_stride + place.head * arguments.out_head_stride;
}

__device__ __forceinline__ void store_lse(const MergeArguments& arguments, PairPlace place, float lse_base2) {
  if (arguments.lse) arguments.lse[place.row * arguments.lse_row_stride + place.head] = lse_base2 / kLog2E;
}

/// Soft cap, and the scale where it is not positive. tanh(x) = 1 - 2 / (1 + e^2x): absolute error about 1e-7.
__device__ __forceinline__ float transform_score(float score, const Arguments& arguments) {
  const float x = score * arguments.score_scale;
  if (arguments.soft_cap == 0.0f) return x;
  return arguments.soft_cap * (1.0f - fast_divide(2.0f, 1.0f + fast_exp2(2.0f * kLog2E * x)));
}

/// What is added to weight_scale times a score to get a weight's exponent: peak and score then cancel. Finite where there
/// is no peak yet, so that a hidden score of -inf stays one.
__device__ __forceinline__ float shift_of(float peak, float weight_scale) {
  return fminf(-peak * weight_scale, FLT_MAX);
}

/// Stores a row of which each lane of a quad holds columns 8 j + 2 quad_lane and the next one, for all j: the quad
/// transposes 4 x 4 words, so that every store is 16 bytes wide.
template <int HeadDim, int Words>
__device__ __forceinline__ void store_quad_row(void* row, const std::uint32_t (&words)[Words], int quad_lane,
                                               bool valid) {
#pragma unroll
  for (int k = 0; k < Words / 4; ++k) {
    std::uint32_t a0 = words[4 * k], a1 = words[4 * k + 1], a2 = words[4 * k + 2], a3 = words[4 * k + 3];
    std::uint32_t other = exchange_lanes((quad_lane & 1) ? a0 : a1, 1);
    if (quad_lane & 1)
      a0 = other;
    else
      a1 = other;
    other = exchange_lanes((quad_lane & 1) ? a2 : a3, 1);
    if (quad_lane & 1)
      a2 = other;
    else
      a3 = other;
    other = exchange_lanes((quad_lane & 2) ? a0 : a2, 2);
    if (quad_lane & 2)
      a0 = other;
    else
      a2 = other;
    other = exchange_lanes((quad_lane & 2) ? a1 : a3, 2);
    if (quad_lane & 2)
      a1 = other;
    else
      a3 = other;
    const int column = (4 * k + quad_lane) * 8;
    if (valid && column < HeadDim) {
      *reinterpret_cast<uint4*>(static_cast<char*>(row) + column * 2) = make_uint4(a0, a1, a2, a3);
    }
  }
}

}  // namespace espalier::gpu::sm90
