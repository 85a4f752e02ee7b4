#include "backends/hip/attend_kernel.hpp"

template void espalier::hip::launch_attend<espalier::bfloat16, 256>(const detail::AttendParams&, gpu::Stream);
