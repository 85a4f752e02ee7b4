#pragma once
// The main launch: one block on each multiprocessor, 384 threads. Warpgroup 0 feeds, warpgroups 1 and 2 compute. A
// block first runs its wide tiles, then each of its eight consumer warps takes narrow tiles until none are left.

#include "backends/cuda/sm90/narrow_tiles.hpp"
#include "backends/cuda/sm90/wide_tiles.hpp"

namespace espalier::gpu::sm90 {

template <class T, int HeadDim>
__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ Arguments arguments) {
  using C = Config<HeadDim>;
  extern __shared__ __align__(1024) char memory[];
  __shared__ WideBarriers<HeadDim> wide_barriers;
  __shared__ NarrowStages<HeadDim> narrow_stages[kNarrowWarps];
  __shared__ int narrow_taken;
  __shared__ __align__(16) detail::FusedTile staged_wide[C::kStagedWide];

  const int thread = threadIdx.x, worker = blockIdx.x;
  const detail::FusedPlanView& plan = arguments.plan;

  // Nothing up to here and in prepare() reads what a preceding launch writes: it overlaps that launch's end.
  const int wide_begin = __ldg(plan.wide_begin + worker), wide_tiles = __ldg(plan.wide_begin + worker + 1) - wide_begin;
  const int narrow_begin = __ldg(plan.narrow_begin + worker);
  const int narrow_own = __ldg(plan.narrow_begin + worker + 1) - narrow_begin;
  const int4 header = __ldg(reinterpret_cast<const int4*>(plan.header));
  const int queue = header.z - header.y;
  detail::FusedTile* staged_narrow = reinterpret_cast<detail::FusedTile*>(memory + C::kMainBytes);
  const bool stage_wide = wide_tiles <= C::kStagedWide, stage_narrow = narrow_own <= C::kStagedTiles;
  if (stage_wide) {
    for (int i = thread; i < wide_tiles * 2; i += kThreads) {
      reinterpret_cast<int4*>(staged_wide)[i] = __ldg(reinterpret_cast<const int4*>(plan.wide_tiles + wide_begin) + i);
    }
  }
  if (stage_narrow) {
    for (int i = thread; i < narrow_own * 2; i += kThreads) {
      reinterpret_cast<int4*>(staged_narrow)[i] =
          __ldg(reinterpret_cast<const int4*>(plan.narrow_tiles + narrow_begin) + i);
    }
  }
  const detail::FusedTile* wide_list = stage_wide ? staged_wide : plan.wide_tiles + wide_begin;
  if (thread < kNarrowWarps * C::kNarrowStages) {
    barrier_init(shared_address(&narrow_stages[thread / C::kNarrowStages].full[thread % C::kNarrowStages]), 1);
  }
  if (thread == 0) {
    narrow_taken = 0;
    wide_barriers.init();
  }
  fence_barrier_init();
  fence_async_proxy();
  __syncthreads();

  const int warpgroup = thread / 128;
  const WideMemory<HeadDim> wide_memory{shared_address(memory), &wide_barriers};
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kProducerRegisters));
    if (thread / kWaveLanes == 0 && wide_tiles > 0) {
      WideProducer<HeadDim> producer(arguments, wide_memory);
      producer.prepare(wide_list);
      wait_for_predecessor();
      let_successor_start();
      producer.run(wide_list, 0, wide_tiles);
    } else {
      wait_for_predecessor();
      let_successor_start();
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kConsumerRegisters));
    const int consumer = warpgroup - 1, warp = thread / kWaveLanes - 4;
    if (wide_tiles > 0) {
      wait_for_predecessor();
      let_successor_start();
      if (consumer == 1) named_arrive<256>(kTurn);
      WideConsumer<T, HeadDim>(arguments, wide_memory, consumer).run(wide_list, 0, wide_tiles);
      if (consumer == 0) named_sync<256>(kTurn);
      named_sync<256>(kConsumers);
    }
    const NarrowList list{stage_narrow ? staged_narrow : plan.narrow_tiles + narrow_begin, narrow_own,
                          narrow_own + queue, plan.narrow_tiles + header.y, &narrow_taken};
    NarrowWorker<T, HeadDim> narrow(arguments, list, shared_address(memory) + warp * C::kRingBytes,
                                    narrow_stages[warp]);
    if (wide_tiles > 0) {
      if (list.total > 0) narrow.prepare();
    } else {
      // The queue's counter is reset by the preceding launch: only own tiles may be taken before that has ended.
      const bool early = queue == 0 || narrow_own >= 2 * kNarrowWarps;
      if (early && list.total > 0) narrow.prepare();
      wait_for_predecessor();
      let_successor_start();
      if (!early) narrow.prepare();
    }
    narrow.run();
  }
}

}  // namespace espalier::gpu::sm90
