#include "backends/gpu/any_element.hpp"

#include "backends/gpu/append.hpp"
#include "backends/gpu/calls.hpp"
#include "backends/gpu/simt_attend.hpp"

namespace espalier::gpu {

Status simt_attend(const detail::AttendParams& p, Stream stream) {
  return with_element(p.scalar, [&]<class T>() { return simt_attend<T>(p, stream); });
}

Status simt_merge(const detail::AttendParams& p, Stream stream) {
  return with_element(p.scalar, [&]<class T>() {
    simt_merge<T>(p, stream);
    return last_status();
  });
}

Status append(const detail::AppendParams& p, Stream stream) {
  return with_element(p.scalar, [&]<class T>() { return append<T>(p, stream); });
}

}  // namespace espalier::gpu
