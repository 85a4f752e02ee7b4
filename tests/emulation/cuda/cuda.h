#pragma once
// Stands in for the driver's header: tensor maps, as the copy engine of copy_engine.hpp reads them.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string_view>
#include <utility>
#include <vector>

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

struct CUDA_KERNEL_NODE_PARAMS {
  CUfunction func;
  unsigned gridDimX, blockDimX, sharedMemBytes;
  void** kernelParams;
  void** extra;
};

namespace espalier::emulator {

struct Node {
  CUDA_KERNEL_NODE_PARAMS launch;
  std::vector<unsigned char> params;  ///< those of `launch` may be gone

  Node(const CUDA_KERNEL_NODE_PARAMS& given, const void* bytes) : launch(given) { enter(bytes); }
  void enter(const void* bytes) {
    const auto* begin = static_cast<const unsigned char*>(bytes);
    params.assign(begin, begin + launch.func->params_bytes);
  }
};
using Graph = std::deque<Node>;

/// A graph as it was when it was instantiated; `original` tells which node is which.
struct GraphExec {
  const Graph* original;
  Graph nodes;
};

/// What is captured at the moment, and in which stream.
inline Graph* captured = nullptr;
inline cudaStream_t captured_stream = nullptr;
inline int launched_graphs = 0, live_graphs = 0;

inline void run_node(const Node& node) {
  alignas(64) unsigned char params[4096];
  std::memcpy(params, node.params.data(), node.params.size());
  node.launch.func->run(node.launch.gridDimX, node.launch.blockDimX, node.launch.sharedMemBytes, params);
}

}  // namespace espalier::emulator

/// Of kernels with one parameter.
inline CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction kernel, void** params, void**) {
  const espalier::emulator::Node node(
      {kernel, config->gridDimX, config->blockDimX, config->sharedMemBytes, nullptr, nullptr}, params[0]);
  if (espalier::emulator::captured && config->hStream == espalier::emulator::captured_stream)
    espalier::emulator::captured->push_back(node);
  else
    espalier::emulator::run_node(node);
  return CUDA_SUCCESS;
}

using CUgraphNode = espalier::emulator::Node*;
using cudaGraphNode_t = CUgraphNode;
using cudaGraph_t = espalier::emulator::Graph*;
using cudaGraphExec_t = espalier::emulator::GraphExec*;
using CUgraphExec = cudaGraphExec_t;

enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum { cudaStreamNonBlocking };

inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, int) {
  *stream = new char;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete static_cast<char*>(stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const bool is_captured = espalier::emulator::captured && stream == espalier::emulator::captured_stream;
  *status = is_captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (espalier::emulator::captured) return cudaErrorInvalidValue;
  espalier::emulator::captured = new espalier::emulator::Graph;
  espalier::emulator::captured_stream = stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = std::exchange(espalier::emulator::captured, nullptr);
  ++espalier::emulator::live_graphs;
  return cudaSuccess;
}

/// The nodes of a chain, or its first one alone.
inline cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  for (std::size_t i = 0; i < graph->size() && i < *count; ++i) nodes[i] = &(*graph)[i];
  *count = graph->size();
  return cudaSuccess;
}
inline cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  *nodes = &graph->front();
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned) {
  *exec = new espalier::emulator::GraphExec{graph, *graph};
  ++espalier::emulator::live_graphs;
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  --espalier::emulator::live_graphs;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  --espalier::emulator::live_graphs;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& node : exec->nodes) espalier::emulator::run_node(node);
  ++espalier::emulator::launched_graphs;
  return cudaSuccess;
}
inline CUresult cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* params) {
  *params = node->launch;
  return CUDA_SUCCESS;
}
inline CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                               const CUDA_KERNEL_NODE_PARAMS* params) {
  for (std::size_t i = 0; i < exec->nodes.size(); ++i) {
    if (node == &(*exec->original)[i]) {
      exec->nodes[i] = {*params, params->kernelParams[0]};
      return CUDA_SUCCESS;
    }
  }
  return CUDA_ERROR_INVALID_VALUE;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
enum { cudaEnableDefault };

/// Knows the functions above.
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, int,
                                                    cudaDriverEntryPointQueryResult* found) {
  struct Function {
    std::string_view name;
    void* address;
  };
  const auto entry = [](std::string_view symbol, auto* address) {
    return Function{symbol, reinterpret_cast<void*>(address)};
  };
  *function = nullptr;
  for (const Function& known :
       {entry("cuTensorMapEncodeTiled", &cuTensorMapEncodeTiled),
        entry("cuTensorMapReplaceAddress", &cuTensorMapReplaceAddress),
        entry("cuKernelGetFunction", &cuKernelGetFunction), entry("cuLaunchKernelEx", &cuLaunchKernelEx),
        entry("cuGraphKernelNodeGetParams", &cuGraphKernelNodeGetParams),
        entry("cuGraphExecKernelNodeSetParams", &cuGraphExecKernelNodeSetParams)}) {
    if (known.name == name) *function = known.address;
  }
  *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
