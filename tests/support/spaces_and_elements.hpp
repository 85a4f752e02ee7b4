#pragma once
// What templated tests of kernels run over: every execution space of this build, every element type of the library.

#include <tuple>

#include "espalier/types.hpp"
#include "support/execution_spaces.hpp"

namespace espalier::test {

template <class ExecutionSpace, class ScalarType>
struct On {
  using Exec = ExecutionSpace;
  using Element = ScalarType;
};

template <class Spaces>
struct WithElements;

template <class... Exec>
struct WithElements<std::tuple<Exec...>> {
  using type = decltype(std::tuple_cat(std::tuple<On<Exec, float>, On<Exec, float16>, On<Exec, bfloat16>>{}...));
};

/// On<Exec, Element> for all of both.
using SpacesAndElements = WithElements<ExecutionSpaces>::type;

}  // namespace espalier::test
