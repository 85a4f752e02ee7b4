#pragma once

#include <cstdint>

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu {

/// Where the result of one (row, query head) of a tile goes.
template <class T>
struct ResultPlace {
  float* partial;  ///< [head_dim] of the plan's partials; null where the row has no other partial
  T* out;          ///< [head_dim] of the output, where `partial` is null
  float* lse;      ///< natural log, beside either; null where nobody wants it
};

/// That of a row without partials, or with all of them. @param row  of the line. @param head  of the query heads
template <class T>
__device__ __forceinline__ ResultPlace<T> output_place(const detail::AttendParams& p, int row, int head) {
  const std::int64_t caller_row = p.plan.row_index[row];
  return {nullptr, static_cast<T*>(p.out) + caller_row * p.out_row_stride + head * p.out_head_stride,
          p.lse ? p.lse + caller_row * p.lse_row_stride + head : nullptr};
}

/// @param row  of the line, one of the tile's
template <class T>
__device__ __forceinline__ ResultPlace<T> result_place(const detail::AttendParams& p, const detail::Tile& tile, int row,
                                                       int head_of_group) {
  const detail::PlanView& plan = p.plan;
  const int group = p.query_heads / p.kv_heads;
  if (plan.merge_begin[row + 1] - plan.merge_begin[row] > 1) {
    const std::int64_t partial = (std::int64_t{tile.partial_begin} + row - tile.row_begin) * group + head_of_group;
    return {plan.partial_out + partial * p.head_dim, nullptr, plan.partial_lse + partial};
  }
  return output_place<T>(p, row, tile.kv_head * group + head_of_group);
}

}  // namespace espalier::gpu
