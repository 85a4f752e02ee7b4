#pragma once
// What Kokkos does while a piece of code runs, heard through the callbacks of Kokkos Tools.

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace espalier::test {

struct KokkosEvent {
  enum class Kind : std::uint8_t { kernel, fence, allocation, deallocation, deep_copy };
  Kind kind;
  std::string label;     ///< of a deep copy: that of its target
  std::uint32_t device;  ///< of a kernel or fence: Kokkos::Tools::Experimental::device_id of the instance
};

/// Hears events from its construction to its destruction. One at a time.
class KokkosEvents {
 public:
  KokkosEvents();
  ~KokkosEvents();
  KokkosEvents(const KokkosEvents&) = delete;
  KokkosEvents& operator=(const KokkosEvents&) = delete;

  [[nodiscard]] static const std::vector<KokkosEvent>& heard();
};

std::ostream& operator<<(std::ostream& stream, const KokkosEvent& event);

/// The events while body runs.
template <class Body>
std::vector<KokkosEvent> events_of(const Body& body) {
  const KokkosEvents events;
  body();
  return KokkosEvents::heard();
}

}  // namespace espalier::test
