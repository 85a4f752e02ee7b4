#include "espalier/attention.hpp"

#include <cstdint>
#include <source_location>
#include <string>
#include <string_view>

#include "backends/backend.hpp"
#include "backends/portable/attend.hpp"

namespace espalier::detail {
namespace {

using backend::FusedKernel;
using backend::PlanForm;

/// Where a fused kernel enqueues what it launches.
template <ExecutionSpace Exec>
backend::Stream stream_of(const Exec& exec) {
#ifdef KOKKOS_ENABLE_CUDA
  if constexpr (std::is_same_v<Exec, Kokkos::Cuda>) return exec.cuda_stream();
#endif
#ifdef KOKKOS_ENABLE_HIP
  if constexpr (std::is_same_v<Exec, Kokkos::HIP>) return exec.hip_stream();
#endif
  static_cast<void>(exec);
  return nullptr;
}

/// Tells Kokkos' tools of a launch that Kokkos does not make, so that profiles show it. What `launch` returns.
template <ExecutionSpace Exec, class Launch>
int told_to_tools(const Exec& exec, const char* label, const Launch& launch) {
  if (!Kokkos::Tools::profileLibraryLoaded()) return launch();
  std::uint64_t id = 0;
  Kokkos::Tools::beginParallelFor(label, Kokkos::Tools::Experimental::device_id(exec), &id);
  const int status = launch();
  Kokkos::Tools::endParallelFor(id);
  return status;
}

void expects_success(const FusedKernel& kernel, const char* function, int status) {
  if (status == 0) return;
  detail::fail(std::source_location::current(), ErrorCode::backend_failure, function, ": kernel ", kernel.name,
               " could not be launched: ", kernel.status_text(status));
}

template <ExecutionSpace Exec>
void attend_portable(const Exec& exec, const Plan<Exec>& plan, AttendParams& params) {
  params.plan = plan.view();
  portable::attend(exec, params);
}

template <ExecutionSpace Exec>
void attend_fused(const Exec& exec, const Plan<Exec>& plan, AttendParams& params) {
  const FusedKernel& kernel = *plan.fused_kernel();
  if (plan.rows() == 0) return;
  const int status = told_to_tools(exec, "espalier::attend", [&] {
    const backend::Stream stream = stream_of(exec);
    if (kernel.form == PlanForm::stacks) {
      const bool is_settled = plan.enter_stream(stream, kernel.capture_of);
      const int launched = kernel.attend_stacks(params, plan.stack_view(), plan.rows(), is_settled, stream);
      if (launched != 0) plan.forget_stream();
      return launched;
    }
    params.plan = plan.view();
    return kernel.attend_tiles(params, stream);
  });
  expects_success(kernel, "attend", status);
}

}  // namespace

template <ExecutionSpace Exec>
void attend(const Exec& exec, const Plan<Exec>& plan, AttendParams params, Kernel wanted) {
  const FusedKernel* const kernel = plan.fused_kernel();
  if (kernel == nullptr) {
    const std::string& why_not = plan.kernel().why_not;
    expects(wanted != Kernel::fused, ErrorCode::unsupported, "attend: the plan was made for the portable kernel: ",
            why_not.empty() ? "its configuration asks for it" : why_not);
    return attend_portable(exec, plan, params);
  }
  const bool runs_portable = kernel->form == PlanForm::tiles;
  if (wanted == Kernel::portable) {
    expects(runs_portable, ErrorCode::unsupported, "attend: the plan was made for kernel ", kernel->name,
            ", the portable kernel cannot read it: make it with PlanConfig::kernel = Kernel::portable");
    return attend_portable(exec, plan, params);
  }
  const std::string reason = kernel->why_not_params(params);
  if (reason.empty()) return attend_fused(exec, plan, params);
  const bool is_asked_for = wanted == Kernel::fused || plan.is_kernel_asked_for();
  expects(runs_portable && !is_asked_for, ErrorCode::unsupported, "attend: the plan was made for kernel ", kernel->name,
          ", which cannot take these arrays: ", reason,
          "; a plan with PlanConfig::kernel = Kernel::portable takes any");
  attend_portable(exec, plan, params);
}

template <ExecutionSpace Exec>
void append(const Exec& exec, const AppendParams& params) {
  for (const FusedKernel& kernel : backend::fused_kernels()) {
    if (kernel.append == nullptr || std::string_view(kernel.backend) != Exec::name()) continue;
    if (!kernel.why_not_here().empty()) continue;
    return expects_success(kernel, "append", told_to_tools(exec, "espalier::append", [&] {
                             return kernel.append(params, stream_of(exec));
                           }));
  }
  portable::append(exec, params);
}

template <ExecutionSpace Exec>
void merge(const Exec& exec, const MergeParams& params) {
  portable::merge(exec, params);
}

#define ESPALIER_INSTANTIATE(Exec)                                                         \
  template void attend<Exec>(const Exec&, const Plan<Exec>&, AttendParams, Kernel wanted); \
  template void append<Exec>(const Exec&, const AppendParams&);                            \
  template void merge<Exec>(const Exec&, const MergeParams&);
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::detail
