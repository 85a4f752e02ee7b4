#pragma once
// What cuts need before they can answer questions about one item: scratch memory, and a way to run kernels that fill
// it, on an instance, or on the host where only the size of a plan is wanted.

#include <Kokkos_Core.hpp>
#include <cstddef>
#include <cstdint>

#include "cuts/cut.hpp"

namespace espalier::plan {

/// Hands out arrays of one allocation. With no memory it only adds up what they take.
class Scratch {
 public:
  explicit Scratch(void* memory = nullptr) : begin_(reinterpret_cast<std::uintptr_t>(memory)) {}

  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  template <class T>
  T* take(std::size_t count) {
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

/// CUDA takes larger ones through constant memory, and waits for it: a graph could not be captured.
template <class Kernel>
inline constexpr bool kIsSmallKernel = sizeof(Kernel) <= 512;

/// Runs kernels on an instance.
template <class Exec>
class OnInstance {
 public:
  explicit OnInstance(const Exec& exec) : exec_(exec) {}

  /// kernel(i) for i in [0, count).
  template <class Kernel>
  void each(const char* label, std::int64_t count, const Kernel& kernel) const {
    static_assert(kIsSmallKernel<Kernel>);
    Kokkos::parallel_for(label, Kokkos::RangePolicy<Exec>(exec_, 0, count), kernel);
  }

  /// kernel(i, sum, final) for i in [0, count).
  template <class Kernel>
  void scan(const char* label, std::int64_t count, const Kernel& kernel) const {
    static_assert(kIsSmallKernel<Kernel>);
    Kokkos::parallel_scan(label, Kokkos::RangePolicy<Exec>(exec_, 0, count), kernel);
  }

  /// kernel(team) on one team.
  template <class Kernel>
  void team(const char* label, const Kernel& kernel) const {
    static_assert(kIsSmallKernel<Kernel>);
    constexpr bool kOnHost =
        bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);
    Kokkos::parallel_for(label, Kokkos::TeamPolicy<Exec>(exec_, 1, kOnHost ? 1 : 256), kernel);
  }

 private:
  const Exec& exec_;
};

/// Runs kernels one iteration after another, in the calling thread: where only the size of a plan is wanted, and for
/// small trees on a CPU, whose kernels are done when the call that launches them returns.
struct OnHost {
  template <class Kernel>
  void each(const char*, std::int64_t count, const Kernel& kernel) const {
    for (std::int64_t i = 0; i < count; ++i) kernel(std::int32_t(i));
  }

  template <class Kernel>
  void scan(const char*, std::int64_t count, const Kernel& kernel) const {
    typename Kernel::value_type sum{};
    for (std::int64_t i = 0; i < count; ++i) kernel(std::int32_t(i), sum, true);
  }

  template <class Kernel>
  void team(const char*, const Kernel& kernel) const {
    kernel(OneThread{});
  }
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
