#include "backends/hip/attend.hpp"

#include "backends/gpu/any_element.hpp"
#include "backends/gpu/calls.hpp"
#include "backends/hip/launch_attend.hpp"

namespace espalier::hip {
namespace {

template <class T>
void attend_on_matrix_units(const detail::AttendParams& p, gpu::Stream stream) {
  switch (p.head_dim) {
    case 64: return launch_attend<T, 64>(p, stream);
    case 128: return launch_attend<T, 128>(p, stream);
    default: return launch_attend<T, 256>(p, stream);
  }
}

}  // namespace

gpu::Status attend(const detail::AttendParams& p, gpu::Stream stream) {
  if (p.plan.workers > 0) {
    if (p.scalar == detail::ScalarType::f16) {
      attend_on_matrix_units<float16>(p, stream);
    } else {
      attend_on_matrix_units<bfloat16>(p, stream);
    }
  }
  return gpu::simt_merge(p, stream);
}

std::string why_not_shape(const backend::Shape& shape) {
  return gpu::why_not_matrix_shape(shape.scalar, shape.head_dim, {64, 128, 256});
}

std::string why_not_params(const detail::AttendParams& p) { return gpu::why_not_aligned(p); }

int tile_pairs(const backend::Shape& shape) { return shape.head_dim <= 128 ? 128 : 64; }

}  // namespace espalier::hip
