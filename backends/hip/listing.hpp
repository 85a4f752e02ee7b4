#pragma once
// The entry of the kernels on matrix units, on a card and emulated.

#include "backends/gpu/listing.hpp"
#include "backends/hip/attend.hpp"

namespace espalier::hip {

/// Its user fills in where it runs, how many workers it has, how it is launched, and what a status means.
constexpr backend::FusedKernel matrix_kernel(const char* name, const char* space) {
  backend::FusedKernel kernel = gpu::simt_kernel(name, space);  // the same plan, and the same append
  kernel.is_automatic = true;
  kernel.why_not_shape = why_not_shape;
  kernel.why_not_params = why_not_params;
  kernel.attend_tiles = nullptr;
  return kernel;
}

}  // namespace espalier::hip
