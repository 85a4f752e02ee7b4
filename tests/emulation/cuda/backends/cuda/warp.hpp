#pragma once
// Stands in for backends/cuda/warp.hpp, which says what each function does. Asynchronous copies arrive as late as they may,
// and rows of a matrix load that share banks of shared memory end the program.

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backends/gpu/platform.hpp"

namespace espalier::gpu {

inline unsigned char* dynamic_shared_memory() { return emulator::shared_memory; }

inline std::uint32_t shared_address(const void* pointer) { return emulator::address_in_shared_memory(pointer); }

inline constexpr unsigned kAllLanes = 0xffffffffu;

inline void synchronise_warp() {
  emulator::meet(emulator::wave().meeting, "warp barrier", [] {});
}

inline unsigned lanes_where(bool condition) {
  return emulator::meet_wave<unsigned>("ballot", condition, [](emulator::Wave& all) {
    unsigned bits = 0;
    for (unsigned i = 0; i < emulator::kLanes; ++i) bits |= unsigned{all.in[i][0]} << i;
    for (emulator::Slot& out : all.out) std::memcpy(&out, &bits, sizeof bits);
  });
}

inline bool in_any_lane(bool condition) { return lanes_where(condition) != 0; }

inline int bits_set(unsigned bits) { return __builtin_popcount(bits); }
inline int known_only_here(int value) { return value; }

// ------------------------------------------------------------------------------------------------- asynchronous copies

/// A copy of 16 bytes into shared memory that is on its way.
struct AsyncCopy {
  unsigned char* destination;
  const void* source;  ///< null: zeros
};

/// Of each thread: the groups that are on their way, oldest first, and last the one that is not closed.
inline std::vector<std::vector<std::vector<AsyncCopy>>> async_copies;
inline const emulator::AtBlock kBlockCopies([] { async_copies.assign(emulator::block.threads, {{}}); }, [] {});

inline void copy_16_bytes(std::uint32_t destination, const void* source, bool wanted) {
  if (reinterpret_cast<std::uintptr_t>(source) % 16 != 0) emulator::stop("unaligned copy");
  async_copies[emulator::block.thread].back().push_back(
      {emulator::shared_bytes(destination, 16, 16), wanted ? source : nullptr});
}

inline void end_copy_group() { async_copies[emulator::block.thread].emplace_back(); }

template <int kPending>
void wait_for_copies() {
  auto& groups = async_copies[emulator::block.thread];
  while (groups.size() - 1 > kPending) {
    for (const AsyncCopy& copy : groups.front()) {
      if (copy.source) {
        std::memcpy(copy.destination, copy.source, 16);
      } else {
        std::memset(copy.destination, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

// ------------------------------------------------------------------------------------------------------------ matrices

template <bool kTransposed>
void emulated_load(std::uint32_t (&m)[4], std::uint32_t address) {
  struct Words {
    std::uint32_t word[4];
  };
  const Words words = emulator::meet_wave<Words>("matrix load", address, [](emulator::Wave& all) {
    std::uint32_t row[32];
    for (unsigned i = 0; i < 32; ++i) std::memcpy(&row[i], &all.in[i], 4);
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      unsigned banks = 0;
      for (unsigned i = 0; i < 8; ++i) {
        emulator::shared_bytes(row[8 * matrix + i], 16, 16);
        banks |= 1u << (row[8 * matrix + i] / 16 % 8);
      }
      if (banks != 0xff) emulator::stop("rows of a matrix load share banks");
    }
    for (unsigned i = 0; i < 32; ++i) {
      Words out;
      for (unsigned matrix = 0; matrix < 4; ++matrix) {
        std::uint16_t pair[2];
        for (unsigned j = 0; j < 2; ++j) {
          const unsigned of_row = kTransposed ? i % 4 * 2 + j : i / 4, column = kTransposed ? i / 4 : i % 4 * 2 + j;
          pair[j] = emulator::load_shared_value<std::uint16_t>(row[8 * matrix + of_row] + 2 * column);
        }
        std::memcpy(&out.word[matrix], pair, 4);
      }
      std::memcpy(&all.out[i], &out, sizeof out);
    }
  });
  std::memcpy(m, &words, sizeof words);
}

inline void load_matrices(std::uint32_t (&m)[4], std::uint32_t address) { emulated_load<false>(m, address); }
inline void load_matrices_transposed(std::uint32_t (&m)[4], std::uint32_t address) { emulated_load<true>(m, address); }

template <class T>
float emulated_half(std::uint32_t word, int half) {
  return to_float(T{static_cast<std::uint16_t>(word >> (16 * half))});
}

template <class T>
void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  struct Factors {
    std::uint32_t a[4], b[2];
  };
  struct Sums {
    float sum[4];
  };
  const Factors own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const Sums product = emulator::meet_wave<Sums>("matrix product", own, [](emulator::Wave& all) {
    float left[16][16], right[8][16];
    for (int i = 0; i < 32; ++i) {
      Factors factors;
      std::memcpy(&factors, &all.in[static_cast<std::size_t>(i)], sizeof factors);
      for (int half = 0; half < 2; ++half) {
        const int column = i % 4 * 2 + half;
        for (int part = 0; part < 4; ++part) {
          left[i / 4 + part % 2 * 8][column + part / 2 * 8] = emulated_half<T>(factors.a[part], half);
        }
        for (int part = 0; part < 2; ++part) right[i / 4][column + part * 8] = emulated_half<T>(factors.b[part], half);
      }
    }
    for (int i = 0; i < 32; ++i) {
      Sums sums = {};
      for (int j = 0; j < 4; ++j) {
        for (int k = 0; k < 16; ++k) sums.sum[j] += left[i / 4 + j / 2 * 8][k] * right[i % 4 * 2 + j % 2][k];
      }
      std::memcpy(&all.out[static_cast<std::size_t>(i)], &sums, sizeof sums);
    }
  });
  for (int j = 0; j < 4; ++j) c[j] += product.sum[j];
}

// ---------------------------------------------------------------------------------------------------------- arithmetic

inline float fast_exp2(float x) { return emulator::exp2_without_subnormals(x); }
inline float fast_divide(float a, float b) { return a / b; }

template <class T>
std::uint32_t pack(float low, float high) {
  return std::uint32_t{from_float<T>(low).bits} | std::uint32_t{from_float<T>(high).bits} << 16;
}

}  // namespace espalier::gpu
