// A program with the library's HIP kernels in it, on a machine without an AMD GPU: it starts, and says that no device is
// there instead of crashing.

#include <catch2/catch_test_macros.hpp>
#include <span>
#include <string>

#include "backends/backend.hpp"
#include "support/problem.hpp"

namespace espalier::test {
namespace {

using backend::FusedKernel;

std::span<const FusedKernel> kernels() { return backend::fused_kernels(); }

TEST_CASE("the list of a HIP build has the kernels of each architecture", "[hip]") {
  std::string names;
  for (const FusedKernel& kernel : kernels()) names += std::string(kernel.name) + " on " + kernel.backend + "; ";
  CHECK(names == "hip-gfx950 on HIP; hip-gfx942 on HIP; hip-gfx90a on HIP; hip-simt on HIP; ");
}

TEST_CASE("the SIMT kernel of a HIP build is there for what the matrix units do not take", "[hip]") {
  for (const FusedKernel& kernel : kernels()) CHECK(kernel.is_automatic);
  const FusedKernel& simt = kernels().back();
  CHECK(simt.why_not_shape({Scalar::f32, 8, 2, 96, 16}) == "");
  espalier::detail::AttendParams params{};
  params.k_token_stride = 65;
  CHECK(simt.why_not_params(params) == "");
}

TEST_CASE("without a device each HIP kernel says so", "[hip]") {
  for (const FusedKernel& kernel : kernels()) {
    CAPTURE(kernel.name);
    CHECK(kernel.why_not_here() == "there is no HIP device");
    CHECK(kernel.tile_size({Scalar::f16, 8, 2, 128, 16}).workers == 1);
  }
}

TEST_CASE("without a device a launch returns the runtime's error", "[hip]") {
  espalier::detail::AttendParams attend{};
  attend.scalar = Scalar::f16;
  attend.query_heads = attend.kv_heads = 1;
  attend.head_dim = 64;
  attend.plan.workers = attend.plan.rows = 1;
  espalier::detail::AppendParams append{};
  append.tokens = append.kv_heads = append.head_dim = 1;
  for (const FusedKernel& kernel : kernels()) {
    CAPTURE(kernel.name);
    CHECK(kernel.status_text(kernel.attend_tiles(attend, nullptr)) == "no ROCm-capable device is detected");
    CHECK(kernel.status_text(kernel.append(append, nullptr)) == "no ROCm-capable device is detected");
  }
}

TEST_CASE("kernels on matrix units say which shapes and arrays they cannot take", "[hip]") {
  const FusedKernel& kernel = kernels()[1];
  CHECK(kernel.why_not_shape({Scalar::f16, 8, 2, 128, 16}) == "");
  CHECK(kernel.why_not_shape({Scalar::bf16, 5, 1, 256, 1}) == "");
  CHECK(kernel.why_not_shape({Scalar::f32, 8, 2, 128, 16}) == "the type is f32, expected f16 or bf16");
  CHECK(kernel.why_not_shape({Scalar::f16, 8, 2, 96, 16}) == "head_dim is 96, expected 64, 128 or 256");
  espalier::detail::AttendParams params{};
  CHECK(kernel.why_not_params(params) == "");
  params.k_token_stride = 65;
  CHECK(kernel.why_not_params(params) == "the token stride of k is 65, expected a multiple of 8");
  params.k_token_stride = 64;
  params.v = reinterpret_cast<const void*>(std::uintptr_t{0x1006});
  CHECK(kernel.why_not_params(params) == "v begins 6 bytes behind a multiple of 16");
}

}  // namespace
}  // namespace espalier::test
