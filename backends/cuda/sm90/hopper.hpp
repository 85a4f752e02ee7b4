#pragma once
// The instructions of sm_90 that the kernels of this folder use beyond those of cuda/warp.hpp and wgmma.hpp, one function
// each. tests/emulation has the same functions for the CPU.

#include <cuda.h>

#include <cstdint>
#include <type_traits>

#include "backends/cuda/sm90/config.hpp"
#include "backends/cuda/warp.hpp"

namespace espalier::gpu::sm90 {

/// The block's dynamic shared memory, aligned as swizzled stages must be.
__device__ __forceinline__ unsigned char* swizzled_shared_memory() {
  extern __shared__ __align__(1024) unsigned char swizzled_memory[];
  return swizzled_memory;
}

// ------------------------------------------------------------------------------------------------------- registers

/// Gives up registers of each thread of the warpgroup: kRegisters are left.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Takes registers that others have given up.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// -------------------------------------------------------------------------------------------------------- barriers

__device__ __forceinline__ void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

/// Arrives, and announces bytes that the copy engine will bring.
__device__ __forceinline__ void barrier_expect(std::uint32_t barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

/// Announces bytes without arriving.
__device__ __forceinline__ void barrier_announce(std::uint32_t barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Arrives where `condition` holds, without a branch.
__device__ __forceinline__ void barrier_arrive_if(bool condition, std::uint32_t barrier) {
  asm volatile(
      "{\n.reg .pred arrives;\n"
      "setp.ne.u32 arrives, %1, 0;\n"
      "@arrives mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(barrier),
      "r"(static_cast<std::uint32_t>(condition))
      : "memory");
}

__device__ __forceinline__ void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// Whether barrier_wait() would return at once.
__device__ __forceinline__ bool barrier_passed(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t passed;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n}"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed != 0;
}

/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Orders this thread's accesses to shared memory before later ones by the copy engine and the matrix units.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int Threads>
__device__ __forceinline__ void named_sync(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}

template <int Threads>
__device__ __forceinline__ void named_arrive(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}

// -------------------------------------------------------------------------------------------------------------- L2

/// Reads a plan, which L2 keeps from one layer to the next while their K and V pass through. Volatile, so that no load moves
/// in front of a wait for who writes the plan.
__device__ __forceinline__ int load_plan(const int* source) {
  int value;
  asm volatile("ld.global.nc.L2::cache_hint.b32 %0, [%1], %2;" : "=r"(value) : "l"(source), "l"(kLastPolicy));
  return value;
}

__device__ __forceinline__ int2 load_plan(const int2* source) {
  int2 value;
  asm volatile("ld.global.nc.L2::cache_hint.v2.b32 {%0, %1}, [%2], %3;"
               : "=r"(value.x), "=r"(value.y)
               : "l"(source), "l"(kLastPolicy));
  return value;
}

__device__ __forceinline__ int4 load_plan(const int4* source) {
  int4 value;
  asm volatile("ld.global.nc.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(source), "l"(kLastPolicy));
  return value;
}

// ----------------------------------------------------------------------------------------------------- copy engine

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// Box of K or V at (head_dim offset, token in block, head, block) into shared memory.
/// @param policy  of L2
__device__ __forceinline__ void copy_kv(std::uint32_t destination, const CUtensorMap* map, std::uint32_t barrier, int d,
                                        int token, int head, int block, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(d), "r"(token), "r"(head), "r"(block), "l"(policy)
      : "memory");
}

/// Box of Q at (head_dim offset, head, row) into shared memory.
__device__ __forceinline__ void copy_q(std::uint32_t destination, const CUtensorMap* map, std::uint32_t barrier, int d,
                                       int head, int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(d), "r"(head), "r"(row)
      : "memory");
}

// ---------------------------------------------------------------------------------------------------- other accesses

/// Two floats from two packed ones; the lower half comes first.
template <class T>
__device__ __forceinline__ float2 unpack(std::uint32_t packed) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
  } else {
    float2 value;
    asm("{\n.reg .b16 low, high;\n"
        "mov.b32 {low, high}, %2;\n"
        "cvt.f32.f16 %0, low;\n"
        "cvt.f32.f16 %1, high;\n}"
        : "=f"(value.x), "=f"(value.y)
        : "r"(packed));
    return value;
  }
}

/// log2 to about 2 units in the last place; -inf for 0.
__device__ __forceinline__ float fast_log2(float x) { return __log2f(x); }

/// Zeroes 16 bytes.
__device__ __forceinline__ void clear_shared(std::uint32_t address) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(address), "r"(0) : "memory");
}

/// 16 bytes at once. (A plain assignment of a uint4 may become four stores.)
__device__ __forceinline__ void store_words(void* target, uint4 words) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(words.x), "r"(words.y), "r"(words.z),
               "r"(words.w)
               : "memory");
}

// --------------------------------------------------------------------------------- programmatic dependent launch

/// Waits until the launches this one depends on have finished and their writes are visible.
__device__ __forceinline__ void wait_for_predecessor() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
/// Lets the next launch of the stream begin its own preparation.
__device__ __forceinline__ void let_successor_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace espalier::gpu::sm90
