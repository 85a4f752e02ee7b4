#pragma once

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <type_traits>
#include <vector>

namespace espalier::test {

/// The default instance of an execution space and others: of other numbers of threads on a CPU, of other streams on a
/// GPU.
template <class Exec>
std::vector<Exec> instances() {
  std::vector<Exec> all{Exec()};
#ifdef KOKKOS_ENABLE_OPENMP
  if constexpr (std::is_same_v<Exec, Kokkos::OpenMP>) {  // partition_space would give it back undivided
    all.emplace_back(1);
    all.emplace_back(3);
    return all;
  }
#endif
  for (const Exec& part : Kokkos::Experimental::partition_space(Exec(), 1, 1)) all.push_back(part);
  return all;
}

}  // namespace espalier::test
