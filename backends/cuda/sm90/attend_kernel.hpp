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
  // Nothing up to wait_for_predecessor() reads what a preceding launch writes: it overlaps that launch's end.
  const int4 span = __ldg(reinterpret_cast<const int4*>(plan.worker + worker));
  const int wide_tiles = span.y - span.x;
  const detail::FusedTile* wide_list = plan.wide_tiles + span.x;
  if (thread < kNarrowWarps) narrow_stages[thread].init();
  if (thread == kWaveLanes) wide_barriers.init();
  if (thread == 3 * kWaveLanes) {
    prefetch_map(&arguments.k_page);
    prefetch_map(&arguments.v_page);
    prefetch_map(&arguments.q_rows);
    prefetch_map(&arguments.k_stage);
    prefetch_map(&arguments.v_stage);
  }
  fence_barrier_init();

  const WideMemory<HeadDim> wide_memory{shared_address(memory), &wide_barriers};
  NarrowStages<HeadDim>& stages = narrow_stages[couple];
  const std::uint32_t ring = shared_address(memory) + couple * C::kRingBytes;
  const std::uint32_t q = shared_address(memory) + C::kNarrowBytes + couple * C::kNarrowQBytes;
  __syncthreads();

  // Wide consumers need most registers, narrow feeders more than wide ones: the two halves of the block trade them.
  if (thread < kThreads / 2) {
    if (wide_tiles > 0) {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(C::kWideFeederRegisters));
      if (couple < 4) {
        WideFeeder<HeadDim> feeder(arguments, wide_memory, couple);
        if (feeder.has_work()) feeder.prepare(wide_list);
        wait_for_predecessor();
        let_successor_start();
        if (feeder.has_work()) feeder.run(wide_list, 0, wide_tiles);
      }
      named_sync<kThreads>(kBlock);
      asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(C::kNarrowFeederRegisters));
    } else {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(C::kNarrowFeederRegisters));
    }
    if (thread == 0) {  // the list is in shared memory, since feeders are short of registers
      const int4 header = __ldg(reinterpret_cast<const int4*>(plan.header));
      const int own = span.w - span.z;
      narrow_taken = 0;
      list = {plan.narrow_tiles + span.z, own, own + header.z - header.y, plan.narrow_tiles + header.y, &narrow_taken};
    }
    named_sync<kThreads / 2>(kFeeders);
    NarrowFeeder<T, HeadDim> feeder(arguments, list, ring, q, stages);
    feeder.prepare();
    wait_for_predecessor();
    let_successor_start();
    feeder.run();
  } else {
    if (wide_tiles > 0) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(C::kWideConsumerRegisters));
      wait_for_predecessor();
      let_successor_start();
      const int consumer = couple / 4;
      if (consumer == 1) named_arrive<256>(kTurn);
      WideConsumer<T, HeadDim>(arguments, wide_memory, consumer).run(wide_list, 0, wide_tiles);
      if (consumer == 0) named_sync<256>(kTurn);
      named_sync<kThreads>(kBlock);
      asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(C::kNarrowConsumerRegisters));
    } else {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(C::kNarrowConsumerRegisters));
      wait_for_predecessor();
      let_successor_start();
    }
    NarrowWorker<T, HeadDim>(arguments, ring, q, stages).run();
  }
}

}  // namespace espalier::gpu::sm90
