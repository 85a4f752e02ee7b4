#pragma once
// What reports of both kinds of plans read and say of the tree.

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <vector>

#include "espalier/detail/params.hpp"
#include "espalier/plan.hpp"

namespace espalier::plan {

/// A host copy of an array. Waits for the instance.
template <class T, class Exec>
std::vector<T> download(const Exec& exec, const T* data, std::int64_t count) {
  std::vector<T> host(std::size_t(count), T{});
  const Kokkos::View<const T*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>> source(
      data, host.size());
  const Kokkos::View<T*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(host.data(), host.size());
  Kokkos::deep_copy(exec, target, source);
  exec.fence("espalier::Plan::report");
  return host;
}

/// Bytes of K and V of one token and KV head.
inline double kv_bytes_of_token(const PlanConfig& config) {
  return 2.0 * config.heads.head_dim * bytes_of(config.scalar);
}

/// Fills in what depends on the tree alone: its nodes and rows, their bytes and operations.
template <class Exec>
void describe_tree(const Exec& exec, const detail::TreeView& tree, const PlanConfig& config, PlanReport& report) {
  const HeadShape& heads = config.heads;
  const auto tokens = download(exec, tree.tokens, tree.nodes), parent = download(exec, tree.parent, tree.nodes);
  const auto row_node = download(exec, tree.row_node, tree.rows), visible = download(exec, tree.row_visible, tree.rows);
  report.nodes = tree.nodes;
  report.rows = tree.rows;
  std::vector<double> above(tokens.size(), 0.0);  // tokens above each node
  for (std::size_t node = 0; node < tokens.size(); ++node) {
    if (const std::int32_t up = parent[node]; up >= 0) above[node] = above[std::size_t(up)] + tokens[std::size_t(up)];
    report.unique_kv_bytes += kv_bytes_of_token(config) * heads.kv_heads * tokens[node];
  }
  for (std::size_t row = 0; row < row_node.size(); ++row)
    report.flops += 4.0 * heads.query_heads * heads.head_dim * (above[std::size_t(row_node[row])] + visible[row]);
}

}  // namespace espalier::plan
