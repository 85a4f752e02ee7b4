#pragma once
// Stands in for CUDA's own header where kernels are compiled for the emulator: the names that our kernels use, no more.

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "tests/emulation/emulator.hpp"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  dim3() = default;
  explicit dim3(unsigned count) : x(count) {}
  unsigned x = 1;
};

struct EmulatedIndex {
  unsigned x;
};

#define threadIdx (EmulatedIndex{espalier::emulator::block.thread})
#define blockIdx (EmulatedIndex{espalier::emulator::block.number})

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNotSupported };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace espalier::emulator {

/// Dynamic shared memory of the block that runs; it begins as NaN.
inline constexpr std::size_t kMostSharedBytes = 99 << 10;
alignas(128) inline unsigned char shared_memory[kMostSharedBytes];

/// A copy of 16 bytes into shared memory that is on its way.
struct AsyncCopy {
  std::uint32_t destination;
  const void* source;  ///< null: zeros
};

/// Of each thread: the groups that are on their way, oldest first, and last the one that is not closed.
inline std::vector<std::vector<std::vector<AsyncCopy>>> async_copies;

}  // namespace espalier::emulator

template <class Params>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params), const Params& params) {
  using namespace espalier::emulator;
  const unsigned threads = config->blockDim.x;
  if (config->dynamicSmemBytes > kMostSharedBytes) stop("more shared memory than a block may have");
  run(config->gridDim.x, threads, [=] {
    if (block.thread == 0) {
      std::memset(shared_memory, 0xff, sizeof shared_memory);
      async_copies.assign(threads, {{}});
    }
    kernel(params);
  });
  return cudaSuccess;
}

enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };
enum { cudaSharedmemCarveoutMaxShared = 100 };
enum { cudaDevAttrMultiProcessorCount };

template <class Params>
cudaError_t cudaFuncSetAttribute(void (*)(Params), int, int) {
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int*) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 3;
  return cudaSuccess;
}

template <class Params>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Params), int, std::size_t) {
  *blocks = 2;
  return cudaSuccess;
}

inline void __syncthreads() { espalier::emulator::synchronise_block(); }

template <class Value>
Value __shfl_sync(unsigned, Value value, int lane) {
  return espalier::emulator::exchange(value, lane);
}

template <class Value>
Value __shfl_xor_sync(unsigned, Value value, int mask) {
  return espalier::emulator::exchange(value, espalier::emulator::lane() ^ mask);
}

template <class Value>
Value __shfl_up_sync(unsigned, Value value, unsigned distance) {
  const int lane = espalier::emulator::lane(), source = lane - static_cast<int>(distance);
  return espalier::emulator::exchange(value, source < 0 ? lane : source);
}
