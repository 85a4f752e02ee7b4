#pragma once
// Shared memory of the emulated block that runs, addressed as on the device by 32-bit numbers. All of it begins as NaN.

#include <cstdint>
#include <cstring>

#include "tests/emulation/emulator.hpp"

/// Static shared variables are kept together, so that an address can be told to be one of them.
#define __shared__ static __attribute__((section("emulated_shared")))

extern "C" {
extern unsigned char emulated_shared_begin[] __asm__("__start_emulated_shared")
    __attribute__((weak, visibility("hidden")));
extern unsigned char emulated_shared_end[] __asm__("__stop_emulated_shared")
    __attribute__((weak, visibility("hidden")));
}

namespace espalier::emulator {

inline constexpr std::size_t kMostSharedBytes = 227 << 10;   ///< of dynamic shared memory, on any architecture
inline constexpr std::uint32_t kStaticVariables = 1u << 20;  ///< their address; dynamic memory begins at 0
alignas(1024) inline unsigned char shared_memory[kMostSharedBytes];
inline std::size_t shared_limit = 99 << 10;  ///< what a block of the architecture may have
inline std::size_t shared_bytes_of_block;

inline std::size_t static_bytes() { return static_cast<std::size_t>(emulated_shared_end - emulated_shared_begin); }

inline void begin_shared_memory(std::size_t bytes) {
  if (bytes > shared_limit) stop("more shared memory than a block may have");
  shared_bytes_of_block = bytes;
}

inline void poison_shared_memory() {
  std::memset(shared_memory, 0xff, shared_bytes_of_block);
  std::memset(emulated_shared_begin, 0xff, static_bytes());
}

inline std::uint32_t address_in_shared_memory(const void* pointer) {
  const auto* byte = static_cast<const unsigned char*>(pointer);
  if (byte >= shared_memory && byte <= shared_memory + shared_bytes_of_block) {
    return static_cast<std::uint32_t>(byte - shared_memory);
  }
  if (byte < emulated_shared_begin || byte >= emulated_shared_end) stop("the address of what is not in shared memory");
  return kStaticVariables + static_cast<std::uint32_t>(byte - emulated_shared_begin);
}

/// The bytes at an address, which must be in the block's shared memory and a multiple of `alignment`.
inline unsigned char* shared_bytes(std::uint32_t address, std::size_t bytes, std::uint32_t alignment) {
  if (address % alignment != 0) stop("an access to shared memory is not aligned");
  if (address + bytes <= shared_bytes_of_block) return shared_memory + address;
  if (address < kStaticVariables || address + bytes > kStaticVariables + static_bytes()) {
    std::fprintf(stderr, "emulator: block %u, thread %u: %zu bytes at address 0x%x, of 0x%zx\n", block.number,
                 block.thread, bytes, address, shared_bytes_of_block);
    stop("an access outside the block's shared memory");
  }
  return emulated_shared_begin + (address - kStaticVariables);
}

template <class Value>
Value load_shared_value(std::uint32_t address) {
  Value value;
  std::memcpy(&value, shared_bytes(address, sizeof value, sizeof value), sizeof value);
  return value;
}

template <class Value>
void store_shared_value(std::uint32_t address, const Value& value) {
  std::memcpy(shared_bytes(address, sizeof value, sizeof value), &value, sizeof value);
}

}  // namespace espalier::emulator
