#include "runtime.hpp"

#include <iterator>
#include <stdexcept>
#include <unordered_map>

#include "espalier/error.hpp"

namespace espalier::python {
namespace {

/// Changed with the GIL held alone.
struct Runtime {
  bool owns_kokkos = false;
  bool ended = false;
  std::list<Mortal*> objects;  // in order of creation
  std::unordered_map<std::uintptr_t, Exec> instances;
};

Runtime& runtime() {
  static Runtime one;
  return one;
}

/// Making an instance allocates, which would spoil a capture.
[[maybe_unused]] void expects_no_capture(bool is_capturing, std::uintptr_t stream) {
  detail::expects(!is_capturing, ErrorCode::invalid_argument, "stream ", stream,
                  " is being captured, but nothing ran on it before: make the same calls once on it, then capture");
}

Exec make_instance(std::uintptr_t stream) {
#if defined(KOKKOS_ENABLE_CUDA)
  auto* const handle = reinterpret_cast<cudaStream_t>(stream);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  (void)cudaStreamIsCapturing(handle, &status);
  expects_no_capture(status != cudaStreamCaptureStatusNone, stream);
  return Exec(handle);
#elif defined(KOKKOS_ENABLE_HIP)
  auto* const handle = reinterpret_cast<hipStream_t>(stream);
  hipStreamCaptureStatus status = hipStreamCaptureStatusNone;
  (void)hipStreamIsCapturing(handle, &status);
  expects_no_capture(status != hipStreamCaptureStatusNone, stream);
  return Exec(handle);
#else
  detail::expects(stream == 0, ErrorCode::invalid_argument, "stream is ", stream, ", expected 0: this build runs on ",
                  Exec::name(), ", which has no streams");
  return Exec();
#endif
}

}  // namespace

void throw_ended() { throw std::runtime_error("espalier has shut down, because Python is exiting"); }

void start_runtime() {
  if (runtime().ended) throw_ended();
  if (Kokkos::is_initialized()) return;
  Kokkos::initialize(Kokkos::InitializationSettings().set_disable_warnings(true));
  runtime().owns_kokkos = true;
}

void end_runtime() {
  Runtime& all = runtime();
  all.ended = true;
  while (!all.objects.empty()) {
    Mortal* newest = all.objects.back();
    all.objects.pop_back();
    newest->end();
  }
  all.instances.clear();
  if (all.owns_kokkos && Kokkos::is_initialized()) Kokkos::finalize();
}

HostExec host_instance() {
  start_runtime();
  return HostExec();
}

int device_of_kokkos() {
  static const int device = [] {
    start_runtime();
    return Kokkos::device_id();
  }();
  return device;
}

const Exec& instance_on(std::uintptr_t stream) {
  start_runtime();
  auto& instances = runtime().instances;
  const auto found = instances.find(stream);
  return found != instances.end() ? found->second : instances.emplace(stream, make_instance(stream)).first->second;
}

Mortal::Mortal() {
  start_runtime();
  auto& objects = runtime().objects;
  place_ = objects.insert(objects.end(), this);
}

Mortal::~Mortal() {
  if (!runtime().ended) runtime().objects.erase(place_);
}

}  // namespace espalier::python
