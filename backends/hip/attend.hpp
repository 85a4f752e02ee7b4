#pragma once
// The HIP kernels as the library calls them. Everything is enqueued on the stream; nothing allocates or waits.

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::hip {

/// Whether the matrix units can do it: f16 or bf16, head_dim 64, 128 or 256, arrays and strides aligned to 16 bytes.
bool has_matrix_kernel(const detail::AttendParams& p);

/// Attention and the merge of its partials: on the matrix units where they can do it, else by the SIMT kernel, which
/// takes any type and layout, and head_dim up to gpu::kSimtMostHeadDim (512).
gpu::Status attend(const detail::AttendParams& p, gpu::Stream stream);

/// New K and V into their slots.
gpu::Status append(const detail::AppendParams& p, gpu::Stream stream);

}  // namespace espalier::hip
