#pragma once
// Merging partial results: lse = log sum_p exp(lse_p), out = sum_p exp(lse_p - lse) out_p.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "espalier/detail/params.hpp"
#include "espalier/types.hpp"

namespace espalier::portable {

template <class Exec>
inline constexpr bool kMergesOnHost =
    bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);

/// Merges `count` partials of one (row, query head) and writes its result; the team shares the dimensions.
/// @param partial_out  partial_out(i): the i-th partial's own normalised output, [head_dim]
/// @param partial_lse  partial_lse(i): its lse
template <class Exec, class Element, class Member, class PartialOut, class PartialLse>
KOKKOS_FUNCTION void merge_row(const Member& team, int count, int head_dim, const PartialOut& partial_out,
                               const PartialLse& partial_lse, Element* out, float* lse) {
  constexpr float kMinusInfinity = -__builtin_huge_valf();
  float top = kMinusInfinity;
  for (int i = 0; i < count; ++i) top = Kokkos::fmax(top, partial_lse(i));
  float sum = 0;  // 0 where every partial is empty; NaN where one of them is
  for (int i = 0; i < count; ++i)
    if (partial_lse(i) != kMinusInfinity) sum += Kokkos::exp(partial_lse(i) - top);
  const float inverse = sum == 0 ? 0.0f : 1 / sum;
  // Dimensions in runs, each of which weighs every partial anew: on a CPU the sums of 128 fill half of its registers.
  constexpr int kRun = kMergesOnHost<Exec> ? 128 : 16;
  Kokkos::parallel_for(Kokkos::TeamVectorRange(team, (head_dim + kRun - 1) / kRun), [&](int run) {
    const int begin = run * kRun;
    const int dims = head_dim - begin < kRun ? head_dim - begin : kRun;
    float total[kRun] = {};
    for (int i = 0; sum != 0 && i < count; ++i) {
      const float share = Kokkos::exp(partial_lse(i) - top) * inverse;
      if (share == 0) continue;
      const auto* part = partial_out(i) + begin;
      if (dims == kRun)
        for (int d = 0; d < kRun; ++d) total[d] += share * to_float(part[d]);
      else
        for (int d = 0; d < dims; ++d) total[d] += share * to_float(part[d]);
    }
    for (int d = 0; d < dims; ++d) out[begin + d] = from_float<Element>(total[d]);
  });
  if (lse != nullptr) Kokkos::single(Kokkos::PerTeam(team), [&] { *lse = sum == 0 ? top : top + Kokkos::log(sum); });
}

/// Merges the partials of a plan: one team for each (row, KV head). A single partial has been written by its tile.
template <class Exec, class Element>
struct MergePlan {
  using Policy = Kokkos::TeamPolicy<Exec>;
  using Member = typename Policy::member_type;
  detail::AttendParams p;

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    if constexpr (kMergesOnHost<Exec>)
      if (team.league_rank() == 0) *p.plan.next_worker = 0;  // for the next attention
    const int row = team.league_rank() / p.kv_heads;
    const int kv_head = team.league_rank() % p.kv_heads;
    const int begin = p.plan.merge_begin[row];
    const int count = p.plan.merge_begin[row + 1] - begin;
    if (count == 1) return;
    const std::int64_t first_partial = std::int64_t(kv_head) * p.plan.sizes->partials;
    const int group = p.query_heads / p.kv_heads;
    const std::int64_t caller_row = p.plan.row_index[row];
    for (int g = 0; g < group; ++g) {
      const int head = kv_head * group + g;
      const auto partial = [&](int i) { return (first_partial + p.plan.merge_partials[begin + i]) * group + g; };
      merge_row<Exec, Element>(
          team, count, p.head_dim, [&](int i) { return p.plan.partial_out + partial(i) * p.head_dim; },
          [&](int i) { return p.plan.partial_lse[partial(i)]; },
          static_cast<Element*>(p.out) + caller_row * p.out_row_stride + head * p.out_head_stride,
          p.lse ? p.lse + caller_row * p.lse_row_stride + head : nullptr);
    }
  }
};

/// Merges partials that lie one after another: one team for each (row, query head).
template <class Exec, class Element>
struct MergeRows {
  using Policy = Kokkos::TeamPolicy<Exec>;
  using Member = typename Policy::member_type;
  detail::MergeParams p;

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    const std::int64_t row = team.league_rank() / p.query_heads;
    const std::int64_t head = team.league_rank() % p.query_heads;
    const std::int64_t begin = p.row_begin[row];
    merge_row<Exec, Element>(
        team, int(p.row_begin[row + 1] - begin), p.head_dim,
        [&](int i) {
          return static_cast<const Element*>(p.partial_out) + (begin + i) * p.partial_out_row_stride +
                 head * p.partial_out_head_stride;
        },
        [&](int i) { return p.partial_lse[(begin + i) * p.partial_lse_row_stride + head]; },
        static_cast<Element*>(p.out) + row * p.out_row_stride + head * p.out_head_stride,
        p.lse ? p.lse + row * p.lse_row_stride + head : nullptr);
  }
};

}  // namespace espalier::portable
