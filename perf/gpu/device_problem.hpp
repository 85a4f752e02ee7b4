#pragma once
// The data of a named workload on a GPU, its plan there, and a slow reference kernel that says whether a result is right.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/sm90/attend.hpp"
#include "perf/gpu/fused_planner.hpp"
#include "perf/gpu/workload.hpp"

namespace espalier::perf {

using detail::AttendParams;
using detail::ScalarType;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "attend_driver: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
    check(cudaMalloc(&data_, std::max<std::size_t>(size * sizeof(T), 256)), "allocation");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    if (!values.empty()) {
      check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    }
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  DeviceArray(DeviceArray&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  ~DeviceArray() { cudaFree(data_); }

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::vector<T> download() const {
    std::vector<T> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return values;
  }
  void fill(int byte) { check(cudaMemset(data_, byte, std::max<std::size_t>(size_ * sizeof(T), 256)), "fill"); }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

// ---------------------------------------------------------------------------------------------------- reference

template <class T>
__device__ float to_float_of(T value) {
  return static_cast<float>(value);
}

/// Sums of four uniform numbers: nearly normal, variance 1.
template <class T>
__global__ void fill_random(T* values, std::size_t count, std::uint32_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    std::uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    const float sum = static_cast<float>((z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48));
    values[i] = T((sum * (1.0f / 65536.0f) - 2.0f) * 1.7320508f);
  }
}

struct DeviceTree {
  DeviceArray<int> parent, tokens, first_block, first_offset, row_node, row_visible, row_index, block_table;
  explicit DeviceTree(const perf::Tree& t)
      : parent(t.parent),
        tokens(t.tokens),
        first_block(t.first_block),
        first_offset(t.first_offset),
        row_node(t.row_node),
        row_visible(t.row_visible),
        row_index(t.row_index),
        block_table(t.block_table) {}
};

struct ReferenceArguments {
  AttendParams p;
  const int *parent, *tokens, *first_block, *first_offset, *row_node, *row_visible, *row_index, *block_table;
  float* out;  // [rows, query_heads, head_dim], rows as the caller numbers them
  float* lse;  // [rows, query_heads]
};

/// One block for one (row, query head): eight warps share the tokens, lanes share head_dim. All in float.
template <class T>
__global__ void reference_kernel(ReferenceArguments a) {
  const int line_row = blockIdx.x, head = blockIdx.y, kv_head = head / (a.p.query_heads / a.p.kv_heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = a.row_index[line_row];
  const T* q = static_cast<const T*>(a.p.q) + row * a.p.q_row_stride + head * a.p.q_head_stride;
  float query[8], sum[8] = {}, peak = -1e30f, weight = 0;
  for (int i = 0; i < 8; ++i) query[i] = lane + 32 * i < a.p.head_dim ? to_float_of(q[lane + 32 * i]) : 0.0f;
  for (int node = a.row_node[line_row], own = 1; node >= 0; node = a.parent[node], own = 0) {
    const int tokens = own ? min(a.row_visible[line_row], a.tokens[node]) : a.tokens[node];
    for (int t = warp; t < tokens; t += 8) {
      const int place = a.first_offset[node] + t;
      const std::int64_t block = a.block_table[a.first_block[node] + place / a.p.block_tokens];
      const int offset = place % a.p.block_tokens;
      const T* k = static_cast<const T*>(a.p.k) + block * a.p.k_block_stride + offset * a.p.k_token_stride +
                   kv_head * a.p.k_head_stride;
      const T* v = static_cast<const T*>(a.p.v) + block * a.p.v_block_stride + offset * a.p.v_token_stride +
                   kv_head * a.p.v_head_stride;
      float score = 0;
      for (int i = 0; i < 8; ++i) {
        if (lane + 32 * i < a.p.head_dim) score += query[i] * to_float_of(k[lane + 32 * i]);
      }
      for (int step = 16; step; step >>= 1) score += __shfl_xor_sync(0xffffffffu, score, step);
      score *= a.p.scale;
      if (a.p.soft_cap != 0) score = a.p.soft_cap * tanhf(score / a.p.soft_cap);
      const float top = fmaxf(peak, score), old = expf(peak - top), fresh = expf(score - top);
      peak = top;
      weight = weight * old + fresh;
      for (int i = 0; i < 8; ++i) {
        if (lane + 32 * i < a.p.head_dim) sum[i] = sum[i] * old + fresh * to_float_of(v[lane + 32 * i]);
      }
    }
  }
  __shared__ float peaks[8], weights[8], sums[8][256];
  if (lane == 0) {
    peaks[warp] = peak;
    weights[warp] = weight;
  }
  for (int i = 0; i < 8; ++i) sums[warp][lane + 32 * i] = sum[i];
  __syncthreads();
  float top = -1e30f, total = 0;
  for (int w = 0; w < 8; ++w) top = fmaxf(top, peaks[w]);
  for (int w = 0; w < 8; ++w) total += weights[w] * expf(peaks[w] - top);
  for (int d = threadIdx.x; d < a.p.head_dim; d += blockDim.x) {
    float value = 0;
    for (int w = 0; w < 8; ++w) value += sums[w][d] * expf(peaks[w] - top);
    a.out[(static_cast<std::int64_t>(row) * a.p.query_heads + head) * a.p.head_dim + d] = total > 0 ? value / total : 0;
  }
  if (threadIdx.x == 0) {
    a.lse[static_cast<std::int64_t>(row) * a.p.query_heads + head] = total > 0 ? top + logf(total) : -INFINITY;
  }
}

// ------------------------------------------------------------------------------------------------------ problem

struct Heads {
  int query, kv, dim;
};

struct Settings {
  Heads heads = {32, 8, 128};
  ScalarType scalar = ScalarType::bf16;
  int layers = 4;
  float scale = 0;  ///< 0: 1 / sqrt(head_dim)
  float soft_cap = 0;
  bool head_major = false;   ///< cache [blocks, kv_heads, block_tokens, head_dim]
  bool finite_cache = true;  ///< false: slots that no token uses hold NaN
};

struct Error {
  double norm = 0;           ///< ||out - reference|| / ||reference||
  double largest = 0;        ///< elementwise
  double lse = 0;            ///< largest difference
  bool wrong_place = false;  ///< inf or nan where the reference has none, or the other way round
};

template <class T>
class Problem {
 public:
  Problem(const perf::Tree& tree, const Settings& s) : tree_(tree), settings_(s), device_tree_(tree) {
    const std::size_t kv = static_cast<std::size_t>(tree.blocks) * static_cast<std::size_t>(tree.block_tokens) *
                           static_cast<std::size_t>(s.heads.kv * s.heads.dim);
    const std::size_t q = static_cast<std::size_t>(tree.rows()) * static_cast<std::size_t>(s.heads.query * s.heads.dim);
    for (int layer = 0; layer < s.layers; ++layer) {
      k_.emplace_back(kv);
      v_.emplace_back(kv);
      q_.emplace_back(q);
      out_.emplace_back(q);
      lse_.emplace_back(q / static_cast<std::size_t>(s.heads.dim));
      const auto seed = static_cast<std::uint32_t>(3 * layer);
      fill_random<<<1024, 256>>>(k_.back().data(), kv, seed + 1);
      fill_random<<<1024, 256>>>(v_.back().data(), kv, seed + 2);
      fill_random<<<1024, 256>>>(q_.back().data(), q, seed + 3);
      if (!s.finite_cache) poison_unused(k_.back()), poison_unused(v_.back());
      out_.back().fill(0xff);
      lse_.back().fill(0xff);
    }
    check(cudaGetLastError(), "filling inputs");
    check(cudaDeviceSynchronize(), "filling inputs");
  }

  [[nodiscard]] AttendParams params(int layer) const {
    const Heads& h = settings_.heads;
    const auto i = static_cast<std::size_t>(layer);
    AttendParams p = {};
    p.scalar = settings_.scalar;
    p.query_heads = h.query;
    p.kv_heads = h.kv;
    p.head_dim = h.dim;
    p.block_tokens = tree_.block_tokens;
    p.scale = settings_.scale == 0 ? 1.0f / std::sqrt(static_cast<float>(h.dim)) : settings_.scale;
    p.soft_cap = settings_.soft_cap;
    p.q = q_[i].data();
    p.k = k_[i].data();
    p.v = v_[i].data();
    p.out = out_[i].data();
    p.lse = lse_[i].data();
    p.q_head_stride = p.out_head_stride = h.dim;
    p.q_row_stride = p.out_row_stride = h.query * h.dim;
    p.lse_row_stride = h.query;
    p.k_block_stride = p.v_block_stride = std::int64_t{tree_.block_tokens} * h.kv * h.dim;
    p.k_token_stride = p.v_token_stride = settings_.head_major ? h.dim : h.kv * h.dim;
    p.k_head_stride = p.v_head_stride = settings_.head_major ? tree_.block_tokens * h.dim : h.dim;
    return p;
  }

  void clear_outputs() {
    for (auto& out : out_) out.fill(0xff);
    for (auto& lse : lse_) lse.fill(0xff);
  }

  Error compare(int layer) {
    if (reference_.empty() || reference_layer_ != layer) make_reference(layer);
    const std::vector<T> out = out_[static_cast<std::size_t>(layer)].download();
    const std::vector<float> lse = lse_[static_cast<std::size_t>(layer)].download();
    Error error;
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double value = static_cast<float>(out[i]), expected = reference_[i];
      if (!std::isfinite(value)) error.wrong_place = true;
      difference += (value - expected) * (value - expected);
      norm += expected * expected;
      error.largest = std::max(error.largest, std::abs(value - expected));
    }
    error.norm = std::sqrt(difference / std::max(norm, 1e-30));
    for (std::size_t i = 0; i < lse.size(); ++i) {
      if (std::isinf(reference_lse_[i]) || !std::isfinite(lse[i])) {
        if (lse[i] != reference_lse_[i]) error.wrong_place = true;
      } else {
        error.lse = std::max(error.lse, std::abs(static_cast<double>(lse[i]) - reference_lse_[i]));
      }
    }
    return error;
  }

 private:
  void make_reference(int layer) {
    const Heads& h = settings_.heads;
    const std::size_t results = static_cast<std::size_t>(tree_.rows()) * static_cast<std::size_t>(h.query);
    DeviceArray<float> out(results * static_cast<std::size_t>(h.dim)), lse(results);
    const ReferenceArguments a = {params(layer),
                                  device_tree_.parent.data(),
                                  device_tree_.tokens.data(),
                                  device_tree_.first_block.data(),
                                  device_tree_.first_offset.data(),
                                  device_tree_.row_node.data(),
                                  device_tree_.row_visible.data(),
                                  device_tree_.row_index.data(),
                                  device_tree_.block_table.data(),
                                  out.data(),
                                  lse.data()};
    reference_kernel<T><<<dim3(static_cast<unsigned>(tree_.rows()), static_cast<unsigned>(h.query)), 256>>>(a);
    check(cudaGetLastError(), "reference");
    check(cudaDeviceSynchronize(), "reference");
    reference_ = out.download();
    reference_lse_ = lse.download();
    reference_layer_ = layer;
  }

  /// NaN in every slot that belongs to no token.
  void poison_unused(DeviceArray<T>& cache) {
    std::vector<bool> used(static_cast<std::size_t>(tree_.blocks * tree_.block_tokens), false);
    for (int i = 0; i < tree_.nodes(); ++i) {
      const auto node = static_cast<std::size_t>(i);
      for (int t = 0; t < tree_.tokens[node]; ++t) {
        const int place = tree_.first_offset[node] + t;
        const int block =
            tree_.block_table[static_cast<std::size_t>(tree_.first_block[node] + place / tree_.block_tokens)];
        used[static_cast<std::size_t>(block * tree_.block_tokens + place % tree_.block_tokens)] = true;
      }
    }
    std::vector<T> values = cache.download();
    const Heads& h = settings_.heads;
    const AttendParams p = params(0);
    for (std::size_t slot = 0; slot < used.size(); ++slot) {
      if (used[slot]) continue;
      const auto block = static_cast<std::int64_t>(slot) / tree_.block_tokens,
                 token = static_cast<std::int64_t>(slot) % tree_.block_tokens;
      for (int head = 0; head < h.kv; ++head) {
        T* row = values.data() + block * p.k_block_stride + token * p.k_token_stride + head * p.k_head_stride;
        for (int d = 0; d < h.dim; ++d) row[d] = T(NAN);
      }
    }
    check(cudaMemcpy(cache.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }

  const perf::Tree& tree_;
  Settings settings_;
  DeviceTree device_tree_;
  std::vector<DeviceArray<T>> k_, v_, q_, out_;
  std::vector<DeviceArray<float>> lse_;
  std::vector<float> reference_, reference_lse_;
  int reference_layer_ = -1;
};

/// A host plan on the device.
class DevicePlan {
 public:
  DevicePlan(const perf::Tree& tree, const perf::FusedPlan& plan, int head_dim)
      : header_(std::vector{plan.header}),
        segments_(plan.segments),
        tiles_(plan.tiles),
        worker_(plan.worker),
        merge_begin_(plan.merge_begin),
        entries_(plan.merge_entries),
        row_visible_(tree.row_visible),
        row_index_(tree.row_index),
        block_table_(tree.block_table),
        partial_out_(static_cast<std::size_t>(plan.partials) * static_cast<std::size_t>(head_dim)),
        partial_lse_(static_cast<std::size_t>(plan.partials)) {
    partial_out_.fill(0xff);
    partial_lse_.fill(0xff);
    view_ = {static_cast<std::int32_t>(plan.worker.size()),
             tree.rows(),
             plan.merge_entries.empty() ? 0 : 1,
             header_.data(),
             segments_.data(),
             tiles_.data(),
             worker_.data(),
             merge_begin_.data(),
             entries_.data(),
             row_visible_.data(),
             row_index_.data(),
             block_table_.data(),
             partial_out_.data(),
             partial_lse_.data()};
  }
  [[nodiscard]] const detail::FusedPlanView& view() const { return view_; }

 private:
  DeviceArray<detail::FusedPlanHeader> header_;
  DeviceArray<detail::FusedSegment> segments_;
  DeviceArray<detail::FusedTile> tiles_;
  DeviceArray<detail::FusedWorker> worker_;
  DeviceArray<std::int32_t> merge_begin_;
  DeviceArray<detail::MergeEntry> entries_;
  DeviceArray<std::int32_t> row_visible_, row_index_, block_table_;
  DeviceArray<std::uint16_t> partial_out_;
  DeviceArray<float> partial_lse_;
  detail::FusedPlanView view_;
};

}  // namespace espalier::perf
