#pragma once

#include <cstddef>
#include <cstdint>

#include "espalier/types.hpp"

namespace espalier::test {

/// Whether this build has sanitizers. They take ten times as long and look at accesses, which are much the same for all
/// element types: the largest tests then share out their cases among the types.
#ifdef ESPALIER_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

/// How many of its random cases a test tries: a quarter of them with sanitizers. Results are compared over all in other builds.
constexpr std::uint32_t random_cases(std::uint32_t all) { return kSanitized ? all / 4 : all; }

/// Whether the test of an element type takes its case of this number: with sanitizers, the three types share the cases out.
constexpr bool takes_case(Scalar scalar, std::size_t number) {
  return !kSanitized || number % 3 == static_cast<std::size_t>(scalar);
}

}  // namespace espalier::test
