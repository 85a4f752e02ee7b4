#pragma once
// Writing new K and V into their slots: one team for each (token, KV head).

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "espalier/detail/params.hpp"
#include "espalier/types.hpp"

namespace espalier::portable {

template <class Exec, class Element>
struct AppendTokens {
  using Policy = Kokkos::TeamPolicy<Exec>;
  using Member = typename Policy::member_type;
  detail::AppendParams p;

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    const std::int64_t token = team.league_rank() / p.kv_heads;
    const std::int64_t head = team.league_rank() % p.kv_heads;
    const std::int64_t slot = p.slots[token];
    if (slot < 0) return;
    const std::int64_t block = slot / p.block_tokens;
    const std::int64_t offset = slot % p.block_tokens;
    copy(team, static_cast<const Element*>(p.k_new) + token * p.k_new_token_stride + head * p.k_new_head_stride,
         static_cast<Element*>(p.k) + block * p.k_block_stride + offset * p.k_token_stride + head * p.k_head_stride);
    copy(team, static_cast<const Element*>(p.v_new) + token * p.v_new_token_stride + head * p.v_new_head_stride,
         static_cast<Element*>(p.v) + block * p.v_block_stride + offset * p.v_token_stride + head * p.v_head_stride);
  }

  KOKKOS_FUNCTION void copy(const Member& team, const Element* from, Element* to) const {
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, p.head_dim), [&](int d) { to[d] = from[d]; });
  }
};

}  // namespace espalier::portable
