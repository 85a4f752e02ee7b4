#pragma once
// What cuts need before they can answer questions about one item: scratch memory, and a way to run kernels that fill
// it. There are three ways: on an instance, in one team of a GPU, in the calling thread.

#include <Kokkos_Core.hpp>
#include <cstddef>
#include <cstdint>

#include "cuts/cut.hpp"
#include "tree/program.hpp"

namespace espalier::plan {

using derive::kRunsOnHost;
using derive::light;

/// Hands out arrays of one allocation. With no memory it only adds up what they take.
class Scratch {
 public:
  KOKKOS_FUNCTION explicit Scratch(void* memory = nullptr) : begin_(reinterpret_cast<std::uintptr_t>(memory)) {}

  [[nodiscard]] KOKKOS_FUNCTION std::size_t bytes() const { return bytes_; }

  template <class T>
  KOKKOS_FUNCTION T* take(std::size_t count) {
    constexpr std::size_t kAlignment = 64;
    T* array = reinterpret_cast<T*>(begin_ + bytes_);  // NOLINT(performance-no-int-to-ptr): null may move
    bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return array;
  }

 private:
  std::uintptr_t begin_;
  std::size_t bytes_ = 0;
};

/// One thread that takes the place of a team.
struct OneThread {
  KOKKOS_FUNCTION static int team_rank() { return 0; }
  KOKKOS_FUNCTION static int team_size() { return 1; }
  KOKKOS_FUNCTION static void team_barrier() {}
};

/// What a scan begins with.
template <class Kernel>
KOKKOS_FUNCTION typename Kernel::value_type identity_of(const Kernel& kernel) {
  typename Kernel::value_type sum{};
  if constexpr (requires { kernel.init(sum); }) kernel.init(sum);
  return sum;
}

template <class Kernel>
KOKKOS_FUNCTION void join(const Kernel& kernel, typename Kernel::value_type& sum,
                          const typename Kernel::value_type& other) {
  if constexpr (requires { kernel.join(sum, other); })
    kernel.join(sum, other);
  else
    sum += other;
}

/// Runs kernels one iteration after another, in the calling thread: where only the size of a plan is wanted, and for
/// small trees on a CPU, whose kernels are done when the call that launches them returns.
struct OnHost {
  template <class Kernel>
  KOKKOS_FUNCTION void each(const char*, std::int64_t count, const Kernel& kernel) const {
    for (std::int64_t i = 0; i < count; ++i) kernel(std::int32_t(i));
  }

  template <class Kernel>
  KOKKOS_FUNCTION void scan(const char*, std::int64_t count, const Kernel& kernel) const {
    auto sum = identity_of(kernel);
    for (std::int64_t i = 0; i < count; ++i) kernel(std::int32_t(i), sum, true);
  }

  template <class Kernel>
  KOKKOS_FUNCTION void team(const char*, const Kernel& kernel) const {
    kernel(OneThread{});
  }
};

/// Runs nothing: a cut only knows where things are once they have been run elsewhere.
struct Nowhere {
  template <class Kernel>
  void each(const char*, std::int64_t, const Kernel&) const {}
  template <class Kernel>
  void scan(const char*, std::int64_t, const Kernel&) const {}
  template <class Kernel>
  void team(const char*, const Kernel&) const {}
};

/// Threads of a team that does all steps for a small tree.
inline constexpr int kTeamThreads = 512;

/// Runs kernels in one team of a GPU, with a barrier behind each: for small trees, where launches would cost more.
template <class Team>
class OnTeam {
 public:
  /// Of the largest value that is scanned.
  static constexpr std::size_t kValueBytes = 32;

 private:
  static constexpr int kRun = 16;  ///< neighbouring threads whose values one thread adds up
  static constexpr int kRuns = kTeamThreads / kRun;
  static constexpr int kPaddedRun = kRun + 1;  ///< neighbouring runs begin in different banks of the memory

 public:
  static constexpr std::size_t kScratchBytes = (std::size_t(kRuns) * kPaddedRun + 2 * kRuns) * kValueBytes;

  KOKKOS_FUNCTION explicit OnTeam(const Team& team)
      : team_(team), scratch_(team.team_scratch(0).get_shmem(std::ptrdiff_t(kScratchBytes))) {}

  template <class Kernel>
  KOKKOS_FUNCTION void each(const char*, std::int64_t count, const Kernel& kernel) const {
    for (std::int64_t i = team_.team_rank(); i < count; i += kTeamThreads) kernel(std::int32_t(i));
    team_.team_barrier();
  }

  /// Every thread takes a share of neighbouring items.
  template <class Kernel>
  KOKKOS_FUNCTION void scan(const char*, std::int64_t count, const Kernel& kernel) const {
    const auto items = std::int32_t(count);
    const std::int32_t share = (items + kTeamThreads - 1) / kTeamThreads;
    const std::int32_t begin = Kokkos::min(share * team_.team_rank(), items);
    const std::int32_t end = Kokkos::min(begin + share, items);
    auto sum = identity_of(kernel);
    for (std::int32_t i = begin; i < end; ++i) kernel(i, sum, false);
    sum = sum_before(kernel, sum);
    for (std::int32_t i = begin; i < end; ++i) kernel(i, sum, true);
    team_.team_barrier();
  }

