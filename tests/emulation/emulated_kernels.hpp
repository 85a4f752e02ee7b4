#pragma once
// The HIP kernels of backends/hip, run lane by lane on the CPU. All pointers are to host memory.

#include "espalier/detail/params.hpp"

namespace espalier::test {

enum class Architecture : std::uint8_t { gfx90a, gfx942 };

void emulated_attend(Architecture architecture, const espalier::detail::AttendParams& params);
/// Whether emulated_attend runs the kernel that uses matrix instructions.
bool emulated_on_matrix_units(const espalier::detail::AttendParams& params);
void emulated_append(Architecture architecture, const espalier::detail::AppendParams& params);

}  // namespace espalier::test
