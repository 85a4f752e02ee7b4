#pragma once
// mbarriers and the copy engine of sm_90. A copy is made either at once or, where `arrives_late`, not before a lane waits for
// it: the first shows what is overwritten while it is still read, the second what is read before it has arrived.

#include <map>
#include <string>
#include <vector>

#include "tests/emulation/cuda/cuda.h"
#include "tests/emulation/cuda/shared_memory.hpp"

namespace espalier::emulator {

/// Whether copies and products of matrix units arrive as late as they may, and not at once.
inline bool arrives_late = false;

struct TensorCopy {
  std::uint32_t destination;
  CUtensorMap map;
  int coordinate[5];
};

struct PhaseBarrier {
  int expected = 0, pending = 0;  ///< arrivals of a phase, and those still missing
  std::int64_t bytes = 0;         ///< announced and not arrived
  std::uint64_t phase = 0;        ///< phases that are complete
  int waiting = 0;                ///< lanes, for this phase
  std::vector<TensorCopy> on_their_way;
};

inline std::map<std::uint32_t, PhaseBarrier> phase_barriers;  ///< of the block, by address

[[noreturn]] inline void stop_at_barrier(std::uint32_t address, const PhaseBarrier& barrier, const char* message) {
  std::fprintf(
      stderr, "emulator: block %u, thread %u: mbarrier at 0x%x, phase %llu: %d of %d arrivals and %lld bytes missing\n",
      block.number, block.thread, address, static_cast<unsigned long long>(barrier.phase), barrier.pending,
      barrier.expected, static_cast<long long>(barrier.bytes));
  stop(message);
}

/// What an mbarrier's memory holds, so that one that was overwritten is noticed.
inline std::uint64_t mark_of(std::uint32_t address) { return 0x6d62617272696572ull ^ address; }

inline PhaseBarrier& phase_barrier(std::uint32_t address) {
  const auto found = phase_barriers.find(address);
  if (found == phase_barriers.end()) stop_at_barrier(address, {}, "an mbarrier is used before it is initialised");
  if (load_shared_value<std::uint64_t>(address) != mark_of(address)) {
    stop_at_barrier(address, found->second, "an mbarrier was overwritten");
  }
  return found->second;
}

inline void init_phase_barrier(std::uint32_t address, int arrivals) {
  if (arrivals < 1) stop("an mbarrier without arrivals");
  store_shared_value(address, mark_of(address));
  phase_barriers[address] = {arrivals, arrivals, 0, 0, 0, {}};
}

/// The 16-byte word of a 128-byte row that the 128-byte swizzle puts at an address.
inline std::uint32_t swizzled(std::uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

/// Moves a box into shared memory: rows of 128 bytes, swizzled by their address.
inline void move(const TensorCopy& copy) {
  constexpr std::uint32_t kRowBytes = 128, kWordBytes = 16;
  const CUtensorMap& map = copy.map;
  unsigned char* const destination = shared_bytes(copy.destination, map.box_bytes(), kRowBytes);
  for (std::uint32_t row = 0; row < map.box_bytes() / kRowBytes; ++row) {
    const unsigned char* source = map.base;
    bool inside = true;
    std::uint32_t rest = row;
    for (std::uint32_t i = 1; i < map.rank; ++i) {
      const std::int64_t index = copy.coordinate[i] + std::int64_t{rest % map.box[i]};
      rest /= map.box[i];
      inside = inside && index >= 0 && index < std::int64_t(map.size[i]);
      source += index * std::int64_t(map.stride_bytes[i - 1]);
    }
    for (std::uint32_t word = 0; word < kRowBytes / kWordBytes; ++word) {
      const std::int64_t element = copy.coordinate[0] + std::int64_t{word * kWordBytes / map.element_bytes};
      const std::uint32_t offset = row * kRowBytes + word * kWordBytes;
      unsigned char* const target = destination + (swizzled(copy.destination + offset) - copy.destination);
      if (inside && element >= 0 && element < std::int64_t(map.size[0])) {
        std::memcpy(target, source + element * map.element_bytes, kWordBytes);
      } else {
        std::memset(target, 0, kWordBytes);
      }
    }
  }
}

/// Lets what is on its way arrive where a lane waits for it, and ends the phase if nothing is missing.
inline void settle(std::uint32_t address, PhaseBarrier& barrier) {
  if (barrier.pending == 0 && (barrier.waiting > 0 || !arrives_late)) {
    for (const TensorCopy& copy : barrier.on_their_way) {
      move(copy);
      barrier.bytes -= std::int64_t(copy.map.box_bytes());
    }
    barrier.on_their_way.clear();
  }
  if (barrier.bytes < 0) stop_at_barrier(address, barrier, "the copy engine brings more bytes than were announced");
  if (barrier.pending > 0 || barrier.bytes > 0) return;
  barrier.pending = barrier.expected;
  barrier.waiting = 0;
  ++barrier.phase;
}

inline void arrive(std::uint32_t address, std::int64_t announced_bytes) {
  PhaseBarrier& barrier = phase_barrier(address);
  barrier.bytes += announced_bytes;
  --barrier.pending;  // a phase ends with its last arrival, so there is one left
  settle(address, barrier);
}

inline void announce(std::uint32_t address, std::int64_t bytes) { phase_barrier(address).bytes += bytes; }

inline bool phase_has_ended(std::uint32_t address, std::uint32_t parity) {
  return phase_barrier(address).phase % 2 != parity;
}

/// Waits until the phase of a parity has ended: that of the last one, or of the one before.
inline void wait_for_phase(std::uint32_t address, std::uint32_t parity) {
  PhaseBarrier& barrier = phase_barrier(address);
  while (barrier.phase % 2 == parity) {
    ++barrier.waiting;
    const std::uint64_t phase = barrier.phase;
    settle(address, barrier);
    if (barrier.phase == phase) {
      wait_for({&barrier.phase, phase,
                [](const void* what, std::uint32_t at) {
                  const auto& of = *static_cast<const PhaseBarrier*>(what);
                  return "phase " + std::to_string(of.phase) + " of the mbarrier at " + std::to_string(at) +
                         ", which misses " + std::to_string(of.pending) + " of " + std::to_string(of.expected) +
                         " arrivals and " + std::to_string(of.bytes) + " bytes";
                },
                &barrier, address});
    }
  }
}

/// A box of a tensor into shared memory, on the way until the barrier has its bytes.
inline void copy_tensor(std::uint32_t destination, const CUtensorMap& map, std::uint32_t barrier_address,
                        std::initializer_list<int> coordinates) {
  TensorCopy copy{destination, map, {}};
  if (coordinates.size() != map.rank) stop("a copy has another number of coordinates than its tensor map");
  std::uint32_t i = 0;
  for (const int coordinate : coordinates) {
    if (coordinate < 0 || std::uint64_t(coordinate) >= map.size[i]) {
      std::fprintf(stderr, "emulator: block %u, thread %u: coordinate %u is %d of %llu\n", block.number, block.thread,
                   i, coordinate, static_cast<unsigned long long>(map.size[i]));
      stop("a copy begins outside its tensor");
    }
    copy.coordinate[i++] = coordinate;
  }
  shared_bytes(destination, map.box_bytes(), 128);
  PhaseBarrier& barrier = phase_barrier(barrier_address);
  if (arrives_late) {
    barrier.on_their_way.push_back(copy);
  } else {
    move(copy);
    barrier.bytes -= std::int64_t(map.box_bytes());
  }
  settle(barrier_address, barrier);
}

/// What must hold when a block has ended.
inline void end_copies() {
  for (const auto& [address, barrier] : phase_barriers) {
    if (barrier.bytes != 0 || !barrier.on_their_way.empty()) {
      stop_at_barrier(address, barrier, "a block ends before its copies have arrived");
    }
  }
  phase_barriers.clear();
}

}  // namespace espalier::emulator
