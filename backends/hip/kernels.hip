// The fused kernels of a HIP build.

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.hpp"
#include "backends/hip/attend.hpp"
#include "backends/hip/listing.hpp"

namespace espalier::backend {
namespace {

/// Architectures that this build has code for, with a blank behind each.
constexpr std::string_view kArchitectures = ESPALIER_HIP_ARCHITECTURES " ";

struct Device {
  std::string architecture;  ///< "gfx942"
  int compute_units;
};

/// The devices of this machine, looked up once: nothing here may cost time in a decode loop.
const std::vector<Device>& devices() {
  static const std::vector<Device> found = [] {
    int count = 0;
    if (hipGetDeviceCount(&count) != hipSuccess) count = 0;
    std::vector<Device> list;
    for (int device = 0; device < count; ++device) {
      hipDeviceProp_t properties;
      if (hipGetDeviceProperties(&properties, device) != hipSuccess) return list;
      const std::string_view name = properties.gcnArchName;  // "gfx942:sramecc+:xnack-"
      list.push_back({std::string(name.substr(0, name.find(':'))), properties.multiProcessorCount});
    }
    return list;
  }();
  return found;
}

/// Null without a device.
const Device* current_device() {
  int device = 0;
  if (devices().empty() || hipGetDevice(&device) != hipSuccess) return nullptr;
  return &devices()[static_cast<std::size_t>(device)];
}

bool has_code_for(const std::string& architecture) {
  return kArchitectures.find(architecture + " ") != std::string_view::npos;
}

std::string why_not_on_any() {
  const Device* const device = current_device();
  if (device == nullptr) return "there is no HIP device";
  if (has_code_for(device->architecture)) return "";
  return "the device is " + device->architecture + ", this build has code for " + ESPALIER_HIP_ARCHITECTURES;
}

template <const char* kArchitecture>
std::string why_not_on() {
  if (std::string reason = why_not_on_any(); !reason.empty()) return reason;
  if (current_device()->architecture == kArchitecture) return "";
  return "the device is " + current_device()->architecture + ", expected " + kArchitecture;
}

/// @param blocks  of a kernel that a compute unit holds at a time
TileSize tiles(int pairs, int blocks) {
  const Device* const device = current_device();
  return {pairs, device == nullptr ? 1 : blocks * device->compute_units};
}

std::string status_text(int status) { return hipGetErrorString(static_cast<hipError_t>(status)); }

FusedKernel matrix_kernel(const char* name, std::string (*why_not_here)()) {
  FusedKernel kernel = hip::matrix_kernel(name, "HIP");
  kernel.why_not_here = why_not_here;
  kernel.tile_size = [](const Shape& shape) { return tiles(hip::tile_pairs(shape), 2); };
  kernel.attend_tiles = [](const detail::AttendParams& call, Stream stream) {
    return static_cast<int>(hip::attend(call, static_cast<gpu::Stream>(stream)));
  };
  kernel.status_text = status_text;
  return kernel;
}

/// For what the matrix units do not take: all lanes of a wave share a head, where the portable kernel has 32 of them do it.
FusedKernel simt_kernel() {
  FusedKernel kernel = gpu::simt_kernel("hip-simt", "HIP");
  kernel.is_automatic = true;
  kernel.why_not_here = why_not_on_any;
  kernel.tile_size = [](const Shape&) { return tiles(gpu::kSimtTilePairs, gpu::kSimtBlocks); };
  kernel.status_text = status_text;
  return kernel;
}

constexpr char kGfx90a[] = "gfx90a", kGfx942[] = "gfx942", kGfx950[] = "gfx950";

}  // namespace

std::span<const FusedKernel> fused_kernels() {
  static const std::array kernels = {matrix_kernel("hip-gfx950", why_not_on<kGfx950>),
                                     matrix_kernel("hip-gfx942", why_not_on<kGfx942>),
                                     matrix_kernel("hip-gfx90a", why_not_on<kGfx90a>), simt_kernel()};
  return kernels;
}

}  // namespace espalier::backend
