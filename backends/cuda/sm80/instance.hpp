#pragma once

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu::sm80 {

/// The kernel of attend_kernel.hpp for an element type and a head_dim; one of each in instances/.
struct Instance {
  /// Enqueues it; partials are left to simt_merge. The plan must have a worker.
  void (*launch)(const detail::AttendParams& p, Stream stream);
  int (*blocks_at_a_time)();  ///< on the current device; 0 where CUDA cannot say
  int most_pairs;             ///< of a tile that read K and V together
};

extern const Instance kBf16_64, kBf16_96, kBf16_128, kBf16_192, kBf16_256;
extern const Instance kF16_64, kF16_96, kF16_128, kF16_192, kF16_256;

}  // namespace espalier::gpu::sm80
