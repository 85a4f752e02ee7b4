#pragma once
// Trees described in a file: JSON, or the plain text of FastTree.

#include <string>

#include "cli/workload.hpp"

namespace espalier::cli {

/// The tree of a file, or of a workload name such as "star:2048,64,64".
/// @throws InputError naming the file, the place in it, and what was expected there
[[nodiscard]] TreeInput read_tree(const std::string& file_or_workload);

/// What a tree is, for --help.
[[nodiscard]] std::string describe_trees();

}  // namespace espalier::cli
