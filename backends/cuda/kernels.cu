// The fused kernels of a CUDA build.

#include <cuda_runtime.h>

#include <array>
#include <string>

#include "backends/backend.hpp"
#include "backends/cuda/sm80/attend.hpp"
#include "backends/cuda/sm90/attend.hpp"
#include "backends/gpu/listing.hpp"

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

std::string capability_text() {
  const int capability = compute_capability();
  return capability == 0 ? "there is no CUDA device"
                         : "the device has compute capability " + std::to_string(capability / 10) + "." +
                               std::to_string(capability % 10);
}

namespace sm90 {

namespace kernel = gpu::sm90;

std::string why_not_here() { return compute_capability() == 90 ? "" : capability_text() + ", expected 9.0"; }

std::string why_not_shape(const Shape& shape) {
  return kernel::why_not_shape(shape.scalar, shape.head_dim, shape.block_tokens);
}

std::string why_not_params(const detail::AttendParams& call) { return kernel::unsupported_reason(call); }

int attend(const detail::AttendParams& call, const detail::FusedPlanView& plan, std::int32_t q_rows, bool is_settled,
           Stream stream) {
  return kernel::attend({call, plan, q_rows, is_settled}, on(stream));
}

std::uint64_t capture_of(Stream stream) {
  cudaStreamCaptureStatus status;
  unsigned long long number = 0;
  if (cudaStreamGetCaptureInfo(on(stream), &status, &number) != cudaSuccess) return kUnknownCapture;
  return status == cudaStreamCaptureStatusActive ? number : kNoCapture;
}

}  // namespace sm90

namespace sm80 {

namespace kernel = gpu::sm80;

std::string why_not_here() { return compute_capability() >= 80 ? "" : capability_text() + ", expected 8.0 or more"; }

std::string why_not_shape(const Shape& shape) { return kernel::why_not_shape(shape.scalar, shape.head_dim); }

std::string why_not_params(const detail::AttendParams& call) { return kernel::unsupported_reason(call); }

TileSize tile_size(const Shape& shape) {
  return {kernel::most_pairs(shape.head_dim), kernel::wanted_workers(shape.scalar, shape.head_dim)};
}

int attend(const detail::AttendParams& call, Stream stream) { return kernel::attend(call, on(stream)); }

}  // namespace sm80

namespace simt {

std::string why_not_here() { return compute_capability() > 0 ? "" : capability_text(); }

TileSize tile_size(const Shape&) {
  return {gpu::kSimtTilePairs, gpu::kSimtBlocks * attribute(cudaDevAttrMultiProcessorCount)};
}

constexpr FusedKernel kernel() {
  FusedKernel kernel = gpu::simt_kernel("cuda-simt", "Cuda");
  kernel.why_not_here = why_not_here;
  kernel.tile_size = tile_size;
  kernel.status_text = status_text;
  return kernel;
}

}  // namespace simt

constexpr std::array kKernels = {
    FusedKernel{.name = "cuda-sm90",
                .backend = "Cuda",
                .form = PlanForm::stacks,
                .is_automatic = true,
                .why_not_here = sm90::why_not_here,
                .why_not_shape = sm90::why_not_shape,
                .why_not_params = sm90::why_not_params,
                .tile_size = nullptr,
                .attend_tiles = nullptr,
                .attend_stacks = sm90::attend,
                .capture_of = sm90::capture_of,
                .append = gpu::enqueue_append,
                .status_text = status_text},
    FusedKernel{.name = "cuda-sm80",
                .backend = "Cuda",
                .form = PlanForm::tiles,
                .is_automatic = true,
                .why_not_here = sm80::why_not_here,
                .why_not_shape = sm80::why_not_shape,
                .why_not_params = sm80::why_not_params,
                .tile_size = sm80::tile_size,
                .attend_tiles = sm80::attend,
                .attend_stacks = nullptr,
                .capture_of = nullptr,
                .append = gpu::enqueue_append,
                .status_text = status_text},
    simt::kernel(),
};

}  // namespace

std::span<const FusedKernel> fused_kernels() { return kKernels; }

}  // namespace espalier::backend
