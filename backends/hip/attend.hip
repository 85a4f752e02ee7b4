#include "backends/hip/attend.hpp"

#include <cstdint>

#include "backends/gpu/append.hpp"
#include "backends/gpu/simt_attend.hpp"
#include "backends/hip/launch_attend.hpp"

namespace espalier::hip {
namespace {

bool is_aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

/// Returns body<T>() with the element type.
template <class Body>
gpu::Status with_element(detail::ScalarType scalar, const Body& body) {
  switch (scalar) {
    case detail::ScalarType::f16: return body.template operator()<float16>();
    case detail::ScalarType::bf16: return body.template operator()<bfloat16>();
    default: return body.template operator()<float>();
  }
}

template <class T>
gpu::Status attend_on_matrix_units(const detail::AttendParams& p, gpu::Stream stream) {
  if (p.plan.workers > 0) {
    switch (p.head_dim) {
      case 64: launch_attend<T, 64>(p, stream); break;
      case 128: launch_attend<T, 128>(p, stream); break;
      default: launch_attend<T, 256>(p, stream); break;
    }
  }
  gpu::simt_merge<T>(p, stream);
  return gpu::last_status();
}

}  // namespace

bool has_matrix_kernel(const detail::AttendParams& p) {
  const std::int64_t strides[] = {p.q_row_stride,   p.q_head_stride,  p.k_block_stride, p.k_token_stride,
                                  p.k_head_stride,  p.v_block_stride, p.v_token_stride, p.v_head_stride,
                                  p.out_row_stride, p.out_head_stride};
  for (const std::int64_t stride : strides) {
    if (stride % 8 != 0) return false;
  }
  return p.scalar != detail::ScalarType::f32 && (p.head_dim == 64 || p.head_dim == 128 || p.head_dim == 256) &&
         is_aligned(p.q) && is_aligned(p.k) && is_aligned(p.v) && is_aligned(p.out) && is_aligned(p.plan.partial_out);
}

gpu::Status attend(const detail::AttendParams& p, gpu::Stream stream) {
  return with_element(p.scalar, [&]<class T>() {
    if constexpr (sizeof(T) == 2) {
      if (has_matrix_kernel(p)) return attend_on_matrix_units<T>(p, stream);
    }
    return gpu::simt_attend<T>(p, stream);
  });
}

gpu::Status append(const detail::AppendParams& p, gpu::Stream stream) {
  return with_element(p.scalar, [&]<class T>() { return gpu::append<T>(p, stream); });
}

}  // namespace espalier::hip
