#pragma once
// What the entries of HIP kernels have in common, on a card and emulated.

#include "backends/hip/attend.hpp"

namespace espalier::hip {

/// Attention on the matrix units. Its user fills in where it runs and how it is launched.
constexpr backend::FusedKernel matrix_kernel(const char* name, const char* space) {
  return {.name = name,
          .backend = space,
          .form = backend::PlanForm::tiles,
          .is_automatic = true,
          .why_not_here = nullptr,
          .why_not_shape = why_not_shape,
          .why_not_params = why_not_params,
          .tile_size = nullptr,
          .attend_tiles = nullptr,
          .attend_streams = nullptr,
          .append = nullptr,
          .status_text = nullptr};
}

/// Attention by the SIMT kernel: slow, and there to be compared with. Its user fills in the rest.
constexpr backend::FusedKernel simt_kernel(const char* name, const char* space) {
  backend::FusedKernel kernel = matrix_kernel(name, space);
  kernel.is_automatic = false;
  kernel.why_not_shape = [](const backend::Shape&) { return std::string(); };
  kernel.why_not_params = [](const detail::AttendParams&) { return std::string(); };
  return kernel;
}

}  // namespace espalier::hip
