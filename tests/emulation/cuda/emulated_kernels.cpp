#include "tests/emulation/cuda/emulated_kernels.hpp"

#include "backends/cuda/sm80/attend.hpp"
#include "backends/gpu/any_element.hpp"

namespace espalier::test {

void emulated_attend(const espalier::detail::AttendParams& params) {
  const gpu::Status status =
      emulated_on_matrix_units(params) ? gpu::sm80::attend(params, nullptr) : gpu::simt_attend(params, nullptr);
  if (status != cudaSuccess) emulator::stop("a launch fails");
}

bool emulated_on_matrix_units(const espalier::detail::AttendParams& params) {
  return gpu::sm80::unsupported_reason(params).empty();
}

int emulated_most_pairs(int head_dim) { return gpu::sm80::most_pairs(head_dim); }

}  // namespace espalier::test
