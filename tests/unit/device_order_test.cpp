#include "espalier/device_order.hpp"

#include <Kokkos_Core.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "espalier/error.hpp"
#include "support/device_tree.hpp"
#include "support/execution_spaces.hpp"

namespace espalier {
namespace {

using Ints = std::vector<std::int32_t>;

/// A described tree as host arrays, blocks in node order as TreeLayout says.
struct Arrays {
  Ints parent, tokens, first_block, first_offset, row_node, row_visible, block_table;
  int block_tokens;

  Arrays(const std::vector<NodeSpec>& nodes, const std::vector<RowSpec>& rows, int block_tokens_, TreeLayout layout)
      : block_tokens(block_tokens_) {
    const std::vector<std::int64_t> slots = slots_in_node_order(nodes, block_tokens, layout);
    std::size_t token = 0;
    for (const NodeSpec& node : nodes) {
      parent.push_back(node.parent);
      tokens.push_back(node.tokens);
      first_block.push_back(node.tokens == 0 ? -5 : std::int32_t(block_table.size()));  // not read without tokens
      first_offset.push_back(node.tokens == 0 ? -5 : std::int32_t(slots[token] % block_tokens));
      for (std::int32_t i = 0; i < node.tokens; ++i, ++token)
        if (i == 0 || slots[token] % block_tokens == 0)
          block_table.push_back(std::int32_t(slots[token] / block_tokens));
    }
    for (const RowSpec& row : rows) {
      row_node.push_back(row.node);
      row_visible.push_back(row.visible);
    }
  }
};

template <class Exec>
struct Ordering {
  Exec exec;
  DeviceOrder<Exec> order;
  TreeArrays<Exec> tree;

  Ordering(std::int32_t nodes, std::int32_t rows, std::int32_t blocks)
      : order(exec, nodes, rows), tree(exec, TreeCapacity{nodes, rows, blocks}) {}

  void update(const Arrays& host) {
    const auto view = [](const Ints& values) { return test::to_view<Exec>(values); };
    const auto parent = view(host.parent), tokens = view(host.tokens), first_block = view(host.first_block),
               first_offset = view(host.first_offset), row_node = view(host.row_node),
               row_visible = view(host.row_visible), block_table = view(host.block_table);
    order.update(exec, {parent, tokens, first_block, first_offset, row_node, row_visible, block_table},
                 host.block_tokens, tree);
    exec.fence("test::update");
  }

