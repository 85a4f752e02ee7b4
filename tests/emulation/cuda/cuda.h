#pragma once
// Stands in for the driver's header: tensor maps, as the copy engine of copy_engine.hpp reads them.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "cuda_runtime.h"

using cuuint32_t = std::uint32_t;
using cuuint64_t = std::uint64_t;

struct alignas(64) CUtensorMap {
  const unsigned char* base;
  std::uint64_t size[5];          ///< elements
  std::uint64_t stride_bytes[4];  ///< of dimensions 1 and up
  std::uint32_t box[5];
  std::uint16_t rank, element_bytes;

  [[nodiscard]] std::uint32_t box_bytes() const {
    std::uint32_t bytes = element_bytes;
    for (std::uint32_t i = 0; i < rank; ++i) bytes *= box[i];
    return bytes;
  }
};
static_assert(sizeof(CUtensorMap) == 128);

enum CUresult { CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_FLOAT16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_128B };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_128B };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };

/// How many maps were encoded, in all: what keeps them may be checked.
inline int encoded_maps = 0;

/// Boxes of 128-byte rows of 16-bit elements alone. The driver's own conditions are checked.
inline CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* base,
                                       const cuuint64_t* size, const cuuint64_t* stride_bytes, const cuuint32_t* box,
                                       const cuuint32_t* element_stride, CUtensorMapInterleave, CUtensorMapSwizzle,
                                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  constexpr std::uint64_t kMostSize = std::uint64_t{1} << 32, kMostStride = std::uint64_t{1} << 40;
  constexpr std::uint32_t kMostBox = 256, kElementBytes = 2, kRowBytes = 128;
  ++encoded_maps;
  if (rank < 3 || rank > 5 || reinterpret_cast<std::uintptr_t>(base) % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  *map = {static_cast<const unsigned char*>(base), {}, {}, {}, static_cast<std::uint16_t>(rank), kElementBytes};
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (size[i] == 0 || size[i] > kMostSize || box[i] == 0 || box[i] > kMostBox || element_stride[i] != 1) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    map->size[i] = size[i];
    map->box[i] = box[i];
    if (i == 0) continue;
    if (stride_bytes[i - 1] % 16 != 0 || stride_bytes[i - 1] >= kMostStride) return CUDA_ERROR_INVALID_VALUE;
    map->stride_bytes[i - 1] = stride_bytes[i - 1];
  }
  return box[0] * kElementBytes == kRowBytes ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

inline CUresult cuTensorMapReplaceAddress(CUtensorMap* map, void* base) {
  if (reinterpret_cast<std::uintptr_t>(base) % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  map->base = static_cast<const unsigned char*>(base);
  return CUDA_SUCCESS;
}

using CUfunction = cudaKernel_t;

inline CUresult cuKernelGetFunction(CUfunction* function, cudaKernel_t kernel) {
  *function = kernel;
  return CUDA_SUCCESS;
}

enum CUlaunchAttributeID { CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION };
struct CUlaunchAttribute {
  CUlaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } value;
};

struct CUlaunchConfig {
  unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
  cudaStream_t hStream;
  CUlaunchAttribute* attrs;
  unsigned numAttrs;
};

/// Of kernels with one parameter.
inline CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction kernel, void** params, void**) {
  kernel->run(config->gridDimX, config->blockDimX, config->sharedMemBytes, params[0]);
  return CUDA_SUCCESS;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
enum { cudaEnableDefault };

/// Knows the four functions.
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, int,
                                                    cudaDriverEntryPointQueryResult* found) {
  const std::string_view symbol = name;
  *function = symbol == "cuTensorMapEncodeTiled"      ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled)
              : symbol == "cuTensorMapReplaceAddress" ? reinterpret_cast<void*>(&cuTensorMapReplaceAddress)
              : symbol == "cuKernelGetFunction"       ? reinterpret_cast<void*>(&cuKernelGetFunction)
              : symbol == "cuLaunchKernelEx"          ? reinterpret_cast<void*>(&cuLaunchKernelEx)
                                                      : nullptr;
  *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
