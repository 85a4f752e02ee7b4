#include "backends/cuda/sm80/attend.hpp"

#include "backends/cuda/sm80/instance.hpp"
#include "backends/gpu/any_element.hpp"
#include "backends/gpu/calls.hpp"

namespace espalier::gpu::sm80 {
namespace {

using detail::ScalarType;

const Instance* find_instance(ScalarType scalar, int head_dim) {
  const bool f16 = scalar == ScalarType::f16;
  if (scalar == ScalarType::f32) return nullptr;
  switch (head_dim) {
    case 64: return f16 ? &kF16_64 : &kBf16_64;
    case 96: return f16 ? &kF16_96 : &kBf16_96;
    case 128: return f16 ? &kF16_128 : &kBf16_128;
    case 192: return f16 ? &kF16_192 : &kBf16_192;
    case 256: return f16 ? &kF16_256 : &kBf16_256;
    default: return nullptr;
  }
}

}  // namespace

std::string why_not_shape(ScalarType scalar, int head_dim) {
  return why_not_matrix_shape(scalar, head_dim, {64, 96, 128, 192, 256});
}

std::string unsupported_reason(const detail::AttendParams& p) {
  const std::string reason = why_not_shape(p.scalar, p.head_dim);
  return reason.empty() ? why_not_aligned(p) : reason;
}

int most_pairs(int head_dim) { return find_instance(ScalarType::bf16, head_dim)->most_pairs; }

int wanted_workers(ScalarType scalar, int head_dim) { return find_instance(scalar, head_dim)->blocks_at_a_time(); }

Status attend(const detail::AttendParams& p, Stream stream) {
  if (!unsupported_reason(p).empty()) return cudaErrorNotSupported;
  if (p.plan.workers > 0) find_instance(p.scalar, p.head_dim)->launch(p, stream);
  return simt_merge(p, stream);
}

}  // namespace espalier::gpu::sm80
