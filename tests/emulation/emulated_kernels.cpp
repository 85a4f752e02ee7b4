#include "tests/emulation/emulated_kernels.hpp"

#include "backends/hip/attend.hpp"

namespace espalier::test {

void emulated_attend(Architecture architecture, const espalier::detail::AttendParams& params) {
  emulator::flushes_subnormals = architecture == Architecture::gfx90a;
  hip::attend(params, nullptr);
}

bool emulated_on_matrix_units(const espalier::detail::AttendParams& params) { return hip::has_matrix_kernel(params); }

void emulated_append(Architecture architecture, const espalier::detail::AppendParams& params) {
  emulator::flushes_subnormals = architecture == Architecture::gfx90a;
  hip::append(params, nullptr);
}

}  // namespace espalier::test
