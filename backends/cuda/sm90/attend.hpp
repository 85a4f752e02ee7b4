#pragma once
// The fused attention of sm_90: what the library calls. Instances are in instances/, one translation unit each.

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "espalier/detail/fused_plan.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu::sm90 {

/// One attention. `attend.plan` is not read.
struct FusedParams {
  detail::AttendParams attend;
  detail::FusedPlanView plan;
  std::int32_t q_rows;  ///< rows that q holds, at least those of the plan
  /// No launch that may still run when this one begins writes the plan: read it before those have ended.
  bool overlap_predecessor;
};

/// Why the kernels of this folder cannot do it, nothing if they can: type, head_dim, block_tokens (0 where it is not known).
[[nodiscard]] std::string why_not_shape(detail::ScalarType scalar, int head_dim, int block_tokens);

/// The same for a call: type, sizes, alignment, strides.
[[nodiscard]] std::string unsupported_reason(const detail::AttendParams& params);

/// Enqueues the main launch and, unless plan.merges is 0, the merge. Waits for nothing, and allocates nothing but what a thread
/// keeps: host memory at its first call, and at the second call for a layer, outside of captures, a graph.
/// @returns what CUDA says; cudaErrorNotSupported where unsupported_reason() has something to say
[[nodiscard]] cudaError_t attend(const FusedParams& params, cudaStream_t stream);

/// One of the two launches alone, for measurements.
[[nodiscard]] cudaError_t attend_main(const FusedParams& params, cudaStream_t stream);
[[nodiscard]] cudaError_t attend_merge(const FusedParams& params, cudaStream_t stream);

}  // namespace espalier::gpu::sm90
