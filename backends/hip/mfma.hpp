#pragma once
// The matrix instruction of CDNA, and the vectors it works on.
//
// multiply(a, b, c) = c + A B for 16 x 16 matrices, spread over the 64 lanes of a wave:
//   a  lane m + 16 g holds columns 4 g .. 4 g + 3 of row m of A
//   b  lane n + 16 g holds rows 4 g .. 4 g + 3 of column n of B
//   c  lane n + 16 g holds rows 4 g .. 4 g + 3 of column n of the result
// c and b have the same layout: a product, converted to 16 bits, is at once the right factor of the next.

#include "backends/gpu/platform.hpp"

namespace espalier::hip {

using Float4 = float __attribute__((ext_vector_type(4)));

/// Loads written before it are issued before what is written behind it.
__device__ __forceinline__ void keep_order() { __builtin_amdgcn_sched_barrier(0); }

template <class T>
struct Matrix;

template <>
struct Matrix<float16> {
  using Element = _Float16;
  using Vector4 = Element __attribute__((ext_vector_type(4)));
  using Vector8 = Element __attribute__((ext_vector_type(8)));

  static __device__ __forceinline__ Element convert(float value) { return static_cast<Element>(value); }
  static __device__ __forceinline__ Float4 multiply(Vector4 a, Vector4 b, Float4 c) {
    return __builtin_amdgcn_mfma_f32_16x16x16f16(a, b, c, 0, 0, 0);
  }
};

template <>
struct Matrix<bfloat16> {
  using Element = short;  // its bits
  using Vector4 = Element __attribute__((ext_vector_type(4)));
  using Vector8 = Element __attribute__((ext_vector_type(8)));

  /// As from_float, but that every NaN becomes the same one: the compiler then makes no branch of it.
  static __device__ __forceinline__ Element convert(float value) {
    const std::uint32_t bits = espalier::detail::bits_of_float(value);
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return static_cast<Element>((value == value ? rounded : 0x7fc00000u) >> 16);
  }
  static __device__ __forceinline__ Float4 multiply(Vector4 a, Vector4 b, Float4 c) {
    return __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a, b, c, 0, 0, 0);
  }
};

}  // namespace espalier::hip
