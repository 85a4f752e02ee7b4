#pragma once
// The kernels on matrix units as their list has them. Everything is enqueued on the stream; nothing allocates or waits.

#include <string>

#include "backends/backend.hpp"
#include "backends/gpu/platform.hpp"

namespace espalier::hip {

/// Attention on the matrix units and the merge of its partials, for what the two functions below have nothing against.
gpu::Status attend(const detail::AttendParams& p, gpu::Stream stream);

/// Why the matrix units cannot do it: they take f16 and bf16, and head_dim 64, 128 or 256.
[[nodiscard]] std::string why_not_shape(const backend::Shape& shape);

/// Why they cannot read these arrays: pointers and strides must be multiples of 16 bytes.
[[nodiscard]] std::string why_not_params(const detail::AttendParams& p);

/// Most pairs of a tile that are attended with one reading of K and V by each of its waves.
[[nodiscard]] int tile_pairs(const backend::Shape& shape);

}  // namespace espalier::hip