  template <class Kernel>
  KOKKOS_FUNCTION void team(const char*, const Kernel& kernel) const {
    kernel(team_);
    team_.team_barrier();
  }

 private:
  /// The sum of what the threads before this one give: one thread adds up each run, then the runs before its own.
  template <class Kernel, class Value = typename Kernel::value_type>
  KOKKOS_FUNCTION Value sum_before(const Kernel& kernel, const Value& own) const {
    static_assert(sizeof(Value) <= kValueBytes);
    auto* values = static_cast<Value*>(scratch_);
    Value* of_run = values + kRuns * kPaddedRun;
    const int rank = team_.team_rank();
    const int run = rank / kRun;
    values[run * kPaddedRun + rank % kRun] = own;
    team_.team_barrier();
    if (rank < kRuns) {
      Value sum = identity_of(kernel);
      for (int i = 0; i < kRun; ++i) {
        const Value value = values[rank * kPaddedRun + i];
        values[rank * kPaddedRun + i] = sum;
        join(kernel, sum, value);
      }
      of_run[rank] = sum;
    }
    team_.team_barrier();
    if (rank < kRuns) {
      Value sum = identity_of(kernel);
      for (int i = 0; i < rank; ++i) join(kernel, sum, of_run[i]);
      of_run[kRuns + rank] = sum;
    }
    team_.team_barrier();
    Value sum = of_run[kRuns + run];
    join(kernel, sum, values[run * kPaddedRun + rank % kRun]);
    return sum;
  }

  const Team& team_;
  void* scratch_;
};

/// Stands before functions that take any runner, OnInstance among them, which is for the host alone: keeps nvcc from
/// warning of what is never called.
#ifdef __CUDACC__
#define ESPALIER_FOR_ANY_RUNNER _Pragma("nv_exec_check_disable")
#else
#define ESPALIER_FOR_ANY_RUNNER
#endif

/// A scan in one team of a GPU: one launch, where a scan on the whole device takes two and more.
template <class Kernel, class Exec>
struct ScanOnTeam {
  using Policy = Kokkos::TeamPolicy<Exec, Kokkos::LaunchBounds<kTeamThreads, 1>>;
  using Team = typename Policy::member_type;
  Kernel kernel;
  std::int32_t count;
  KOKKOS_FUNCTION void operator()(const Team& team) const { OnTeam<Team>(team).scan("", count, kernel); }
};

/// Runs kernel, which is for one team of kTeamThreads threads that uses OnTeam.
template <class Kernel, class Exec>
void run_team(const Exec& exec, const char* label, const Kernel& kernel) {
  const auto scratch = Kokkos::PerTeam(OnTeam<typename Kernel::Team>::kScratchBytes);
  Kokkos::parallel_for(label, light(typename Kernel::Policy(exec, 1, kTeamThreads).set_scratch_size(0, scratch)),
                       kernel);
}

/// Runs kernels on an instance, one after another.
template <class Exec>
class OnInstance {
 public:
  explicit OnInstance(const Exec& exec) : exec_(exec) {}

  /// kernel(i) for i in [0, count).
  template <class Kernel>
  void each(const char* label, std::int64_t count, const Kernel& kernel) const {
    Kokkos::parallel_for(label, light(Kokkos::RangePolicy<Exec>(exec_, 0, count)), kernel);
  }

  /// kernel(i, sum, final) for i in [0, count).
  template <class Kernel>
  void scan(const char* label, std::int64_t count, const Kernel& kernel) const {
    if constexpr (!kRunsOnHost<Exec>) {
      constexpr std::int64_t kFewItems = 8192;
      if (count <= kFewItems) return run_team(exec_, label, ScanOnTeam<Kernel, Exec>{kernel, std::int32_t(count)});
    }
    Kokkos::parallel_scan(label, light(Kokkos::RangePolicy<Exec>(exec_, 0, count)), kernel);
  }

  /// kernel(team) on one team.
  template <class Kernel>
  void team(const char* label, const Kernel& kernel) const {
    Kokkos::parallel_for(label, light(Kokkos::TeamPolicy<Exec>(exec_, 1, kRunsOnHost<Exec> ? 1 : 256)), kernel);
  }

 private:
  const Exec& exec_;
};

/// How many tokens a tile gets: what the caller says, or an equal share of all.
struct ChunkRule {
  std::int32_t given;     ///< 0: a share
  std::int32_t smallest;  ///< a share is not smaller
  std::int32_t shares;

  KOKKOS_FUNCTION std::int32_t share_of(std::int64_t tokens) const {
    constexpr std::int64_t kStep = 64;
    constexpr std::int64_t kLargest = std::int64_t(1) << 30;
    const std::int64_t share = ceil_div(ceil_div(tokens, shares), kStep) * kStep;
    return std::int32_t(Kokkos::clamp<std::int64_t>(share, smallest, kLargest));
  }
};

/// The chunk that a rule led to.
struct Chunk {
  std::int32_t given;
  const std::int32_t* share;  ///< read where none is given

  KOKKOS_FUNCTION std::int32_t tokens() const { return given > 0 ? given : *share; }
};

}  // namespace espalier::plan
