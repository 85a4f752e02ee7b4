#include "backends/cuda/sm80/attend_kernel.hpp"

const espalier::gpu::sm80::Instance espalier::gpu::sm80::kBf16_64 = make_instance<espalier::bfloat16, 64>();
