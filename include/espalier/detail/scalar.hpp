#pragma once
// The 16-bit storage types and their conversions. No includes but the standard library, so that fused kernels can use it.

#include <string.h>  // not <cstring>: HIP has memcpy for devices in the global namespace alone

#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define ESPALIER_HOST_DEVICE __host__ __device__
#else
#define ESPALIER_HOST_DEVICE
#endif

namespace espalier {

/// IEEE 754 binary16, storage only: arithmetic is done in float.
struct float16 {
  std::uint16_t bits;
};

/// The upper half of an IEEE 754 binary32, storage only: arithmetic is done in float.
struct bfloat16 {
  std::uint16_t bits;
};

namespace detail {

ESPALIER_HOST_DEVICE inline float float_of_bits(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

ESPALIER_HOST_DEVICE inline std::uint32_t bits_of_float(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace detail

ESPALIER_HOST_DEVICE inline float to_float(float value) { return value; }

/// Exact. Without branches, so that loops over it vectorise.
ESPALIER_HOST_DEVICE inline float to_float(bfloat16 value) {
  return detail::float_of_bits(static_cast<std::uint32_t>(value.bits) << 16);
}

/// Exact, infinities, NaNs and subnormal numbers included. Without branches, so that loops over it vectorise.
ESPALIER_HOST_DEVICE inline float to_float(float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;
  // The exponent field now reads 112 too low; a multiplication corrects it and normalises subnormal numbers.
  const float scaled = detail::float_of_bits(magnitude) * 0x1p112f;
  const std::uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return detail::float_of_bits(detail::bits_of_float(scaled) | special | sign);
}

/// Converts from float; 16-bit types round to nearest, ties to even, and overflow to infinity.
template <class T>
ESPALIER_HOST_DEVICE T from_float(float value);

template <>
ESPALIER_HOST_DEVICE inline float from_float<float>(float value) {
  return value;
}

template <>
ESPALIER_HOST_DEVICE inline bfloat16 from_float<bfloat16>(float value) {
  const std::uint32_t bits = detail::bits_of_float(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return bfloat16{static_cast<std::uint16_t>(is_nan ? (bits >> 16) | 0x0040u : rounded >> 16)};
}

template <>
ESPALIER_HOST_DEVICE inline float16 from_float<float16>(float value) {
  const std::uint32_t bits = detail::bits_of_float(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude < 0x38800000u) {
    // Subnormal in binary16: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    half = detail::bits_of_float(detail::float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    half = (rounded - 0x38000000u) >> 13;
  }
  return float16{static_cast<std::uint16_t>(sign | half)};
}

}  // namespace espalier
