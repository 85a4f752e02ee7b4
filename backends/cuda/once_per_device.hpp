#pragma once
// What must be said to CUDA once for each device, such as the attributes of a kernel.

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace espalier::gpu {

/// Calls a function where it has not yet been called with success for the current device. One object for each thing that
/// is to be done, alive as long as the program.
class OncePerDevice {
 public:
  /// @param set_up  returns what CUDA says
  template <class SetUp>
  cudaError_t operator()(const SetUp& set_up) {
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
    const std::uint64_t bit = device < 64 ? std::uint64_t{1} << device : 0;  // devices beyond are set up at each call
    if ((done_.load(std::memory_order_acquire) & bit) != 0) return cudaSuccess;
    const cudaError_t error = set_up();
    if (error == cudaSuccess) done_.fetch_or(bit, std::memory_order_release);
    return error;
  }

 private:
  std::atomic<std::uint64_t> done_ = 0;
};

}  // namespace espalier::gpu
