#pragma once
// Trees of published benchmarks, made from a few integers: layers: star: beam: tot: tokens: eagle:

#include <string>
#include <vector>

#include "espalier/tree_arrays.hpp"

namespace espalier::cli {

/// A tree that is described from outside. Parents come before children.
struct TreeInput {
  std::vector<NodeSpec> nodes;
  std::vector<RowSpec> rows;  ///< all of them: where the source names none, one row per leaf in node order

  [[nodiscard]] std::int64_t tokens() const;  ///< of all nodes
};

/// Whether the text has the form NAME: of a workload.
[[nodiscard]] bool names_workload(const std::string& text);

/// The tree that a name such as "star:2048,64,64" stands for.
/// @throws InputError naming the field that is wrong
[[nodiscard]] TreeInput make_workload(const std::string& name);

/// One line per workload, for --help.
[[nodiscard]] std::string describe_workloads();

/// Gives a tree without rows one row per leaf, in node order.
void add_leaf_rows(TreeInput& tree);

}  // namespace espalier::cli
