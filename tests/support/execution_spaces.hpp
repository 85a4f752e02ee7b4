#pragma once

#include <Kokkos_Core.hpp>
#include <cstddef>
#include <tuple>
#include <utility>
#include <vector>

namespace espalier::test {

/// Every execution space of this build, for TEMPLATE_LIST_TEST_CASE.
using ExecutionSpaces = decltype(std::tuple_cat(
#ifdef KOKKOS_ENABLE_SERIAL
    std::tuple<Kokkos::Serial>{},
#endif
#ifdef KOKKOS_ENABLE_OPENMP
    std::tuple<Kokkos::OpenMP>{},
#endif
#ifdef KOKKOS_ENABLE_THREADS
    std::tuple<Kokkos::Threads>{},
#endif
#ifdef KOKKOS_ENABLE_CUDA
    std::tuple<Kokkos::Cuda>{},
#endif
#ifdef KOKKOS_ENABLE_HIP
    std::tuple<Kokkos::HIP>{},
#endif
    std::tuple<>{}));

/// The elements in the memory of an execution space.
template <class Exec, class T>
Kokkos::View<T*, typename Exec::memory_space> to_view(const std::vector<T>& elements) {
  Kokkos::View<T*, typename Exec::memory_space> view("espalier::test::elements", elements.size());
  const Kokkos::View<const T*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> source(elements.data(),
                                                                                                  elements.size());
  Kokkos::deep_copy(view, source);
  return view;
}

/// The elements of a View of rank 1, wherever it lies.
template <class View>
std::vector<typename View::non_const_value_type> to_vector(const View& view) {
  using T = typename View::non_const_value_type;
  std::vector<T> elements(view.extent(0));
  const Kokkos::View<T*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(elements.data(),
                                                                                            elements.size());
  Kokkos::deep_copy(target, view);
  return elements;
}

}  // namespace espalier::test
