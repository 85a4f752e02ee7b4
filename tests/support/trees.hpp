#pragma once
// Trees that attention has to get right, each with the reason in its name, and ways to change a tree that must not
// change the result.

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "espalier/tree_arrays.hpp"

namespace espalier::test {

/// A tree that is described from outside. Unlike in NodeSpec's own functions, no rows means none.
struct Tree {
  std::string name;
  std::vector<NodeSpec> nodes;
  std::vector<RowSpec> rows;

  [[nodiscard]] std::int64_t tokens() const;
  /// Tokens that a row sees.
  [[nodiscard]] std::int64_t path_tokens(const RowSpec& row) const;
  [[nodiscard]] std::int64_t longest_path() const;
};

/// One row for each leaf, in node order.
[[nodiscard]] std::vector<RowSpec> leaf_rows(const std::vector<NodeSpec>& nodes);

[[nodiscard]] std::vector<Tree> named_trees();

/// Several roots, nodes of 0 to 40 tokens, rows anywhere and in any order, with and without `visible`.
[[nodiscard]] Tree random_forest(std::uint32_t seed);

/// The tree in line order, its tokens laid out as make_snapshot does.
[[nodiscard]] TreeSnapshot snapshot_of(const Tree& tree, int block_tokens, TreeLayout layout = TreeLayout::aligned);

/// A tree that means the same as another one, and where its tokens came from.
struct SameTree {
  Tree tree;
  std::vector<std::int64_t> token_from;  ///< [tokens]  the token of the other tree, both in node order
};

/// Every row has a root of its own with a copy of all that it sees.
[[nodiscard]] SameTree with_private_copies(const Tree& tree);

/// Every node of more than one token is cut in two at a random place; rows move to the half they end in.
[[nodiscard]] SameTree with_split_nodes(const Tree& tree, std::uint32_t seed);

/// Nodes in another order, parents still before children; rows stay in theirs.
[[nodiscard]] SameTree with_permuted_nodes(const Tree& tree, std::uint32_t seed);

/// The tree some tokens later: leaves are longer, and rows that saw all of theirs still do.
[[nodiscard]] Tree with_longer_leaves(const Tree& tree, std::uint32_t seed);

}  // namespace espalier::test
