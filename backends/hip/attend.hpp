#pragma once
// The HIP kernels as the library calls them. Everything is enqueued on the stream; nothing allocates or waits.

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::hip {

/// Attention and the merge of its partials, for any type and layout; head_dim at most gpu::kSimtMostHeadDim (512).
gpu::Status attend(const detail::AttendParams& p, gpu::Stream stream);

/// New K and V into their slots.
gpu::Status append(const detail::AppendParams& p, gpu::Stream stream);

}  // namespace espalier::hip
