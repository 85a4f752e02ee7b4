#pragma once

#include <Kokkos_Core.hpp>

namespace espalier::detail {

/// What another thread may be writing. On a device Kokkos::atomic_load is a compare-and-exchange, for which all threads
/// that ask for one place would queue.
template <class T>
KOKKOS_FUNCTION T relaxed_load(const T* place) {
  KOKKOS_IF_ON_DEVICE((return *static_cast<const volatile T*>(place);))
  KOKKOS_IF_ON_HOST((return Kokkos::atomic_load(place);))
}

/// What another thread may be reading.
template <class T>
KOKKOS_FUNCTION void relaxed_store(T* place, T value) {
  KOKKOS_IF_ON_DEVICE((*static_cast<volatile T*>(place) = value;))
  KOKKOS_IF_ON_HOST((Kokkos::atomic_store(place, value);))
}

}  // namespace espalier::detail
