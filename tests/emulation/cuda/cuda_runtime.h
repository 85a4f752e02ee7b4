#pragma once
// Stands in for CUDA's own header where kernels are compiled for the emulator: the names that our kernels use, no more.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>

#include "tests/emulation/cuda/shared_memory.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  dim3() = default;
  dim3(unsigned count) : x(count) {}  // NOLINT(google-explicit-constructor): CUDA's is one
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
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNotSupported, cudaErrorInvalidValue };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace espalier::emulator {

/// Called before and after each block: what instructions leave behind in the emulator.
inline std::vector<void (*)()> at_begin, at_end;

struct AtBlock {
  AtBlock(void (*begin)(), void (*end)()) {
    at_begin.push_back(begin);
    at_end.push_back(end);
  }
};

/// Runs a kernel on all blocks of a grid, one after another.
template <class Params>
void run_kernel(unsigned blocks, unsigned threads, std::size_t shared_bytes, void (*kernel)(Params),
                const Params& params) {
  begin_shared_memory(shared_bytes);
  const auto call = [](const std::vector<void (*)()>& functions) {
    for (void (*function)() : functions) function();
  };
  run(
      blocks, threads, [=] { kernel(params); },
      [=] {
        poison_shared_memory();
        call(at_begin);
      },
      [=] { call(at_end); });
}

/// A kernel whose type is no longer known.
struct Kernel {
  std::function<void(unsigned blocks, unsigned threads, std::size_t shared_bytes, const void* params)> run;
  std::size_t params_bytes;
};

}  // namespace espalier::emulator

template <class Params>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params), const Params& params) {
  espalier::emulator::run_kernel(config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes, kernel, params);
  return cudaSuccess;
}

using cudaKernel_t = espalier::emulator::Kernel*;

/// The handle lives as long as the program.
template <class Params>
cudaError_t cudaGetKernel(cudaKernel_t* handle, void (*kernel)(Params)) {
  static std::deque<espalier::emulator::Kernel> kernels;
  *handle = &kernels.emplace_back();
  (*handle)->run = [=](unsigned blocks, unsigned threads, std::size_t shared_bytes, const void* params) {
    espalier::emulator::run_kernel(blocks, threads, shared_bytes, kernel, *static_cast<const Params*>(params));
  };
  (*handle)->params_bytes = sizeof(Params);
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
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 3;
  return cudaSuccess;
}

template <class Params>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Params), int, std::size_t) {
  *blocks = 2;
  return cudaSuccess;
}

#define __syncthreads espalier::emulator::synchronise_block

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

/// Loads that may be up to 16 bytes wide, and must then be aligned so.
template <class Value>
Value __ldg(const Value* source) {
  if (reinterpret_cast<std::uintptr_t>(source) % sizeof(Value) != 0) espalier::emulator::stop("an unaligned load");
  return *source;
}

template <class Value>
Value __ldcg(const Value* source) {
  return __ldg(source);
}

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t{a} * b >> 32); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }
