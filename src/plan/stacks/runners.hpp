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
#include "tree/team_sums.hpp"

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

/// One team of up to kFrontThreads threads; on a GPU a multiple of 32.
template <class Team>
class OnTeam {
  static constexpr std::int32_t kLanes = 32;  ///< threads that take both ways of a branch one after the other
  static constexpr std::size_t kValueBytes = 48;
  using Sums = derive::TeamSums<Team, kFrontThreads, kValueBytes>;

 public:
  static constexpr std::size_t kScratchBytes = derive::kTeamSumsBytes<kFrontThreads, kValueBytes>;

  KOKKOS_FUNCTION OnTeam(const Team& team, const Context& c) : team_(team), c_(c), sums_(team) {}

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
    const std::int32_t items = Step::items(c_), first = div_up(items, kLanes) * kLanes;  // none has both
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

  template <class Step>
  KOKKOS_FUNCTION void scan() const {
    using Sum = typename Step::Sum;
    sums_.template prefix_sums<Sum>(
        Step::items(c_), [&](std::int32_t i) { return measured<Step>(c_, i); },
        [&](std::int32_t i) { return Step::value(c_, i); },
        [&](std::int32_t i, const Sum& own, const Sum& before) { Step::run(c_, i, own, before); },
        [&](const Sum& sum) { Step::total(c_, sum); });
  }

 private:
  const Team& team_;
  const Context& c_;
  Sums sums_;
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
