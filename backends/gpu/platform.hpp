#pragma once
// The vocabulary that CUDA and HIP kernels share. The only file under backends/ that asks which compiler it is.

#if defined(__HIPCC__)
#include <hip/hip_runtime.h>
#else
#include <cuda_runtime.h>
#endif

#include <cstddef>
#include <cstdint>

#include "espalier/detail/scalar.hpp"

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

/// Enqueues `blocks` thread blocks of a kernel. What goes wrong is in last_status().
/// @param shared_bytes  of dynamic shared memory for each block; CUDA must have been told of more than 48 KB
template <class Params>
void launch(void (*kernel)(Params), std::int64_t blocks, int threads, Stream stream, const Params& params,
            int shared_bytes = 0) {
#if defined(__HIPCC__)
  hipLaunchKernelGGL(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                     static_cast<unsigned>(shared_bytes), stream, params);
#else
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  cudaLaunchKernelEx(&config, kernel, params);
#endif
}

#if !defined(__HIPCC__)
/// Thread blocks of a kernel that the current device runs at a time; 0 where CUDA cannot say.
template <class Params>
int blocks_at_a_time(void (*kernel)(Params), int threads, int shared_bytes) {
  int device = 0, processors = 0, of_each = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) != cudaSuccess ||
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_each, kernel, threads,
                                                    static_cast<std::size_t>(shared_bytes)) != cudaSuccess) {
    return 0;
  }
  return processors * of_each;
}
#endif

// Lanes that run in step. 64 on the CDNA architectures of this library.
#if defined(__HIPCC__)
inline constexpr int kWaveLanes = 64;
#else
inline constexpr int kWaveLanes = 32;
#endif

/// A value that is the same in all lanes, as one that the compiler knows to be so: branches on it cost no masks.
__device__ __forceinline__ int uniform(int value) {
#if defined(__HIPCC__)
  return __builtin_amdgcn_readfirstlane(value);
#else
  return __shfl_sync(0xffffffffu, value, 0);
#endif
}

/// The value of the lane whose number differs in the bits of `mask`. All lanes of the wave must call it.
template <class Value>
__device__ __forceinline__ Value exchange_lanes(Value value, int mask) {
#if defined(__HIPCC__)
  return __shfl_xor(value, mask);
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

/// The value of lane `lane`, which may differ from lane to lane. All lanes of the wave must call it.
template <class Value>
__device__ __forceinline__ Value value_of_lane(Value value, int lane) {
#if defined(__HIPCC__)
  return __shfl(value, lane);
#else
  return __shfl_sync(0xffffffffu, value, lane);
#endif
}

/// The value of the lane `distance` before this one; its own in the first lanes. All lanes of the wave must call it.
template <class Value>
__device__ __forceinline__ Value value_of_earlier_lane(Value value, int distance) {
#if defined(__HIPCC__)
  return __shfl_up(value, static_cast<unsigned>(distance));
#else
  return __shfl_up_sync(0xffffffffu, value, static_cast<unsigned>(distance));
#endif
}

__device__ __forceinline__ float wave_sum(float value) {
#pragma unroll
  for (int mask = kWaveLanes / 2; mask > 0; mask /= 2) value += exchange_lanes(value, mask);
  return value;
}

/// 2^x; 0 for -inf, and where the result would be subnormal on HIP.
__device__ __forceinline__ float exp2_of(float x) {
#if defined(__HIPCC__)
  return __builtin_amdgcn_exp2f(x);
#else
  return exp2f(x);
#endif
}
__device__ __forceinline__ float log2_of(float x) { return log2f(x); }

}  // namespace espalier::gpu
