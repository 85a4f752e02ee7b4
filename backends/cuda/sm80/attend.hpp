#pragma once
// The kernels of sm_80 and later as the library calls them. Everything is enqueued on the stream; nothing allocates or
// waits.

#include <string>

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu::sm80 {

/// Why the kernels of this folder cannot do it, nothing if they can: type and head_dim.
[[nodiscard]] std::string why_not_shape(detail::ScalarType scalar, int head_dim);

/// The same for a call: type, head_dim, alignment, strides.
[[nodiscard]] std::string unsupported_reason(const detail::AttendParams& p);

/// (row, query head) pairs of a tile that read K and V together; with more it is read again.
/// @param head_dim  a supported one
[[nodiscard]] int most_pairs(int head_dim);

/// Blocks that the current device runs at a time, for a supported type and head_dim; 0 where CUDA cannot say.
[[nodiscard]] int wanted_workers(detail::ScalarType scalar, int head_dim);

/// Attention and the merge of its partials.
/// @returns what CUDA says; cudaErrorNotSupported where unsupported_reason() has something to say
[[nodiscard]] Status attend(const detail::AttendParams& p, Stream stream);

}  // namespace espalier::gpu::sm80
