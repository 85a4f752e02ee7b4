#pragma once
// Lists of numbers that are copied to where a program finds that they go. A step of the program tells each list's place in
// a word of its own. Whoever copies the list waits for the word and clears it, so that other teams of the same kernel can
// copy while the program goes on: nothing else that the program writes has to be seen in order.
//
// Lists are a struct with static members only:
//
//   kLabel
//   kKnownBefore          source and length ask for nothing that the program writes
//   items(c)              how many there are
//   source(c, list), length(c, list)
//   place(c, list)        in the block table of c.target, or kNowhere
//
// The words are c.list_places, 0 at first.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cstdint>

#include "program.hpp"
#include "relaxed_load.hpp"

namespace espalier::derive {

inline constexpr std::int32_t kNowhere = -1;

/// A step that tells where each list goes. All lists are told even where the program failed, since somebody waits.
template <class Lists>
struct TellPlaces {
  static constexpr const char* kLabel = "espalier::derive::tell_places";
  using Always = void;

  template <class Context>
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    return Lists::items(c);
  }
  template <class Context>
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t list) {
    const std::int32_t place = c.failed() ? kNowhere : Lists::place(c, list);
    detail::relaxed_store(&c.list_places[list], place == kNowhere ? kNowhere : place + 1);
  }
};

/// Groups of neighbouring threads take turns to copy a list each.
template <class Lists, class Context>
struct CopyLists {
  static constexpr int kLanes = 32;
  static constexpr std::int32_t kAtATime = 4;  ///< loads of a thread that do not wait for each other

  /// @param teams  of this size that share the lists, this one being number `number`
  template <class Team>
  KOKKOS_FUNCTION static void run(const Context& c, const Team& team, std::int32_t number, std::int32_t teams) {
    const std::int32_t lanes = team.team_size() < kLanes ? 1 : kLanes, groups = team.team_size() / lanes;
    const std::int32_t lane = team.team_rank() % lanes, group = number * groups + team.team_rank() / lanes;
    for (std::int32_t list = group; list < Lists::items(c); list += teams * groups) {
      const std::int32_t place = taken_place(c.list_places + list, lane);
      if (place == kNowhere) continue;
      const std::int32_t* const from = Lists::source(c, list);
      std::int32_t* const to = c.target.block_table + place;
      const std::int32_t length = Lists::length(c, list);
      for (std::int32_t begin = lane; begin < length; begin += kAtATime * lanes) {
        std::int32_t entries[kAtATime] = {};
        for (std::int32_t k = 0; k < kAtATime; ++k)
          if (begin + k * lanes < length) entries[k] = from[begin + k * lanes];
        for (std::int32_t k = 0; k < kAtATime; ++k)
          if (begin + k * lanes < length) to[begin + k * lanes] = entries[k];
      }
    }
  }

 private:
  KOKKOS_FUNCTION static std::int32_t taken_place(std::int32_t* word, std::int32_t lane) {
    std::int32_t told = 0;
    if (lane == 0) {
      while ((told = detail::relaxed_load(word)) == 0) {
      }
      detail::relaxed_store(word, 0);
    }
    KOKKOS_IF_ON_DEVICE((told = Kokkos::shfl(told, 0, int{kLanes});))
    return told == kNowhere ? kNowhere : told - 1;
  }
};

/// Small teams, which copy a list with each group of threads.
template <class Lists, class Context>
struct CopyKernel {
  static constexpr int kThreads = 128;
  Context context;
  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    CopyLists<Lists, Context>::run(context, team, team.league_rank(), team.league_size());
  }
};

/// The first team runs the program, the others copy meanwhile. A GPU starts it before them.
template <class Steps, class Lists, class Context>
struct ProgramAndCopyKernel {
  using Program = TeamKernel<Steps, Context>;
  static constexpr std::size_t kScratchBytes = Program::kScratchBytes;
  static constexpr std::int32_t kMostTeams = 64;  ///< that copy

  Context context;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    if (team.league_rank() == 0) return Program{context}(team);
    CopyLists<Lists, Context>::run(context, team, team.league_rank() - 1, team.league_size() - 1);
  }
};

/// Runs a program, of which TellPlaces<Lists> is a step, and copies the lists.
/// @param items  of the largest step
template <class Steps, class Lists, class Exec, class Context>
void run_and_copy(const Exec& exec, const char* label, std::int64_t items, const Context& context) {
  constexpr int kLanes = kRunsOnHost<Exec> ? 1 : CopyLists<Lists, Context>::kLanes;
  const auto teams_of = [&](int threads) {
    return (Lists::items(context) + threads / kLanes - 1) / (threads / kLanes);
  };
  if constexpr (!kRunsOnHost<Exec> && Lists::kKnownBefore) {
    using Kernel = ProgramAndCopyKernel<Steps, Lists, Context>;
    if (items <= kTeamItems)
      return run_teams(exec, label, 1 + std::min(teams_of(kTeamThreads), Kernel::kMostTeams), Kernel{context});
  }
  run_program<Steps>(exec, label, items, context);
  if (Lists::items(context) == 0) return;
  using Kernel = CopyKernel<Lists, Context>;
  Kokkos::parallel_for(Lists::kLabel, teams<Kernel::kThreads>(exec, teams_of(kRunsOnHost<Exec> ? 1 : Kernel::kThreads)),
                       Kernel{context});
}

}  // namespace espalier::derive
