#pragma once
// Vanilla tree attention, as most engines had it first: all rows against all tokens, a mask that hides what is not on a
// row's path, softmax, product with V. Built on Kokkos Kernels' batched team GEMM.
//
//   scores [kv_heads][rows * group][tokens] = q . k + mask,  weights = softmax(scores),  out = weights . v
//
// Reads every token once, like tree attention, but computes rows x tokens scores whatever the tree, and sends them
// through memory.

#include <KokkosBatched_Gemm_Decl.hpp>
#include <KokkosBatched_Gemm_Team_Impl.hpp>
#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier::perf {

class DenseMask {
 public:
  using Exec = Kokkos::DefaultHostExecutionSpace;
  template <class DataType>
  using View = Kokkos::View<DataType, Kokkos::LayoutRight, Exec>;
  using Strided = Kokkos::View<float**, Kokkos::LayoutStride, Exec, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  using Member = Kokkos::TeamPolicy<Exec>::member_type;

  /// @param rows  one mask row each
  DenseMask(const std::vector<NodeSpec>& nodes, const std::vector<RowSpec>& rows, HeadShape heads)
      : heads_(heads), mask_(mask_of(nodes, rows)) {
    const std::size_t lanes = rows.size() * std::size_t(heads.group());
    q_ = View<float***>("espalier::perf::packed_q", heads.kv_heads, lanes, heads.head_dim);
    out_ = View<float***>("espalier::perf::packed_out", heads.kv_heads, lanes, heads.head_dim);
    scores_ = View<float***>(Kokkos::view_alloc(Kokkos::WithoutInitializing, "espalier::perf::scores"), heads.kv_heads,
                             lanes, mask_.extent(1));
  }

  /// @param q  [rows, query_heads, head_dim]  read; out alike, written
  /// @param k  [tokens, kv_heads, head_dim]   read; v alike; tokens in node order
  void attend(const Exec& exec, const View<const float***>& q, const View<float***>& k, const View<float***>& v,
              const View<float***>& out) const {
    pack(exec, q);
    multiply_keys(exec, k);
    softmax(exec);
    multiply_values(exec, v);
    unpack(exec, out);
  }

 private:
  static constexpr int kTileTokens = 64, kTileLanes = 32;

  static View<float**> mask_of(const std::vector<NodeSpec>& nodes, const std::vector<RowSpec>& rows) {
    std::vector<std::size_t> first{0};
    for (const NodeSpec& node : nodes) first.push_back(first.back() + std::size_t(node.tokens));
    View<float**> mask("espalier::perf::mask", rows.size(), first.back());
    Kokkos::deep_copy(mask, -HUGE_VALF);
    for (std::size_t row = 0; row < rows.size(); ++row)
      for (std::int32_t node = rows[row].node; node >= 0; node = nodes[std::size_t(node)].parent) {
        const std::int32_t visible = node == rows[row].node ? rows[row].visible : -1;
        const std::size_t begin = first[std::size_t(node)];
        const std::size_t end = visible < 0 ? first[std::size_t(node) + 1] : begin + std::size_t(visible);
        for (std::size_t token = begin; token < end; ++token) mask(row, token) = 0;
      }
    return mask;
  }

  static Strided matrix(float* data, std::size_t rows, std::size_t columns, std::size_t row_stride) {
    return Strided(data, Kokkos::LayoutStride(rows, row_stride, columns, 1));
  }

  /// Rows of one KV head's group next to each other, scaled.
  void pack(const Exec& exec, const View<const float***>& q) const {
    const auto packed = q_;
    const int group = heads_.group();
    const float scale = 1 / std::sqrt(float(heads_.head_dim));
    Kokkos::parallel_for(
        "espalier::perf::pack",
        Kokkos::MDRangePolicy<Exec, Kokkos::Rank<2>>(exec, {0, 0}, {int(q_.extent(0)), int(q_.extent(1))}),
        KOKKOS_LAMBDA(int kv_head, int lane) {
          for (std::size_t d = 0; d < packed.extent(2); ++d)
            packed(kv_head, lane, d) = scale * q(lane / group, kv_head * group + lane % group, d);
        });
  }

