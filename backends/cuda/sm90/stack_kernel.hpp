#pragma once
// The main launch of a stacked plan: one block on each multiprocessor, 12 warps, of which four feed and eight compute.

#include "backends/cuda/sm90/stack_tiles.hpp"

namespace espalier::gpu::sm90 {

/// @tparam Transform  scores are changed before the softmax: `arguments.transform`
template <class T, int HeadDim, bool Transform>
__global__ void __launch_bounds__(kThreads, 1) stack_kernel(const __grid_constant__ Arguments arguments) {
  using C = Config<HeadDim>;
  __shared__ StackBarriers<HeadDim> barriers;
  __shared__ StackStage<HeadDim> stages[C::kWideStages];

  const int thread = threadIdx.x, worker = blockIdx.x, warp = uniform(thread / kWaveLanes);
  const detail::FusedPlanView& plan = arguments.plan;
  if (arguments.wait_first) wait_for_predecessor();
  // What comes before wait_for_predecessor() below overlaps a preceding launch's end: it reads the plan, no more.
  const int4 span = __ldg(reinterpret_cast<const int4*>(plan.worker + worker));
  const int count = span.y - span.x;
  const detail::FusedTile* tiles = plan.wide_tiles + span.x;
  if (thread == kWaveLanes) barriers.init();
  if (thread == 3 * kWaveLanes) {
    prefetch_map(&arguments.k_page);
    prefetch_map(&arguments.v_page);
    prefetch_map(&arguments.q_rows);
    prefetch_map(&arguments.k_run);
    prefetch_map(&arguments.v_run);
  }
  fence_barrier_init();
  const StackMemory<HeadDim> memory{{shared_address(swizzled_shared_memory()), nullptr}, &barriers, stages};
  __syncthreads();

  if (warp < 4) {
    give_registers<C::kFeederRegisters>();
    const auto feed = [&](auto feeder) {
      if (count > 0) feeder.prepare(tiles);
      wait_for_predecessor();
      feeder.run(tiles, count);
    };
    if (warp < C::kWideStages)
      feed(StackFeeder<HeadDim>(arguments, memory, warp));
    else if (warp == 3)
      feed(StackQueries<HeadDim>(arguments, memory));
    return;
  }
  take_registers<C::kConsumerRegisters>();
  wait_for_predecessor();
  const int consumer = warp / 4 - 1;
  if (consumer == 1) named_arrive<256>(kTurn);
  StackConsumer<T, HeadDim, Transform>(arguments, memory, consumer).run(tiles, count);
  if (consumer == 0) named_sync<256>(kTurn);
  // Not earlier: merge blocks start in what room there is, and would crowd on the multiprocessors that end first.
  let_successor_start();
}

}  // namespace espalier::gpu::sm90
