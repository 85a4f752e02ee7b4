#pragma once
// Programs of small steps that run in either of two ways: as one team, with a barrier behind each step, for small
// inputs; or as one kernel for each step on the whole device.
//
// A step is a struct with static members only: kLabel, items(context), run(context, ...). A context is a struct of
// plain pointers and counts; it says by failed() whether the input turned out to be wrong. Steps then do nothing, except
// those that name a type Always.

#include <Kokkos_Core.hpp>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "team_sums.hpp"

namespace espalier::derive {

template <class Exec>
inline constexpr bool kRunsOnHost =
    bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);

/// Inputs of up to this many items are for one team: the launches of a program cost more than one team loses.
inline constexpr std::int64_t kTeamItems = 4096;

template <class Step, class Context>
KOKKOS_FUNCTION bool runs(const Context& context) {
  if constexpr (requires { typename Step::Always; }) return true;
  return !context.failed();
}

/// Kokkos passes kernels of more than 512 bytes, its own part included, through constant memory, and waits for that. A
/// kernel that it takes for light goes the direct way.
template <class Policy>
auto light(const Policy& policy) {
  return Kokkos::Experimental::require(policy, Kokkos::Experimental::WorkItemProperty::HintLightWeight);
}

template <class Exec>
auto over(const Exec& exec, std::int32_t items) {
  return light(Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec, 0, items));
}

/// Teams of kThreads on a GPU, of one thread on a host.
template <int kThreads, class Exec>
auto teams(const Exec& exec, std::int32_t league) {
  constexpr int kSize = kRunsOnHost<Exec> ? 1 : kThreads;
  return light(Kokkos::TeamPolicy<Exec, Kokkos::LaunchBounds<kThreads, 1>>(exec, league, kSize));
}

/// Loops: run(context, i) for every item of each step, in any order. No step needs another one of them.
template <class... Steps>
struct Each {
  template <class Step, class Context>
  struct Kernel {
    Context context;
    KOKKOS_FUNCTION void operator()(std::int32_t i) const {
      if (runs<Step>(context)) Step::run(context, i);
    }
  };

  template <class Team, class Context>
  KOKKOS_FUNCTION static void on_team(const Team& team, const Context& context) {
    (loop<Steps>(team, context), ...);
    team.team_barrier();
  }

  template <class Exec, class Context>
  static void on_grid(const Exec& exec, const Context& context) {
    (Kokkos::parallel_for(Steps::kLabel, over(exec, Steps::items(context)), Kernel<Steps, Context>{context}), ...);
  }

 private:
  template <class Step, class Team, class Context>
  KOKKOS_FUNCTION static void loop(const Team& team, const Context& context) {
    const std::int32_t items = runs<Step>(context) ? Step::items(context) : 0;
    for (std::int32_t i = team.team_rank(); i < items; i += team.team_size()) Step::run(context, i);
  }
};

/// The same loop passes(context) times: run(context, pass, i). Where a step has idle(context), which must not change
/// meanwhile, a team leaves passes out that would do nothing.
template <class Step>
struct Passes {
  template <class Context>
  struct Kernel {
    Context context;
    std::int32_t pass;
    KOKKOS_FUNCTION void operator()(std::int32_t i) const {
      if (runs<Step>(context)) Step::run(context, pass, i);
    }
  };

  template <class Team, class Context>
  KOKKOS_FUNCTION static void on_team(const Team& team, const Context& context) {
    const std::int32_t items = runs<Step>(context) ? Step::items(context) : 0;
    std::int32_t passes = items > 0 ? Step::passes(context) : 0;
    if constexpr (requires { Step::idle(context); })
      if (Step::idle(context)) passes = 0;
    for (std::int32_t pass = 0; pass < passes; ++pass) {
      for (std::int32_t i = team.team_rank(); i < items; i += team.team_size()) Step::run(context, pass, i);
      team.team_barrier();
    }
  }

  template <class Exec, class Context>
  static void on_grid(const Exec& exec, const Context& context) {
    for (std::int32_t pass = 0; pass < Step::passes(context); ++pass)
      Kokkos::parallel_for(Step::kLabel, over(exec, Step::items(context)), Kernel<Context>{context, pass});
  }
};

/// What is summed: two sums at once cost as much as one.
struct Sums {
  std::int64_t first = 0;
  std::int64_t second = 0;

  KOKKOS_FUNCTION Sums& operator+=(const Sums& other) {
    first += other.first;
    second += other.second;
    return *this;
  }
};

inline constexpr int kTeamThreads = 1024;

template <class Team>
using StepSums = TeamSums<Team, kTeamThreads, sizeof(Sums)>;

