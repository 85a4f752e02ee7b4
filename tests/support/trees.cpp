#include "support/trees.hpp"

#include <algorithm>
#include <numeric>
#include <random>

namespace espalier::test {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

Tree with_leaf_rows(std::string name, std::vector<NodeSpec> nodes) {
  std::vector<RowSpec> rows = leaf_rows(nodes);
  return {std::move(name), std::move(nodes), std::move(rows)};
}

Tree deep_chain() {
  Tree tree{"a deep chain", {}, {}};
  for (std::int32_t node = 0; node < 45; ++node) tree.nodes.push_back({node - 1, 1 + node % 5});
  tree.rows = {{44}, {20}, {44, 2}, {0}};
  return tree;
}

Tree wide_star() {
  std::vector<NodeSpec> nodes{{-1, 70}};
  for (std::int32_t leaf = 0; leaf < 130; ++leaf) nodes.push_back({0, 1 + leaf % 3});
  return with_leaf_rows("a wide star", std::move(nodes));
}

/// A committed context, and draft tokens of which each is a node with a row of its own.
Tree token_tree() {
  Tree tree{"a tree of one-token nodes behind a context", {{-1, 50}}, {{0}}};
  for (std::int32_t draft = 1; draft < 64; ++draft) {
    tree.nodes.push_back({draft <= 6 ? 0 : (draft - 3) / 3, 1});
    tree.rows.push_back({draft});
  }
  return tree;
}

Tree rows_everywhere() {
  Tree tree{"rows at every node of a ternary tree", {}, {}};
  for (std::int32_t node = 0; node < 40; ++node) {
    tree.nodes.push_back({node == 0 ? -1 : (node - 1) / 3, 3 + node * 7 % 11});
    tree.rows.push_back({node});
  }
  return tree;
}

Tree chunked_prefill() {
  Tree tree{"a chunk of a prompt: one row for each of its last tokens", {{-1, 100}}, {}};
  for (std::int32_t visible = 60; visible <= 100; ++visible) tree.rows.push_back({0, visible});
  return tree;
}

/// The first tokens of every node, in node order, and their sum behind them.
std::vector<std::int64_t> first_tokens(const std::vector<NodeSpec>& nodes) {
  std::vector<std::int64_t> first{0};
  for (const NodeSpec& node : nodes) first.push_back(first.back() + node.tokens);
  return first;
}

std::int32_t visible_of(const Tree& tree, const RowSpec& row) {
  return row.visible < 0 ? tree.nodes[at(row.node)].tokens : row.visible;
}

}  // namespace

std::int64_t Tree::tokens() const { return first_tokens(nodes).back(); }

std::int64_t Tree::path_tokens(const RowSpec& row) const {
  std::int64_t tokens = visible_of(*this, row);
  for (std::int32_t node = nodes[at(row.node)].parent; node >= 0; node = nodes[at(node)].parent)
    tokens += nodes[at(node)].tokens;
  return tokens;
}

std::int64_t Tree::longest_path() const {
  std::int64_t longest = 0;
  for (const RowSpec& row : rows) longest = std::max(longest, path_tokens(row));
  return longest;
}

std::vector<RowSpec> leaf_rows(const std::vector<NodeSpec>& nodes) {
  std::vector<char> is_leaf(nodes.size(), 1);
  for (const NodeSpec& node : nodes)
    if (node.parent >= 0) is_leaf[at(node.parent)] = 0;
  std::vector<RowSpec> rows;
  for (std::size_t node = 0; node < nodes.size(); ++node)
    if (is_leaf[node]) rows.push_back({static_cast<std::int32_t>(node)});
  return rows;
}

std::vector<Tree> named_trees() {
  return {
      {"no nodes and no rows", {}, {}},
      {"nodes but no rows", {{-1, 40}, {0, 5}}, {}},
      with_leaf_rows("one token", {{-1, 1}}),
      with_leaf_rows("one empty node", {{-1, 0}}),
      {"empty nodes between others", {{-1, 0}, {0, 33}, {1, 0}, {2, 7}, {1, 0}, {4, 0}, {5, 1}}, {{3}, {6}, {4}, {0}}},
      with_leaf_rows("several roots", {{-1, 20}, {-1, 1}, {-1, 65}, {0, 3}, {2, 0}, {2, 9}, {-1, 0}}),
      deep_chain(),
      wide_star(),
      token_tree(),
      rows_everywhere(),
      chunked_prefill(),
      {"rows that see 0, some and all tokens of one node, in any order",
       {{-1, 18}, {0, 20}, {1, 4}, {1, 0}},
       {{1, 7}, {2, 0}, {1}, {1, 0}, {0, 0}, {3}, {1, 20}, {1, 1}, {2}, {1, 19}, {1, 7}, {2, 3}}},
      {"nodes that no row sees", {{-1, 30}, {0, 17}, {0, 5}, {1, 3}, {-1, 64}}, {{2}, {2}}},
      with_leaf_rows("one long path", {{-1, 705}}),
      {"three rows on one long path", {{-1, 500}, {0, 191}}, {{1}, {1, 100}, {0}}},
      random_forest(1),
      random_forest(2),
  };
}

Tree random_forest(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::int32_t end) { return static_cast<std::int32_t>(random() % std::uint32_t(end)); };
  Tree tree{"random forest, seed " + std::to_string(seed), {}, {}};
  const std::int32_t nodes = 1 + below(40);
  for (std::int32_t node = 0; node < nodes; ++node) {
    const std::int32_t parent = node == 0 || below(10) == 0 ? -1 : below(node);
    const std::int32_t kind = below(4);
    tree.nodes.push_back({parent, kind == 0 ? below(3) : kind == 1 ? 1 : below(41)});
  }
  const std::int32_t rows = 1 + below(60);
  for (std::int32_t row = 0; row < rows; ++row) {
    const std::int32_t node = below(nodes);
    tree.rows.push_back({node, below(2) == 0 ? -1 : below(tree.nodes[at(node)].tokens + 1)});
  }
  return tree;
}

