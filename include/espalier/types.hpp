#pragma once

#include <Kokkos_Core.hpp>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "espalier/detail/params.hpp"
#include "espalier/detail/scalar.hpp"

namespace espalier {

template <class T>
concept ExecutionSpace = Kokkos::is_execution_space<T>::value;

/// One block of the KV cache.
enum class BlockId : std::int32_t {};

/// One live path of a KvTree. A pruned branch's id is never valid again: the generation tells.
struct BranchId {
  std::int32_t index = -1;
  std::uint32_t generation = 0;
  friend bool operator==(const BranchId&, const BranchId&) = default;
};

/// Heads of one attention layer. Every KV head serves `group()` query heads:
/// query head h reads KV head h / group().
struct HeadShape {
  int query_heads;
  int kv_heads;
  int head_dim;
  [[nodiscard]] int group() const { return query_heads / kv_heads; }
  friend bool operator==(const HeadShape&, const HeadShape&) = default;
};

/// Type of the elements of q, k, v and out. Arithmetic is always in float.
using Scalar = detail::ScalarType;

template <class T>
concept ScalarElement = std::same_as<T, float> || std::same_as<T, float16> || std::same_as<T, bfloat16>;

/// The Scalar that names an element type.
template <ScalarElement T>
inline constexpr Scalar kScalarOf = std::same_as<T, float>     ? Scalar::f32
                                    : std::same_as<T, float16> ? Scalar::f16
                                                               : Scalar::bf16;

[[nodiscard]] constexpr const char* name_of(Scalar scalar) {
  return scalar == Scalar::f32 ? "f32" : scalar == Scalar::f16 ? "f16" : "bf16";
}

[[nodiscard]] constexpr int bytes_of(Scalar scalar) { return scalar == Scalar::f32 ? 4 : 2; }

}  // namespace espalier
