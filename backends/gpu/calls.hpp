#pragma once
// What the host side of every GPU backend asks about a call. No device code.

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu {

/// Returns body<T>() with the element type.
template <class Body>
Status with_element(detail::ScalarType scalar, const Body& body) {
  switch (scalar) {
    case detail::ScalarType::f16: return body.template operator()<float16>();
    case detail::ScalarType::bf16: return body.template operator()<bfloat16>();
    default: return body.template operator()<float>();
  }
}

/// Why matrix units cannot take what they have no instances for, nothing if they can: they take 16-bit types.
/// @param head_dims  that have instances
inline std::string why_not_matrix_shape(detail::ScalarType scalar, int head_dim, std::initializer_list<int> head_dims) {
  if (scalar == detail::ScalarType::f32) return "the type is f32, expected f16 or bf16";
  if (std::find(head_dims.begin(), head_dims.end(), head_dim) != head_dims.end()) return {};
  std::string expected;
  for (const int* it = head_dims.begin(); it != head_dims.end(); ++it) {
    const char* const before = it == head_dims.begin() ? "" : it + 1 == head_dims.end() ? " or " : ", ";
    expected += before + std::to_string(*it);
  }
  return "head_dim is " + std::to_string(head_dim) + ", expected " + expected;
}

/// Whether 16-bit elements can be moved 16 bytes at a time: addresses and strides. Every call asks, so that it is a few
/// instructions.
inline bool is_aligned(const detail::AttendParams& p) {
  const auto bits_of = [](const auto*... data) { return (reinterpret_cast<std::uintptr_t>(data) | ...); };
  const std::uintptr_t addresses = bits_of(p.q, p.k, p.v, p.out);
  const std::int64_t strides = p.q_row_stride | p.q_head_stride | p.k_block_stride | p.k_token_stride |
                               p.k_head_stride | p.v_block_stride | p.v_token_stride | p.v_head_stride |
                               p.out_row_stride | p.out_head_stride;
  return addresses % 16 == 0 && strides % 8 == 0;
}

/// Why they cannot be moved so, nothing if they can.
inline std::string why_not_aligned(const detail::AttendParams& p) {
  if (is_aligned(p)) return {};
  struct Array {
    const char* name;
    const void* data;
  };
  for (const auto& [name, data] : {Array{"q", p.q}, {"k", p.k}, {"v", p.v}, {"out", p.out}}) {
    const std::uintptr_t odd = reinterpret_cast<std::uintptr_t>(data) % 16;
    if (odd != 0) return std::string(name) + " begins " + std::to_string(odd) + " bytes behind a multiple of 16";
  }
  struct Stride {
    const char* name;
    std::int64_t elements;
  };
  for (const auto& [name, elements] : {Stride{"row stride of q", p.q_row_stride},
                                       {"head stride of q", p.q_head_stride},
                                       {"block stride of k", p.k_block_stride},
                                       {"token stride of k", p.k_token_stride},
                                       {"head stride of k", p.k_head_stride},
                                       {"block stride of v", p.v_block_stride},
                                       {"token stride of v", p.v_token_stride},
                                       {"head stride of v", p.v_head_stride},
                                       {"row stride of out", p.out_row_stride},
                                       {"head stride of out", p.out_head_stride}}) {
    if (elements % 8 != 0) {
      return std::string("the ") + name + " is " + std::to_string(elements) + ", expected a multiple of 8";
    }
  }
  return {};
}

}  // namespace espalier::gpu
