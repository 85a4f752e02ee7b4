#pragma once

#include <Kokkos_Core.hpp>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace espalier::test {

/// Whether an execution space can record what is enqueued on it.
template <class Exec>
inline constexpr bool kCaptures =
#ifdef KOKKOS_ENABLE_CUDA
    std::is_same_v<Exec, Kokkos::Cuda>;
#else
    false;
#endif

/// An instance that work can be captured on: not the one of a device's default stream.
template <class Exec>
Exec capturing_instance() {
  if constexpr (kCaptures<Exec>) return Kokkos::Experimental::partition_space(Exec(), 1)[0];
  return Exec();
}

/// Work that runs again and again: on a GPU as a captured graph, so that the host has no part in it any more; elsewhere
/// the calls themselves.
template <class Exec>
class Captured {
 public:
  /// Calls body(), which must enqueue all that it does on `exec`. On a GPU nothing runs yet; what body() does only the
  /// first time, such as allocating scratch memory, must be done before.
  Captured(const Exec& exec, std::function<void()> body) : body_(std::move(body)) {
#ifdef KOKKOS_ENABLE_CUDA
    if constexpr (kCaptures<Exec>) {
      cudaGraph_t graph = nullptr;
      check(cudaStreamBeginCapture(exec.cuda_stream(), cudaStreamCaptureModeThreadLocal));
      try {
        body_();
      } catch (...) {
        static_cast<void>(cudaStreamEndCapture(exec.cuda_stream(), &graph));
        throw;
      }
      check(cudaStreamEndCapture(exec.cuda_stream(), &graph));
      cudaGraphExec_t replay = nullptr;
      check(cudaGraphInstantiate(&replay, graph, 0));
      replay_ = {replay, [](cudaGraphExec_t it) { static_cast<void>(cudaGraphExecDestroy(it)); }};
      check(cudaGraphDestroy(graph));
      return;
    }
#endif
    static_cast<void>(exec);
  }

  /// Enqueues the work on the instance.
  void run(const Exec& exec) const {
#ifdef KOKKOS_ENABLE_CUDA
    if constexpr (kCaptures<Exec>) return check(cudaGraphLaunch(replay_.get(), exec.cuda_stream()));
#endif
    static_cast<void>(exec);
    body_();
  }

 private:
  std::function<void()> body_;
#ifdef KOKKOS_ENABLE_CUDA
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("graph: ") + cudaGetErrorString(error));
  }
  std::shared_ptr<std::remove_pointer_t<cudaGraphExec_t>> replay_;
#endif
};

}  // namespace espalier::test
