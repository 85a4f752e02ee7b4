#pragma once
// The main launch: one block on each multiprocessor, 16 warps. Warps 0 .. 7 feed, warps 8 .. 15 compute. A block first
// runs its wide tiles (four feeding warps, two computing warpgroups), then couples of a feeding and a computing warp
// take narrow tiles until none are left.

#include "backends/cuda/sm90/narrow_tiles.hpp"
#include "backends/cuda/sm90/wide_tiles.hpp"

namespace espalier::gpu::sm90 {

template <class T, int HeadDim>
__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ Arguments arguments) {
  using C = Config<HeadDim>;
  extern __shared__ __align__(1024) char memory[];
  __shared__ WideBarriers<HeadDim> wide_barriers;
  __shared__ __align__(16) NarrowStages<HeadDim> narrow_stages[kNarrowWarps];
  __shared__ int narrow_taken;
  __shared__ NarrowList list;

  const int thread = threadIdx.x, worker = blockIdx.x, couple = thread / kWaveLanes % kNarrowWarps;
  const detail::FusedPlanView& plan = arguments.plan;
  if (thread < kNarrowWarps) narrow_stages[thread].init();
  if (thread == 2 * kWaveLanes) {  // in shared memory, since feeders are short of registers
    const int begin = __ldg(plan.narrow_begin + worker), own = __ldg(plan.narrow_begin + worker + 1) - begin;
    const int4 header = __ldg(reinterpret_cast<const int4*>(plan.header));
    narrow_taken = 0;
    list = {plan.narrow_tiles + begin, own, own + header.z - header.y, plan.narrow_tiles + header.y, &narrow_taken};
  }
  if (thread == kWaveLanes) {
    wide_barriers.init();
  }
  fence_barrier_init();

  // Nothing up to wait_for_predecessor() reads what a preceding launch writes: it overlaps that launch's end.
  const int wide_begin = __ldg(plan.wide_begin + worker), wide_tiles = __ldg(plan.wide_begin + worker + 1) - wide_begin;
  const detail::FusedTile* wide_list = plan.wide_tiles + wide_begin;
  const WideMemory<HeadDim> wide_memory{shared_address(memory), &wide_barriers};
  NarrowStages<HeadDim>& stages = narrow_stages[couple];
  const std::uint32_t ring = shared_address(memory) + couple * C::kRingBytes;
  const std::uint32_t q = shared_address(memory) + C::kMainBytes + couple * C::kNarrowQBytes;
  __syncthreads();

  if (thread < kThreads / 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kFeederRegisters));
    if (wide_tiles > 0 && couple < 4) {
      WideFeeder<HeadDim> feeder(arguments, wide_memory, couple);
      if (feeder.has_work()) feeder.prepare(wide_list);
      wait_for_predecessor();
      let_successor_start();
      if (feeder.has_work()) feeder.run(wide_list, 0, wide_tiles);
    }
    NarrowFeeder<T, HeadDim> feeder(arguments, list, ring, q, stages);
    feeder.prepare();
    wait_for_predecessor();
    let_successor_start();
    if (wide_tiles > 0) named_sync<kThreads>(kBlock);
    feeder.run();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kConsumerRegisters));
    wait_for_predecessor();
    let_successor_start();
    if (wide_tiles > 0) {
      const int consumer = couple / 4;
      if (consumer == 1) named_arrive<256>(kTurn);
      WideConsumer<T, HeadDim>(arguments, wide_memory, consumer).run(wide_list, 0, wide_tiles);
      if (consumer == 0) named_sync<256>(kTurn);
      named_sync<kThreads>(kBlock);
    }
    NarrowWorker<T, HeadDim>(arguments, ring, q, stages).run();
  }
}

}  // namespace espalier::gpu::sm90
