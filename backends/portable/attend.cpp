#include "attend.hpp"

#include <Kokkos_Core.hpp>

#include "append_kernel.hpp"
#include "attend_kernel.hpp"
#include "merge_kernel.hpp"

namespace espalier::portable {
namespace {

/// Calls body with a value of the element type that `scalar` names.
template <class Body>
void with_element(detail::ScalarType scalar, const Body& body) {
  switch (scalar) {
    case detail::ScalarType::f32: return body(float{});
    case detail::ScalarType::f16: return body(float16{});
    case detail::ScalarType::bf16: return body(bfloat16{});
  }
}

/// Lanes of a team that share the dimensions of one head; a CPU thread does them alone.
template <class Exec>
constexpr int kDimensionLanes =
    bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible) ? 1 : 32;

/// A kernel whose launch alone matters.
template <class Member>
struct NoWork {
  KOKKOS_FUNCTION void operator()(const Member&) const {}
};

}  // namespace

template <ExecutionSpace Exec>
void attend(const Exec& exec, const detail::AttendParams& params) {
  if (params.plan.rows == 0) return;
  with_element(params.scalar, [&](auto element) {
    using Tiles = AttendTiles<Exec, decltype(element)>;
    using Merge = MergePlan<Exec, decltype(element)>;
    Kokkos::parallel_for("espalier::attend::tiles", Tiles::policy(exec, params.plan.workers, params.head_dim),
                         Tiles{params});
    Kokkos::parallel_for("espalier::attend::merge",
                         typename Merge::Policy(exec, params.plan.rows * params.kv_heads, 1, kDimensionLanes<Exec>),
                         Merge{params});
  });
}

template <ExecutionSpace Exec>
void reserve_scratch(const Exec& exec, detail::ScalarType scalar, int head_dim, int workers) {
  with_element(scalar, [&](auto element) {
    using Tiles = AttendTiles<Exec, decltype(element)>;
    Kokkos::parallel_for("espalier::attend::reserve_scratch", Tiles::policy(exec, workers, head_dim),
                         NoWork<typename Tiles::Member>{});
  });
}

template <ExecutionSpace Exec>
void append(const Exec& exec, const detail::AppendParams& params) {
  if (params.tokens == 0) return;
  with_element(params.scalar, [&](auto element) {
    using Append = AppendTokens<Exec, decltype(element)>;
    Kokkos::parallel_for("espalier::append",
                         typename Append::Policy(exec, params.tokens * params.kv_heads, 1, kDimensionLanes<Exec>),
                         Append{params});
  });
}

template <ExecutionSpace Exec>
void merge(const Exec& exec, const detail::MergeParams& params) {
  if (params.rows == 0) return;
  with_element(params.scalar, [&](auto element) {
    using Merge = MergeRows<Exec, decltype(element)>;
    Kokkos::parallel_for("espalier::merge",
                         typename Merge::Policy(exec, params.rows * params.query_heads, 1, kDimensionLanes<Exec>),
                         Merge{params});
  });
}

#define ESPALIER_INSTANTIATE(Exec)                                                \
  template void attend<Exec>(const Exec&, const detail::AttendParams&);           \
  template void reserve_scratch<Exec>(const Exec&, detail::ScalarType, int, int); \
  template void append<Exec>(const Exec&, const detail::AppendParams&);           \
  template void merge<Exec>(const Exec&, const detail::MergeParams&);
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier::portable
