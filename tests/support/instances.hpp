#pragma once

#include <Kokkos_Core.hpp>
#include <initializer_list>
#include <type_traits>
#include <vector>

namespace espalier::test {

/// The default instance of an execution space and others: of given numbers of threads on a CPU, of other streams on a
/// GPU.
template <class Exec>
std::vector<Exec> instances([[maybe_unused]] std::initializer_list<int> threads = {1, 3}) {
  std::vector<Exec> all{Exec()};
#ifdef KOKKOS_ENABLE_OPENMP
  if constexpr (std::is_same_v<Exec, Kokkos::OpenMP>) {  // partition_space would give it back undivided
    for (const int count : threads) all.emplace_back(count);
    return all;
  }
#endif
  for (const Exec& part : Kokkos::Experimental::partition_space(Exec(), 1, 1)) all.push_back(part);
  return all;
}

}  // namespace espalier::test
