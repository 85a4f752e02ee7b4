#pragma once
// Functions of CUDA's driver, looked up through the runtime, so that nothing links against the driver.

#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>

namespace espalier::gpu {

/// Null where the driver has no such function. @param name  of a function that CUDA 12 has
inline void* driver_function(const char* name) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &found);
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? address : nullptr;
}

/// What an attention calls; null where the driver lacks it. A CUresult has the number of the cudaError_t that means the
/// same.
struct Driver {
  decltype(&cuTensorMapEncodeTiled) encode =
      reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(driver_function("cuTensorMapEncodeTiled"));
  decltype(&cuTensorMapReplaceAddress) replace_address =
      reinterpret_cast<decltype(&cuTensorMapReplaceAddress)>(driver_function("cuTensorMapReplaceAddress"));
  decltype(&cuLaunchKernelEx) launch =
      reinterpret_cast<decltype(&cuLaunchKernelEx)>(driver_function("cuLaunchKernelEx"));
  decltype(&cuKernelGetFunction) function_of =
      reinterpret_cast<decltype(&cuKernelGetFunction)>(driver_function("cuKernelGetFunction"));

  decltype(&cuGraphKernelNodeGetParams) params_of_node =
      reinterpret_cast<decltype(&cuGraphKernelNodeGetParams)>(driver_function("cuGraphKernelNodeGetParams"));
  decltype(&cuGraphExecKernelNodeSetParams) set_params_of_node =
      reinterpret_cast<decltype(&cuGraphExecKernelNodeSetParams)>(driver_function("cuGraphExecKernelNodeSetParams"));

  [[nodiscard]] bool is_complete() const { return encode && replace_address && launch && function_of; }
  [[nodiscard]] bool has_graphs() const { return params_of_node && set_params_of_node; }
};

inline const Driver& driver() {
  static const Driver functions;
  return functions;
}

/// A kernel as the driver knows it: looked up, and its attributes set, once for each device, where the runtime would look
/// it up at every launch. One object for each kernel, alive as long as the program.
class DriverKernel {
 public:
  /// @param device    the current one
  /// @param symbol    the kernel
  /// @param set_up    sets its attributes; returns what CUDA says
  /// @param function  written
  template <class KernelArguments, class SetUp>
  cudaError_t find(int device, void (*symbol)(KernelArguments), const SetUp& set_up, CUfunction& function) {
    const bool is_kept = device < kDevices;  // on others it is looked up at each call
    if (is_kept && (function = kept_[device].load(std::memory_order_acquire)) != nullptr) return cudaSuccess;
    if (const cudaError_t error = set_up(); error != cudaSuccess) return error;
    cudaKernel_t kernel;
    if (const cudaError_t error = cudaGetKernel(&kernel, symbol); error != cudaSuccess) return error;
    if (const CUresult result = driver().function_of(&function, kernel); result != CUDA_SUCCESS) {
      return static_cast<cudaError_t>(result);
    }
    if (is_kept) kept_[device].store(function, std::memory_order_release);
    return cudaSuccess;
  }

 private:
  static constexpr int kDevices = 16;
  std::atomic<CUfunction> kept_[kDevices] = {};
};

/// Enqueues a kernel of a CUfunction that DriverKernel found for the device. It may begin before the launch in front of it
/// has ended, so it must wait for that (griddepcontrol.wait). Such a launch also costs the host less than another.
template <class KernelArguments>
cudaError_t launch_by_driver(CUfunction kernel, int blocks, int threads, int shared_bytes,
                             const KernelArguments& arguments, cudaStream_t stream) {
  CUlaunchAttribute overlap;
  overlap.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  overlap.value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config = {};
  config.gridDimX = static_cast<unsigned>(blocks);
  config.blockDimX = static_cast<unsigned>(threads);
  config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = static_cast<unsigned>(shared_bytes);
  config.hStream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  void* parameters[] = {const_cast<KernelArguments*>(&arguments)};
  return static_cast<cudaError_t>(driver().launch(&config, kernel, parameters, nullptr));
}

}  // namespace espalier::gpu
