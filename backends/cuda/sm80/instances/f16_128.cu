#include "backends/cuda/sm80/attend_kernel.hpp"

const espalier::gpu::sm80::Instance espalier::gpu::sm80::kF16_128 = make_instance<espalier::float16, 128>();
