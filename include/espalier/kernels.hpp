#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace espalier {

/// Which kernel attends.
enum class Kernel : std::uint8_t {
  automatic,  ///< the fastest compiled kernel that supports the problem
  portable,   ///< the Kokkos kernel
  fused       ///< a CUDA or HIP kernel; Error{unsupported} says why none fits
};

/// A kernel that was compiled in.
struct KernelInfo {
  std::string name;        ///< "portable", "cuda-sm90", ...
  std::string backend;     ///< execution space it runs on: "OpenMP", "Cuda", ...
  bool available = false;  ///< a device that runs it is present
  std::string why_not;     ///< where it is not
  bool emulated = false;   ///< it runs on the CPU lane by lane: right, and slow. Tools of test builds have such kernels
};

/// The portable kernel of every execution space, and the fused ones, those of one execution space the fastest first.
[[nodiscard]] std::vector<KernelInfo> available_kernels();

}  // namespace espalier
