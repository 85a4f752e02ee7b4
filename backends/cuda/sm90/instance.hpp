#pragma once
// One instance: the two kernels for a scalar type and a head size, and their launch.

#include <cuda_runtime.h>

#include "backends/cuda/driver.hpp"
#include "backends/cuda/sm90/attend_kernel.hpp"
#include "backends/cuda/sm90/merge_kernel.hpp"

namespace espalier::gpu::sm90 {

template <class KernelArguments>
using LaunchFunction = cudaError_t (*)(const KernelArguments&, int device, cudaStream_t stream);

struct Instance {
  int stage_slots;  ///< tokens that one copy may bring
  LaunchFunction<Arguments> main;
  LaunchFunction<MergeArguments> merge;
};

namespace instance_detail {

template <class T, int HeadDim, bool Transform>
cudaError_t launch_main_as(const Arguments& arguments, int device, cudaStream_t stream) {
  static DriverKernel kernel;
  CUfunction function;
  constexpr int kSharedBytes = Config<HeadDim>::kDynamicBytes;
  const auto set_up = [] {
    return cudaFuncSetAttribute(attend_kernel<T, HeadDim, Transform>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                kSharedBytes);
  };
  const cudaError_t error = kernel.find(device, attend_kernel<T, HeadDim, Transform>, set_up, function);
  if (error != cudaSuccess) return error;
  return launch_by_driver(function, arguments.plan.workers, kThreads, kSharedBytes, arguments, stream);
}

template <class T, int HeadDim>
cudaError_t launch_main(const Arguments& arguments, int device, cudaStream_t stream) {
  return arguments.transform ? launch_main_as<T, HeadDim, true>(arguments, device, stream)
                             : launch_main_as<T, HeadDim, false>(arguments, device, stream);
}

/// @tparam Passes  as of merge_kernel
template <class T, int HeadDim, int Passes>
cudaError_t launch_merge(const MergeArguments& arguments, std::int64_t lists, int device, cudaStream_t stream) {
  static DriverKernel kernel;
  CUfunction function;
  // The main launch needs all shared memory, so the merge asks for the same partition. No gain was measured.
  const auto set_up = [] {
    return cudaFuncSetAttribute(merge_kernel<T, HeadDim, Passes>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);
  };
  const cudaError_t error = kernel.find(device, merge_kernel<T, HeadDim, Passes>, set_up, function);
  if (error != cudaSuccess) return error;
  constexpr int kParts = detail::kMergePairs / (Passes * MergeShape<HeadDim>::kRowsTogether);
  constexpr int kWarps = kMergeThreads / kWaveLanes;
  return launch_by_driver(function, static_cast<int>((lists * kParts + kWarps - 1) / kWarps), kMergeThreads, 0,
                          arguments, stream);
}

/// Few rows: many warps with little each. Many rows: few warps, since each reads a list.
template <class T, int HeadDim>
cudaError_t launch_merge(const MergeArguments& arguments, int device, cudaStream_t stream) {
  const std::int64_t pairs = static_cast<std::int64_t>(arguments.plan.max_rows) * arguments.group;
  const std::int64_t results = pairs * arguments.kv_heads;
  const std::int64_t lists = (pairs + detail::kMergePairs - 1) / detail::kMergePairs * arguments.kv_heads;
  if (results < 6000) return launch_merge<T, HeadDim, 1>(arguments, lists, device, stream);
  if (results < 12000) return launch_merge<T, HeadDim, 2>(arguments, lists, device, stream);
  return launch_merge<T, HeadDim, 4>(arguments, lists, device, stream);
}

}  // namespace instance_detail

template <class T, int HeadDim>
constexpr Instance make_instance() {
  return {Config<HeadDim>::kStageSlots, instance_detail::launch_main<T, HeadDim>,
          instance_detail::launch_merge<T, HeadDim>};
}

extern const Instance kBf16_64, kBf16_96, kBf16_128, kBf16_192, kBf16_256;
extern const Instance kF16_64, kF16_96, kF16_128, kF16_192, kF16_256;

}  // namespace espalier::gpu::sm90
