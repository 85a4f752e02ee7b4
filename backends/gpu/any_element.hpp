#pragma once
// The kernels that CUDA and HIP share, for calls of any element type. Everything is enqueued on the stream; nothing allocates
// or waits. any_element.cu has the code, which either compiler makes an object of.

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu {

/// Attention by the SIMT kernel and the merge of its partials: any layout of the arrays, head_dim up to 256.
Status simt_attend(const detail::AttendParams& p, Stream stream);

/// The merge of what any attend kernel left in the plan's partials.
Status simt_merge(const detail::AttendParams& p, Stream stream);

/// New K and V into their slots.
Status append(const detail::AppendParams& p, Stream stream);

}  // namespace espalier::gpu
