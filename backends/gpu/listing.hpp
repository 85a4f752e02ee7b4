#pragma once
// What CUDA's and HIP's lists of kernels have in common.

#include <string>

#include "backends/backend.hpp"
#include "backends/gpu/any_element.hpp"

namespace espalier::gpu {

inline constexpr int kSimtTilePairs = 64;
inline constexpr int kSimtBlocks = 8;  ///< that a multiprocessor, or compute unit, has at a time

inline int enqueue_append(const detail::AppendParams& call, backend::Stream stream) {
  return static_cast<int>(append(call, static_cast<Stream>(stream)));
}

inline int enqueue_simt_attend(const detail::AttendParams& call, backend::Stream stream) {
  return static_cast<int>(simt_attend(call, static_cast<Stream>(stream)));
}

inline std::string takes_any_shape(const backend::Shape&) { return ""; }
inline std::string takes_any_params(const detail::AttendParams&) { return ""; }

/// Attention by the SIMT kernel: slow, and not chosen unasked unless its user says so, who also fills in where it runs, how
/// many workers it has, and what a status means.
constexpr backend::FusedKernel simt_kernel(const char* name, const char* space) {
  return {.name = name,
          .backend = space,
          .form = backend::PlanForm::tiles,
          .is_automatic = false,
          .why_not_here = nullptr,
          .why_not_shape = takes_any_shape,
          .why_not_params = takes_any_params,
          .tile_size = nullptr,
          .attend_tiles = enqueue_simt_attend,
          .attend_stacks = nullptr,
          .capture_of = nullptr,
          .append = enqueue_append,
          .status_text = nullptr};
}

}  // namespace espalier::gpu
