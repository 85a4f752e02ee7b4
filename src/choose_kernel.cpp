#include "choose_kernel.hpp"

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <span>

#include "espalier/error.hpp"

namespace espalier {
namespace {

using backend::FusedKernel;
using detail::expects;

constexpr std::string_view kPortable = "portable";

std::string names_for(std::string_view space) {
  std::string names(kPortable);
  for (const FusedKernel& kernel : backend::fused_kernels())
    if (kernel.backend == space) names += std::string(", ") + kernel.name;
  return names;
}

/// Why the kernel cannot run what the plan is for, or nothing.
std::string why_not(const FusedKernel& kernel, const PlanConfig& config) {
  if (std::string reason = kernel.why_not_here(); !reason.empty()) return reason;
  if (kernel.form == backend::PlanForm::stacks && config.strategy != PlanStrategy::automatic)
    return std::string("the strategy is ") + name_of(config.strategy) + ", it takes automatic alone";
  return kernel.why_not_shape(shape_of(config, 0));
}

KernelChoice choose_by_name(const PlanConfig& config, std::string_view space) {
  const auto kernels = backend::fused_kernels();
  const auto named = std::ranges::find_if(
      kernels, [&](const FusedKernel& kernel) { return kernel.backend == space && kernel.name == config.kernel_name; });
  expects(named != kernels.end(), ErrorCode::invalid_argument, "plan: kernel_name is '", config.kernel_name,
          "', expected one of those for ", space, ": ", names_for(space));
  const std::string reason = why_not(*named, config);
  expects(reason.empty(), ErrorCode::unsupported, "plan: kernel ", config.kernel_name, " cannot be used: ", reason);
  return {&*named, true, ""};
}

}  // namespace

backend::Shape shape_of(const PlanConfig& config, int block_tokens) {
  const HeadShape& heads = config.heads;
  return {config.scalar, heads.query_heads, heads.kv_heads, heads.head_dim, block_tokens};
}

KernelChoice choose_kernel(const PlanConfig& config, std::string_view space) {
  const bool by_name = !config.kernel_name.empty();
  expects(!by_name || config.kernel == Kernel::automatic, ErrorCode::invalid_argument, "plan: kernel_name is '",
          config.kernel_name, "', expected none where kernel is not automatic");
  if (config.kernel == Kernel::portable || config.kernel_name == kPortable) return {nullptr, true, ""};
  if (by_name) return choose_by_name(config, space);

  const bool is_asked_for = config.kernel == Kernel::fused;
  std::string reasons;
  for (const FusedKernel& kernel : backend::fused_kernels()) {
    if (kernel.backend != space || !(kernel.is_automatic || is_asked_for)) continue;
    const std::string reason = why_not(kernel, config);
    if (reason.empty()) return {&kernel, is_asked_for, ""};
    reasons += (reasons.empty() ? "" : "; ") + std::string(kernel.name) + ": " + reason;
  }
  if (reasons.empty()) reasons = "no fused kernel is compiled in for " + std::string(space);
  expects(!is_asked_for, ErrorCode::unsupported, "plan: no fused kernel can be used: ", reasons);
  return {nullptr, false, reasons};
}

std::vector<KernelInfo> available_kernels() {
  std::vector<KernelInfo> kernels;
  const auto add = [&](const char* space) {
    for (const FusedKernel& kernel : backend::fused_kernels()) {
      if (std::string_view(space) != kernel.backend) continue;
      const std::string reason = kernel.why_not_here();
      kernels.push_back({kernel.name, space, reason.empty(), reason, kernel.is_emulated});
    }
    kernels.push_back({std::string(kPortable), space, true, ""});
  };
#define ESPALIER_INSTANTIATE(Exec) add(Exec::name());
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE
  return kernels;
}

}  // namespace espalier
