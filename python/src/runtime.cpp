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

Exec make_instance(std::uintptr_t stream) {
#if defined(KOKKOS_ENABLE_CUDA)
  return Exec(reinterpret_cast<cudaStream_t>(stream));
#elif defined(KOKKOS_ENABLE_HIP)
  return Exec(reinterpret_cast<hipStream_t>(stream));
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
