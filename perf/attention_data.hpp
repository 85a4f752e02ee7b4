#pragma once
// Named workloads with their arrays, cold in cache, and the check of what a benchmark computed.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/random.hpp"
#include "cli/workload.hpp"
#include "espalier/attention.hpp"
#include "support/oracle.hpp"

namespace espalier::perf {

using Exec = Kokkos::DefaultExecutionSpace;

/// The workloads of README.md, and one for a quick look whether everything runs.
inline const std::vector<std::string> kWorkloads{"star:40,4,4", "star:2048,64,64", "layers:1,16,64/1024,256,32",
                                                 "tot:4000,4,10,340,170", "tokens:1000,64"};

inline HeadShape heads_of(const std::string& workload) {
  return workload == "star:40,4,4" ? HeadShape{4, 2, 32} : HeadShape{32, 8, 128};
}

inline std::string name_of(const HeadShape& heads) {
  return "heads:" + std::to_string(heads.query_heads) + "," + std::to_string(heads.kv_heads) + "," +
         std::to_string(heads.head_dim);
}

/// More than any cache holds.
inline constexpr std::size_t kColdBytes = std::size_t(1) << 30;

/// Layers that together have kColdBytes: a benchmark that takes them in turns reads K and V from memory. At most 256, so
/// that tiny problems, which are for a quick look, begin at once.
inline int cold_layers(std::size_t layer_bytes) {
  return int(std::clamp<std::size_t>((kColdBytes + layer_bytes - 1) / layer_bytes, 1, 256));
}

template <class View>
View copy_of(const View& view) {
  View copy(Kokkos::view_alloc(Kokkos::WithoutInitializing, "espalier::perf::layer"), view.layout());
  Kokkos::deep_copy(copy, view);
  return copy;
}

/// A tree with random q, k and v as floats that Element holds exactly; k and v in node order.
template <class Element>
struct AttentionData {
  cli::TreeInput tree;
  HeadShape heads;
  std::vector<float> q, k, v;

  explicit AttentionData(const std::string& workload) : tree(cli::make_workload(workload)), heads(heads_of(workload)) {
    cli::Random random(1);
    const auto fill = [&](std::vector<float>& values, std::size_t count) {
      values.resize(count);
      for (float& value : values) value = to_float(from_float<Element>(random.normal()));
    };
    const auto token_size = std::size_t(heads.kv_heads) * std::size_t(heads.head_dim);
    fill(q, tree.rows.size() * std::size_t(heads.query_heads) * std::size_t(heads.head_dim));
    fill(k, std::size_t(tree.tokens()) * token_size);
    fill(v, k.size());
  }

  [[nodiscard]] std::size_t kv_bytes() const { return 2 * k.size() * sizeof(Element); }

  /// |out - expected| / |expected| over a few rows, spread over all.
  /// @param out  [rows, query_heads, head_dim]
  [[nodiscard]] double error_of(const std::vector<float>& out) const {
    std::vector<RowSpec> rows;
    std::vector<float> some_q, some_out;
    const std::size_t row_size = std::size_t(heads.query_heads) * std::size_t(heads.head_dim);
    const std::size_t step = std::max<std::size_t>(1, tree.rows.size() / 5);
    for (std::size_t row = 0; row < tree.rows.size(); row += step) {
      rows.push_back(tree.rows[row]);
      some_q.insert(some_q.end(), q.begin() + std::ptrdiff_t(row * row_size),
                    q.begin() + std::ptrdiff_t((row + 1) * row_size));
      some_out.insert(some_out.end(), out.begin() + std::ptrdiff_t(row * row_size),
                      out.begin() + std::ptrdiff_t((row + 1) * row_size));
    }
    const oracle::Result expected = oracle::attend(tree.nodes, rows, heads, some_q, k, v);
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < some_out.size(); ++i) {
      const double difference = double(some_out[i]) - expected.out[i];
      error += difference * difference;
      norm += expected.out[i] * expected.out[i];
    }
    return std::sqrt(error / norm);
  }
};

/// What error_of may be: rounding of the output dominates for 16-bit types.
inline double allowed_error(Scalar scalar) {
  return scalar == Scalar::f32 ? 1e-5 : scalar == Scalar::f16 ? 0x1p-11 : 0x1p-8;
}

/// Copies floats into a View of any shape with a contiguous layout, converting them.
template <class View>
void upload(const View& view, const std::vector<float>& values) {
  using Element = typename View::non_const_value_type;
  const auto host = Kokkos::create_mirror_view(Kokkos::WithoutInitializing, view);
  for (std::size_t i = 0; i < values.size(); ++i) host.data()[i] = from_float<Element>(values[i]);
  Kokkos::deep_copy(view, host);
}

template <class View>
std::vector<float> download(const View& view) {
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
  std::vector<float> values(host.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(host.data()[i]);
  return values;
}

}  // namespace espalier::perf
