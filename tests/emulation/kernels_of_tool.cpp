// The fused kernels that the command-line tool of a host build has: emulated ones, which `espalier validate` checks. The
// library that the tool is linked with, and that is installed, has none.

#include <Kokkos_Core.hpp>

#include "tests/emulation/cuda/emulated_kernels.hpp"
#include "tests/emulation/emulated_kernels.hpp"

std::span<const espalier::backend::FusedKernel> espalier::backend::fused_kernels() {
  static const std::vector<FusedKernel> kernels = [] {
    const char* const space = Kokkos::DefaultHostExecutionSpace::name();
    std::vector<FusedKernel> all = test::emulated_cuda_kernels(space);
    for (const FusedKernel& kernel : test::emulated_kernels(space)) all.push_back(kernel);
    return all;
  }();
  return kernels;
}
