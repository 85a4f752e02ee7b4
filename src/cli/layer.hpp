#pragma once
// One attention layer on the default execution space: its paged KV cache, and the q, out and lse of a step.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "cli/input_error.hpp"
#include "espalier/attention.hpp"
#include "espalier/plan.hpp"

namespace espalier::cli {

/// Calls function.template operator()<Element>() with the element type that `scalar` names.
template <class Function>
auto with_element(Scalar scalar, const Function& function) {
  switch (scalar) {
    case Scalar::f32: return function.template operator()<float>();
    case Scalar::f16: return function.template operator()<float16>();
    default: return function.template operator()<bfloat16>();
  }
}

template <ScalarElement Element>
class Layer {
 public:
  using Exec = Kokkos::DefaultExecutionSpace;

  /// Slots that nobody has written hold NaN, so that a kernel that reads one is found out.
  Layer(const Exec& exec, const HeadShape& heads, std::int32_t blocks, int block_tokens)
      : exec_(exec), heads_(heads), chunk_tokens_(std::max(1, (1 << 20) / (heads.kv_heads * heads.head_dim))) {
    expects_room(heads, blocks, block_tokens);
    const auto cache_view = [&](const std::string& label) {
      CacheView view(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, label), blocks, block_tokens, heads.kv_heads,
                     heads.head_dim);
      Kokkos::deep_copy(exec, view, from_float<Element>(std::numeric_limits<float>::quiet_NaN()));
      return view;
    };
    cache_ = {cache_view("espalier::cli::k"), cache_view("espalier::cli::v")};
    k_new_ = TokenView("espalier::cli::k_new", chunk_tokens_, heads.kv_heads, heads.head_dim);
    v_new_ = TokenView("espalier::cli::v_new", chunk_tokens_, heads.kv_heads, heads.head_dim);
    slots_ = SlotView("espalier::cli::slots", chunk_tokens_);
  }

  /// @throws InputError if this machine's memory cannot hold the cache
  static void expects_room(const HeadShape& heads, std::int64_t blocks, int block_tokens) {
    const std::int64_t most = std::numeric_limits<std::int32_t>::max();
    if (blocks > most) bad_input("the KV cache has ", blocks, " blocks, expected at most ", most);
    expects_memory(product_of({2, blocks, block_tokens, heads.kv_heads, heads.head_dim, std::int64_t(sizeof(Element))},
                              "the KV cache"),
                   "the KV cache");
  }

  [[nodiscard]] const Exec& exec() const { return exec_; }
  [[nodiscard]] const HeadShape& heads() const { return heads_; }

  /// Writes K and V of new tokens into their slots.
  /// @param fill  fill(token, k, v) writes the elements of one token, [kv_heads, head_dim] each
  template <class Fill>
  void append(std::span<const std::int64_t> slots, const Fill& fill) {
    const auto k_host = Kokkos::create_mirror_view(k_new_), v_host = Kokkos::create_mirror_view(v_new_);
    const auto slots_host = Kokkos::create_mirror_view(slots_);
    for (std::size_t first = 0; first < slots.size(); first += std::size_t(chunk_tokens_)) {
      const std::size_t tokens = std::min(slots.size() - first, std::size_t(chunk_tokens_));
      for (std::size_t token = 0; token < tokens; ++token) {
        slots_host(token) = slots[first + token];
        fill(first + token, &k_host(token, 0, 0), &v_host(token, 0, 0));
      }
      const auto chunk = std::pair<std::size_t, std::size_t>{0, tokens};
      const auto upload = [&](const auto& device, const auto& host) {
        if constexpr (std::decay_t<decltype(device)>::rank() == 1) {
          Kokkos::deep_copy(exec_, Kokkos::subview(device, chunk), Kokkos::subview(host, chunk));
          return Kokkos::subview(device, chunk);
        } else {
          auto part = Kokkos::subview(device, chunk, Kokkos::ALL, Kokkos::ALL);
          Kokkos::deep_copy(exec_, part, Kokkos::subview(host, chunk, Kokkos::ALL, Kokkos::ALL));
          return part;
        }
      };
      const auto slots_part = upload(slots_, slots_host);
      const auto k_part = upload(k_new_, k_host), v_part = upload(v_new_, v_host);
      espalier::append(exec_, slots_part, k_part, v_part, cache_);
      exec_.fence("espalier::cli: the staging arrays are free again");
    }
  }

  /// Sets the queries of a step.
  /// @param fill  fill(row, q) writes the elements of one row, [query_heads, head_dim]
  template <class Fill>
  void set_queries(std::int32_t rows, const Fill& fill) {
    if (rows != std::int32_t(q_.extent(0))) {
      q_ = RowView("espalier::cli::q", rows, heads_.query_heads, heads_.head_dim);
      out_ = RowView("espalier::cli::out", rows, heads_.query_heads, heads_.head_dim);
      lse_ = LseView("espalier::cli::lse", rows, heads_.query_heads);
    }
    const auto host = Kokkos::create_mirror_view(q_);
    for (std::int32_t row = 0; row < rows; ++row) fill(row, &host(row, 0, 0));
    Kokkos::deep_copy(exec_, q_, host);
    Kokkos::deep_copy(exec_, out_, from_float<Element>(std::numeric_limits<float>::quiet_NaN()));
    exec_.fence("espalier::cli: the queries are there");
  }

  /// Attention of all rows; enqueued on exec().
  void attend(const Plan<Exec>& plan, const AttendOptions& options = {}) {
    espalier::attend(exec_, plan, q_, cache_, out_, lse_, options);
  }

  /// The last results, as floats.  [rows, query_heads, head_dim]
  [[nodiscard]] std::vector<float> out() const {
    const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, out_);
    std::vector<float> values(host.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(host.data()[i]);
    return values;
  }

  /// [rows, query_heads]
  [[nodiscard]] std::vector<float> lse() const {
    const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, lse_);
    return {host.data(), host.data() + host.size()};
  }

 private:
  using CacheView = Kokkos::View<Element****, Kokkos::LayoutRight, Exec>;
  using TokenView = Kokkos::View<Element***, Kokkos::LayoutRight, Exec>;
  using RowView = Kokkos::View<Element***, Kokkos::LayoutRight, Exec>;
  using LseView = Kokkos::View<float**, Kokkos::LayoutRight, Exec>;
  using SlotView = Kokkos::View<std::int64_t*, Exec>;

  Exec exec_;
  HeadShape heads_;
  int chunk_tokens_;
  KvCache<CacheView> cache_;
  TokenView k_new_, v_new_;  // [chunk_tokens, kv_heads, head_dim]
  SlotView slots_;           // [chunk_tokens]
  RowView q_, out_;          // [rows, query_heads, head_dim]
  LseView lse_;              // [rows, query_heads]
};

}  // namespace espalier::cli
