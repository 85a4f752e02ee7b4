#include "backends/cuda/sm90/instance.hpp"

const espalier::gpu::sm90::Instance espalier::gpu::sm90::kF16_192 = make_instance<espalier::float16, 192>();