  void multiply_keys(const Exec& exec, const View<float***>& k) const {
    const auto q = q_;
    const auto scores = scores_;
    const std::size_t tokens = k.extent(0), lanes = q.extent(1), head_dim = q.extent(2);
    const int kv_heads = heads_.kv_heads;
    const auto tiles = int((tokens + kTileTokens - 1) / kTileTokens);
    Kokkos::parallel_for(
        "espalier::perf::multiply_keys", Kokkos::TeamPolicy<Exec>(exec, tiles * kv_heads, 1),
        KOKKOS_LAMBDA(const Member& team) {
          const std::size_t head = std::size_t(team.league_rank() % kv_heads);
          const std::size_t begin = std::size_t(team.league_rank() / kv_heads) * kTileTokens;
          const std::size_t count = begin + kTileTokens < tokens ? kTileTokens : tokens - begin;
          KokkosBatched::TeamGemm<Member, KokkosBatched::Trans::NoTranspose, KokkosBatched::Trans::Transpose,
                                  KokkosBatched::Algo::Gemm::Blocked>::invoke(team, 1.0f,
                                                                              matrix(&q(head, 0, 0), lanes, head_dim,
                                                                                     head_dim),
                                                                              matrix(&k(begin, head, 0), count,
                                                                                     head_dim, k.stride(0)),
                                                                              0.0f,
                                                                              matrix(&scores(head, 0, begin), lanes,
                                                                                     count, tokens));
        });
  }

  void softmax(const Exec& exec) const {
    const auto scores = scores_;
    const auto mask = mask_;
    const int group = heads_.group();
    const std::size_t tokens = scores.extent(2);
    Kokkos::parallel_for(
        "espalier::perf::softmax",
        Kokkos::MDRangePolicy<Exec, Kokkos::Rank<2>>(exec, {0, 0}, {int(scores.extent(0)), int(scores.extent(1))}),
        KOKKOS_LAMBDA(int head, int lane) {
          float* s = &scores(head, lane, 0);
          const float* hidden = &mask(lane / group, 0);
          float peak = -HUGE_VALF, weight = 0;
          for (std::size_t t = 0; t < tokens; ++t) {
            s[t] += hidden[t];
            peak = Kokkos::max(peak, s[t]);
          }
          for (std::size_t t = 0; t < tokens; ++t) {
            s[t] = Kokkos::exp(s[t] - peak);
            weight += s[t];
          }
          for (std::size_t t = 0; t < tokens; ++t) s[t] /= weight;
        });
  }

  void multiply_values(const Exec& exec, const View<float***>& v) const {
    const auto scores = scores_;
    const auto out = out_;
    const std::size_t tokens = v.extent(0), lanes = out.extent(1), head_dim = out.extent(2);
    const int kv_heads = heads_.kv_heads;
    const auto tiles = int((lanes + kTileLanes - 1) / kTileLanes);
    Kokkos::parallel_for(
        "espalier::perf::multiply_values", Kokkos::TeamPolicy<Exec>(exec, tiles * kv_heads, 1),
        KOKKOS_LAMBDA(const Member& team) {
          const std::size_t head = std::size_t(team.league_rank() % kv_heads);
          const std::size_t begin = std::size_t(team.league_rank() / kv_heads) * kTileLanes;
          const std::size_t count = begin + kTileLanes < lanes ? kTileLanes : lanes - begin;
          KokkosBatched::TeamGemm<Member, KokkosBatched::Trans::NoTranspose, KokkosBatched::Trans::NoTranspose,
                                  KokkosBatched::Algo::Gemm::Blocked>::invoke(team, 1.0f,
                                                                              matrix(&scores(head, begin, 0), count,
                                                                                     tokens, tokens),
                                                                              matrix(&v(0, head, 0), tokens, head_dim,
                                                                                     v.stride(0)),
                                                                              0.0f,
                                                                              matrix(&out(head, begin, 0), count,
                                                                                     head_dim, head_dim));
        });
  }

  void unpack(const Exec& exec, const View<float***>& out) const {
    const auto packed = out_;
    const int group = heads_.group();
    Kokkos::parallel_for(
        "espalier::perf::unpack",
        Kokkos::MDRangePolicy<Exec, Kokkos::Rank<2>>(exec, {0, 0}, {int(packed.extent(0)), int(packed.extent(1))}),
        KOKKOS_LAMBDA(int kv_head, int lane) {
          for (std::size_t d = 0; d < packed.extent(2); ++d)
            out(lane / group, kv_head * group + lane % group, d) = packed(kv_head, lane, d);
        });
  }

  HeadShape heads_;
  View<float**> mask_;  // [rows, tokens]  0 or -inf
  View<float***> q_, out_, scores_;
};

}  // namespace espalier::perf
