#pragma once
// Named workloads and random forests, as trees in line order, laid out in shuffled blocks. Host only, no dependencies.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace espalier::perf {

struct NodeSpec {
  int parent;
  int tokens;
};

struct RowSpec {
  int node;
  int visible = -1;  ///< -1: all tokens of its node
};

struct Workload {
  std::vector<NodeSpec> nodes;  ///< parents before children
  std::vector<RowSpec> rows;
};

/// A tree in line order: nodes depth first, rows by (node, visible).
struct Tree {
  int block_tokens = 0;
  std::vector<int> parent, tokens;
  std::vector<int> first_block, first_offset;        ///< entry of block_table, place inside that block
  std::vector<int> row_begin, own_row_end, row_end;  ///< rows of each node's subtree; its own ones come first
  std::vector<int> row_node, row_visible, row_index;
  std::vector<int> block_table;
  int blocks = 0;

  [[nodiscard]] int nodes() const { return static_cast<int>(parent.size()); }
  [[nodiscard]] int rows() const { return static_cast<int>(row_node.size()); }
};

namespace workload_detail {

inline std::vector<int> numbers(const std::string& text) {
  std::vector<int> values;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    values.push_back(std::stoi(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return values;
}

inline void one_row_per_leaf(Workload& w) {
  std::vector<bool> leaf(w.nodes.size(), true);
  for (const NodeSpec& node : w.nodes) {
    if (node.parent >= 0) leaf[static_cast<std::size_t>(node.parent)] = false;
  }
  for (std::size_t i = 0; i < w.nodes.size(); ++i) {
    if (leaf[i]) w.rows.push_back({static_cast<int>(i)});
  }
}

}  // namespace workload_detail

/// @param name  `layers:S0,S1,.../L0,L1,...`, `star:P,B,T`, or `chain:P,N` (a context and one node of N rows, row i of
///              which sees i + 1 of the node's tokens: a chunk of prefill)
inline Workload make_workload(const std::string& name) {
  using workload_detail::numbers;
  Workload w;
  const std::string kind = name.substr(0, name.find(':')), rest = name.substr(name.find(':') + 1);
  if (kind == "layers") {
    const std::vector<int> counts = numbers(rest.substr(0, rest.find('/')));
    const std::vector<int> tokens = numbers(rest.substr(rest.find('/') + 1));
    std::vector<int> above;
    for (std::size_t level = 0; level < counts.size(); ++level) {
      std::vector<int> here;
      for (int i = 0; i < counts[level]; ++i) {
        const std::int64_t place = static_cast<std::int64_t>(i) * static_cast<std::int64_t>(above.size());
        here.push_back(static_cast<int>(w.nodes.size()));
        w.nodes.push_back({above.empty() ? -1 : above[static_cast<std::size_t>(place / counts[level])], tokens[level]});
      }
      above = here;
    }
    workload_detail::one_row_per_leaf(w);
  } else if (kind == "star") {
    const std::vector<int> p = numbers(rest);
    w.nodes.push_back({-1, p[0]});
    for (int i = 0; i < p[1]; ++i) w.nodes.push_back({0, p[2]});
    workload_detail::one_row_per_leaf(w);
  } else if (kind == "chain") {
    const std::vector<int> p = numbers(rest);
    w.nodes = {{-1, p[0]}, {0, p[1]}};
    for (int i = 0; i < p[1]; ++i) w.rows.push_back({1, i + 1});
  } else {
    throw std::invalid_argument("unknown workload " + name);
  }
  return w;
}

/// A random forest with everything a plan may meet: several roots, empty nodes, rows inside nodes, limited rows, rows
/// with an empty path, nodes of many rows and of few, single tokens.
inline Workload random_workload(std::mt19937& random) {
  const auto up_to = [&](int most) { return static_cast<int>(random() % static_cast<unsigned>(most + 1)); };
  Workload w;
  const int nodes = 1 + up_to(60), style = up_to(3);
  for (int i = 0; i < nodes; ++i) {
    const int parent = i == 0 || up_to(9) == 0 ? -1 : std::max(0, i - 1 - up_to(style == 0 ? 2 : i - 1));
    const int length = up_to(9);
    const int tokens = length == 0  ? 0
                       : length < 4 ? 1 + up_to(3)
                       : length < 8 ? up_to(100)
                                    : up_to(style == 1 ? 900 : 400);
    w.nodes.push_back({parent, tokens});
  }
  const int rows = 1 + up_to(style == 2 ? 150 : 40);
  for (int i = 0; i < rows; ++i) {
    const int node = up_to(nodes - 1), tokens = w.nodes[static_cast<std::size_t>(node)].tokens;
    w.rows.push_back({node, up_to(2) == 0 ? up_to(tokens) : -1});
  }
  return w;
}

/// How the blocks of a tree are taken.
struct Layout {
  int block_tokens = 32;
  bool shuffled = true;
  bool contiguous = false;  ///< nodes follow one another inside blocks, so that nodes begin at any offset
};

inline Tree make_tree(const Workload& w, const Layout& layout) {
  const int nodes = static_cast<int>(w.nodes.size());
  std::vector<std::vector<int>> children(static_cast<std::size_t>(nodes));
  std::vector<int> order, stack, place(static_cast<std::size_t>(nodes));
  for (int i = nodes - 1; i >= 0; --i) {
    const int parent = w.nodes[static_cast<std::size_t>(i)].parent;
    if (parent < 0)
      stack.push_back(i);
    else
      children[static_cast<std::size_t>(parent)].push_back(i);  // in reverse, as the stack wants them
  }
  while (!stack.empty()) {
    const int node = stack.back();
    stack.pop_back();
    place[static_cast<std::size_t>(node)] = static_cast<int>(order.size());
    order.push_back(node);
    for (int child : children[static_cast<std::size_t>(node)]) stack.push_back(child);
  }
  Tree t;
  t.block_tokens = layout.block_tokens;
  std::vector<int> by_line(w.rows.size());
  std::iota(by_line.begin(), by_line.end(), 0);
  const auto visible_of = [&](int row) {
    const RowSpec& r = w.rows[static_cast<std::size_t>(row)];
    return r.visible < 0 ? w.nodes[static_cast<std::size_t>(r.node)].tokens : r.visible;
  };
  const auto node_of = [&](int row) {
    return place[static_cast<std::size_t>(w.rows[static_cast<std::size_t>(row)].node)];
  };
  std::stable_sort(by_line.begin(), by_line.end(), [&](int a, int b) {
    return std::pair(node_of(a), visible_of(a)) < std::pair(node_of(b), visible_of(b));
  });
  for (int row : by_line) {
    t.row_node.push_back(node_of(row));
    t.row_visible.push_back(visible_of(row));
    t.row_index.push_back(row);
  }
  int row = 0;
  for (int i = 0; i < nodes; ++i) {
    const NodeSpec& node = w.nodes[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
    t.parent.push_back(node.parent < 0 ? -1 : place[static_cast<std::size_t>(node.parent)]);
    t.tokens.push_back(node.tokens);
    t.row_begin.push_back(row);
    while (row < t.rows() && t.row_node[static_cast<std::size_t>(row)] == i) ++row;
    t.own_row_end.push_back(row);
    t.row_end.push_back(row);
  }
  for (int i = nodes - 1; i >= 0; --i) {  // children lie behind their parents
    const int parent = t.parent[static_cast<std::size_t>(i)];
    if (parent >= 0) {
      int& end = t.row_end[static_cast<std::size_t>(parent)];
      end = std::max(end, t.row_end[static_cast<std::size_t>(i)]);
    }
  }
  std::int64_t slot = 0;
  for (int i = 0; i < nodes; ++i) {
    const int tokens = t.tokens[static_cast<std::size_t>(i)];
    if (layout.contiguous) {  // nodes share blocks: each has its own entries of the table for them
      const int first = static_cast<int>(slot / layout.block_tokens);
      const int end = static_cast<int>((slot + tokens + layout.block_tokens - 1) / layout.block_tokens);
      t.first_block.push_back(static_cast<int>(t.block_table.size()));
      t.first_offset.push_back(static_cast<int>(slot % layout.block_tokens));
      for (int b = first; b < std::max(end, first + 1); ++b) t.block_table.push_back(b);
      slot += tokens;
      t.blocks = std::max(t.blocks, end);
    } else {
      t.first_block.push_back(static_cast<int>(t.block_table.size()));
      t.first_offset.push_back(0);
      for (int b = 0; b * layout.block_tokens < tokens; ++b) t.block_table.push_back(t.blocks++);
    }
  }
  t.blocks += 1;
  if (layout.shuffled) {
    std::vector<int> shuffle(static_cast<std::size_t>(t.blocks));
    std::iota(shuffle.begin(), shuffle.end(), 0);
    std::mt19937 random(5);
    std::shuffle(shuffle.begin(), shuffle.end(), random);
    for (int& block : t.block_table) block = shuffle[static_cast<std::size_t>(block)];
  }
  return t;
}

}  // namespace espalier::perf