TreeSnapshot snapshot_of(const Tree& tree, int block_tokens, TreeLayout layout) {
  TreeSnapshot snapshot = make_snapshot(tree.nodes, tree.rows, block_tokens, layout);
  if (tree.rows.empty()) {  // make_snapshot took that for one row per leaf
    snapshot.row_begin.assign(tree.nodes.size(), 0);
    snapshot.row_end.assign(tree.nodes.size(), 0);
    snapshot.row_node.clear();
    snapshot.row_visible.clear();
    snapshot.row_index.clear();
  }
  return snapshot;
}

SameTree with_private_copies(const Tree& tree) {
  SameTree same{{tree.name + ", every row with a copy of its path", {}, {}}, {}};
  const std::vector<std::int64_t> first = first_tokens(tree.nodes);
  for (const RowSpec& row : tree.rows) {
    std::vector<std::int32_t> path;  // from the row's node up
    for (std::int32_t node = row.node; node >= 0; node = tree.nodes[at(node)].parent) path.push_back(node);
    for (std::size_t i = path.size(); i-- > 0;) {
      const std::int32_t tokens = i == 0 ? visible_of(tree, row) : tree.nodes[at(path[i])].tokens;
      for (std::int32_t token = 0; token < tokens; ++token) same.token_from.push_back(first[at(path[i])] + token);
    }
    same.tree.rows.push_back({static_cast<std::int32_t>(same.tree.nodes.size())});
    same.tree.nodes.push_back({-1, static_cast<std::int32_t>(tree.path_tokens(row))});
  }
  return same;
}

SameTree with_split_nodes(const Tree& tree, std::uint32_t seed) {
  std::mt19937 random(seed);
  SameTree same{{tree.name + ", nodes split with seed " + std::to_string(seed), {}, {}}, {}};
  std::vector<std::int32_t> upper, lower, cut;  // of each node
  for (const NodeSpec& node : tree.nodes) {
    const std::int32_t parent = node.parent < 0 ? -1 : lower[at(node.parent)];
    upper.push_back(static_cast<std::int32_t>(same.tree.nodes.size()));
    cut.push_back(node.tokens > 1 ? 1 + static_cast<std::int32_t>(random() % std::uint32_t(node.tokens - 1))
                                  : node.tokens);
    same.tree.nodes.push_back({parent, cut.back()});
    if (node.tokens > 1) same.tree.nodes.push_back({upper.back(), node.tokens - cut.back()});
    lower.push_back(static_cast<std::int32_t>(same.tree.nodes.size()) - 1);
  }
  for (const RowSpec& row : tree.rows) {
    const std::int32_t visible = visible_of(tree, row);
    const bool in_upper = visible <= cut[at(row.node)];
    same.tree.rows.push_back(in_upper ? RowSpec{upper[at(row.node)], visible}
                                      : RowSpec{lower[at(row.node)], visible - cut[at(row.node)]});
  }
  same.token_from.resize(static_cast<std::size_t>(tree.tokens()));
  std::iota(same.token_from.begin(), same.token_from.end(), 0);
  return same;
}

SameTree with_permuted_nodes(const Tree& tree, std::uint32_t seed) {
  std::mt19937 random(seed);
  SameTree same{{tree.name + ", nodes permuted with seed " + std::to_string(seed), {}, {}}, {}};
  const std::vector<std::int64_t> first = first_tokens(tree.nodes);
  std::vector<std::int32_t> place(tree.nodes.size(), -1);  // new number of each node
  std::vector<std::int32_t> ready;                         // nodes whose parent has its number
  for (std::size_t node = 0; node < tree.nodes.size(); ++node)
    if (tree.nodes[node].parent < 0) ready.push_back(static_cast<std::int32_t>(node));
  while (!ready.empty()) {
    std::swap(ready[random() % ready.size()], ready.back());
    const std::int32_t node = ready.back();
    ready.pop_back();
    const NodeSpec& spec = tree.nodes[at(node)];
    place[at(node)] = static_cast<std::int32_t>(same.tree.nodes.size());
    same.tree.nodes.push_back({spec.parent < 0 ? -1 : place[at(spec.parent)], spec.tokens});
    for (std::int32_t token = 0; token < spec.tokens; ++token) same.token_from.push_back(first[at(node)] + token);
    for (std::size_t child = 0; child < tree.nodes.size(); ++child)
      if (tree.nodes[child].parent == node) ready.push_back(static_cast<std::int32_t>(child));
  }
  for (const RowSpec& row : tree.rows) same.tree.rows.push_back({place[at(row.node)], row.visible});
  return same;
}

Tree with_longer_leaves(const Tree& tree, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<char> has_child(tree.nodes.size(), 0);
  for (const NodeSpec& node : tree.nodes)
    if (node.parent >= 0) has_child[std::size_t(node.parent)] = 1;
  Tree later = tree;
  for (std::size_t node = 0; node < tree.nodes.size(); ++node)
    if (has_child[node] == 0 && tree.nodes[node].tokens > 0) later.nodes[node].tokens += std::int32_t(random() % 70);
  for (RowSpec& row : later.rows)
    if (row.visible == tree.nodes[std::size_t(row.node)].tokens) row.visible = -1;
  return later;
}

}  // namespace espalier::test