/// An exclusive prefix sum: run(context, i, before) for every item, where `before` is the sum of value(context, j) of
/// all j < i; then total(context, sum) once.
template <class Step>
struct Scan {
  template <class Context>
  struct Kernel {
    using value_type = Sums;
    Context context;
    KOKKOS_FUNCTION void init(Sums& sums) const { sums = Sums{}; }
    KOKKOS_FUNCTION void join(Sums& sums, const Sums& other) const { sums += other; }
    KOKKOS_FUNCTION void operator()(std::int32_t i, Sums& sums, bool final) const {
      if (!runs<Step>(context)) return;
      const Sums before = sums;
      sums += Step::value(context, i);
      if (!final) return;
      Step::run(context, i, before);
      if (i == Step::items(context) - 1) Step::total(context, sums);
    }
  };

  template <class Team, class Context>
  KOKKOS_FUNCTION static void on_team(const Team& team, const Context& context) {
    const std::int32_t items = runs<Step>(context) ? Step::items(context) : 0;
    if (items == 0) return;
    const auto value = [&](std::int32_t i) { return Step::value(context, i); };
    StepSums<Team>(team).template prefix_sums<Sums>(
        items, value, value, [&](std::int32_t i, const Sums&, const Sums& before) { Step::run(context, i, before); },
        [&](const Sums& sums) { Step::total(context, sums); });
  }

  template <class Exec, class Context>
  static void on_grid(const Exec& exec, const Context& context) {
    Kokkos::parallel_scan(Step::kLabel, over(exec, Step::items(context)), Kernel<Context>{context});
  }
};

/// Steps one after another.
template <class... Steps>
struct Program {
  template <class Team, class Context>
  KOKKOS_FUNCTION static void on_team(const Team& team, const Context& context) {
    (Steps::on_team(team, context), ...);
  }

  template <class Exec, class Context>
  static void on_grid(const Exec& exec, const Context& context) {
    (Steps::on_grid(exec, context), ...);
  }
};

/// Scratch memory of a program in one kernel that is left for its steps.
inline constexpr std::size_t kStepScratchBytes = 28 * 1024;

/// Prefix sums of a program at most, each of which takes memory of its own.
inline constexpr std::size_t kScans = 2;

/// A program in one kernel. What all steps ask the state for, first of all whether they are to run, is in the team's scratch
/// memory meanwhile: each time they would wait for the device's memory.
template <class Steps, class Context>
struct TeamKernel {
  using Status = std::remove_reference_t<decltype(*std::declval<Context>().status)>;
  static constexpr std::size_t kScratchBytes =
      sizeof(Status) + 2 * alignof(Status) + kStepScratchBytes + kScans * kTeamSumsBytes<kTeamThreads, sizeof(Sums)>;

  Context context;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    Context staged = context;
    staged.status =
        static_cast<Status*>(team.team_scratch(0).get_shmem_aligned(sizeof(Status), std::ptrdiff_t(alignof(Status))));
    if (team.team_rank() == 0) *staged.status = *context.status;
    team.team_barrier();
    Steps::on_team(team, staged);
    team.team_barrier();
    if (team.team_rank() == 0) *context.status = *staged.status;
  }
};

template <class Exec, class Kernel>
void run_teams(const Exec& exec, const char* label, std::int32_t league, const Kernel& kernel) {
  const auto scratch = Kokkos::PerTeam(int(Kernel::kScratchBytes));
  Kokkos::parallel_for(label, teams<kTeamThreads>(exec, league).set_scratch_size(0, scratch), kernel);
}

template <class Steps, class Exec, class Context>
void run_on_one_team(const Exec& exec, const char* label, const Context& context) {
  run_teams(exec, label, 1, TeamKernel<Steps, Context>{context});
}

/// @param items  of the largest step
template <class Steps, class Exec, class Context>
void run_program(const Exec& exec, const char* label, std::int64_t items, const Context& context) {
  if (items <= kTeamItems) return run_on_one_team<Steps>(exec, label, context);
  Steps::on_grid(exec, context);
}

/// One small team for each item, for items that have a list each: run(context, team, i).
template <class Step, class Context>
struct ListKernel {
  Context context;
  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    if (runs<Step>(context)) Step::run(context, team, std::int32_t(team.league_rank()));
  }
};

template <class Step, class Exec, class Context>
void run_lists(const Exec& exec, std::int32_t items, const Context& context) {
  if (items == 0) return;
  Kokkos::parallel_for(Step::kLabel, teams<128>(exec, items), ListKernel<Step, Context>{context});
}

}  // namespace espalier::derive
