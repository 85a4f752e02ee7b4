#pragma once

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::hip {

/// Enqueues the kernel of attend_kernel.hpp, of which instances/ has those for float16 and bfloat16 and head_dim 64, 128
/// and 256. Partials are left to gpu::simt_merge. The plan must have a worker.
template <class T, int kHeadDim>
void launch_attend(const detail::AttendParams& p, gpu::Stream stream);

}  // namespace espalier::hip
