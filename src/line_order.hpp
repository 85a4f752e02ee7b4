#pragma once

#include <cstdint>
#include <span>

#include "espalier/tree_arrays.hpp"

namespace espalier::detail {

/// A row whose node has its place in the line already.
struct PlacedRow {
  std::int32_t node;  ///< position of the node in the line
  std::int32_t visible;
};

/// Fills the ends of subtrees and everything that depends on rows, from the `parent` array: sorts the rows by (node,
/// visible, place in the list) and sets the interval of rows below each node.
void set_rows(TreeSnapshot& snapshot, std::span<const PlacedRow> rows);

}  // namespace espalier::detail
