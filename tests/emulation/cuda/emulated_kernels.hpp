#pragma once
// The CUDA kernels of backends/cuda and the SIMT ones, run lane by lane on the CPU. All pointers are to host memory.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "backends/backend.hpp"

namespace espalier::test {

/// The kernels of sm_80 where they can do it, else the SIMT kernel.
void emulated_sm80_attend(const espalier::detail::AttendParams& params);
/// Whether emulated_sm80_attend runs the kernel that uses matrix instructions.
bool emulated_sm80_takes(const espalier::detail::AttendParams& params);
int emulated_sm80_most_pairs(int head_dim);

/// How an emulated GPU uses the freedom that a real one has.
struct EmulatedTiming {
  std::uint32_t run_ahead_seed = 0;  ///< other than 0: warps run ahead of each other at random
  bool arrives_late = false;         ///< copies and products of matrix units arrive not before they are waited for
};

/// The kernels of sm_90.
void emulated_sm90_attend(const espalier::detail::AttendParams& params, const espalier::detail::FusedPlanView& plan,
                          std::int32_t q_rows, const EmulatedTiming& timing);

/// How many tensor maps the emulated driver has encoded, in all.
int emulated_maps_encoded();

/// How many attentions were enqueued as graphs that a thread has kept, and how many graphs, of either kind, there are.
int emulated_graph_launches();
int emulated_live_graphs();

/// Captures what `enqueue` does in the null stream, then runs that so many times.
void run_captured(const std::function<void()>& enqueue, int times);

/// Entries for a list of fused kernels: "cuda-sm90-emulated", "cuda-sm80-emulated".
/// @param space  name() of the execution space whose memory they read and write; must outlive the list
std::vector<backend::FusedKernel> emulated_cuda_kernels(const char* space);

}  // namespace espalier::test
