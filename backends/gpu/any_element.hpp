#pragma once
// The kernels that CUDA and HIP share, for calls of any element type.

#include "backends/gpu/append.hpp"
#include "backends/gpu/calls.hpp"
#include "backends/gpu/simt_attend.hpp"

namespace espalier::gpu {

inline Status simt_attend(const detail::AttendParams& p, Stream stream) {
  return with_element(p.scalar, [&]<class T>() { return simt_attend<T>(p, stream); });
}

inline Status append(const detail::AppendParams& p, Stream stream) {
  return with_element(p.scalar, [&]<class T>() { return append<T>(p, stream); });
}

}  // namespace espalier::gpu
