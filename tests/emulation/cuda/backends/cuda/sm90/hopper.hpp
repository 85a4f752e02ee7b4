#pragma once
// Stands in for backends/cuda/sm90/hopper.hpp, which says what each function does. Fences order nothing here, since
// lanes run one after another: that one is missing is not seen.

#include <cuda.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backends/cuda/warp.hpp"
#include "tests/emulation/cuda/copy_engine.hpp"

namespace espalier::gpu::sm90 {

inline unsigned char* swizzled_shared_memory() { return emulator::shared_memory; }

template <int kRegisters>
void give_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  synchronise_warp();
}

template <int kRegisters>
void take_registers() {
  give_registers<kRegisters>();
}

// -------------------------------------------------------------------------------------------------------- barriers

inline const emulator::AtBlock kCopyEngine([] {}, emulator::end_copies);

inline void barrier_init(std::uint32_t barrier, int arrivals) { emulator::init_phase_barrier(barrier, arrivals); }
inline void barrier_expect(std::uint32_t barrier, std::uint32_t bytes) { emulator::arrive(barrier, bytes); }
inline void barrier_announce(std::uint32_t barrier, std::uint32_t bytes) { emulator::announce(barrier, bytes); }
inline void barrier_arrive(std::uint32_t barrier) { emulator::arrive(barrier, 0); }
inline void barrier_arrive_if(bool condition, std::uint32_t barrier) {
  if (condition) barrier_arrive(barrier);
}
inline void barrier_wait(std::uint32_t barrier, std::uint32_t parity) { emulator::wait_for_phase(barrier, parity); }
inline bool barrier_passed(std::uint32_t barrier, std::uint32_t parity) {
  return emulator::phase_has_ended(barrier, parity);
}
inline void fence_barrier_init() {}
inline void fence_async_proxy() {}

inline std::array<emulator::Meeting, 16> named_barriers;
inline const emulator::AtBlock kNamedBarriers([] { named_barriers.fill({}); },
                                              [] {
                                                for (const emulator::Meeting& barrier : named_barriers) {
                                                  if (barrier.arrived > 0)
                                                    emulator::stop("a block ends while a named barrier misses threads");
                                                }
                                              });
inline constexpr const char* kNamedBarrier = "named barrier";

template <int Threads>
emulator::Meeting& named_barrier(int id) {
  emulator::Meeting& barrier = named_barriers.at(static_cast<std::size_t>(id));
  if (id < 1 || (barrier.arrived > 0 && barrier.expected != Threads)) emulator::stop("a wrong use of a named barrier");
  barrier.expected = Threads;
  return barrier;
}

template <int Threads>
void named_sync(int id) {
  emulator::meet(named_barrier<Threads>(id), kNamedBarrier, [] {});
}

template <int Threads>
void named_arrive(int id) {
  emulator::Meeting& barrier = named_barrier<Threads>(id);
  barrier.operation = kNamedBarrier;
  if (++barrier.arrived < barrier.expected) return;
  barrier.arrived = 0;
  ++barrier.generation;
}

// ----------------------------------------------------------------------------------------------------- copy engine

template <class Value>
Value load_plan(const Value* source) {
  return __ldg(source);
}

inline void prefetch_map(const CUtensorMap*) {}

inline void copy_kv(std::uint32_t destination, const CUtensorMap* map, std::uint32_t barrier, int d, int token,
                    int head, int block, std::uint64_t) {
  emulator::copy_tensor(destination, *map, barrier, {d, token, head, block});
}

inline void copy_q(std::uint32_t destination, const CUtensorMap* map, std::uint32_t barrier, int d, int head, int row) {
  emulator::copy_tensor(destination, *map, barrier, {d, head, row});
}

// ---------------------------------------------------------------------------------------------------- other accesses

template <class T>
float2 unpack(std::uint32_t packed) {
  return {emulated_half<T>(packed, 0), emulated_half<T>(packed, 1)};
}

inline float fast_log2(float x) { return log2f(x); }
inline void clear_shared(std::uint32_t address) { emulator::store_shared_value(address, uint4{}); }
inline void store_words(void* target, uint4 words) {
  if (reinterpret_cast<std::uintptr_t>(target) % sizeof words != 0) emulator::stop("an unaligned store");
  std::memcpy(target, &words, sizeof words);
}

// Launches run one after another.
inline void wait_for_predecessor() {}
inline void let_successor_start() {}

}  // namespace espalier::gpu::sm90