  /// Nothing if the tree is the one that make_snapshot gives.
  std::string difference(const std::vector<NodeSpec>& nodes, const std::vector<RowSpec>& rows, int block_tokens,
                         TreeLayout layout = TreeLayout::aligned) {
    update(Arrays(nodes, rows, block_tokens, layout));
    const DerivedTree derived = order.report(exec);
    const TreeSnapshot expected = make_snapshot(nodes, rows, block_tokens, layout);
    std::int64_t all_tokens = 0;
    for (const NodeSpec& node : nodes) all_tokens += node.tokens;
    if (derived.nodes != expected.nodes() || derived.rows != expected.rows() || derived.tokens != all_tokens ||
        derived.blocks != std::int64_t(expected.block_table.size()))
      return "the report is wrong";
    return test::difference(tree, expected);
  }
};

enum class Shape { any_parent, near_parent, levels, star, chain };

std::vector<NodeSpec> random_nodes(std::int32_t count, Shape shape, std::int32_t most_tokens, std::mt19937& random) {
  const auto below = [&](std::int32_t end) { return std::int32_t(random() % std::uint32_t(end)); };
  std::vector<NodeSpec> nodes;
  for (std::int32_t node = 0; node < count; ++node) {
    std::int32_t parent = -1;
    if (node > 0) {
      switch (shape) {
        case Shape::any_parent: parent = below(node + 1) - 1; break;
        case Shape::near_parent: parent = node - 1 - below(std::min(node, 4)); break;
        case Shape::levels: parent = (node - 1) / 3; break;
        case Shape::star: parent = 0; break;
        case Shape::chain: parent = node - 1; break;
      }
    }
    nodes.push_back({parent, below(most_tokens + 1)});
  }
  return nodes;
}

std::vector<RowSpec> random_rows(const std::vector<NodeSpec>& nodes, std::int32_t count, std::mt19937& random) {
  std::vector<RowSpec> rows;
  for (std::int32_t row = 0; row < count; ++row) {
    const auto node = std::int32_t(random() % nodes.size());
    const std::int32_t tokens = nodes[std::size_t(node)].tokens;
    rows.push_back({node, std::int32_t(random() % std::uint32_t(tokens + 2)) - 1});
  }
  return rows;
}

std::vector<RowSpec> leaf_rows(const std::vector<NodeSpec>& nodes) {
  std::vector<char> is_leaf(nodes.size(), 1);
  for (const NodeSpec& node : nodes)
    if (node.parent >= 0) is_leaf[std::size_t(node.parent)] = 0;
  std::vector<RowSpec> rows;
  for (std::size_t node = 0; node < nodes.size(); ++node)
    if (is_leaf[node]) rows.push_back({std::int32_t(node)});
  return rows;
}

template <class Call>
std::string refusal(const Call& call, ErrorCode code = ErrorCode::invalid_argument) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "nothing was thrown";
}

// A forest whose node order is not its line order:  0 -> (1 -> 4, 2),  3 -> 5
const std::vector<NodeSpec> kForest{{-1, 5}, {0, 3}, {0, 4}, {-1, 1}, {1, 2}, {3, 0}};

}  // namespace

TEMPLATE_LIST_TEST_CASE("the device orders a described forest as the host does", "[device_order]",
                        test::ExecutionSpaces) {
  Ordering<TestType> ordering(6, 6, 12);
  REQUIRE(ordering.difference(kForest, leaf_rows(kForest), 4) == "");
  REQUIRE(ordering.difference(kForest, leaf_rows(kForest), 4, TreeLayout::contiguous) == "");
  REQUIRE(ordering.difference(kForest, {{2}, {0, 3}, {2, 1}, {0, 0}, {0, 3}, {4, 2}}, 16) == "");
  REQUIRE(ordering.difference({{-1, 0}}, {{0}}, 1) == "");
}

TEMPLATE_LIST_TEST_CASE("without row_visible every row sees all of its node", "[device_order]", test::ExecutionSpaces) {
  Ordering<TestType> ordering(6, 3, 12);
  Arrays arrays(kForest, {{2}, {4}, {5}}, 4, TreeLayout::aligned);
  arrays.row_visible.clear();
  ordering.update(arrays);
  REQUIRE(test::difference(ordering.tree, make_snapshot(kForest, {}, 4)) == "");
}

TEMPLATE_LIST_TEST_CASE("a forest may have nodes but no rows, or nothing at all", "[device_order]",
                        test::ExecutionSpaces) {
  Ordering<TestType> ordering(2, 1, 2);
  ordering.update(Arrays({{-1, 3}, {0, 1}}, {}, 4, TreeLayout::aligned));
  REQUIRE(ordering.tree.rows() == 0);
  const TreeSnapshot tree = test::download(ordering.tree, 2);
  REQUIRE(tree.parent == Ints{-1, 0});
  REQUIRE(tree.row_end == Ints{0, 0});
  ordering.update(Arrays({}, {}, 4, TreeLayout::aligned));
  REQUIRE(test::device_counts(ordering.tree) == std::array<std::int32_t, 4>{0, 0, 4, 0});
}

