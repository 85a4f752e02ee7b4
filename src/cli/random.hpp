#pragma once
// Numbers that look random and are the same on every machine.

#include <cstdint>

namespace espalier::cli {

/// Scrambles 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

/// Joins an identity and a position in it to one identity.
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t key, std::uint64_t position) {
  return mix(key + 0x9e3779b97f4a7c15u * (position + 1));
}

/// A sequence of random numbers.
class Random {
 public:
  explicit constexpr Random(std::uint64_t seed) : state_(mix(seed)) {}

  constexpr std::uint64_t bits() { return mix(state_ += 0x9e3779b97f4a7c15u); }

  /// Uniform in [0, 1).
  constexpr double uniform() { return double(bits() >> 11) * 0x1p-53; }

  /// Uniform in [0, count).
  constexpr std::uint64_t below(std::uint64_t count) { return std::uint64_t(uniform() * double(count)); }

  /// Mean 0, variance 1: the sum of four uniform numbers, near enough to normal for K, V and q.
  constexpr float normal() {
    std::uint64_t sum = 0;
    for (std::uint64_t draw = bits(), part = 0; part < 4; ++part, draw >>= 16) sum += draw & 0xffff;
    constexpr float kMean = 2 * 65535.0f, kDeviation = 37837.2f;  // of the sum: 2^16 * sqrt(4 / 12)
    return (float(sum) - kMean) / kDeviation;
  }

 private:
  std::uint64_t state_;
};

}  // namespace espalier::cli
