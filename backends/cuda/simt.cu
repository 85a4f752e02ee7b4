#include "backends/cuda/simt.hpp"

#include "backends/gpu/append.hpp"
#include "backends/gpu/simt_attend.hpp"

namespace espalier::cuda {
namespace {

/// Returns body<T>() with the element type.
template <class Body>
gpu::Status with_element(detail::ScalarType scalar, const Body& body) {
  switch (scalar) {
    case detail::ScalarType::f16: return body.template operator()<float16>();
    case detail::ScalarType::bf16: return body.template operator()<bfloat16>();
    default: return body.template operator()<float>();
  }
}

}  // namespace

gpu::Status simt_attend(const detail::AttendParams& p, gpu::Stream stream) {
  return with_element(p.scalar, [&]<class T>() { return gpu::simt_attend<T>(p, stream); });
}

gpu::Status append(const detail::AppendParams& p, gpu::Stream stream) {
  return with_element(p.scalar, [&]<class T>() { return gpu::append<T>(p, stream); });
}

}  // namespace espalier::cuda
