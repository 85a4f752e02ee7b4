#pragma once

namespace espalier::test {

/// Whether this build has sanitizers. They take ten times as long and look at accesses, which are much the same for all
/// element types: the largest tests then share out their cases among the types.
#ifdef ESPALIER_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace espalier::test
