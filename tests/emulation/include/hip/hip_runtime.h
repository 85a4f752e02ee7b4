#pragma once
// Stands in for HIP's own header where kernels are compiled for the emulator: the names that our kernels use, no more.

#include <cmath>
#include <cstdint>

#include "tests/emulation/emulator.hpp"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  explicit dim3(unsigned count) : x(count) {}
  unsigned x;
};

struct EmulatedIndex {
  unsigned x;
};

#define threadIdx (EmulatedIndex{espalier::emulator::block.thread})
#define blockIdx (EmulatedIndex{espalier::emulator::block.number})

using hipStream_t = void*;
enum hipError_t { hipSuccess };
inline hipError_t hipGetLastError() { return hipSuccess; }

template <class Params>
void hipLaunchKernelGGL(void (*kernel)(Params), dim3 blocks, dim3 threads, unsigned, hipStream_t,
                        const Params& params) {
  espalier::emulator::run(blocks.x, threads.x, [=] { kernel(params); });
}

inline void __syncthreads() { espalier::emulator::synchronise_block(); }

template <class Value>
Value __shfl(Value value, int lane) {
  return espalier::emulator::exchange(value, lane);
}

template <class Value>
Value __shfl_xor(Value value, int mask) {
  return espalier::emulator::exchange(value, espalier::emulator::lane() ^ mask);
}

template <class Value>
Value __shfl_up(Value value, unsigned distance) {
  const int lane = espalier::emulator::lane(), source = lane - static_cast<int>(distance);
  return espalier::emulator::exchange(value, source < 0 ? lane : source);
}

#define __builtin_amdgcn_readfirstlane(value) espalier::emulator::exchange(value, 0)
#define __builtin_amdgcn_sched_barrier(mask)
#define __builtin_amdgcn_exp2f espalier::emulator::exp2_without_subnormals
#define __builtin_amdgcn_mfma_f32_16x16x16f16 espalier::emulator::multiply_16x16x16
#define __builtin_amdgcn_mfma_f32_16x16x16bf16_1k espalier::emulator::multiply_16x16x16
