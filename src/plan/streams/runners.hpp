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
//                   again, until run writes over it.
//
// Sums are of integers, so that their order does not matter, and every runner writes the same.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "context.hpp"
#include "tree/program.hpp"

namespace espalier::plan::streams {

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

  template <class Step>
  void each() const {
    const std::int32_t items = Step::items(c_);
    for (std::int32_t i = 0; i < items; ++i) Step::run(c_, i);
  }

  template <class Step>
  void begin() const {
    each<Step>();
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
  const Context& c_;
};

inline constexpr int kFrontThreads = 512;

/// One team of up to kFrontThreads threads.
template <class Team>
class OnTeam {
  static constexpr int kRun = 16;  ///< neighbouring threads whose values one thread adds up
  static constexpr int kRuns = kFrontThreads / kRun;
  static constexpr int kPaddedRun = kRun + 1;  ///< neighbouring runs begin in different banks of the memory
  static constexpr std::size_t kValueBytes = 48;

 public:
  static constexpr std::size_t kScratchBytes = (std::size_t(kRuns) * kPaddedRun + kRuns) * kValueBytes;

  KOKKOS_FUNCTION OnTeam(const Team& team, const Context& c)
      : team_(team),
        c_(c),
        scratch_(team.team_scratch(0).get_shmem_aligned(std::ptrdiff_t(kScratchBytes), std::ptrdiff_t(kSumBytes))) {}

  template <class Step>
  KOKKOS_FUNCTION void each() const {
    begin<Step>();
    team_.team_barrier();
  }

  /// As each; the next step, which must neither read nor write what this one writes before its own first barrier, does
  /// not wait for it.
  template <class Step>
  KOKKOS_FUNCTION void begin() const {
    const std::int32_t items = Step::items(c_);
    for (std::int32_t i = team_.team_rank(); i < items; i += team_.team_size()) Step::run(c_, i);
  }

  /// Every thread takes a share of neighbouring items.
  template <class Step>
  KOKKOS_FUNCTION void scan() const {
    using Sum = typename Step::Sum;
    const std::int32_t items = Step::items(c_);
    const std::int32_t share = Kokkos::max(div_up(items, std::int32_t(team_.team_size())), 1);
    const std::int32_t begin = Kokkos::min(share * team_.team_rank(), items);
    const std::int32_t end = Kokkos::min(begin + share, items);
    const std::int32_t last_rank = Kokkos::max(items - 1, 0) / share;
    Sum own;
    for (std::int32_t i = begin; i < end; ++i) own += measured<Step>(c_, i);
    Sum sum = sum_before(own, last_rank);
    for (std::int32_t i = begin; i < end; ++i) {
      const Sum value = Step::value(c_, i);
      Step::run(c_, i, value, sum);
      sum += value;
    }
    if (team_.team_rank() == last_rank) Step::total(c_, sum);
    team_.team_barrier();
  }

 private:
  /// The sum of what the threads before this one give, for threads up to last_rank: one thread adds up each run, then the
  /// runs before its own.
  template <class Sum>
  KOKKOS_FUNCTION Sum sum_before(const Sum& own, std::int32_t last_rank) const {
    static_assert(sizeof(Sum) <= kValueBytes);
    Sum* values = static_cast<Sum*>(scratch_);
    Sum* of_run = values + kRuns * kPaddedRun;
    const int rank = team_.team_rank();
    const int run = rank / kRun;
    const int runs = last_rank / kRun + 1;
    values[run * kPaddedRun + rank % kRun] = own;
    team_.team_barrier();
    if (rank < runs) {
      Sum sum;
      for (int i = 0; i < kRun && rank * kRun + i <= last_rank; ++i) {
        const Sum value = values[rank * kPaddedRun + i];
        values[rank * kPaddedRun + i] = sum;
        sum += value;
      }
      of_run[rank] = sum;
    }
    team_.team_barrier();
    Sum sum;
    if (rank > last_rank) return sum;
    for (int i = 0; i < run; ++i) sum += of_run[i];
    sum += values[run * kPaddedRun + rank % kRun];
    return sum;
  }

  const Team& team_;
  const Context& c_;
  void* scratch_;
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

  template <class Step>
  void each() const {
    Kokkos::parallel_for(Step::kLabel, policy(Step::most_items(c_)), LoopKernel<Step>{c_});
  }

  template <class Step>
  void begin() const {
    each<Step>();
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

}  // namespace espalier::plan::streams
