#include "backends/cuda/simt.hpp"

#include "backends/gpu/any_element.hpp"

namespace espalier::cuda {

gpu::Status simt_attend(const detail::AttendParams& p, gpu::Stream stream) { return gpu::simt_attend(p, stream); }

gpu::Status append(const detail::AppendParams& p, gpu::Stream stream) { return gpu::append(p, stream); }

}  // namespace espalier::cuda
