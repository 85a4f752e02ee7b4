#pragma once
// The HIP kernels of backends/hip, run lane by lane on the CPU. All pointers are to host memory.

#include <vector>

#include "backends/backend.hpp"

namespace espalier::test {

enum class Architecture : std::uint8_t { gfx90a, gfx942 };

/// On matrix units where they can do it, else by the SIMT kernel.
/// @param run_ahead_seed  other than 0: waves run ahead of each other at random
void emulated_attend(Architecture architecture, const espalier::detail::AttendParams& params,
                     std::uint32_t run_ahead_seed = 0);
/// Whether emulated_attend runs the kernel that uses matrix instructions.
bool emulated_on_matrix_units(const espalier::detail::AttendParams& params);
void emulated_append(Architecture architecture, const espalier::detail::AppendParams& params);

/// Entries for a list of fused kernels: "hip-gfx90a-emulated", "hip-gfx942-emulated", "hip-simt-emulated".
/// @param space  name() of the execution space whose memory they read and write; must outlive the list
std::vector<backend::FusedKernel> emulated_kernels(const char* space);

}  // namespace espalier::test
