#pragma once
// The main launch: attention of each pair to what it sees of the tile, in base 2.
//
//   score(p, t) = log2(e) scale q(p) . k(t)   where pair p sees token t, else -inf
//   out(p) = sum_t 2^(score(p, t) - peak(p)) v(t) / weight(p),   weight(p) = sum_t 2^(score(p, t) - peak(p))
//   lse(p) = peak(p) + log2 weight(p)
//
// Mapping: one block on each multiprocessor, 12 warps, with a list of tiles of its own. Warps 0 to 2 bring K and V, every third
// stage each (0 and 1, every second, at head_dim 256), and note who sees what; warp 3 brings Q. Warps 4 to 11 are two
// warpgroups that compute, with 64 of the tile's pairs each.
// Budget: 227 KB of shared memory and all registers of a multiprocessor, see config.hpp.

#include "backends/cuda/sm90/stack_compute.hpp"
#include "backends/cuda/sm90/stack_feed.hpp"

namespace espalier::gpu::sm90 {

/// @tparam Transform  scores are changed before the softmax: `arguments.transform`. A kernel of its own, since instructions
/// that are not executed, but lie between those that are, cost time.
template <class T, int HeadDim, bool Transform>
__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ Arguments arguments) {
  using C = Config<HeadDim>;
  __shared__ StackBarriers<HeadDim> barriers;
  __shared__ StageNotes<HeadDim> notes[C::kStages];

  // The compiler must know that all lanes of a warp take the same role, or it guards every shuffle and loop of each.
  const int thread = threadIdx.x, worker = blockIdx.x, warp = uniform(thread / kWaveLanes);
  const detail::FusedPlanView& plan = arguments.plan;
  if (arguments.wait_first) wait_for_predecessor();
  // What comes before wait_for_predecessor() below overlaps a preceding launch's end: it reads the plan, no more.
  const int2 span = load_plan(reinterpret_cast<const int2*>(plan.worker + worker));
  const int count = span.y - span.x;
  const detail::FusedTile* tiles = plan.tiles + span.x;
  if (thread == kWaveLanes) barriers.init();
  if (thread == 3 * kWaveLanes) {
    prefetch_map(&arguments.k_page);
    prefetch_map(&arguments.v_page);
    prefetch_map(&arguments.q_rows);
    prefetch_map(&arguments.k_run);
    prefetch_map(&arguments.v_run);
  }
  fence_barrier_init();
  const StackMemory<HeadDim> memory{shared_address(swizzled_shared_memory()), &barriers, notes};
  __syncthreads();

  if (warp < kFeedingWarps) {
    give_registers<C::kFeederRegisters>();
    const auto feed = [&](auto feeder) {
      if (count > 0) feeder.prepare(tiles);
      wait_for_predecessor();
      feeder.run(tiles, count);
    };
    if (warp < C::kStages)
      feed(StackFeeder<HeadDim>(arguments, memory, warp));
    else if (warp == kFeedingWarps - 1)
      feed(StackQueries<HeadDim>(arguments, memory));
    return;
  }
  take_registers<C::kConsumerRegisters>();
  wait_for_predecessor();
  const int consumer = warp / 4 - 1;
  if (consumer == 1) named_arrive<2 * kGroupThreads>(kTurn);
  StackConsumer<T, HeadDim, Transform>(arguments, memory, consumer).run(tiles, count);
  if (consumer == 0) named_sync<2 * kGroupThreads>(kTurn);
  // Not earlier: merge blocks start in what room there is, and would crowd on the multiprocessors that end first.
  let_successor_start();
}

}  // namespace espalier::gpu::sm90
