#pragma once
// The fused attention of sm_90: what the library calls. Instances are in instances/, one translation unit each.

#include <cuda_runtime.h>

#include <cstdint>

#include "espalier/detail/fused_plan.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu::sm90 {

/// One attention. `attend.plan` is not read.
struct FusedParams {
  detail::AttendParams attend;
  detail::FusedPlanView plan;
  std::int32_t q_rows;       ///< rows that q holds, at least those of the plan
  bool overlap_predecessor;  ///< the plan was not written by the launch just before: read it before that one has ended
};

/// Why the kernels of this folder cannot run a problem, or null if they can: type, head_dim, alignment, strides.
[[nodiscard]] const char* unsupported_reason(const detail::AttendParams& params);

/// Enqueues the main launch and the merge. Allocates nothing and waits for nothing.
/// @returns what CUDA says; cudaErrorNotSupported where unsupported_reason() is not null
[[nodiscard]] cudaError_t attend(const FusedParams& params, cudaStream_t stream);

/// One of the two launches alone, for measurements.
[[nodiscard]] cudaError_t attend_main(const FusedParams& params, cudaStream_t stream);
[[nodiscard]] cudaError_t attend_merge(const FusedParams& params, cudaStream_t stream);

}  // namespace espalier::gpu::sm90
