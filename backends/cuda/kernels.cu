// The fused kernels of a CUDA build.

#include <cuda_runtime.h>

#include <array>
#include <string>

#include "backends/backend.hpp"
#include "backends/cuda/simt.hpp"

namespace espalier::backend {
namespace {

cudaStream_t on(Stream stream) { return static_cast<cudaStream_t>(stream); }

std::string status_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

/// Of the current device; 0 where CUDA cannot say.
int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&value, name, device) != cudaSuccess) return 0;
  return value;
}

/// 90 for compute capability 9.0; 0 without a device.
int compute_capability() {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
}

std::string takes_any_shape(const Shape&) { return ""; }
std::string takes_any_params(const detail::AttendParams&) { return ""; }

namespace simt {

std::string why_not_here() { return compute_capability() > 0 ? "" : "there is no CUDA device"; }

TileSize tile_size(const Shape&) {
  constexpr int kPairs = 64, kBlocksOfMultiprocessor = 8;
  return {kPairs, kBlocksOfMultiprocessor * attribute(cudaDevAttrMultiProcessorCount)};
}

int attend(const detail::AttendParams& call, Stream stream) { return cuda::simt_attend(call, on(stream)); }

}  // namespace simt

int append(const detail::AppendParams& call, Stream stream) { return cuda::append(call, on(stream)); }

/// The slow one is there to be compared with, not to be chosen.
constexpr std::array kKernels = {
    FusedKernel{.name = "cuda-simt",
                .backend = "Cuda",
                .form = PlanForm::tiles,
                .is_automatic = false,
                .why_not_here = simt::why_not_here,
                .why_not_shape = takes_any_shape,
                .why_not_params = takes_any_params,
                .tile_size = simt::tile_size,
                .attend_tiles = simt::attend,
                .attend_streams = nullptr,
                .append = append,
                .status_text = status_text},
};

}  // namespace

std::span<const FusedKernel> fused_kernels() { return kKernels; }

}  // namespace espalier::backend
