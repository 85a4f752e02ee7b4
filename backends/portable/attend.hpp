#pragma once

#include "espalier/detail/params.hpp"
#include "espalier/types.hpp"

namespace espalier::portable {

/// (row, query head) pairs that a tile may hold before the kernel has to read its KV again.
template <ExecutionSpace Exec>
inline constexpr int kTileLanes =
    bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible) ? 256 : 64;

/// Whether neighbouring KV heads of a tile are attended together, as far as their lanes fit.
template <ExecutionSpace Exec>
inline constexpr bool kJoinsHeads =
    bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);

/// Attention over the plan's tiles, and the merge of their partials: two kernels on the instance.
template <ExecutionSpace Exec>
void attend(const Exec& exec, const detail::AttendParams& params);

/// Makes the scratch memory that attend() needs for this head_dim, so that attend() itself allocates nothing.
template <ExecutionSpace Exec>
void reserve_scratch(const Exec& exec, detail::ScalarType scalar, int head_dim, int workers);

template <ExecutionSpace Exec>
void append(const Exec& exec, const detail::AppendParams& params);

template <ExecutionSpace Exec>
void merge(const Exec& exec, const detail::MergeParams& params);

}  // namespace espalier::portable
