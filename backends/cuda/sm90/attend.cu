#include "backends/cuda/sm90/attend.hpp"

#include <cuda.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "backends/cuda/sm90/instance.hpp"
#include "backends/cuda/sm90/kept_graph.hpp"
#include "backends/gpu/calls.hpp"

namespace espalier::gpu::sm90 {
namespace {

using detail::AttendParams;
using detail::ScalarType;

const Instance* find_instance(ScalarType scalar, int head_dim) {
  const bool f16 = scalar == ScalarType::f16;
  if (!f16 && scalar != ScalarType::bf16) return nullptr;
  switch (head_dim) {
    case 64: return f16 ? &kF16_64 : &kBf16_64;
    case 96: return f16 ? &kF16_96 : &kBf16_96;
    case 128: return f16 ? &kF16_128 : &kBf16_128;
    case 192: return f16 ? &kF16_192 : &kBf16_192;
    case 256: return f16 ? &kF16_256 : &kBf16_256;
    default: return nullptr;
  }
}

constexpr int kMostBlockTokens = 256;
constexpr std::int64_t kEndOfStrides = std::int64_t{1} << 39;  // of the copy engine, in elements

/// Whether unsupported_reason() has nothing to say, in a few instructions: every call asks.
bool is_supported(const AttendParams& p) {
  const std::int64_t strides = p.q_row_stride | p.q_head_stride | p.k_block_stride | p.k_token_stride |
                               p.k_head_stride | p.v_block_stride | p.v_token_stride | p.v_head_stride;
  return is_aligned(p) && strides >= 0 && strides < kEndOfStrides && p.block_tokens <= kMostBlockTokens &&
         find_instance(p.scalar, p.head_dim) != nullptr;
}

struct MapShape {
  std::uint32_t rank;
  cuuint64_t size[4];
  cuuint64_t stride[3];  ///< elements, of dimensions 1 and up
  cuuint32_t box[4];
};

bool encode(CUtensorMap* map, ScalarType scalar, const void* base, MapShape shape) {
  cuuint32_t element_stride[4] = {1, 1, 1, 1};
  for (std::uint32_t i = 0; i + 1 < shape.rank; ++i) shape.stride[i] *= 2;
  return driver().encode(map,
                         scalar == ScalarType::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                         shape.rank, const_cast<void*>(base), shape.size, shape.stride, shape.box, element_stride,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

cuuint64_t as_size(std::int64_t value) { return static_cast<cuuint64_t>(value); }

/// Coordinates (d, token in block, head, block). The number of blocks is not known here and need not be: the block table is
/// trusted, as it is by every other kernel.
MapShape kv_shape(const AttendParams& p, std::int64_t token_stride, std::int64_t head_stride, std::int64_t block_stride,
                  std::int32_t tokens) {
  return {4,
          {as_size(p.head_dim), as_size(p.block_tokens), as_size(p.kv_heads), 0x7fffffff},
          {as_size(token_stride), as_size(head_stride), as_size(block_stride)},
          {kChunk, static_cast<cuuint32_t>(tokens), 1, 1}};
}

/// Coordinates (d, head, row).
MapShape q_shape(const AttendParams& p, std::int32_t q_rows, std::int32_t heads, std::int32_t rows) {
  return {3,
          {as_size(p.head_dim), as_size(p.query_heads), as_size(q_rows)},
          {as_size(p.q_head_stride), as_size(p.q_row_stride)},
          {kChunk, static_cast<cuuint32_t>(heads), static_cast<cuuint32_t>(rows)}};
}

bool encode_maps(const FusedParams& params, Arguments& a) {
  const AttendParams& p = params.attend;
  const auto kv = [&](CUtensorMap* k, CUtensorMap* v, int tokens) {
    return encode(k, p.scalar, p.k, kv_shape(p, p.k_token_stride, p.k_head_stride, p.k_block_stride, tokens)) &&
           encode(v, p.scalar, p.v, kv_shape(p, p.v_token_stride, p.v_head_stride, p.v_block_stride, tokens));
  };
  const auto q = [&](CUtensorMap* map, int heads, int rows) {
    return encode(map, p.scalar, p.q, q_shape(p, params.q_rows, heads, rows));
  };
  bool ok = kv(&a.k_token, &a.v_token, 1);
  a.k_run = a.k_page = a.k_token;  // unused where blocks do not fit them
  a.v_run = a.v_page = a.v_token;
  if (a.page_tokens > 0)
    ok = ok && kv(&a.k_run, &a.v_run, detail::kStackSlots) && kv(&a.k_page, &a.v_page, a.page_tokens);
  ok = ok && q(&a.q_pair, 1, 1);
  a.q_rows = a.q_pair;
  if (a.rows_per_tile > 0) ok = ok && q(&a.q_rows, a.group, a.rows_per_tile);
  return ok;
}

/// What the maps and numbers of Arguments depend on that addresses do not change.
struct Shape {
  ScalarType scalar;
  std::int32_t query_heads, kv_heads, head_dim, block_tokens, q_rows;
  std::int64_t q_row_stride, q_head_stride;
  std::int64_t k_block_stride, k_token_stride, k_head_stride;
  std::int64_t v_block_stride, v_token_stride, v_head_stride;

  bool operator==(const Shape&) const = default;
};

Shape shape_of(const FusedParams& params) {
  const AttendParams& p = params.attend;
  return {p.scalar,        p.query_heads,    p.kv_heads,       p.head_dim,       p.block_tokens,
          params.q_rows,   p.q_row_stride,   p.q_head_stride,  p.k_block_stride, p.k_token_stride,
          p.k_head_stride, p.v_block_stride, p.v_token_stride, p.v_head_stride};
}

/// Arguments that were made for a call.
struct MadeArguments {
  bool are_valid = false;
  Shape shape;
  const void *q, *k, *v;  ///< the addresses in the maps
  Arguments arguments;
};

/// Makes what belongs to a shape. False where CUDA refuses a map.
bool make(const FusedParams& params, const Instance& instance, Arguments& a) {
  const AttendParams& p = params.attend;
  a.group = p.query_heads / p.kv_heads;
  a.kv_heads = p.kv_heads;
  a.block_tokens = p.block_tokens;
  a.page_tokens = 0;
  for (int page = 16; page <= instance.stage_slots; page *= 2) {
    if (p.block_tokens % page == 0) a.page_tokens = page;
  }
  a.rows_per_tile = detail::kTilePairs % a.group == 0 ? detail::kTilePairs / a.group : 0;
  a.by_group = make_divisor(a.group);
  a.by_block_tokens = make_divisor(p.block_tokens);
  return encode_maps(params, a);
}

/// Turns the maps to other arrays of the same shape: a fifth of encoding them, or nothing where the arrays are the same.
bool turn_maps(const AttendParams& p, MadeArguments& made) {
  Arguments& a = made.arguments;
  const auto turn = [](std::initializer_list<CUtensorMap*> maps, const void*& from, const void* to) {
    if (from == to) return true;
    from = to;
    return std::all_of(maps.begin(), maps.end(), [&](CUtensorMap* map) {
      return driver().replace_address(map, const_cast<void*>(to)) == CUDA_SUCCESS;
    });
  };
  return turn({&a.k_page, &a.k_run, &a.k_token}, made.k, p.k) && turn({&a.v_page, &a.v_run, &a.v_token}, made.v, p.v) &&
         turn({&a.q_rows, &a.q_pair}, made.q, p.q);
}

/// What a thread keeps for one layer of a model.
struct MadeLayer {
  MadeArguments made;
  KeptGraph graph;
};

/// What a thread has made. The layers of a model differ in the arrays alone, and come back at every step: each finds its own
/// arguments again, unless another has taken its place, and else begins with those of another layer.
class MadeLayers {
 public:
  /// Null where CUDA refuses a map.
  MadeLayer* find_or_make(const FusedParams& params, const Instance& instance) {
    const Shape shape = shape_of(params);
    MadeLayer& layer = layers_[place_of(params)];
    MadeArguments& made = layer.made;
    if (!made.are_valid || made.shape != shape) made = of_shape(params, instance, shape);
    if (made.are_valid) made.are_valid = turn_maps(params.attend, made);
    return made.are_valid ? &layer : nullptr;
  }

 private:
  static constexpr int kPlaceBits = 6;
  static constexpr int kShapes = 4;

  /// By K, and by rows, since one K may serve several trees. Multiplication spreads addresses that lie equally far apart.
  static std::size_t place_of(const FusedParams& params) {
    const auto k = reinterpret_cast<std::uint64_t>(params.attend.k);
    return (k + static_cast<std::uint32_t>(params.q_rows)) * 0x9e3779b97f4a7c15u >> (64 - kPlaceBits);
  }

  const MadeArguments& of_shape(const FusedParams& params, const Instance& instance, const Shape& shape) {
    const auto found = std::find_if(shapes_, shapes_ + kShapes,
                                    [&](const MadeArguments& made) { return made.are_valid && made.shape == shape; });
    if (found != shapes_ + kShapes) return *found;
    MadeArguments& made = shapes_[oldest_];
    oldest_ = (oldest_ + 1) % kShapes;
    made.shape = shape;
    made.q = params.attend.q;
    made.k = params.attend.k;
    made.v = params.attend.v;
    made.are_valid = make(params, instance, made.arguments);
    return made;
  }

  MadeLayer layers_[1 << kPlaceBits];
  MadeArguments shapes_[kShapes];  ///< for the first layer of each
  int oldest_ = 0;
};

/// What is kept for the shape and the arrays of a call; null where CUDA refuses a map.
MadeLayer* layer_of(const FusedParams& params, const Instance& instance) {
  thread_local const auto made = std::make_unique<MadeLayers>();  // only of threads that attend
  return made->find_or_make(params, instance);
}

/// Enters what belongs to one call alone.
void set_call(const FusedParams& params, Arguments& a) {
  const AttendParams& p = params.attend;
  a.plan = params.plan;
  a.wait_first = !params.overlap_predecessor;
  a.out = p.out;
  a.lse = p.lse;
  a.out_row_stride = p.out_row_stride;
  a.out_head_stride = p.out_head_stride;
  a.lse_row_stride = p.lse_row_stride;
  a.soft_cap = p.soft_cap;
  a.transform = p.soft_cap != 0.0f || !(p.scale > 0.0f);
  a.weight_scale = a.transform ? kLog2E : p.scale * kLog2E;
  a.score_scale = p.soft_cap != 0.0f ? p.scale / p.soft_cap : p.scale;
}

/// Whether what is enqueued now runs now.
bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  return cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

/// Layers that come back get graphs, but in a capture, which makes one anyway. What comes before a graph has ended when it
/// begins, so that it need not wait for it.
bool launch_graph(const Instance& instance, MadeLayer& layer, int device, cudaStream_t stream) {
  if (!driver().has_graphs() || is_captured(stream)) return false;
  Arguments& arguments = layer.made.arguments;
  const std::int32_t wait_first = std::exchange(arguments.wait_first, 0);
  const bool launched = layer.graph.launch(instance, arguments, device, stream);
  arguments.wait_first = wait_first;
  return launched;
}

enum class Part { both, main, merge };

cudaError_t run(const FusedParams& params, cudaStream_t stream, Part part) {
  if (!is_supported(params.attend) || !driver().is_complete()) return cudaErrorNotSupported;
  const Instance& instance = *find_instance(params.attend.scalar, params.attend.head_dim);
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  MadeLayer* layer = layer_of(params, instance);
  if (!layer) {  // perhaps the first call of a thread, which has no context yet
    if (const cudaError_t error = cudaSetDevice(device); error != cudaSuccess) return error;
    layer = layer_of(params, instance);
  }
  if (!layer) return cudaErrorInvalidValue;
  Arguments& arguments = layer->made.arguments;
  set_call(params, arguments);
  switch (part) {
    case Part::main: return instance.main(arguments, device, stream);
    case Part::merge: return instance.merge(arguments, device, stream);
    case Part::both: break;
  }
  if (launch_graph(instance, *layer, device, stream)) return cudaSuccess;
  return launch_all(instance, arguments, device, stream);
}

}  // namespace

std::string why_not_shape(ScalarType scalar, int head_dim, int block_tokens) {
  if (scalar != ScalarType::f16 && scalar != ScalarType::bf16) return "the type is f32, expected f16 or bf16";
  if (!find_instance(scalar, head_dim)) {
    return "head_dim is " + std::to_string(head_dim) + ", expected 64, 96, 128, 192 or 256";
  }
  if (block_tokens > kMostBlockTokens) {
    return "block_tokens is " + std::to_string(block_tokens) + ", expected 1 to " + std::to_string(kMostBlockTokens);
  }
  return {};
}

std::string unsupported_reason(const AttendParams& p) {
  if (is_supported(p)) return {};
  if (std::string reason = why_not_shape(p.scalar, p.head_dim, p.block_tokens); !reason.empty()) return reason;
  if (std::string reason = why_not_aligned(p); !reason.empty()) return reason;
  for (const std::int64_t stride : {p.q_row_stride, p.q_head_stride, p.k_block_stride, p.k_token_stride,
                                    p.k_head_stride, p.v_block_stride, p.v_token_stride, p.v_head_stride}) {
    if (stride < 0 || stride >= kEndOfStrides) {
      return "a stride of q, k or v is " + std::to_string(stride) + ", expected 0 to " +
             std::to_string(kEndOfStrides - 1);
    }
  }
  return {};
}

cudaError_t attend(const FusedParams& params, cudaStream_t stream) { return run(params, stream, Part::both); }
cudaError_t attend_main(const FusedParams& params, cudaStream_t stream) { return run(params, stream, Part::main); }
cudaError_t attend_merge(const FusedParams& params, cudaStream_t stream) { return run(params, stream, Part::merge); }

}  // namespace espalier::gpu::sm90
