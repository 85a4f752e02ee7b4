#pragma once
// New K and V into their slots; a negative slot is skipped. One thread moves one element; neighbouring threads neighbouring elements.

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu {

inline constexpr int kAppendThreads = 256;

template <class T>
__global__ void __launch_bounds__(kAppendThreads) append_kernel(detail::AppendParams p) {
  const std::int64_t heads = std::int64_t{p.tokens} * p.kv_heads;
  const std::int64_t index = std::int64_t{blockIdx.x} * kAppendThreads + threadIdx.x;
  const std::int64_t pair = index / p.head_dim;
  if (pair >= heads || p.slots[pair / p.kv_heads] < 0) return;
  const int d = static_cast<int>(index - pair * p.head_dim);
  const std::int64_t token = pair / p.kv_heads, head = pair - token * p.kv_heads;
  const std::int64_t block = p.slots[token] / p.block_tokens, offset = p.slots[token] - block * p.block_tokens;
  static_cast<T*>(p.k)[block * p.k_block_stride + offset * p.k_token_stride + head * p.k_head_stride + d] =
      static_cast<const T*>(p.k_new)[token * p.k_new_token_stride + head * p.k_new_head_stride + d];
  static_cast<T*>(p.v)[block * p.v_block_stride + offset * p.v_token_stride + head * p.v_head_stride + d] =
      static_cast<const T*>(p.v_new)[token * p.v_new_token_stride + head * p.v_new_head_stride + d];
}

template <class T>
Status append(const detail::AppendParams& p, Stream stream) {
  const std::int64_t elements = std::int64_t{p.tokens} * p.kv_heads * p.head_dim;
  if (elements > 0)
    launch(append_kernel<T>, (elements + kAppendThreads - 1) / kAppendThreads, kAppendThreads, stream, p);
  return last_status();
}

}  // namespace espalier::gpu
