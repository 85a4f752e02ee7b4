#pragma once
// The vocabulary of the portable kernel: a few floats that move together. On a CPU they fill a vector register; on a
// GPU each thread holds one. A lane is one (row, query head) of a tile.

#include <Kokkos_Core.hpp>
#include <bit>
#include <cstdint>
#include <cstring>

#include "espalier/detail/scalar.hpp"

#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
#define ESPALIER_DEVICE_PASS  // device code knows no vectors: each of its threads holds one float
#elif defined(__F16C__)
#include <immintrin.h>
#endif

namespace espalier::portable {

#if defined(ESPALIER_DEVICE_PASS)
inline constexpr int kVectorFloats = 1;
#elif defined(__AVX512F__)
inline constexpr int kVectorFloats = 16;
#elif defined(__AVX__)
inline constexpr int kVectorFloats = 8;
#else
inline constexpr int kVectorFloats = 4;
#endif

template <int kWidth>
struct VectorOf {
  using Float [[gnu::vector_size(kWidth * 4)]] = float;
  using Bits [[gnu::vector_size(kWidth * 4)]] = std::uint32_t;
  using Short [[gnu::vector_size(kWidth * 2)]] = std::uint16_t;
};

/// kWidth floats in a vector register, by the vector extension that every supported host compiler has.
template <int kWidth>
struct Lanes {
  using Float = typename VectorOf<kWidth>::Float;
  using Bits = typename VectorOf<kWidth>::Bits;
  static constexpr int kFloats = kWidth;
  Float value;

  static Lanes load(const float* p) {
    Lanes lanes;
    std::memcpy(&lanes.value, p, sizeof lanes.value);
    return lanes;
  }
  static Lanes load(const bfloat16* p) { return {std::bit_cast<Float>(load_bits(p) << 16)}; }
  /// As to_float(float16), by the converter of the CPU where it has one.
  static Lanes load(const float16* p) {
#if defined(__F16C__) && !defined(ESPALIER_DEVICE_PASS)
#if defined(__AVX512F__)
    if constexpr (kWidth == 16) return {std::bit_cast<Float>(_mm512_cvtph_ps(load_raw<__m256i>(p)))};
#endif
    if constexpr (kWidth == 8) return {std::bit_cast<Float>(_mm256_cvtph_ps(load_raw<__m128i>(p)))};
    if constexpr (kWidth == 4) return {std::bit_cast<Float>(_mm_cvtph_ps(_mm_cvtsi64_si128(load_raw<long long>(p))))};
#endif
    const Bits bits = load_bits(p);
    const Bits magnitude = (bits & 0x7fff) << 13;
    const Float scaled = std::bit_cast<Float>(magnitude) * 0x1p112f;
    const Bits special = magnitude >= 0x0f800000 ? Bits{} + 0x7f800000 : Bits{};
    return {std::bit_cast<Float>(std::bit_cast<Bits>(scaled) | special | ((bits & 0x8000) << 16))};
  }
  void store(float* p) const { std::memcpy(p, &value, sizeof value); }
  /// As from_float.
  template <class Half>
  void store(Half* p) const {
    for (int i = 0; i < kWidth; ++i) p[i] = from_float<Half>(value[i]);
  }
  static Lanes broadcast(float x) { return {x - Float{}}; }

  /// Half of the lanes plus the other half.
  [[nodiscard]] Lanes<kWidth / 2> folded() const {
    Lanes<kWidth / 2> halves[2];
    std::memcpy(halves, &value, sizeof value);
    return halves[0] + halves[1];
  }

