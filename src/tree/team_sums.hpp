#pragma once
// Prefix sums within one team. Kokkos' team_scan takes a barrier for each doubling; here neighbouring threads exchange
// their values without, and a barrier stands only before and behind the sum over their groups.

#include <Kokkos_Core.hpp>
#include <cstddef>
#include <cstdint>

namespace espalier::derive {

inline constexpr int kSumLanes = 32;  ///< neighbouring threads that exchange values without a barrier, on any GPU
inline constexpr std::size_t kSumAlignment = 16;

/// Of the team's scratch memory, for a TeamSums.
template <int kMostThreads, std::size_t kValueBytes>
inline constexpr std::size_t kTeamSumsBytes = kMostThreads / kSumLanes * kValueBytes + kSumAlignment;

/// @tparam kMostThreads  of the team; on a GPU the team has a multiple of 32 threads
/// @tparam kValueBytes   of a value at most, alignment included
template <class Team, int kMostThreads, std::size_t kValueBytes>
class TeamSums {
  static constexpr int kLanes = kSumLanes;

 public:
  KOKKOS_FUNCTION explicit TeamSums(const Team& team)
      : team_(team),
        scratch_(static_cast<char*>(team.team_scratch(0).get_shmem_aligned(
            std::ptrdiff_t(kTeamSumsBytes<kMostThreads, kValueBytes> - kSumAlignment),
            std::ptrdiff_t(kSumAlignment)))) {}

  /// run(i, own, before) for each item, where `own` is its value(i) and `before` the sum of those before it; total(sum)
  /// once, maybe before. first_value(i) is called once for each item before its value(i), and gives the same. Neighbouring threads
  /// take neighbouring items, whose memory they then read together, and each group of threads items that follow each other, so
  /// that groups wait for one another once.
  template <class Sum, class FirstValue, class Value, class Run, class Total>
  KOKKOS_FUNCTION void prefix_sums(std::int32_t items, const FirstValue& first_value, const Value& value,
                                   const Run& run, const Total& total) const {
    const std::int32_t rounds = (items + team_.team_size() - 1) / team_.team_size();
    const int lane = team_.team_rank() % lanes(), group = team_.team_rank() / lanes();
    const std::int32_t begin = group * rounds * lanes() + lane;
    const std::int32_t end = Kokkos::min(begin + rounds * lanes(), items);
    Sum own;
    for (std::int32_t i = begin; i < end; i += lanes()) own += first_value(i);
    const bool has_items = begin - lane < items;  // one of the group does
    Sum up_to = has_items ? sum_up_to(own, lane) : own, before;
    const Sum all = sum_groups(up_to, lane, group, before);
    if (team_.team_rank() == team_.team_size() - 1) total(all);  // has fewest items
    for (std::int32_t round = 0; has_items && round < rounds; ++round) {
      const std::int32_t i = begin + round * lanes();
      if (rounds > 1) {
        own = i < end ? value(i) : Sum{};
        up_to = sum_up_to(own, lane);
      }
      Sum before_item = before;
      add_lanes_before(up_to, lane, before_item);
      if (i < end) run(i, own, before_item);
      before += of_last_lane(up_to);
    }
    team_.team_barrier();
  }

 private:
  KOKKOS_FUNCTION static constexpr int lanes() {
    KOKKOS_IF_ON_DEVICE((return kLanes;))
    KOKKOS_IF_ON_HOST((return 1;))
  }

  /// What all groups give; `before` becomes what the groups before this one give.
  template <class Sum>
  KOKKOS_FUNCTION Sum sum_groups(const Sum& up_to, int lane, int group, Sum& before) const {
    static_assert(sizeof(Sum) <= kValueBytes && alignof(Sum) <= kSumAlignment);
    Sum* const of_group = reinterpret_cast<Sum*>(scratch_);
    const int groups = team_.team_size() / lanes();
    if (lane == lanes() - 1) of_group[group] = up_to;
    team_.team_barrier();
    sum_up(of_group, groups);
    team_.team_barrier();
    if (group > 0) before = of_group[group - 1];
    return of_group[groups - 1];
  }

  /// What the lanes up to this one give.
  template <class Sum>
  KOKKOS_FUNCTION static Sum sum_up_to(Sum sum, [[maybe_unused]] int lane) {
    KOKKOS_IF_ON_DEVICE((for (int distance = 1; distance < kLanes; distance *= 2) {
      const Sum other = Kokkos::shfl_up(sum, distance, kLanes);
      if (lane >= distance) sum += other;
    }))
    return sum;
  }

  template <class Sum>
  KOKKOS_FUNCTION static void add_lanes_before([[maybe_unused]] const Sum& up_to, [[maybe_unused]] int lane,
                                               [[maybe_unused]] Sum& before) {
    KOKKOS_IF_ON_DEVICE((const Sum others = Kokkos::shfl_up(up_to, 1, kLanes); if (lane > 0) before += others;))
  }

  template <class Sum>
  KOKKOS_FUNCTION static Sum of_last_lane(const Sum& sum) {
    KOKKOS_IF_ON_DEVICE((return Kokkos::shfl(sum, lanes() - 1, lanes());))
    KOKKOS_IF_ON_HOST((return sum;))
  }

  /// Turns what each group gives into what the groups up to it give.
  template <class Sum>
  KOKKOS_FUNCTION void sum_up(Sum* of_group, int groups) const {
    const int rank = team_.team_rank();
    KOKKOS_IF_ON_DEVICE((if (rank < kLanes) {
      const Sum sum = sum_up_to(rank < groups ? of_group[rank] : Sum{}, rank);
      if (rank < groups) of_group[rank] = sum;
    }))
    KOKKOS_IF_ON_HOST((for (int group = 1; rank == 0 && group < groups; ++group) {
      Sum sum = of_group[group - 1];
      sum += of_group[group];
      of_group[group] = sum;
    }))
  }

  const Team& team_;
  char* scratch_;
};

}  // namespace espalier::derive
