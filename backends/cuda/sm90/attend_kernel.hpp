#pragma once
// The main launch: one block on each multiprocessor, 12 warps. A block first runs its wide tiles (four feeding warps, two
// computing warpgroups), then each computing warp takes narrow tiles until none are left.

#include "backends/cuda/sm90/narrow_tiles.hpp"
#include "backends/cuda/sm90/wide_tiles.hpp"

namespace espalier::gpu::sm90 {

/// @tparam Transform  scores are changed before the softmax: `arguments.transform`. A kernel of its own, since instructions
/// that are not executed, but lie between those that are, cost time.
template <class T, int HeadDim, bool Transform>
__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ Arguments arguments) {
  using C = Config<HeadDim>;
  __shared__ WideBarriers<HeadDim> wide_barriers;
  __shared__ __align__(16) NarrowStages<HeadDim> narrow_stages[kNarrowWarps];
  __shared__ NarrowList list;

  const int thread = threadIdx.x, worker = blockIdx.x, warp = thread / kWaveLanes;
  const detail::FusedPlanView& plan = arguments.plan;
  if (arguments.wait_first) wait_for_predecessor();
  // What comes before wait_for_predecessor() below overlaps a preceding launch's end: it reads the plan, no more.
  const int4 span = __ldg(reinterpret_cast<const int4*>(plan.worker + worker));
  const int wide_tiles = span.y - span.x;
  const detail::FusedTile* wide_list = plan.wide_tiles + span.x;
  if (thread < kNarrowWarps) narrow_stages[thread].init();
  if (thread == kWaveLanes) wide_barriers.init();
  if (thread == 2 * kWaveLanes) {
    const int4 header = __ldg(reinterpret_cast<const int4*>(plan.header));
    const int own = span.w - span.z;
    list = {plan.narrow_tiles + span.z, own, own + header.z - header.y, plan.narrow_tiles + header.y, kNarrowWarps};
  }
  if (thread == 3 * kWaveLanes) {
    prefetch_map(&arguments.k_page);
    prefetch_map(&arguments.v_page);
    prefetch_map(&arguments.q_rows);
    prefetch_map(&arguments.k_stage);
    prefetch_map(&arguments.v_stage);
    prefetch_map(&arguments.q_group);
  }
  fence_barrier_init();
  const std::uint32_t memory = shared_address(swizzled_shared_memory());
  const WideMemory<HeadDim> wide_memory{memory, &wide_barriers};
  __syncthreads();

  if (warp < 4) {
    give_registers<C::kFeederRegisters>();
    WideFeeder<HeadDim> feeder(arguments, wide_memory, warp);
    const bool feeds = wide_tiles > 0 && feeder.has_work();
    if (feeds) feeder.prepare(wide_list);
    wait_for_predecessor();
    if (feeds) feeder.run(wide_list, 0, wide_tiles);
    return;
  }
  take_registers<C::kConsumerRegisters>();
  const int narrow_warp = warp - 4;
  NarrowWorker<T, HeadDim, Transform> narrow(arguments, list, memory + narrow_warp * (C::kRingBytes + C::kQueryBytes),
                                             narrow_stages[narrow_warp]);
  if (wide_tiles > 0) {
    wait_for_predecessor();
    const int consumer = warp / 4 - 1;
    if (consumer == 1) named_arrive<256>(kTurn);
    WideConsumer<T, HeadDim, Transform>(arguments, wide_memory, consumer).run(wide_list, 0, wide_tiles);
    if (consumer == 0) named_sync<256>(kTurn);
    named_sync<256>(kConsumers);
  }
  narrow.prepare(narrow_warp);
  if (wide_tiles == 0) wait_for_predecessor();
  narrow.run();
  // Not earlier: merge blocks start in what room there is, and would crowd on the multiprocessors that end first.
  let_successor_start();
}

}  // namespace espalier::gpu::sm90
