#pragma once
// What a warp can do from sm_80 on, one function for each instruction: asynchronous copies, matrix loads and products.
// tests/emulation has the same functions for the CPU.
//
// multiply(c, a, b0, b1): c += A B, A 16 x 16, B 16 x 8, spread over the lanes 4 g + t of a warp, g < 8, t < 4:
//   a[0], a[2]  row g of A, columns 2 t and 2 t + 1, and 8 further on;  a[1], a[3]  the same of row g + 8
//   b0, b1      column g of B, rows 2 t and 2 t + 1, and 8 further on
//   c[0], c[1]  row g, columns 2 t and 2 t + 1;  c[2], c[3]  the same of row g + 8
// Two products side by side, rounded to 16 bits, are at once the left factor of the next.

#include <cstdint>
#include <type_traits>

#include "backends/gpu/platform.hpp"

namespace espalier::gpu {

inline constexpr unsigned kAllLanes = 0xffffffffu;

/// The block's dynamic shared memory, aligned to 128 bytes.
__device__ __forceinline__ unsigned char* dynamic_shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Waits for all lanes; what they wrote to shared memory is visible then.
__device__ __forceinline__ void synchronise_warp() { __syncwarp(); }

__device__ __forceinline__ bool in_any_lane(bool condition) { return __any_sync(kAllLanes, condition) != 0; }

/// Bit i: whether the condition holds in lane i.
__device__ __forceinline__ unsigned lanes_where(bool condition) { return __ballot_sync(kAllLanes, condition); }

__device__ __forceinline__ int bits_set(unsigned bits) { return __popc(bits); }

/// The value; but the compiler does not compute ahead, and keep in registers, what follows from it.
__device__ __forceinline__ int known_only_here(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// ------------------------------------------------------------------------------------------------- asynchronous copies

/// 16 bytes from global to shared memory, past the first-level cache; zeros, and nothing is read, where not `wanted`.
__device__ __forceinline__ void copy_16_bytes(std::uint32_t destination, const void* source, bool wanted) {
  const int bytes = wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(bytes)
               : "memory");
}

/// Makes a group of the lane's copies since the last one. There may be none.
__device__ __forceinline__ void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most kPending groups of this lane are on their way. Other lanes know after a barrier.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ------------------------------------------------------------------------------------------------------------ matrices

/// Four 8 x 8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8, and lane 4 g + t gets
/// columns 2 t and 2 t + 1 of row g of each.
__device__ __forceinline__ void load_matrices(std::uint32_t (&m)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

/// Each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&m)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// ---------------------------------------------------------------------------------------------------------- arithmetic

/// 2^x to about 2 units in the last place; 0 for -inf, and where the result would be subnormal.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// a / b to about 2 units in the last place; 0 for infinite b.
__device__ __forceinline__ float fast_divide(float a, float b) { return __fdividef(a, b); }

/// Two floats rounded to T; `low` in the lower half.
template <class T>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t packed;
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

}  // namespace espalier::gpu