  friend Lanes operator+(Lanes a, Lanes b) { return {a.value + b.value}; }
  friend Lanes operator-(Lanes a, Lanes b) { return {a.value - b.value}; }
  friend Lanes operator*(Lanes a, Lanes b) { return {a.value * b.value}; }
  friend Lanes operator/(Lanes a, Lanes b) { return {a.value / b.value}; }
  friend Lanes multiply_add(float a, Lanes b, Lanes c) { return {a * b.value + c.value}; }
  /// b where one of them is NaN
  friend Lanes max(Lanes a, Lanes b) { return {a.value > b.value ? a.value : b.value}; }
  /// then where low <= a < high, otherwise
  friend Lanes where_between(Lanes a, float low, float high, Lanes then, Lanes otherwise) {
    return {((a.value >= low) & (a.value < high)) ? then.value : otherwise.value};
  }
  /// 2^a within 2 units in the last place; 0 below 2^-126.
  friend Lanes exp2(Lanes a) {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; the rest is in [-0.5, 0.5].
    const Float shifted = a.value + 0x1.8p23f;
    const Float rest = a.value - (shifted - 0x1.8p23f);
    Float power = rest * 1.534581242594868e-4f + 1.3399930903688073e-3f;
    power = power * rest + 9.618489071726799e-3f;
    power = power * rest + 5.550328642129898e-2f;
    power = power * rest + 2.4022646248340607e-1f;
    power = power * rest + 6.931471824645996e-1f;
    power = power * rest + 1.0f;
    // A product keeps a NaN, which arithmetic on the bits of `power` would not.
    const Float scale = std::bit_cast<Float>((std::bit_cast<Bits>(shifted) << 23) + 0x3f800000);
    return {a.value < -126.0f ? Float{} : power * scale};
  }

 private:
  template <class Raw>
  static Raw load_raw(const void* p) {
    Raw raw;
    std::memcpy(&raw, p, sizeof raw);
    return raw;
  }

  template <class Half>
  static Bits load_bits(const Half* p) {
    typename VectorOf<kWidth>::Short bits;
    std::memcpy(&bits, p, sizeof bits);
    return __builtin_convertvector(bits, Bits);
  }
};

/// Rows become columns.
inline void transpose(Lanes<4> (&rows)[4]) {
  const auto a = rows[0].value, b = rows[1].value, c = rows[2].value, d = rows[3].value;
  const auto ab_left = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const auto cd_left = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const auto ab_right = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const auto cd_right = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  rows[0].value = __builtin_shufflevector(ab_left, cd_left, 0, 1, 4, 5);
  rows[1].value = __builtin_shufflevector(ab_left, cd_left, 2, 3, 6, 7);
  rows[2].value = __builtin_shufflevector(ab_right, cd_right, 0, 1, 4, 5);
  rows[3].value = __builtin_shufflevector(ab_right, cd_right, 2, 3, 6, 7);
}

/// {sum of a, sum of b, sum of c, sum of d}, each added pairwise.
template <int kWidth>
Lanes<4> sums(Lanes<kWidth> a, Lanes<kWidth> b, Lanes<kWidth> c, Lanes<kWidth> d) {
  if constexpr (kWidth > 4) {
    return sums(a.folded(), b.folded(), c.folded(), d.folded());
  } else {
    const auto ab =
        __builtin_shufflevector(a.value, b.value, 0, 4, 1, 5) + __builtin_shufflevector(a.value, b.value, 2, 6, 3, 7);
    const auto cd =
        __builtin_shufflevector(c.value, d.value, 0, 4, 1, 5) + __builtin_shufflevector(c.value, d.value, 2, 6, 3, 7);
    return Lanes<4>{__builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7)};
  }
}

/// One float: what a GPU thread holds.
template <>
struct Lanes<1> {
  static constexpr int kFloats = 1;
  float value;

  template <class Element>
  KOKKOS_FUNCTION static Lanes load(const Element* p) {
    return Lanes{to_float(*p)};
  }
  KOKKOS_FUNCTION void store(float* p) const { *p = value; }
  KOKKOS_FUNCTION static Lanes broadcast(float x) { return {x}; }
  KOKKOS_FUNCTION friend Lanes operator+(Lanes a, Lanes b) { return {a.value + b.value}; }
  KOKKOS_FUNCTION friend Lanes operator-(Lanes a, Lanes b) { return {a.value - b.value}; }
  KOKKOS_FUNCTION friend Lanes operator*(Lanes a, Lanes b) { return {a.value * b.value}; }
  KOKKOS_FUNCTION friend Lanes operator/(Lanes a, Lanes b) { return {a.value / b.value}; }
  KOKKOS_FUNCTION friend Lanes multiply_add(float a, Lanes b, Lanes c) { return {a * b.value + c.value}; }
  KOKKOS_FUNCTION friend Lanes max(Lanes a, Lanes b) { return {a.value > b.value ? a.value : b.value}; }
  KOKKOS_FUNCTION friend Lanes where_between(Lanes a, float low, float high, Lanes then, Lanes otherwise) {
    return {a.value >= low && a.value < high ? then.value : otherwise.value};
  }
  KOKKOS_FUNCTION friend Lanes exp2(Lanes a) { return {Kokkos::exp2(a.value)}; }
};

}  // namespace espalier::portable
