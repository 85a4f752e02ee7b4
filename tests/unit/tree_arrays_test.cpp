#include "espalier/tree_arrays.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <numeric>
#include <random>
#include <string>

#include "espalier/error.hpp"
#include "support/execution_spaces.hpp"

namespace espalier {
namespace {

using Ints = std::vector<std::int32_t>;

Ints ints_of(const std::vector<BlockId>& blocks) {
  Ints ints;
  for (const BlockId block : blocks) ints.push_back(std::int32_t(block));
  return ints;
}

/// The message of the Error{invalid_argument} that the call throws.
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

std::string refusal_of(std::vector<NodeSpec> nodes, std::vector<RowSpec> rows = {}, int block_tokens = 4) {
  return refusal([&] { (void)make_snapshot(nodes, rows, block_tokens); });
}

/// Slots of a node's tokens, read from the snapshot's block table.
std::vector<std::int64_t> slots_of(const TreeSnapshot& tree, std::int32_t node) {
  std::vector<std::int64_t> slots;
  for (std::int32_t token = 0; token < tree.tokens[node]; ++token) {
    const std::int32_t place = tree.first_offset[node] + token;
    const auto block = std::int64_t(tree.block_table.at(tree.first_block[node] + place / tree.block_tokens));
    slots.push_back(block * tree.block_tokens + place % tree.block_tokens);
  }
  return slots;
}

// A forest whose node order is not its line order:  0 -> (1 -> 4, 2),  3 -> 5
const std::vector<NodeSpec> kForest{{-1, 5}, {0, 3}, {0, 4}, {-1, 1}, {1, 2}, {3, 0}};

template <class Exec>
struct HostTree {
  Ints parent, tokens, first_block, first_offset, subtree_end, row_begin, row_end, row_node, row_visible, row_index,
      block_table;
  Ints counts;

  explicit HostTree(const TreeArrays<Exec>& arrays) {
    const detail::TreeView view = arrays.view();
    const auto copy = [](const std::int32_t* first, std::int32_t count) {
      return test::to_vector(
          Kokkos::View<const std::int32_t*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(
              first, std::size_t(count)));
    };
    counts = copy(arrays.device_counts(), 4);
    parent = copy(view.parent, view.nodes);
    tokens = copy(view.tokens, view.nodes);
    first_block = copy(view.first_block, view.nodes);
    first_offset = copy(view.first_offset, view.nodes);
    subtree_end = copy(view.subtree_end, view.nodes);
    row_begin = copy(view.row_begin, view.nodes);
    row_end = copy(view.row_end, view.nodes);
    row_node = copy(view.row_node, view.rows);
    row_visible = copy(view.row_visible, view.rows);
    row_index = copy(view.row_index, view.rows);
    block_table = copy(view.block_table, counts[3]);
  }

