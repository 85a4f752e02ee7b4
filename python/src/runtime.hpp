#pragma once
// Life of Kokkos inside a Python process, and of the library's objects in it.

#include <nanobind/nanobind.h>

#include <Kokkos_Core.hpp>
#include <concepts>
#include <cstdint>
#include <list>
#include <optional>
#include <utility>

namespace espalier::python {

namespace nb = nanobind;

using Exec = Kokkos::DefaultExecutionSpace;          // where plans and attentions run
using HostExec = Kokkos::DefaultHostExecutionSpace;  // where pools and trees live

/// Initialises Kokkos, unless somebody has.
/// @throws std::runtime_error after end_runtime()
void start_runtime();

/// Destroys every object that Python still holds, newest first, and finalises Kokkos if start_runtime() initialised it.
/// Python calls it at exit, when it may destroy the rest of its objects in any order.
void end_runtime();

HostExec host_instance();

/// The device that Kokkos runs on, by DLPack's number; asking Kokkos itself at each call would allocate.
int device_of_kokkos();

/// The execution space instance of a stream, the same for every call.
/// @param stream  a cudaStream_t or hipStream_t as an integer; 0, the default stream, is all that a CPU build has
/// @throws Error{invalid_argument} for a stream that cannot be
const Exec& instance_on(std::uintptr_t stream);

/// Runs function(instance) without the GIL.
template <class Function>
decltype(auto) launch(std::uintptr_t stream, Function&& function) {
  const Exec& exec = instance_on(stream);
  const nb::gil_scoped_release unlocked;
  return function(exec);
}

/// What end_runtime() destroys.
class Mortal {
 public:
  Mortal();
  virtual ~Mortal();
  Mortal(const Mortal&) = delete;
  Mortal& operator=(const Mortal&) = delete;
  virtual void end() noexcept = 0;

 private:
  std::list<Mortal*>::iterator place_;
};

[[noreturn]] void throw_ended();

/// A library object inside a Python object; gone after end_runtime().
template <class T>
class Held final : public Mortal {
 public:
  template <class... Arguments>
    requires std::constructible_from<T, Arguments...>
  explicit Held(Arguments&&... arguments) : object_(std::in_place, std::forward<Arguments>(arguments)...) {}

  void end() noexcept override { object_.reset(); }

  T& operator*() {
    if (!object_) throw_ended();
    return *object_;
  }
  T* operator->() { return &**this; }

 private:
  std::optional<T> object_;
};

}  // namespace espalier::python
