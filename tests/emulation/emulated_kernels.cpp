#include "tests/emulation/emulated_kernels.hpp"

#include "backends/hip/listing.hpp"

namespace espalier::test {
namespace {

backend::Shape shape_of(const espalier::detail::AttendParams& params) {
  return {params.scalar, params.query_heads, params.kv_heads, params.head_dim, params.block_tokens};
}

void become(Architecture architecture) { emulator::flushes_subnormals = architecture == Architecture::gfx90a; }

std::string runs_anywhere() { return ""; }
std::string status_text(int) { return "an emulated launch does not fail"; }

constexpr int kWorkers = 3;  // several, though they run one after another

template <Architecture kArchitecture>
int attend(const espalier::detail::AttendParams& call, backend::Stream) {
  become(kArchitecture);
  return hip::attend(call, nullptr);
}

backend::FusedKernel emulated(backend::FusedKernel kernel) {
  kernel.is_automatic = false;
  kernel.is_emulated = true;
  kernel.why_not_here = runs_anywhere;
  kernel.tile_size = [](const backend::Shape& shape) { return backend::TileSize{hip::tile_pairs(shape), kWorkers}; };
  kernel.append = nullptr;  // others of the list would append in its name
  kernel.status_text = status_text;
  return kernel;
}

template <Architecture kArchitecture>
backend::FusedKernel emulated_matrix_kernel(const char* name, const char* space) {
  backend::FusedKernel kernel = emulated(hip::matrix_kernel(name, space));
  kernel.attend_tiles = attend<kArchitecture>;
  return kernel;
}

backend::FusedKernel emulated_simt_kernel(const char* name, const char* space) {
  backend::FusedKernel kernel = emulated(gpu::simt_kernel(name, space));
  kernel.tile_size = [](const backend::Shape&) { return backend::TileSize{gpu::kSimtTilePairs, kWorkers}; };
  return kernel;
}

}  // namespace

void emulated_attend(Architecture architecture, const espalier::detail::AttendParams& params,
                     std::uint32_t run_ahead_seed) {
  become(architecture);
  emulator::run_ahead_seed = run_ahead_seed;
  if (emulated_on_matrix_units(params))
    hip::attend(params, nullptr);
  else
    gpu::simt_attend(params, nullptr);
  emulator::run_ahead_seed = 0;
}

bool emulated_on_matrix_units(const espalier::detail::AttendParams& params) {
  return hip::why_not_shape(shape_of(params)).empty() && hip::why_not_params(params).empty();
}

void emulated_append(Architecture architecture, const espalier::detail::AppendParams& params) {
  become(architecture);
  gpu::append(params, nullptr);
}

std::vector<backend::FusedKernel> emulated_kernels(const char* space) {
  return {emulated_matrix_kernel<Architecture::gfx942>("hip-gfx942-emulated", space),
          emulated_matrix_kernel<Architecture::gfx90a>("hip-gfx90a-emulated", space),
          emulated_simt_kernel("hip-simt-emulated", space)};
}

}  // namespace espalier::test
