#pragma once
// The CUDA kernels of backends/cuda/sm80 and the SIMT ones, run lane by lane on the CPU. All pointers are to host memory.

#include "espalier/detail/params.hpp"

namespace espalier::test {

/// By mma.sync where it can do it, else by the SIMT kernel.
void emulated_attend(const espalier::detail::AttendParams& params);
/// Whether emulated_attend runs the kernel that uses matrix instructions.
bool emulated_on_matrix_units(const espalier::detail::AttendParams& params);
int emulated_most_pairs(int head_dim);

}  // namespace espalier::test
