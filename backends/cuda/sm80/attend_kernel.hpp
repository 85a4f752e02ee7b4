#pragma once
// Attention by mma.sync, for f16 and bf16, from sm_80 on.
//
//   out[r, h] = sum_t softmax_t(scale * q[r, h] . k[t]) v[t]   over the tokens that row r sees
//
// A pair is one (row, query head) of a tile: pair = row * group + head in the group.
//
// Mapping: one block of four warps is one worker. It looks at the tiles of its list together, up to 64 at a time, and does
// those of each kind one after another:
//   wide    more than 64 pairs (head_dim up to 128): each warp has 32 pairs, all read the same K and V
//   medium  more than 16 pairs: likewise with 16 pairs for each warp
//   split   up to 16 pairs: each warp has a quarter of the tokens; the parts are merged in shared memory
//   alone   up to 16 pairs and 64 tokens: each warp does a tile of its own
// What a tile's result is does not depend on the others: the kind is a function of the tile.
//
// Schedule: feed.hpp fills a ring of slots by cp.async, ahead of what is computed and across the ends of tiles; warps that
// read the same slots meet at one barrier for each, other warps at none. A slot has 16 rows from each warp.
//
// Budget: 2 blocks on a multiprocessor, so 255 registers and about 80 KB of shared memory each (README.md has them all).
// Assumes: q, k, v, out and partials aligned to 16 bytes, and their strides.

#include "backends/cuda/once_per_device.hpp"
#include "backends/cuda/sm80/instance.hpp"
#include "backends/cuda/sm80/warp_attention.hpp"
#include "backends/gpu/plan_tile.hpp"

namespace espalier::gpu::sm80 {

/// Sorts up to kBatchTiles tiles of the worker's list by kind.
template <int kHeadDim>
__device__ __forceinline__ void sort_tiles(const detail::AttendParams& p, int number, int end, int group,
                                           SharedMemory<kHeadDim>& memory) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWaveLanes, lane = thread % kWaveLanes;
  int kind = kKinds, place = 0;
  if (thread < kBatchTiles && number + thread < end) {
    const detail::Tile tile = tile_of_plan(p, number + thread);
    memory.tiles[thread] = tile;
    kind = kind_of<kHeadDim>((tile.row_end - tile.row_begin) * group, tile.tokens);
  }
#pragma unroll
  for (int k = 0; k < kKinds; ++k) {
    const unsigned lanes = lanes_where(kind == k);
    if (kind == k) place = bits_set(lanes & ((1u << lane) - 1));
    if (lane == 0) memory.count_of_warp[warp][k] = bits_set(lanes);
  }
  __syncthreads();
  if (kind < kKinds) {
    for (int w = 0; w < warp; ++w) place += memory.count_of_warp[w][kind];
    memory.order[kind][place] = static_cast<unsigned char>(thread);
  }
  if (thread < kKinds) {
    int count = 0;
    for (int w = 0; w < kWarps; ++w) count += memory.count_of_warp[w][thread];
    memory.count[thread] = count;
  }
  __syncthreads();
}

/// Tiles whose K and V all warps read. Not inlined: beside the code of narrow tiles, ptxas spills registers in the loops of both.
template <class T, int kHeadDim, int kPairBlocks>
__device__ __noinline__ void attend_together(const detail::AttendParams& p, int group) {
  constexpr Kind kind = kPairBlocks > 1 ? kWide : kMedium;
  auto& memory = *reinterpret_cast<SharedMemory<kHeadDim>*>(dynamic_shared_memory());
  const int count = memory.count[kind], warp = known_only_here(static_cast<int>(threadIdx.x / kWaveLanes));
  __syncthreads();  // nobody reads the ring
  Pieces pieces(memory.tiles, memory.order[kind], 0, count, 1, kWarps * kPairBlocks * kRows, group);
  WarpAttention<T, kHeadDim, kPairBlocks> attention(p, group);
  Feed<T, kHeadDim, kPairBlocks, true> feed(p, memory, pieces, group);
  for (; !pieces.done(); pieces.advance()) {
    const detail::Tile& tile = pieces.tile();
    const int first_pair = pieces.first_pair() + warp * kPairBlocks * kRows, tokens = tile.tokens;
    const bool has_pairs = first_pair < (tile.row_end - tile.row_begin) * group, masked = tile.masked;
    attention.set_pairs(tile, first_pair, memory.row_of_pair[warp]);
#pragma unroll
    for (int b = 0; b < kPairBlocks; ++b) attention.load_queries(b, feed.rows_at(feed.take(), warp));
    attention.clear();
#pragma unroll 1
    for (int first = 0; first < tokens; first += kSharedTokens) {
      const int slot = feed.take();
      if (!has_pairs) continue;
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        const int left = tokens - first - half * kRows;
        if (left <= 0) break;
        attention.multiply_keys(feed.rows_at(slot, half), memory.score);
        if (masked || left < kRows) attention.mask(memory.seen_by[slot][half], memory.row_of_pair[warp]);
        attention.weigh();
        attention.multiply_values(feed.rows_at(slot, kWarps / 2 + half));
      }
    }
    attention.finish();
    if (has_pairs) attention.store(tile, first_pair, memory.row_of_pair[warp]);
  }
}