TEMPLATE_LIST_TEST_CASE("random forests come out as make_snapshot gives them", "[device_order]",
                        test::ExecutionSpaces) {
  Ordering<TestType> ordering(300, 300, 20000);
  for (std::uint32_t seed = 1; seed <= 4000; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto nodes = random_nodes(1 + std::int32_t(random() % (seed % 10 == 0 ? 300 : 24)), Shape(random() % 5),
                                    std::int32_t(random() % 50), random);
    const bool only_leaves = random() % 3 == 0;
    const auto rows = only_leaves ? leaf_rows(nodes) : random_rows(nodes, 1 + std::int32_t(random() % 40), random);
    const auto layout = random() % 2 == 0 ? TreeLayout::aligned : TreeLayout::contiguous;
    REQUIRE(ordering.difference(nodes, rows, std::vector<int>{1, 3, 16, 32}[random() % 4], layout) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("forests on both sides of what one team takes come out the same way", "[device_order]",
                        test::ExecutionSpaces) {
  Ordering<TestType> ordering(5000, 6000, 40000);
  for (std::uint32_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto nodes =
        random_nodes(4090 + std::int32_t(random() % 12), Shape(seed % 5), std::int32_t(random() % 30), random);
    const auto rows = seed % 2 == 0 ? leaf_rows(nodes) : random_rows(nodes, std::int32_t(random() % 6000), random);
    if (rows.empty()) continue;
    REQUIRE(ordering.difference(nodes, rows, 16) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("forests on both sides of what a team's scratch memory takes come out the same way",
                        "[device_order]", test::ExecutionSpaces) {
  Ordering<TestType> ordering(1800, 1800, 20000);
  for (std::int32_t nodes = 1720; nodes <= 1800; nodes += 8) {
    CAPTURE(nodes);
    std::mt19937 random(static_cast<std::uint32_t>(nodes));
    const auto forest = random_nodes(nodes, Shape::any_parent, 40, random);
    REQUIRE(ordering.difference(forest, random_rows(forest, nodes, random), 16) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("100,000 nodes come out right, whatever their shape", "[device_order]", test::ExecutionSpaces) {
  constexpr std::int32_t kNodes = 100'000;
  Ordering<TestType> ordering(kNodes, kNodes, 4 * kNodes);
  for (const Shape shape : {Shape::any_parent, Shape::near_parent, Shape::levels, Shape::star, Shape::chain}) {
    CAPTURE(int(shape));
    std::mt19937 random(7);
    const auto nodes = random_nodes(kNodes, shape, 40, random);
    REQUIRE(ordering.difference(nodes, leaf_rows(nodes), 16) == "");
    REQUIRE(ordering.difference(nodes, random_rows(nodes, kNodes, random), 16) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("a description that is wrong gives rows that see nothing, and a report that names the place",
                        "[device_order]", test::ExecutionSpaces) {
  Ordering<TestType> ordering(6, 3, 12);
  const std::vector<RowSpec> rows{{2}, {4}, {5}};
  const auto refused = [&](auto&& spoil, ErrorCode code = ErrorCode::invalid_argument) {
    Arrays arrays(kForest, rows, 4, TreeLayout::aligned);
    spoil(arrays);
    ordering.update(arrays);
    const std::string message = refusal([&] { (void)ordering.order.report(ordering.exec); }, code);
    TreeSnapshot nothing;
    nothing.block_tokens = 4;
    nothing.parent = {-1};
    nothing.tokens = nothing.first_block = nothing.first_offset = nothing.row_begin = {0};
    nothing.subtree_end = {1};
    nothing.row_end = {3};
    nothing.row_node = nothing.row_visible = {0, 0, 0};
    nothing.row_index = {0, 1, 2};
    CHECK(test::difference(ordering.tree, nothing) == "");
    CHECK(ordering.difference(kForest, rows, 4) == "");
    return message;
  };
  REQUIRE(refused([](Arrays& a) { a.parent[3] = 3; }) ==
          "DeviceOrder::update: node 3 has parent 3, expected a node before it, or -1 for a root");
  REQUIRE(refused([](Arrays& a) { a.parent[5] = 1000000, a.parent[1] = -2; }) ==
          "DeviceOrder::update: node 1 has parent -2, expected a node before it, or -1 for a root");
  REQUIRE(refused([](Arrays& a) { a.tokens[2] = -4; }) ==
          "DeviceOrder::update: node 2 has -4 tokens, expected 0 or more");
  REQUIRE(refused([](Arrays& a) { a.first_block[4] = 6; }) ==
          "DeviceOrder::update: node 4 begins in entry 6 of the block table, expected all of its blocks in the 6 "
          "entries, and first_offset in 0 .. 3");
  REQUIRE(refused([](Arrays& a) { a.first_offset[4] = 4; }) ==
          "DeviceOrder::update: node 4 begins in entry 5 of the block table, expected all of its blocks in the 6 "
          "entries, and first_offset in 0 .. 3");
  REQUIRE(refused([](Arrays& a) { a.row_node[1] = 6; }) ==
          "DeviceOrder::update: row 1 is at node 6, expected one of the nodes");
  REQUIRE(refused([](Arrays& a) { a.row_visible[2] = 1; }) ==
          "DeviceOrder::update: row 2 sees 1 tokens of its node, expected no more than it has, or -1 for all");
  REQUIRE(refused([](Arrays& a) { a.tokens[0] = 2147483647; }) ==
          "DeviceOrder::update: node 0 begins in entry 0 of the block table, expected all of its blocks in the 6 "
          "entries, and first_offset in 0 .. 3");
}

TEMPLATE_LIST_TEST_CASE("a block table without room is reported with capacity and need", "[device_order]",
                        test::ExecutionSpaces) {
  Ordering<TestType> ordering(6, 3, 5);
  ordering.update(Arrays(kForest, leaf_rows(kForest), 4, TreeLayout::aligned));
  REQUIRE(refusal([&] { (void)ordering.order.report(ordering.exec); }, ErrorCode::capacity_exceeded) ==
          "DeviceOrder::update: the tree has 6 entries of the block table, its arrays have room for 5");
  REQUIRE(test::device_counts(ordering.tree) == std::array<std::int32_t, 4>{1, 3, 4, 0});
}

TEMPLATE_LIST_TEST_CASE("calls that do not fit are refused before anything runs", "[device_order]",
                        test::ExecutionSpaces) {
  Ordering<TestType> ordering(6, 2, 12);
  REQUIRE(refusal([&] { (void)ordering.order.report(ordering.exec); }, ErrorCode::stale_plan) ==
          "DeviceOrder::report: there was no update yet");
  REQUIRE(refusal([&] { ordering.update(Arrays(kForest, leaf_rows(kForest), 4, TreeLayout::aligned)); },
                  ErrorCode::capacity_exceeded) == "DeviceOrder::update: the tree has 3 rows, the capacity is 2");
  std::vector<NodeSpec> nodes = kForest;
  nodes.push_back({-1, 1});
  REQUIRE(refusal([&] { ordering.update(Arrays(nodes, {}, 4, TreeLayout::aligned)); }, ErrorCode::capacity_exceeded) ==
          "DeviceOrder::update: the tree has 7 nodes, the capacity is 6");
  Arrays arrays(kForest, {}, 4, TreeLayout::aligned);
  arrays.tokens.pop_back();
  REQUIRE(refusal([&] { ordering.update(arrays); }) ==
          "DeviceOrder::update: tokens has 5 entries, expected 6, one for each node");
  REQUIRE(refusal([&] { ordering.update(Arrays({}, {{0}}, 4, TreeLayout::aligned)); }) ==
          "DeviceOrder::update: there are 1 rows, but no nodes");
  REQUIRE(refusal([&] { DeviceOrder<TestType>(ordering.exec, 1, -1); }) ==
          "DeviceOrder: the capacity of rows is -1, expected 0 .. 1073741824");
}

}  // namespace espalier
