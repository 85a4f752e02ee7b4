#pragma once
// The vocabulary that CUDA and HIP kernels share. The only file under backends/ that asks which compiler it is.

#include <cstdint>

#include "espalier/detail/scalar.hpp"

#if defined(__HIPCC__)
#include <hip/hip_runtime.h>
#else
#include <cuda_runtime.h>
#endif

namespace espalier::gpu {

#if defined(__HIPCC__)
using Stream = hipStream_t;
using Status = hipError_t;
inline Status last_status() { return hipGetLastError(); }
#else
using Stream = cudaStream_t;
using Status = cudaError_t;
inline Status last_status() { return cudaGetLastError(); }
#endif

// Lanes that run in step. 64 on the CDNA architectures of this library.
#if defined(__HIPCC__)
inline constexpr int kWaveLanes = 64;
#else
inline constexpr int kWaveLanes = 32;
#endif

/// The value of the lane whose number differs in the bits of `mask`. All lanes of the wave must call it.
template <class Value>
__device__ __forceinline__ Value exchange_lanes(Value value, int mask) {
#if defined(__HIPCC__)
  return __shfl_xor(value, mask);
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

__device__ __forceinline__ float wave_sum(float value) {
#pragma unroll
  for (int mask = kWaveLanes / 2; mask > 0; mask /= 2) value += exchange_lanes(value, mask);
  return value;
}

/// 2^x; 0 for -inf.
__device__ __forceinline__ float exp2_of(float x) { return exp2f(x); }
__device__ __forceinline__ float log2_of(float x) { return log2f(x); }

}  // namespace espalier::gpu
