#include "backends/hip/attend.hpp"

#include "backends/gpu/any_element.hpp"
#include "backends/hip/launch_attend.hpp"

namespace espalier::hip {
namespace {

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

gpu::Status attend(const detail::AttendParams& p, gpu::Stream stream) {
  return p.scalar == detail::ScalarType::f16 ? attend_on_matrix_units<float16>(p, stream)
                                             : attend_on_matrix_units<bfloat16>(p, stream);
}

std::string why_not_shape(const backend::Shape& shape) {
  if (shape.scalar == detail::ScalarType::f32) return "the type is f32, expected f16 or bf16";
  if (shape.head_dim == 64 || shape.head_dim == 128 || shape.head_dim == 256) return "";
  return "head_dim is " + std::to_string(shape.head_dim) + ", expected 64, 128 or 256";
}

std::string why_not_params(const detail::AttendParams& p) { return gpu::why_not_aligned(p); }

int tile_pairs(const backend::Shape& shape) { return shape.head_dim <= 128 ? 128 : 64; }

gpu::Status simt_attend(const detail::AttendParams& p, gpu::Stream stream) { return gpu::simt_attend(p, stream); }

gpu::Status append(const detail::AppendParams& p, gpu::Stream stream) { return gpu::append(p, stream); }

}  // namespace espalier::hip
