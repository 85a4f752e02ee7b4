#include "backends/cuda/sm80/attend_kernel.hpp"

const espalier::gpu::sm80::Instance espalier::gpu::sm80::kBf16_192 = make_instance<espalier::bfloat16, 192>();