  [[nodiscard]] bool holds(const TreeSnapshot& tree) const {
    return counts == Ints{tree.nodes(), tree.rows(), tree.block_tokens, std::int32_t(tree.block_table.size())} &&
           parent == tree.parent && tokens == tree.tokens && first_block == tree.first_block &&
           first_offset == tree.first_offset && subtree_end == tree.subtree_end && row_begin == tree.row_begin &&
           row_end == tree.row_end && row_node == tree.row_node && row_visible == tree.row_visible &&
           row_index == tree.row_index && block_table == ints_of(tree.block_table);
  }
};

}  // namespace

TEST_CASE("a described forest is laid out depth first, each node in blocks of its own", "[tree_arrays]") {
  const TreeSnapshot tree = make_snapshot(kForest, {}, 4);
  REQUIRE(tree.block_tokens == 4);
  REQUIRE(tree.parent == Ints{-1, 0, 1, 0, -1, 4});  // nodes 0, 1, 4, 2, 3, 5
  REQUIRE(tree.tokens == Ints{5, 3, 2, 4, 1, 0});
  REQUIRE(tree.subtree_end == Ints{4, 3, 3, 4, 6, 6});
  REQUIRE(tree.first_block == Ints{0, 2, 3, 4, 5, 6});
  REQUIRE(tree.first_offset == Ints{0, 0, 0, 0, 0, 0});
  REQUIRE(ints_of(tree.block_table) == Ints{0, 1, 2, 5, 3, 4});
  REQUIRE(tree.row_node == Ints{2, 3, 5});  // leaves 2, 4, 5 in node order are rows 0, 1, 2
  REQUIRE(tree.row_index == Ints{1, 0, 2});
  REQUIRE(tree.row_visible == Ints{2, 4, 0});
  REQUIRE(tree.row_begin == Ints{0, 0, 0, 1, 2, 2});
  REQUIRE(tree.row_end == Ints{2, 1, 1, 2, 3, 3});
}

TEST_CASE("a contiguous layout lets nodes share the block between them", "[tree_arrays]") {
  const TreeSnapshot tree = make_snapshot(kForest, {}, 4, TreeLayout::contiguous);
  REQUIRE(tree.first_block == Ints{0, 2, 3, 4, 5, 6});
  REQUIRE(tree.first_offset == Ints{0, 1, 1, 0, 0, 0});
  // Node 0: slots 0-4, 1: 5-7, 2: 8-11, 3: 12, 4: 13-14
  REQUIRE(ints_of(tree.block_table) == Ints{0, 1, 1, 3, 2, 3});
}

TEST_CASE("rows are sorted by node, visible tokens and the caller's order", "[tree_arrays]") {
  const std::vector<RowSpec> rows{{2}, {0, 3}, {2, 1}, {0, 0}, {0, 3}, {4, 2}};
  const TreeSnapshot tree = make_snapshot(kForest, rows, 16);
  REQUIRE(tree.row_node == Ints{0, 0, 0, 2, 3, 3});
  REQUIRE(tree.row_visible == Ints{0, 3, 3, 2, 1, 4});
  REQUIRE(tree.row_index == Ints{3, 1, 4, 5, 2, 0});
  REQUIRE(tree.row_begin == Ints{0, 3, 3, 4, 6, 6});
  REQUIRE(tree.row_end == Ints{6, 4, 4, 6, 6, 6});
}

TEST_CASE("a tree without nodes has no rows", "[tree_arrays]") {
  const TreeSnapshot tree = make_snapshot({}, {}, 1);
  REQUIRE(tree.nodes() == 0);
  REQUIRE(tree.rows() == 0);
  REQUIRE(tree.block_table.empty());
  REQUIRE(slots_in_node_order({}, 1).empty());
}

TEST_CASE("what is wrong with a described tree is named", "[tree_arrays]") {
  REQUIRE(refusal_of({{-1, 1}, {1, 1}}) ==
          "make_snapshot: node 1 has parent 1, expected a node before it, or -1 for a root");
  REQUIRE(refusal_of({{-1, 1}, {0, 1}, {9, 1}}) ==
          "make_snapshot: node 2 has parent 9, expected a node before it, or -1 for a root");
  REQUIRE(refusal_of({{-2, 1}}) == "make_snapshot: node 0 has parent -2, expected a node before it, or -1 for a root");
  REQUIRE(refusal_of({{-1, -3}}) == "make_snapshot: node 0 has -3 tokens, expected 0 or more");
  REQUIRE(refusal_of({{-1, 2147483647}, {0, 1}}) ==
          "make_snapshot: nodes 0 .. 1 have 2147483648 tokens, expected at most 2147483647");
  REQUIRE(refusal_of({{-1, 1}}, {{0}, {1}}) == "make_snapshot: row 1 is at node 1, expected one of the 1 nodes");
  REQUIRE(refusal_of({{-1, 1}}, {{-1}}) == "make_snapshot: row 0 is at node -1, expected one of the 1 nodes");
  REQUIRE(refusal_of({}, {{0}}) == "make_snapshot: row 0 is at node 0, expected one of the 0 nodes");
  REQUIRE(refusal_of({{-1, 5}}, {{0, 6}}) ==
          "make_snapshot: row 0 sees 6 tokens of node 0, expected 0 .. 5, or -1 for all");
  REQUIRE(refusal_of({{-1, 5}}, {{0, -2}}) ==
          "make_snapshot: row 0 sees -2 tokens of node 0, expected 0 .. 5, or -1 for all");
  REQUIRE(refusal_of({{-1, 5}}, {}, 0) == "make_snapshot: block_tokens is 0, expected 1 .. 256");
  REQUIRE(refusal_of({{-1, 5}}, {}, 257) == "make_snapshot: block_tokens is 257, expected 1 .. 256");
  REQUIRE(refusal([] { (void)slots_in_node_order(std::vector<NodeSpec>{{3, 5}}, 8); }) ==
          "slots_in_node_order: node 0 has parent 3, expected a node before it, or -1 for a root");
}

TEST_CASE("a chain of 100,000 nodes is laid out without recursion", "[tree_arrays]") {
  const std::int32_t depth = 100'000;
  std::vector<NodeSpec> chain;
  for (std::int32_t node = 0; node < depth; ++node) chain.push_back({node - 1, 1});
  const TreeSnapshot tree = make_snapshot(chain, {}, 16, TreeLayout::contiguous);
  REQUIRE(tree.rows() == 1);
  REQUIRE(tree.row_node[0] == depth - 1);
  REQUIRE(tree.row_end == Ints(std::size_t(depth), 1));
  REQUIRE(tree.parent[depth - 1] == depth - 2);
  REQUIRE(slots_of(tree, depth - 1) == std::vector<std::int64_t>{depth - 1});
}

TEST_CASE("the slots in node order are those that the snapshot's block table gives", "[tree_arrays]") {
  const std::uint64_t seed = 7;
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const auto below = [&](int limit) { return int(random() % std::uint64_t(limit)); };
  for (int round = 0; round < 100; ++round) {
    std::vector<NodeSpec> nodes;
    const int count = 1 + below(30);
    for (int node = 0; node < count; ++node) nodes.push_back({below(node + 1) - 1, below(20)});
    const int block_tokens = 1 + below(9);
    const TreeLayout layout = below(2) == 0 ? TreeLayout::aligned : TreeLayout::contiguous;
    CAPTURE(round, block_tokens, layout);

    // One row per node tells which place of the line each node has.
    std::vector<RowSpec> rows;
    for (int node = 0; node < count; ++node) rows.push_back({node});
    const TreeSnapshot tree = make_snapshot(nodes, rows, block_tokens, layout);
    std::vector<std::int32_t> place(nodes.size());
    for (int row = 0; row < count; ++row) place[tree.row_index[row]] = tree.row_node[row];

    std::vector<std::int64_t> slots;
    for (int node = 0; node < count; ++node) {
      const auto own = slots_of(tree, place[node]);
      slots.insert(slots.end(), own.begin(), own.end());
      REQUIRE(tree.parent[place[node]] == (nodes[node].parent < 0 ? -1 : place[nodes[node].parent]));
    }
    REQUIRE(slots == slots_in_node_order(nodes, block_tokens, layout));
  }
}

TEMPLATE_LIST_TEST_CASE("an upload holds what the snapshot holds", "[tree_arrays]", test::ExecutionSpaces) {
  const TestType exec;
  const TreeSnapshot first = make_snapshot(kForest, {}, 4);
  const TreeSnapshot second = make_snapshot(kForest, std::vector<RowSpec>{{0, 2}, {4}, {4}}, 3, TreeLayout::contiguous);
  TreeArrays<TestType> tree(exec, {10, 20, 30});
  const detail::TreeView before = tree.view();
  REQUIRE(HostTree<TestType>(tree).holds(TreeSnapshot{}));

  tree.upload(exec, first);
  exec.fence();
  REQUIRE(HostTree<TestType>(tree).holds(first));

  tree.upload(exec, second);
  exec.fence();
  REQUIRE(HostTree<TestType>(tree).holds(second));
  REQUIRE(tree.nodes() == 6);
  REQUIRE(tree.rows() == 3);
  REQUIRE(tree.block_tokens() == 3);
  REQUIRE(tree.view().parent == before.parent);
  REQUIRE(tree.view().row_index == before.row_index);
  REQUIRE(tree.view().block_table == before.block_table);
}

TEMPLATE_LIST_TEST_CASE("many uploads in a row need no wait between them", "[tree_arrays]", test::ExecutionSpaces) {
  const TestType exec;
  TreeArrays<TestType> tree(exec, {1, 1, 1000});
  TreeSnapshot last;
  for (int round = 0; round < 50; ++round) {
    last = make_snapshot(std::vector<NodeSpec>{{-1, round * 20}}, {}, 1);
    tree.upload(exec, last);
  }
  exec.fence();
  REQUIRE(HostTree<TestType>(tree).holds(last));
}

TEMPLATE_LIST_TEST_CASE("a snapshot beyond the capacity is refused and the content stays", "[tree_arrays]",
                        test::ExecutionSpaces) {
  const TestType exec;
  const TreeSnapshot forest = make_snapshot(kForest, {}, 4);  // 6 nodes, 3 rows, 6 blocks
  const TreeSnapshot small = make_snapshot(std::vector<NodeSpec>{{-1, 2}}, {}, 4);
  const auto refusal_with = [&](TreeCapacity capacity) {
    TreeArrays<TestType> tree(exec, capacity);
    tree.upload(exec, small);
    const std::string message = refusal([&] { tree.upload(exec, forest); }, ErrorCode::capacity_exceeded);
    exec.fence();
    CHECK(HostTree<TestType>(tree).holds(small));
    CHECK(tree.nodes() == 1);
    return message;
  };
  REQUIRE(refusal_with({5, 3, 6}) == "TreeArrays::upload: the tree has 6 nodes, the capacity is 5");
  REQUIRE(refusal_with({6, 2, 6}) == "TreeArrays::upload: the tree has 3 rows, the capacity is 2");
  REQUIRE(refusal_with({6, 3, 5}) ==
          "TreeArrays::upload: the tree has 6 entries of the block table, the capacity is 5");
  REQUIRE(refusal([&] { const TreeArrays<TestType> tree(exec, {1, -1, 1}); }) ==
          "TreeArrays: capacity.rows is -1, expected 0 or more");
}

TEMPLATE_LIST_TEST_CASE("a snapshot whose arrays disagree is refused", "[tree_arrays]", test::ExecutionSpaces) {
  const TestType exec;
  TreeArrays<TestType> tree(exec, {10, 10, 10});
  TreeSnapshot broken = make_snapshot(kForest, {}, 4);
  broken.row_end.pop_back();
  REQUIRE(refusal([&] { tree.upload(exec, broken); }) ==
          "TreeArrays::upload: an array over the nodes has 5 entries, expected 6");
}

TEMPLATE_LIST_TEST_CASE("arrays made from a snapshot are of its size, also of an empty one", "[tree_arrays]",
                        test::ExecutionSpaces) {
  const TestType exec;
  const TreeSnapshot forest = make_snapshot(kForest, {}, 2);
  const TreeArrays<TestType> tree(exec, forest);
  const TreeArrays<TestType> empty(exec, TreeSnapshot{});
  exec.fence();
  REQUIRE(tree.capacity().nodes == 6);
  REQUIRE(tree.capacity().rows == 3);
  REQUIRE(HostTree<TestType>(tree).holds(forest));
  REQUIRE(HostTree<TestType>(empty).holds(TreeSnapshot{}));
}

}  // namespace espalier
