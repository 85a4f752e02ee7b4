#include "espalier/attention.hpp"

#include "backends/portable/attend.hpp"

namespace espalier {

std::vector<KernelInfo> available_kernels() {
  std::vector<KernelInfo> kernels;
#define ESPALIER_INSTANTIATE(Exec) kernels.push_back({"portable", Exec::name(), true, ""});
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE
  return kernels;
}

namespace detail {

template <ExecutionSpace Exec>
void attend(const Exec& exec, const AttendParams& params, Kernel kernel) {
  expects(kernel != Kernel::fused, ErrorCode::unsupported, "attend: no fused kernel is compiled in for ", Exec::name());
  portable::attend(exec, params);
}

template <ExecutionSpace Exec>
void append(const Exec& exec, const AppendParams& params) {
  portable::append(exec, params);
}

template <ExecutionSpace Exec>
void merge(const Exec& exec, const MergeParams& params) {
  portable::merge(exec, params);
}

#define ESPALIER_INSTANTIATE(Exec)                                      \
  template void attend<Exec>(const Exec&, const AttendParams&, Kernel); \
  template void append<Exec>(const Exec&, const AppendParams&);         \
  template void merge<Exec>(const Exec&, const MergeParams&);
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace detail
}  // namespace espalier
