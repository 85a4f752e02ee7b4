#pragma once
// A tree that was derived on the device, back on the host.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "espalier/tree_arrays.hpp"

namespace espalier::test {

/// The counts that lie in the memory of the execution space.
template <class Exec>
std::array<std::int32_t, 4> device_counts(const TreeArrays<Exec>& tree) {
  std::array<std::int32_t, 4> counts{};
  const Kokkos::View<std::int32_t*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(counts.data(),
                                                                                                       4);
  const Kokkos::View<const std::int32_t*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>> source(
      tree.device_counts(), 4);
  Kokkos::deep_copy(target, source);
  return counts;
}

/// The arrays with as many nodes as asked for, and the entries of the block table that the device counts.
template <class Exec>
TreeSnapshot download(const TreeArrays<Exec>& tree, std::int32_t nodes) {
  const auto copy = [](const std::int32_t* first, std::int32_t count) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    const Kokkos::View<std::int32_t*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(values.data(),
                                                                                                         values.size());
    const Kokkos::View<const std::int32_t*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>
        source(first, values.size());
    Kokkos::deep_copy(target, source);
    return values;
  };
  const detail::TreeView view = tree.view();
  const std::array<std::int32_t, 4> counts = device_counts(tree);
  TreeSnapshot snapshot;
  snapshot.block_tokens = counts[2];
  snapshot.parent = copy(view.parent, nodes);
  snapshot.tokens = copy(view.tokens, nodes);
  snapshot.first_block = copy(view.first_block, nodes);
  snapshot.first_offset = copy(view.first_offset, nodes);
  snapshot.subtree_end = copy(view.subtree_end, nodes);
  snapshot.row_begin = copy(view.row_begin, nodes);
  snapshot.row_end = copy(view.row_end, nodes);
  snapshot.row_node = copy(view.row_node, view.rows);
  snapshot.row_visible = copy(view.row_visible, view.rows);
  snapshot.row_index = copy(view.row_index, view.rows);
  for (const std::int32_t block : copy(view.block_table, counts[3])) snapshot.block_table.push_back(BlockId{block});
  return snapshot;
}

/// Nothing if the snapshots are equal; else the first difference.
inline std::string difference(const TreeSnapshot& found, const TreeSnapshot& expected) {
  std::string text;
  const auto compare = [&](const char* name, const auto& a, const auto& b) {
    if (!text.empty() || a == b) return;
    const auto place = std::size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
    const auto at = [&](const auto& v) { return place < v.size() ? std::to_string(std::int32_t(v[place])) : "none"; };
    text = std::string(name) + "[" + std::to_string(place) + "] is " + at(a) + ", expected " + at(b);
  };
  compare("parent", found.parent, expected.parent);
  compare("tokens", found.tokens, expected.tokens);
  compare("first_block", found.first_block, expected.first_block);
  compare("first_offset", found.first_offset, expected.first_offset);
  compare("subtree_end", found.subtree_end, expected.subtree_end);
  compare("row_begin", found.row_begin, expected.row_begin);
  compare("row_end", found.row_end, expected.row_end);
  compare("row_node", found.row_node, expected.row_node);
  compare("row_visible", found.row_visible, expected.row_visible);
  compare("row_index", found.row_index, expected.row_index);
  compare("block_table", found.block_table, expected.block_table);
  if (text.empty() && found.block_tokens != expected.block_tokens) text = "block_tokens differ";
  return text;
}

/// The same for a tree on the device: also the counts, and that nodes behind the real ones are empty roots without rows.
template <class Exec>
std::string difference(const TreeArrays<Exec>& tree, const TreeSnapshot& expected) {
  const std::array<std::int32_t, 4> counts = device_counts(tree);
  const std::array<std::int32_t, 4> expected_counts{expected.nodes(), expected.rows(), expected.block_tokens,
                                                    std::int32_t(expected.block_table.size())};
  for (std::size_t i = 0; i < 4; ++i)
    if (counts[i] != expected_counts[i])
      return "count " + std::to_string(i) + " is " + std::to_string(counts[i]) + ", expected " +
             std::to_string(expected_counts[i]);
  if (tree.rows() != expected.rows() || tree.block_tokens() != expected.block_tokens || tree.nodes() < expected.nodes())
    return "what the host counts is wrong";
  const TreeSnapshot padding = download(tree, tree.nodes());
  for (std::int32_t node = expected.nodes(); node < tree.nodes(); ++node) {
    const auto i = std::size_t(node);
    if (padding.parent[i] != -1 || padding.tokens[i] != 0 || padding.first_offset[i] != 0 ||
        padding.first_block[i] != counts[3] || padding.subtree_end[i] != node + 1 ||
        padding.row_begin[i] != tree.rows() || padding.row_end[i] != tree.rows())
      return "node " + std::to_string(node) + " behind the real ones is no empty root";
  }
  return difference(download(tree, expected.nodes()), expected);
}

}  // namespace espalier::test
