#pragma once
// Three ways to run the same steps: one after another in the calling thread, in one team of a GPU, or as kernels on the
// whole device. A step is a struct with static members only:
//
//   kLabel
//   items(c)        how many there are; reads what earlier steps wrote
//   most_items(c)   a bound that the host knows
//   run(c, i)       of a loop
//   Sum, value(c, i), run(c, i, own, before), total(c, sum)   of a prefix sum: value is what i adds, before the sum of
//                   those before i. Where values are dear, measure(c, i) finds one and keeps it where value finds it
//                   again, until run writes over it. Neither reads what run writes for earlier items, and run nothing that
//                   total writes, which may come first.
//
// Sums, and maxima, are of integers, so that their order does not matter, and every runner writes the same.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "context.hpp"
#include "tree/program.hpp"

namespace espalier::plan::stacks {

using derive::kRunsOnHost;
using derive::light;

/// What an item of a prefix sum adds, when it is asked for the first time.
template <class Step>
KOKKOS_FUNCTION typename Step::Sum measured(const Context& c, std::int32_t i) {
  if constexpr (requires { Step::measure(c, i); })
    return Step::measure(c, i);
  else
    return Step::value(c, i);
}

class OnHost {
 public:
  explicit OnHost(const Context& c) : c_(c) {}

  template <class... Steps>
  void each() const {
    (each_item<Steps>(), ...);
  }

  template <class Step>
  void scan() const {
    const std::int32_t items = Step::items(c_);
    typename Step::Sum sum;
    for (std::int32_t i = 0; i < items; ++i) {
      const typename Step::Sum own = measured<Step>(c_, i);
      Step::run(c_, i, own, sum);
      sum += own;
    }
    Step::total(c_, sum);
  }

 private:
  template <class Step>
  void each_item() const {
    const std::int32_t items = Step::items(c_);
    for (std::int32_t i = 0; i < items; ++i) Step::run(c_, i);
  }

  const Context& c_;
};

inline constexpr int kFrontThreads = 768;

/// One team of up to kFrontThreads threads; on a GPU a multiple of kLanes.
template <class Team>
class OnTeam {
  static constexpr int kLanes = 32;  ///< neighbouring threads that exchange values without a barrier, on any GPU
  static constexpr int kGroups = kFrontThreads / kLanes;
  static constexpr std::size_t kValueBytes = 48;

 public:
  static constexpr std::size_t kScratchBytes = kGroups * kValueBytes;

  KOKKOS_FUNCTION OnTeam(const Team& team, const Context& c)
      : team_(team),
        c_(c),
        scratch_(static_cast<char*>(
            team.team_scratch(0).get_shmem_aligned(std::ptrdiff_t(kScratchBytes), std::ptrdiff_t(kSumBytes)))) {}

  template <class Step>
  KOKKOS_FUNCTION void each() const {
    const std::int32_t items = Step::items(c_);
    for (std::int32_t i = team_.team_rank(); i < items; i += team_.team_size()) Step::run(c_, i);
    team_.team_barrier();
  }
  /// Two steps, of which neither needs the other, the dearer one first. The order of threads turns round each time, so that
  /// those who have more to do the first time have less the second.
  template <class Step, class Other>
  KOKKOS_FUNCTION void each() const {
    const std::int32_t items = Step::items(c_), first = div_up(items, lanes()) * lanes();  // no group has both
    const std::int32_t all = first + Other::items(c_), threads = team_.team_size(), rank = team_.team_rank();
    bool turned = false;
    for (std::int32_t begin = 0; begin < all; begin += threads) {
      const std::int32_t i = begin + (turned ? threads - 1 - rank : rank);
      if (i < items) Step::run(c_, i);
      if (i >= first && i < all) Other::run(c_, i - first);
      turned = !turned;
    }
    team_.team_barrier();
  }

