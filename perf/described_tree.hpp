#pragma once
// A tree as an engine describes it: in the memory of an execution space, nodes in the order in which they were made.

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <vector>

#include "espalier/device_order.hpp"
#include "espalier/tree_arrays.hpp"
#include "support/execution_spaces.hpp"

namespace espalier::perf {

/// Every node begins a block of its own; blocks are numbered in node order.
template <ExecutionSpace Exec>
class DescribedTree {
 public:
  DescribedTree(const std::vector<espalier::NodeSpec>& nodes, const std::vector<espalier::RowSpec>& rows,
                int block_tokens) {
    std::vector<std::int32_t> parent, tokens, first_block, row_node, row_visible, block_table;
    for (const espalier::NodeSpec& node : nodes) {
      parent.push_back(node.parent);
      tokens.push_back(node.tokens);
      first_block.push_back(std::int32_t(block_table.size()));
      for (std::int32_t t = 0; t < node.tokens; t += block_tokens)
        block_table.push_back(std::int32_t(block_table.size()));
    }
    for (const espalier::RowSpec& row : rows) {
      row_node.push_back(row.node);
      row_visible.push_back(row.visible);
    }
    const std::vector<std::int32_t> first_offset(nodes.size(), 0);
    using test::to_view;
    views_ = {to_view<Exec>(parent),       to_view<Exec>(tokens),   to_view<Exec>(first_block),
              to_view<Exec>(first_offset), to_view<Exec>(row_node), to_view<Exec>(row_visible),
              to_view<Exec>(block_table)};
  }

  [[nodiscard]] DeviceTree<Exec> view() const {
    return {views_[0], views_[1], views_[2], views_[3], views_[4], views_[5], views_[6]};
  }

 private:
  std::vector<Kokkos::View<std::int32_t*, typename Exec::memory_space>> views_;
};

}  // namespace espalier::perf
