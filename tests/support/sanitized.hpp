#pragma once

#include <cstdint>

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

}  // namespace espalier::test