/// The result of a tile whose parts the warps have left in shared memory.
template <class T, int kHeadDim>
__device__ __forceinline__ void store_merged(const detail::AttendParams& p, const detail::Tile& tile, int group,
                                             const SharedMemory<kHeadDim>& memory) {
  const int pairs = (tile.row_end - tile.row_begin) * group;
  const float* parts = reinterpret_cast<const float*>(memory.ring);
  for (int i = static_cast<int>(threadIdx.x); i < pairs * (kHeadDim / 4); i += kThreads) {
    const int pair = i / (kHeadDim / 4), d = i % (kHeadDim / 4) * 4, row = pair / group;
    SoftmaxState softmax;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) softmax.add(memory.peak[w][pair], memory.weight[w][pair]);
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float4 part = *reinterpret_cast<const float4*>(parts + (w * kRows + pair) * kHeadDim +
                                                           WarpAttention<T, kHeadDim, 1>::place_in_part(pair, d));
      const float factor = exp2_of(memory.peak[w][pair] - softmax.peak) * softmax.inverse();
      sum.x += part.x * factor;
      sum.y += part.y * factor;
      sum.z += part.z * factor;
      sum.w += part.w * factor;
    }
    const ResultPlace<T> place = result_place<T>(p, tile, tile.row_begin + row, pair - row * group);
    if (place.partial) {
      *reinterpret_cast<float4*>(place.partial + d) = sum;
    } else {
      *reinterpret_cast<uint2*>(place.out + d) = make_uint2(pack<T>(sum.x, sum.y), pack<T>(sum.z, sum.w));
    }
    if (d == 0 && place.lse) *place.lse = softmax.lse();
  }
}

/// Tiles of up to 16 pairs: quarters of one after another where they are split, else each warp's own ones.
template <class T, int kHeadDim>
__device__ __forceinline__ void attend_narrow(const detail::AttendParams& p, Kind kind, int group,
                                              SharedMemory<kHeadDim>& memory) {
  const int count = memory.count[kind], warp = known_only_here(static_cast<int>(threadIdx.x / kWaveLanes));
  const bool split = kind == kSplit;
  WarpAttention<T, kHeadDim, 1> attention(p, group);
  attention.clear();
#pragma unroll 1
  for (int number = 0; number < count; number += split ? 1 : count) {
    __syncthreads();  // nobody reads the ring
    Pieces pieces = split ? Pieces::quarter(memory.tiles, memory.order[kind], number, warp, group)
                          : Pieces(memory.tiles, memory.order[kind], warp, count, kWarps, kRows, group);
    Feed<T, kHeadDim, 1, false> feed(p, memory, pieces, group);
    for (; !pieces.done(); pieces.advance()) {
      const detail::Tile& tile = pieces.tile();
      const int end = pieces.token_end();
      const bool masked = tile.masked;
      attention.set_pairs(tile, 0, memory.row_of_pair[warp]);
      const int begin = pieces.token_begin();
#pragma unroll 1
      for (int first = begin - kRows; first < end; first += kRows) {
        int slot = feed.take_first();
        if (first < begin) {
          attention.load_queries(0, feed.rows_at(slot, warp));
        } else {
          attention.multiply_keys(feed.rows_at(slot, warp), memory.score);
          if (masked || first + kRows > end) attention.mask(memory.seen_by[slot][warp], memory.row_of_pair[warp]);
          attention.weigh();
        }
        slot = feed.take_second();
        if (first >= begin) attention.multiply_values(feed.rows_at(slot, warp));
      }
      attention.finish();
      if (split) break;
      attention.store(tile, 0, memory.row_of_pair[warp]);
      attention.clear();
    }
    if (!split) continue;
    __syncthreads();
    attention.leave_part(memory, warp);
    attention.clear();
    __syncthreads();
    store_merged<T>(p, memory.tiles[memory.order[kind][number]], group, memory);
  }
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) attend_kernel(const __grid_constant__ detail::AttendParams p) {
  auto& memory = *reinterpret_cast<SharedMemory<kHeadDim>*>(dynamic_shared_memory());
  const int group = p.query_heads / p.kv_heads;
  if (threadIdx.x == 0) {
    memory.score = {p.scale * kLog2E * (p.soft_cap == 0.0f ? 1.0f : 2.0f / p.soft_cap), p.soft_cap * kLog2E};
  }
  const int begin = p.plan.worker_begin[blockIdx.x], end = p.plan.worker_begin[blockIdx.x + 1];
#pragma unroll 1
  for (int number = begin; number < end; number += kBatchTiles) {
    __syncthreads();  // the last batch is done
    sort_tiles<kHeadDim>(p, number, end, group, memory);
    if constexpr (Config<kHeadDim>::kWideBlocks > 1) {
      if (memory.count[kWide] > 0) attend_together<T, kHeadDim, 2>(p, group);
    }
    if (memory.count[kMedium] > 0) attend_together<T, kHeadDim, 1>(p, group);
#pragma unroll 1
    for (int kind = kSplit; kind <= kAlone; ++kind) {
      attend_narrow<T, kHeadDim>(p, static_cast<Kind>(kind), group, memory);
    }
  }
}

template <class T, int kHeadDim>
constexpr Instance make_instance() {
  constexpr int kSharedBytes = sizeof(SharedMemory<kHeadDim>);
  return {[](const detail::AttendParams& p, Stream stream) {
            static OncePerDevice once;
            const cudaError_t error = once([] {
              return cudaFuncSetAttribute(attend_kernel<T, kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          kSharedBytes);
            });
            if (error == cudaSuccess)
              launch(attend_kernel<T, kHeadDim>, p.plan.workers, kThreads, stream, p, kSharedBytes);
          },
          [] { return blocks_at_a_time(attend_kernel<T, kHeadDim>, kThreads, kSharedBytes); },
          Config<kHeadDim>::kMostPairs};
}

}  // namespace espalier::gpu::sm80
