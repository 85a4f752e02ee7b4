#include "backends/cuda/simt.hpp"

#include "backends/gpu/append.hpp"
#include "backends/gpu/calls.hpp"
#include "backends/gpu/simt_attend.hpp"

namespace espalier::cuda {
gpu::Status simt_attend(const detail::AttendParams& p, gpu::Stream stream) {
  return gpu::with_element(p.scalar, [&]<class T>() { return gpu::simt_attend<T>(p, stream); });
}

gpu::Status append(const detail::AppendParams& p, gpu::Stream stream) {
  return gpu::with_element(p.scalar, [&]<class T>() { return gpu::append<T>(p, stream); });
}

}  // namespace espalier::cuda