  /// Neighbouring threads take neighbouring items, whose memory they then read together, and each group of threads items that
  /// follow each other, so that groups wait for one another once.
  template <class Step>
  KOKKOS_FUNCTION void scan() const {
    using Sum = typename Step::Sum;
    const std::int32_t items = Step::items(c_), rounds = div_up(items, team_.team_size());
    const int lane = team_.team_rank() % lanes(), group = team_.team_rank() / lanes();
    const std::int32_t begin = group * rounds * lanes() + lane;
    const std::int32_t end = Kokkos::min(begin + rounds * lanes(), items);
    Sum own;
    for (std::int32_t i = begin; i < end; i += lanes()) own += measured<Step>(c_, i);
    const bool has_items = begin - lane < items;  // one of the group does
    Sum up_to = has_items ? sum_up_to(own, lane) : own, before;
    const Sum all = sum_groups(up_to, lane, group, before);
    if (team_.team_rank() == team_.team_size() - 1) Step::total(c_, all);  // has fewest items
    for (std::int32_t round = 0; has_items && round < rounds; ++round) {
      const std::int32_t i = begin + round * lanes();
      if (rounds > 1) {
        own = i < end ? Step::value(c_, i) : Sum{};
        up_to = sum_up_to(own, lane);
      }
      Sum before_item = before;
      add_lanes_before(up_to, lane, before_item);
      if (i < end) Step::run(c_, i, own, before_item);
      before += of_last_lane(up_to);
    }
    team_.team_barrier();
  }

 private:
  /// What all groups give; `before` becomes what the groups before this one give.
  template <class Sum>
  KOKKOS_FUNCTION Sum sum_groups(const Sum& up_to, int lane, int group, Sum& before) const {
    static_assert(sizeof(Sum) <= kValueBytes);
    Sum* const of_group = reinterpret_cast<Sum*>(scratch_);
    const int groups = team_.team_size() / lanes();
    if (lane == lanes() - 1) of_group[group] = up_to;
    team_.team_barrier();
    sum_up(of_group, groups);
    team_.team_barrier();
    if (group > 0) before = of_group[group - 1];
    return of_group[groups - 1];
  }

  KOKKOS_FUNCTION static constexpr int lanes() {
    KOKKOS_IF_ON_DEVICE((return kLanes;))
    KOKKOS_IF_ON_HOST((return 1;))
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
  const Context& c_;
  char* scratch_;
};

template <class Step>
struct LoopKernel {
  Context c;
  KOKKOS_FUNCTION void operator()(std::int32_t i) const {
    if (i < Step::items(c)) Step::run(c, i);
  }
};

template <class Step>
struct MeasureKernel {
  Context c;
  KOKKOS_FUNCTION void operator()(std::int32_t i) const {
    if (i < Step::items(c)) Step::measure(c, i);
  }
};

template <class Step>
struct ScanKernel {
  using value_type = typename Step::Sum;
  Context c;
  std::int32_t last;
  KOKKOS_FUNCTION void init(value_type& sum) const { sum = value_type{}; }
  KOKKOS_FUNCTION void join(value_type& sum, const value_type& other) const { sum += other; }
  KOKKOS_FUNCTION void operator()(std::int32_t i, value_type& sum, bool final) const {
    const std::int32_t items = Step::items(c);
    if (i < items) {
      const value_type value = Step::value(c, i);
      if (final) Step::run(c, i, value, sum);
      sum += value;
    }
    if (final && i == last) Step::total(c, sum);
  }
};

template <class Exec>
class OnInstance {
 public:
  OnInstance(const Exec& exec, const Context& c) : exec_(exec), c_(c) {}

  template <class... Steps>
  void each() const {
    (Kokkos::parallel_for(Steps::kLabel, policy(Steps::most_items(c_)), LoopKernel<Steps>{c_}), ...);
  }

  template <class Step>
  void scan() const {
    const std::int32_t items = Kokkos::max(Step::most_items(c_), 1);
    if constexpr (requires { Step::measure(c_, 0); })
      Kokkos::parallel_for(Step::kMeasureLabel, policy(items), MeasureKernel<Step>{c_});
    Kokkos::parallel_scan(Step::kLabel, policy(items), ScanKernel<Step>{c_, items - 1});
  }

 private:
  auto policy(std::int32_t items) const {
    return light(Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec_, 0, items));
  }

  const Exec& exec_;
  const Context& c_;
};

/// Stands before functions that take any runner, those of the host among them: keeps nvcc from warning of what is never
/// called.
#ifdef __CUDACC__
#define ESPALIER_ANY_RUNNER _Pragma("nv_exec_check_disable")
#else
#define ESPALIER_ANY_RUNNER
#endif

}  // namespace espalier::plan::stacks
