#pragma once
// Attention without matrix instructions: every type, head size, block size and group, on every GPU. What the fast
// kernels fall back to, and are compared with.
//
//   out[r, h] = sum_t softmax_t(scale * q[r, h] . k[t]) v[t]   over the tokens that row r sees
//
// Mapping: one block is one worker and walks its tiles; one wave takes (row, query head) pairs of a tile in turn; the
// lanes of a wave share head_dim, kDims elements each. Nothing is in shared memory; registers: 2 * kDims floats for q
// and the output.

#include "backends/gpu/block_walk.hpp"
#include "backends/gpu/plan_tile.hpp"
#include "backends/gpu/result_place.hpp"
#include "backends/gpu/softmax_state.hpp"

namespace espalier::gpu {

inline constexpr int kSimtThreads = 256;
inline constexpr int kSimtMostHeadDim = 256;

template <class T, int Dims>
__device__ void store_simt_result(const ResultPlace<T>& place, int head_dim, const float (&sum)[Dims],
                                  const SoftmaxState& softmax) {
  const int lane = threadIdx.x % kWaveLanes;
  const float inverse = softmax.inverse();
#pragma unroll
  for (int i = 0; i < Dims; ++i) {
    const int d = lane + i * kWaveLanes;
    if (d >= head_dim) continue;
    if (place.partial) {
      place.partial[d] = sum[i] * inverse;
    } else {
      place.out[d] = from_float<T>(sum[i] * inverse);
    }
  }
  if (lane == 0 && place.lse) *place.lse = softmax.lse();
}

template <class T, int Dims>
__global__ void __launch_bounds__(kSimtThreads) simt_attend_kernel(detail::AttendParams p) {
  const detail::PlanView& plan = p.plan;
  const int wave = threadIdx.x / kWaveLanes, lane = threadIdx.x % kWaveLanes, group = p.query_heads / p.kv_heads;
  for (int number = plan.worker_begin[blockIdx.x]; number < plan.worker_begin[blockIdx.x + 1]; ++number) {
    const detail::Tile tile = tile_of_plan(p, number);
    const int pairs = (tile.row_end - tile.row_begin) * group;
    for (int pair = wave; pair < pairs; pair += kSimtThreads / kWaveLanes) {
      const int row = tile.row_begin + pair / group, head_of_group = pair % group;
      const T* q = static_cast<const T*>(p.q) + plan.row_index[row] * p.q_row_stride +
                   (tile.kv_head * group + head_of_group) * p.q_head_stride;
      float query[Dims], sum[Dims];
#pragma unroll
      for (int i = 0; i < Dims; ++i) {
        const int d = lane + i * kWaveLanes;
        query[i] = d < p.head_dim ? to_float(q[d]) : 0.0f;
        sum[i] = 0.0f;
      }
      SoftmaxState softmax;
      BlockWalk walk(plan, tile, p.block_tokens);
      for (int t = 0; t < tile.tokens; ++t) {
        const WalkToken token = walk.token();
        if (t + 1 < tile.tokens) walk.next();
        if (row < token.row_begin || row >= token.row_end) continue;
        if (row < token.own_row_end && token.node_token >= plan.row_visible[row]) continue;
        const T* k = static_cast<const T*>(p.k) + token.block * p.k_block_stride + token.offset * p.k_token_stride +
                     tile.kv_head * p.k_head_stride;
        const T* v = static_cast<const T*>(p.v) + token.block * p.v_block_stride + token.offset * p.v_token_stride +
                     tile.kv_head * p.v_head_stride;
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < Dims; ++i) {
          const int d = lane + i * kWaveLanes;
          if (d < p.head_dim) score += query[i] * to_float(k[d]);
        }
        score = wave_sum(score) * p.scale;
        if (p.soft_cap != 0.0f) score = p.soft_cap * tanhf(score / p.soft_cap);
        const SoftmaxState::Factors factors = softmax.add(score * kLog2E);
#pragma unroll
        for (int i = 0; i < Dims; ++i) {
          const int d = lane + i * kWaveLanes;
          if (d < p.head_dim) sum[i] = sum[i] * factors.old_part + factors.new_part * to_float(v[d]);
        }
      }
      store_simt_result(result_place<T>(p, tile, row, head_of_group), p.head_dim, sum, softmax);
    }
  }
}

/// One wave for one (row, query head) whose partials are not exactly one: none gives zero and -inf.
template <class T, int Dims>
__global__ void __launch_bounds__(kSimtThreads) simt_merge_kernel(detail::AttendParams p) {
  const detail::PlanView& plan = p.plan;
  const int lane = threadIdx.x % kWaveLanes, group = p.query_heads / p.kv_heads;
  const std::int64_t result = std::int64_t{blockIdx.x} * (kSimtThreads / kWaveLanes) + threadIdx.x / kWaveLanes;
  const int row = static_cast<int>(result / p.query_heads), head = static_cast<int>(result % p.query_heads);
  if (row >= plan.rows) return;
  const int begin = plan.merge_begin[row], end = plan.merge_begin[row + 1];
  if (end - begin == 1) return;
  const std::int64_t first_partial = std::int64_t{head / group} * plan.sizes->partials;
  float sum[Dims] = {};
  SoftmaxState softmax;
  for (int i = begin; i < end; ++i) {
    const std::int64_t partial = (first_partial + plan.merge_partials[i]) * group + head % group;
    const SoftmaxState::Factors factors = softmax.add(plan.partial_lse[partial] * kLog2E);
#pragma unroll
    for (int j = 0; j < Dims; ++j) {
      const int d = lane + j * kWaveLanes;
      if (d < p.head_dim) {
        sum[j] = sum[j] * factors.old_part + factors.new_part * plan.partial_out[partial * p.head_dim + d];
      }
    }
  }
  store_simt_result(output_place<T>(p, row, head), p.head_dim, sum, softmax);
}

/// Calls body<Dims>() with the fewest elements of head_dim that a lane must hold.
template <class Body>
void with_simt_dims(int head_dim, const Body& body) {
  constexpr int kMost = kSimtMostHeadDim / kWaveLanes;
  if (head_dim <= kWaveLanes * kMost / 4)
    body.template operator()<kMost / 4>();
  else if (head_dim <= kWaveLanes * kMost / 2)
    body.template operator()<kMost / 2>();
  else
    body.template operator()<kMost>();
}

/// Enqueues the merge of what attend kernels left in the plan's partials; head_dim at most kSimtMostHeadDim.
template <class T>
void simt_merge(const detail::AttendParams& p, Stream stream) {
  constexpr std::int64_t kWaves = kSimtThreads / kWaveLanes;
  const std::int64_t results = std::int64_t{p.plan.rows} * p.query_heads;
  if (results == 0) return;
  with_simt_dims(p.head_dim, [&]<int Dims>() {
    launch(simt_merge_kernel<T, Dims>, (results + kWaves - 1) / kWaves, kSimtThreads, stream, p);
  });
}

/// Enqueues attend and merge; head_dim at most kSimtMostHeadDim. Allocates nothing and waits for nothing.
template <class T>
Status simt_attend(const detail::AttendParams& p, Stream stream) {
  if (p.plan.workers > 0) {
    with_simt_dims(p.head_dim,
                   [&]<int Dims>() { launch(simt_attend_kernel<T, Dims>, p.plan.workers, kSimtThreads, stream, p); });
  }
  simt_merge<T>(p, stream);
  return last_status();
}

}  // namespace espalier::gpu
