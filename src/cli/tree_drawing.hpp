#pragma once

#include <span>
#include <string>

#include "espalier/tree_arrays.hpp"

namespace espalier::cli {

/// Draws a tree in characters, root to the left, one line per leaf; a number is a node's tokens:
///
///   1024 -+- 48 -+- 12
///         |      `- 12
///         `- 48 --- 7
///
/// @param indent     what every line begins with
/// @param most_lines  further lines are counted, not drawn
[[nodiscard]] std::string draw_tree(const TreeSnapshot& tree, const std::string& indent, int most_lines);

}  // namespace espalier::cli
