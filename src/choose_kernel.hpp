#pragma once
// Which kernel a plan is made for.

#include <string>
#include <string_view>

#include "backends/backend.hpp"
#include "espalier/plan.hpp"

namespace espalier {

struct KernelChoice {
  const backend::FusedKernel* fused;  ///< null: the portable kernel
  bool is_asked_for;                  ///< it must be this one: attend() does not take the portable one instead
  std::string why_not;                ///< where it is portable though a fused one was welcome

  [[nodiscard]] bool reads_stacks() const { return fused != nullptr && fused->form == backend::PlanForm::stacks; }
};

/// @param space  name() of the execution space
/// @throws Error{invalid_argument} for a name that no kernel has, Error{unsupported} if a kernel was asked for that cannot
/// do it
[[nodiscard]] KernelChoice choose_kernel(const PlanConfig& config, std::string_view space);

/// The shape that a kernel is asked about. @param block_tokens  0: not known yet
[[nodiscard]] backend::Shape shape_of(const PlanConfig& config, int block_tokens);

}  // namespace espalier
