#include "cases.hpp"

#include <random>
#include <sstream>

namespace espalier::validate {
namespace {

using Nodes = std::vector<NodeSpec>;

std::vector<RowSpec> leaf_rows(const Nodes& nodes) {
  std::vector<char> is_leaf(nodes.size(), 1);
  for (const NodeSpec& node : nodes)
    if (node.parent >= 0) is_leaf[std::size_t(node.parent)] = 0;
  std::vector<RowSpec> rows;
  for (std::size_t node = 0; node < nodes.size(); ++node)
    if (is_leaf[node] != 0) rows.push_back({std::int32_t(node)});
  return rows;
}

NamedTree with_leaf_rows(std::string name, Nodes nodes) {
  std::vector<RowSpec> rows = leaf_rows(nodes);
  return {std::move(name), std::move(nodes), std::move(rows)};
}

/// Level i has counts[i] nodes of tokens[i] tokens, under those of the level above in equal shares.
NamedTree layers(std::string name, const std::vector<std::int32_t>& counts, const std::vector<std::int32_t>& tokens) {
  Nodes nodes;
  std::int32_t above = 0, above_count = 0;
  for (std::size_t level = 0; level < counts.size(); ++level) {
    const auto begin = std::int32_t(nodes.size());
    for (std::int32_t node = 0; node < counts[level]; ++node)
      nodes.push_back({level == 0 ? -1 : above + node * above_count / counts[level], tokens[level]});
    above = begin;
    above_count = counts[level];
  }
  return with_leaf_rows(std::move(name), std::move(nodes));
}

/// A committed context and draft tokens, each a node with a row of its own.
NamedTree token_tree(std::int32_t context, std::int32_t drafts) {
  NamedTree tree{"a context and a tree of draft tokens", {{-1, context}}, {{0}}};
  for (std::int32_t draft = 1; draft < drafts; ++draft) {
    tree.nodes.push_back({draft <= 6 ? 0 : (draft - 3) / 3, 1});
    tree.rows.push_back({draft});
  }
  return tree;
}

NamedTree deep_chain() {
  NamedTree tree{"a deep chain", {}, {}};
  for (std::int32_t node = 0; node < 45; ++node) tree.nodes.push_back({node - 1, 1 + node % 5});
  tree.rows = {{44}, {20}, {44, 2}, {0}};
  return tree;
}

NamedTree chunked_prefill() {
  NamedTree tree{"a row for each of the last tokens of a prompt", {{-1, 100}}, {}};
  for (std::int32_t visible = 60; visible <= 100; ++visible) tree.rows.push_back({0, visible});
  return tree;
}

NamedTree ragged_forest(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::int32_t end) { return std::int32_t(random() % std::uint32_t(end)); };
  NamedTree tree{"a ragged forest", {}, {}};
  const std::int32_t nodes = 10 + below(40);
  for (std::int32_t node = 0; node < nodes; ++node) {
    const std::int32_t parent = node == 0 || below(10) == 0 ? -1 : below(node);
    const std::int32_t kind = below(4);
    tree.nodes.push_back({parent, kind == 0 ? below(3) : kind == 1 ? 1 + below(150) : below(41)});
  }
  const std::int32_t rows = 1 + below(60);
  for (std::int32_t row = 0; row < rows; ++row) {
    const std::int32_t node = below(nodes);
    tree.rows.push_back({node, below(2) == 0 ? -1 : below(tree.nodes[std::size_t(node)].tokens + 1)});
  }
  return tree;
}

std::vector<NamedTree> make_trees(std::uint32_t seed) {
  return {
      layers("three levels", {1, 4, 24}, {320, 40, 17}),
      layers("a wide star", {1, 70}, {257, 3}),
      with_leaf_rows("one path", {{-1, 705}}),
      token_tree(190, 64),
      deep_chain(),
      chunked_prefill(),
      {"empty nodes between others", {{-1, 0}, {0, 33}, {1, 0}, {2, 7}, {1, 0}, {4, 0}, {5, 1}}, {{3}, {6}, {4}, {0}}},
      with_leaf_rows("several roots", {{-1, 20}, {-1, 1}, {-1, 165}, {0, 3}, {2, 0}, {2, 9}, {-1, 0}}),
      {"rows that see 0, some and all tokens of one node",
       {{-1, 18}, {0, 20}, {1, 4}, {1, 0}},
       {{1, 7}, {2, 0}, {1}, {1, 0}, {0, 0}, {3}, {1, 20}, {1, 1}, {2}, {1, 19}, {1, 7}, {2, 3}}},
      {"nodes that no row sees", {{-1, 30}, {0, 17}, {0, 5}, {1, 3}, {-1, 64}}, {{2}, {2}}},
      ragged_forest(seed),
      ragged_forest(seed + 1),
  };
}

}  // namespace

std::string describe(const Case& it) {
  std::ostringstream text;
  text << it.tree.name << ", " << name_of(it.scalar) << ", " << it.heads.query_heads << " / " << it.heads.kv_heads
       << " heads of " << it.heads.head_dim << ", blocks of " << it.block_tokens << " tokens ("
       << (it.layout == TreeLayout::aligned ? "aligned" : "contiguous") << ", "
       << (it.order == CacheOrder::tokens_first ? "tokens" : "heads") << " first, gaps of " << it.gap << "), scale "
       << it.scale << ", soft cap " << it.soft_cap << (it.wants_lse ? ", lse" : ", no lse");
  return text.str();
}

std::vector<Case> make_cases(bool quick, std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto one_of = [&]<class T>(std::initializer_list<T> values) {
    return values.begin()[random() % values.size()];
  };
  std::vector<HeadShape> groups{{4, 4, 0}, {8, 2, 0}, {10, 2, 0}, {8, 1, 0}};
  std::vector<Case> cases;
  std::size_t number = 0;
  for (const NamedTree& tree : make_trees(seed))
    for (const Scalar scalar : {Scalar::bf16, Scalar::f16, Scalar::f32})
      for (HeadShape heads : groups) {
        heads.head_dim = one_of({64, 96, 128, 128, 192, 256});
        const Case it{.tree = tree,
                      .heads = heads,
                      .scalar = scalar,
                      .block_tokens = one_of({1, 5, 16, 16, 32, 64, 128, 256}),
                      .layout = one_of({TreeLayout::aligned, TreeLayout::contiguous}),
                      .order = one_of({CacheOrder::tokens_first, CacheOrder::heads_first}),
                      .gap = one_of({0, 0, 8}),
                      .scale = one_of({0.0f, 0.0f, 0.11f, -0.05f}),
                      .soft_cap = one_of({0.0f, 0.0f, 20.0f}),
                      .wants_lse = one_of({true, true, false})};
        constexpr std::size_t kQuickStep = 7;  // shares no factor with the groups and types
        if (!quick || number++ % kQuickStep == 0) cases.push_back(it);
      }
  return cases;
}

}  // namespace espalier::validate
