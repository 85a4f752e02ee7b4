#pragma once
// The kernels that CUDA and HIP share, compiled for CUDA: right for every type and layout, and slow.

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::cuda {

/// Attention and the merge of its partials, head_dim up to gpu::kSimtMostHeadDim.
[[nodiscard]] gpu::Status simt_attend(const detail::AttendParams& p, gpu::Stream stream);

/// New K and V into their slots.
[[nodiscard]] gpu::Status append(const detail::AppendParams& p, gpu::Stream stream);

}  // namespace espalier::cuda
