#pragma once
// Narrow tiles: up to 16 pairs, bound by memory. Every warp works for itself: it keeps a ring of stages full through the
// copy engine and computes on the stage that arrived, so no barrier is wider than a warp.
//
// A tile is a sequence of stages: Q, then K and V of kSteps steps of 16 tokens, [chunk][token][64]. Issuing is as many
// stages ahead as the ring holds, across tiles.

#include "backends/cuda/sm90/narrow_compute.hpp"
#include "backends/cuda/sm90/narrow_feed.hpp"

namespace espalier::gpu::sm90 {

template <class T, int HeadDim, bool Transform>
class NarrowWorker {
 public:
  __device__ __forceinline__ NarrowWorker(const Arguments& arguments, NarrowList& list, std::uint32_t ring,
                                          const NarrowStages<HeadDim>& stages)
      : NarrowWorker(arguments, list, NarrowRing<HeadDim>{pinned(ring), pinned(shared_address(&stages))}) {}

  /// Fetches the descriptors of a first tile, number `warp` of the block's own; reads nothing but the plan.
  __device__ __forceinline__ void prepare(int warp) { feed_.prepare(warp); }

  __device__ __forceinline__ void run() {
    if (!feed_.begin()) return;
    StageKind arrived = StageKind::query;
    int slot = 0, live = 0;
    std::uint32_t parity = 1;
    bool filling = true;
#pragma unroll 1
    while (true) {
      feed_.find_stage();
      if (!filling) {
        if (live == 0) return;
        --live;
        arrived = compute_.consume(arrived, slot, parity);
        synchronise_warp();
      }
      if (feed_.fill(slot)) ++live;
      if (++slot == Config<HeadDim>::kNarrowStages) {
        slot = 0;
        parity ^= 1;
        filling = false;
      }
    }
  }

 private:
  __device__ __forceinline__ NarrowWorker(const Arguments& arguments, NarrowList& list, const NarrowRing<HeadDim>& ring)
      : feed_(arguments, list, ring), compute_(arguments, ring) {}

  NarrowFeed<HeadDim> feed_;
  NarrowCompute<T, HeadDim, Transform> compute_;
};

}  // namespace espalier::gpu::sm90
