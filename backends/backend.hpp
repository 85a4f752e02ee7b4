#pragma once
// What the library knows about a fused kernel, and the list of those that it has. No Kokkos here: backends include it.

#include <cstdint>
#include <span>
#include <string>

#include "espalier/detail/fused_plan.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::backend {

/// What a kernel reads.
enum class PlanForm : std::uint8_t {
  tiles,  ///< detail::PlanView: tiles of rows, cut by any strategy
  stacks  ///< detail::FusedPlanView: tiles of pairs with all that they see, which PlanStrategy::automatic alone makes
};

/// What is known of a problem before there is any data.
struct Shape {
  detail::ScalarType scalar;
  std::int32_t query_heads;
  std::int32_t kv_heads;
  std::int32_t head_dim;
  std::int32_t block_tokens;  ///< 0 where a plan is made: the tree that comes later says it
};

/// How a kernel wants its tiles cut and shared out.
struct TileSize {
  std::int32_t pairs;    ///< most (row, query head) pairs of a tile; tiles of more rows must be right too, if slower
  std::int32_t workers;  ///< on the current device: as many as run at a time
};

/// A cudaStream_t or hipStream_t; null where a kernel is emulated on the CPU.
using Stream = void*;

inline constexpr std::uint64_t kNoCapture = 0;                ///< the stream runs what is enqueued
inline constexpr std::uint64_t kUnknownCapture = UINT64_MAX;  ///< nobody can say

/// One fused kernel. The functions that answer "why not" return nothing where it can, else half a sentence with the values
/// that are wrong ("head_dim is 80, expected 64, 96, 128, 192 or 256"). They are cheap enough for every call.
/// What enqueues returns the status of the vendor's runtime, 0 for success, and neither allocates nor waits.
struct FusedKernel {
  const char* name;     ///< "cuda-sm90": what users choose it by
  const char* backend;  ///< name() of the Kokkos execution space that it runs on
  PlanForm form;
  bool is_automatic;                                                     ///< Kernel::automatic may choose it
  std::string (*why_not_here)();                                         ///< no device, or another than it was made for
  std::string (*why_not_shape)(const Shape& shape);                      ///< type and sizes
  std::string (*why_not_params)(const detail::AttendParams& call);       ///< alignment and strides; the shape is right
  TileSize (*tile_size)(const Shape& shape);                             ///< null where the form is stacks
  int (*attend_tiles)(const detail::AttendParams& call, Stream stream);  ///< null where the form is stacks
  /// Null where the form is tiles. `call.plan` is not read. `q_rows` rows of q are there, at least those of the plan.
  /// Where the plan is settled, no launch that may still run in front of this one writes it.
  int (*attend_stacks)(const detail::AttendParams& call, const detail::FusedPlanView& plan, std::int32_t q_rows,
                       bool is_settled, Stream stream);
  /// The number of the capture that a stream is in, kNoCapture or kUnknownCapture; null where nothing is
  /// captured.
  std::uint64_t (*capture_of)(Stream stream);
  int (*append)(const detail::AppendParams& call, Stream stream);  ///< null: the portable one is used
  std::string (*status_text)(int status);                          ///< what the vendor's runtime calls a status
  bool is_emulated = false;                                        ///< on the CPU, lane by lane: only for tests
};

/// The fused kernels of this build, the fastest first. A build has kernels for one kind of device, so exactly one file
/// defines this function: cuda/kernels.cu, hip/kernels.hip, or no_kernels.cpp. A program that defines it itself, such as a
/// test of emulated kernels, has those instead.
[[nodiscard]] std::span<const FusedKernel> fused_kernels();

}  // namespace espalier::backend
