#include "contract/kokkos_events.hpp"

#include <cstring>

namespace espalier::test {
namespace {

namespace tools = Kokkos::Tools::Experimental;

std::vector<KokkosEvent> all_heard;  // callbacks are plain functions

void hear(KokkosEvent::Kind kind, const char* label, std::uint32_t device = 0) {
  all_heard.push_back({kind, label, device});
}

void hear_kernel(const char* label, std::uint32_t device, std::uint64_t*) {
  hear(KokkosEvent::Kind::kernel, label, device);
}

void hear_fence(const char* label, std::uint32_t device, std::uint64_t*) {
  // Kokkos itself fences before it calls a tool.
  if (std::strstr(label, "Kokkos Profile Tool Fence") == nullptr) hear(KokkosEvent::Kind::fence, label, device);
}

// Kokkos asks for no bytes of scratch memory where a kernel of teams needs none.
void hear_allocation(Kokkos_Profiling_SpaceHandle, const char* label, const void*, std::uint64_t bytes) {
  if (bytes > 0) hear(KokkosEvent::Kind::allocation, label);
}

void hear_deallocation(Kokkos_Profiling_SpaceHandle, const char* label, const void*, std::uint64_t bytes) {
  if (bytes > 0) hear(KokkosEvent::Kind::deallocation, label);
}

void hear_deep_copy(Kokkos_Profiling_SpaceHandle, const char* target, const void*, Kokkos_Profiling_SpaceHandle,
                    const char*, const void*, std::uint64_t) {
  hear(KokkosEvent::Kind::deep_copy, target);
}

}  // namespace

KokkosEvents::KokkosEvents() {
  all_heard.clear();
  tools::set_begin_parallel_for_callback(hear_kernel);
  tools::set_begin_parallel_reduce_callback(hear_kernel);
  tools::set_begin_parallel_scan_callback(hear_kernel);
  tools::set_begin_fence_callback(hear_fence);
  tools::set_allocate_data_callback(hear_allocation);
  tools::set_deallocate_data_callback(hear_deallocation);
  tools::set_begin_deep_copy_callback(hear_deep_copy);
}

KokkosEvents::~KokkosEvents() {
  tools::set_begin_parallel_for_callback(nullptr);
  tools::set_begin_parallel_reduce_callback(nullptr);
  tools::set_begin_parallel_scan_callback(nullptr);
  tools::set_begin_fence_callback(nullptr);
  tools::set_allocate_data_callback(nullptr);
  tools::set_deallocate_data_callback(nullptr);
  tools::set_begin_deep_copy_callback(nullptr);
}

const std::vector<KokkosEvent>& KokkosEvents::heard() { return all_heard; }

std::ostream& operator<<(std::ostream& stream, const KokkosEvent& event) {
  const char* kinds[] = {"kernel", "fence", "allocation", "deallocation", "deep copy"};
  return stream << kinds[int(event.kind)] << " \"" << event.label << "\" on device " << event.device;
}

}  // namespace espalier::test
