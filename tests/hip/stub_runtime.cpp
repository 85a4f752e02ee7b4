// Stands in for libamdhip64 on a machine without an AMD GPU: what programs with HIP kernels in them link and call, each
// answering that there is no device. Enough to link and to start such a program. Signatures are those of the calls as far as
// an answer needs them: the calling convention leaves other arguments alone.

namespace {

constexpr int kNoDevice = 100;  // hipErrorNoDevice

}  // namespace

extern "C" {

// What the compiler calls when a program with kernels starts and ends.
void** __hipRegisterFatBinary(const void*) {
  static void* handle = nullptr;
  return &handle;
}
void __hipRegisterFunction() {}
void __hipRegisterVar() {}
void __hipUnregisterFatBinary(void**) {}

// What a launch is made of.
int __hipPushCallConfiguration() { return kNoDevice; }
int __hipPopCallConfiguration() { return kNoDevice; }
int hipLaunchKernel() { return kNoDevice; }

int hipGetDeviceCount(int* count) {
  *count = 0;
  return kNoDevice;
}
int hipGetDevice() { return kNoDevice; }
int hipGetDevicePropertiesR0600() { return kNoDevice; }
int hipGetLastError() { return kNoDevice; }
const char* hipGetErrorString(int status) { return status == kNoDevice ? "no ROCm-capable device is detected" : "?"; }

}  // extern "C"
