#include "espalier/block_tables.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "espalier/error.hpp"
#include "support/block_table_model.hpp"
#include "support/device_tree.hpp"
#include "support/execution_spaces.hpp"

namespace espalier {
namespace {

using test::HostTables;
using Ints = std::vector<std::int32_t>;

/// Tables in the memory of an execution space. Entries behind a sequence's blocks, and the gap between rows, hold
/// ids that are no blocks.
template <class Exec>
struct DeviceTables {
  static constexpr std::int32_t kGarbage = -7;
  Kokkos::View<std::int32_t*, typename Exec::memory_space> memory;
  Kokkos::View<std::int32_t*, typename Exec::memory_space> lengths;
  BlockTables<Exec> tables;

  explicit DeviceTables(const HostTables& host, std::int32_t spare_blocks = 0, std::int32_t gap = 0) {
    const auto max_blocks = std::size_t(host.max_blocks() + spare_blocks);
    const std::size_t stride = max_blocks + std::size_t(gap);
    const auto sequences = std::size_t(host.sequences());
    Ints entries(sequences * stride, kGarbage);
    for (std::size_t s = 0; s < sequences; ++s)
      std::ranges::copy(host.blocks[s], entries.begin() + std::ptrdiff_t(s * stride));
    memory = test::to_view<Exec>(entries);
    lengths = test::to_view<Exec>(host.lengths);
    const Kokkos::LayoutStride layout(sequences, stride, max_blocks, 1);
    tables.blocks = decltype(tables.blocks)(memory.data(), layout);
    tables.lengths = lengths;
    tables.block_tokens = host.block_tokens;
  }
};

template <class Exec>
struct Reading {
  Exec exec;
  BlockTableReader<Exec> reader;
  TreeArrays<Exec> tree;

  Reading(std::int32_t sequences, std::int32_t pool_blocks, const TreeCapacity& capacity)
      : reader(exec, {sequences, pool_blocks}), tree(exec, capacity) {}
  explicit Reading(const HostTables& host)
      : Reading(host.sequences(), host.pool_blocks, {2 * host.sequences(), host.sequences(), host.all_blocks()}) {}

  /// Nothing if the tree of the tables is what it should be.
  std::string difference(const HostTables& host, std::int32_t spare_blocks = 0, std::int32_t gap = 0) {
    const DeviceTables<Exec> tables(host, spare_blocks, gap);
    reader.update(exec, tables.tables, tree);
    const DerivedTree derived = reader.report(exec);
    const TreeSnapshot expected = tree_of(host);
    std::int64_t tokens = 0;
    for (const std::int32_t node_tokens : expected.tokens) tokens += node_tokens;
    if (derived.nodes != expected.nodes() || derived.rows != expected.rows() || derived.tokens != tokens ||
        derived.blocks != std::int64_t(expected.block_table.size()))
      return "the report is wrong";
    return test::difference(tree, expected);
  }
};

template <class Exec>
TreeSnapshot tree_on_device(const HostTables& host) {
  Reading<Exec> reading(host);
  REQUIRE(reading.difference(host) == "");
  return test::download(reading.tree, test::device_counts(reading.tree)[0]);
}

/// 64 groups of 64: a common prompt, a part for each group, the rest for each sequence alone.
template <class Exec>
struct BigTables {
  static constexpr std::int32_t kSequences = 4096, kBlocks = 8192, kPrompt = 5000, kGroup = 3000;
  static constexpr std::int32_t kOwn = kBlocks - kPrompt - kGroup;
  static constexpr std::int32_t kPool = kPrompt + 64 * kGroup + kSequences * kOwn;
  Kokkos::View<std::int32_t**, Kokkos::LayoutRight, typename Exec::memory_space> blocks;
  Kokkos::View<std::int32_t*, typename Exec::memory_space> lengths;

  explicit BigTables(const Exec& exec)
      : blocks(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "test::blocks"), kSequences, kBlocks),
        lengths(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "test::lengths"), kSequences) {
    Kokkos::parallel_for("test::fill", Kokkos::RangePolicy<Exec>(exec, 0, kSequences), *this);
  }

  KOKKOS_FUNCTION void operator()(int s) const {
    lengths(s) = kBlocks * 16 - s % 16;
    for (std::int32_t i = 0; i < kBlocks; ++i) {
      std::int64_t id = i;
      if (i >= kPrompt) id = kPrompt + s % 64 * kGroup + i - kPrompt;
      if (i >= kPrompt + kGroup) id = kPrompt + 64 * kGroup + s * kOwn + i - kPrompt - kGroup;
      blocks(s, i) = std::int32_t(id * 7919 % kPool);
    }
  }
};

/// The message of the Error that the call throws.
template <class Call>
std::string refusal(const Call& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("sequences share what their tables have in common from the start", "[block_tables]",
                        test::ExecutionSpaces) {
  const HostTables host{4, 10, {{7, 3, 9}, {7, 3, 4, 5}, {8}, {7, 3, 4, 6}}, {10, 16, 4, 13}};
  const TreeSnapshot tree = tree_on_device<TestType>(host);
  REQUIRE(tree.parent == Ints{-1, 0, 0, 2, 2, -1});
  REQUIRE(tree.tokens == Ints{8, 2, 4, 4, 1, 4});
  REQUIRE(tree.first_block == Ints{0, 2, 3, 4, 5, 6});
  REQUIRE(tree.row_begin == Ints{0, 0, 1, 1, 2, 3});
  REQUIRE(tree.row_end == Ints{3, 1, 3, 2, 3, 4});
  REQUIRE(tree.row_index == Ints{0, 1, 3, 2});
}

TEMPLATE_LIST_TEST_CASE("equal sequences are rows of one node, ordered by length, then by number", "[block_tables]",
                        test::ExecutionSpaces) {
  const HostTables host{4, 10, {{1, 2}, {1, 2}, {1, 2}, {1, 2}}, {7, 8, 6, 7}};
  const TreeSnapshot tree = tree_on_device<TestType>(host);
  REQUIRE(tree.tokens == Ints{8});
  REQUIRE(tree.row_visible == Ints{6, 7, 7, 8});
  REQUIRE(tree.row_index == Ints{2, 0, 3, 1});
}

TEMPLATE_LIST_TEST_CASE("a sequence that is the beginning of another one ends at a node above it", "[block_tables]",
                        test::ExecutionSpaces) {
  SECTION("and sees only its own tokens of a block that the other has filled") {
    const TreeSnapshot tree = tree_on_device<TestType>({4, 9, {{5, 6, 7}, {5, 6}}, {9, 6}});
    REQUIRE(tree.parent == Ints{-1, 0});
    REQUIRE(tree.tokens == Ints{8, 1});
    REQUIRE(tree.row_node == Ints{0, 1});
    REQUIRE(tree.row_visible == Ints{6, 1});
    REQUIRE(tree.row_index == Ints{1, 0});
  }
  SECTION("whichever comes first") {
    const TreeSnapshot tree = tree_on_device<TestType>({4, 9, {{5, 6}, {5, 6, 7}}, {6, 9}});
    REQUIRE(tree.tokens == Ints{8, 1});
    REQUIRE(tree.row_index == Ints{0, 1});
  }
}

TEMPLATE_LIST_TEST_CASE("sequences without tokens are rows of an empty root", "[block_tables]", test::ExecutionSpaces) {
  const TreeSnapshot tree = tree_on_device<TestType>({2, 4, {{}, {1}, {3}, {}}, {0, 2, 0, 0}});
  REQUIRE(tree.parent == Ints{-1, -1});
  REQUIRE(tree.tokens == Ints{0, 2});
  REQUIRE(tree.row_index == Ints{0, 2, 3, 1});
  REQUIRE(tree.row_visible == Ints{0, 0, 0, 2});
}

TEMPLATE_LIST_TEST_CASE("tables without sequences are an empty tree", "[block_tables]", test::ExecutionSpaces) {
  Reading<TestType> reading(HostTables{16, 0, {}, {}});
  REQUIRE(reading.difference({16, 0, {}, {}}) == "");
  REQUIRE(reading.tree.nodes() == 0);
}

TEMPLATE_LIST_TEST_CASE("blocks that occur under different prefixes are different nodes", "[block_tables]",
                        test::ExecutionSpaces) {
  // Position-independent caching: block 9 serves two contexts. And block 0 stands for what a window has dropped.
  const HostTables host{4, 10, {{1, 9, 3}, {2, 9, 3}, {0, 0, 0, 5}, {0, 0, 6}, {1, 9, 4}}, {12, 12, 16, 12, 12}};
  Reading<TestType> reading(host);
  REQUIRE(reading.difference(host) == "");
  REQUIRE(reading.reader.searched_again(reading.exec));
  REQUIRE(test::device_counts(reading.tree)[0] == 8 - 1);
}

TEMPLATE_LIST_TEST_CASE("random tables of a cache give the tree that a map of maps gives", "[block_tables]",
                        test::ExecutionSpaces) {
  std::uint32_t again = 0;
  for (std::uint32_t seed = 1; seed <= 3000; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    test::TableStyle style;
    style.sequences = std::int32_t(random() % 40);
    style.most_blocks = 1 + std::int32_t(random() % (seed % 10 == 0 ? 400 : 30));
    style.block_tokens = std::vector<int>{1, 2, 5, 16, 64}[random() % 5];
    style.shared = 0.1 * double(random() % 11);
    style.whole = 0.1 * double(random() % 6);
    const HostTables host = random_tables(style, seed);
    Reading<TestType> reading(host);
    REQUIRE(reading.difference(host, std::int32_t(random() % 3), std::int32_t(random() % 5)) == "");
    again += reading.reader.searched_again(reading.exec) ? 1 : 0;
  }
  REQUIRE(again == 0);  // a cache gives equal ids to equal prefixes only
}

TEMPLATE_LIST_TEST_CASE("random tables with blocks used anywhere give the same tree as a map of maps", "[block_tables]",
                        test::ExecutionSpaces) {
  for (std::uint32_t seed = 1; seed <= 3000; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    test::TableStyle style;
    style.sequences = std::int32_t(random() % 60);
    style.most_blocks = 1 + std::int32_t(random() % (seed % 10 == 0 ? 300 : 20));
    style.block_tokens = 1 + int(random() % 4);
    style.shared = 0.1 * double(random() % 11);
    style.whole = 0.1 * double(random() % 6);
    style.reused_ids = 0.2 * double(random() % 6);
    const HostTables host = random_tables(style, seed);
    Reading<TestType> reading(host);
    REQUIRE(reading.difference(host) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("more sequences than one team takes give the same tree", "[block_tables]",
                        test::ExecutionSpaces) {
  for (std::uint32_t seed = 1; seed <= 6; ++seed) {
    CAPTURE(seed);
    test::TableStyle style;
    style.sequences = 2047 + std::int32_t(seed);
    style.most_blocks = 100;
    style.shared = 0.9;
    style.reused_ids = seed % 3 == 0 ? 0.3 : 0;
    const HostTables host = random_tables(style, seed);
    Reading<TestType> reading(host);
    REQUIRE(reading.difference(host) == "");
    REQUIRE(reading.reader.searched_again(reading.exec) == (seed % 3 == 0));
  }
}

TEMPLATE_LIST_TEST_CASE("chains of sequences that each go on from the one before are deep trees", "[block_tables]",
                        test::ExecutionSpaces) {
  HostTables host{2, 3000, {}, {}};
  Ints blocks;
  for (std::int32_t s = 0; s < 1500; ++s) {
    blocks.push_back(2 * s);
    auto& row = host.blocks.emplace_back(blocks);
    row.push_back(2 * s + 1);
    host.lengths.push_back(2 * std::int32_t(row.size()) - s % 2);
  }
  Reading<TestType> reading(host.sequences(), host.pool_blocks, {2 * host.sequences(), host.sequences(), 4000});
  REQUIRE(reading.difference(host) == "");
  REQUIRE(reading.reader.report(reading.exec).nodes == 2999);
  std::ranges::reverse(host.blocks);
  std::ranges::reverse(host.lengths);
  REQUIRE(reading.difference(host) == "");
}

TEMPLATE_LIST_TEST_CASE("the tree of the same reader follows the tables", "[block_tables]", test::ExecutionSpaces) {
  Reading<TestType> reading(50, 2000, {99, 50, 2000});
  for (std::uint32_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    test::TableStyle style;
    style.sequences = std::int32_t(seed * 7 % 51);
    style.reused_ids = seed % 4 == 0 ? 0.5 : 0;
    HostTables host = random_tables(style, seed);
    host.pool_blocks = 2000;
    REQUIRE(reading.difference(host) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("4,096 sequences of 8,192 blocks are read", "[block_tables]", test::ExecutionSpaces) {
  using Exec = TestType;
  using Big = BigTables<Exec>;
  const Exec exec;
  const Big big(exec);
  constexpr std::int32_t kSequences = Big::kSequences, kPrompt = Big::kPrompt, kGroup = Big::kGroup, kOwn = Big::kOwn,
                         kPool = Big::kPool;
  const TreeArrays<Exec> tree = tree_from_block_tables<Exec>(exec, {big.blocks, big.lengths, 16}, kPool);
  REQUIRE(test::device_counts(tree) == std::array<std::int32_t, 4>{1 + 64 + 4096, kSequences, 16, kPool});
  const TreeSnapshot host = test::download(tree, tree.nodes());
  REQUIRE(host.tokens[0] == kPrompt * 16);
  REQUIRE(host.subtree_end[0] == tree.nodes());
  for (std::int32_t group = 0; group < 64; ++group) {
    const auto node = std::size_t(1 + 65 * group);
    REQUIRE(host.parent[node] == 0);
    REQUIRE(host.tokens[node] == kGroup * 16);
    REQUIRE(host.row_begin[node] == 64 * group);
    REQUIRE(host.row_end[node] == 64 * group + 64);
    for (std::int32_t member = 0; member < 64; ++member) {
      const std::size_t leaf = node + 1 + std::size_t(member);
      const std::int32_t sequence = group + 64 * member;
      REQUIRE(host.parent[leaf] == std::int32_t(node));
      REQUIRE(host.tokens[leaf] == kOwn * 16 - sequence % 16);
      REQUIRE(host.row_index[std::size_t(64 * group + member)] == sequence);
      const std::int64_t id = kPrompt + 64 * kGroup + std::int64_t(sequence) * kOwn;
      REQUIRE(std::int64_t(host.block_table[std::size_t(host.first_block[leaf])]) == id * 7919 % kPool);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("tables that are wrong give rows that see nothing, and a report that names the entry",
                        "[block_tables]", test::ExecutionSpaces) {
  const HostTables good{4, 10, {{7, 3, 9}, {7, 3, 4, 5}, {8}}, {10, 16, 4}};
  Reading<TestType> reading(good);
  const auto refused = [&](const HostTables& host) {
    const DeviceTables<TestType> tables(host);
    reading.reader.update(reading.exec, tables.tables, reading.tree);
    const std::string message =
        refusal([&] { (void)reading.reader.report(reading.exec); }, ErrorCode::invalid_argument);
    TreeSnapshot nothing;
    nothing.block_tokens = 4;
    nothing.parent = {-1};
    nothing.tokens = nothing.first_block = nothing.first_offset = nothing.row_begin = {0};
    nothing.subtree_end = {1};
    nothing.row_end = {3};
    nothing.row_node = nothing.row_visible = {0, 0, 0};
    nothing.row_index = {0, 1, 2};
    CHECK(test::difference(reading.tree, nothing) == "");
    CHECK(reading.difference(good) == "");  // and the next update is none the worse
    return message;
  };
  HostTables host = good;
  host.blocks[1][2] = 10;
  REQUIRE(refused(host) == "BlockTableReader::update: sequence 1 has block 10 in entry 2, expected 0 .. 9");
  host.blocks[0][1] = -1;
  REQUIRE(refused(host) == "BlockTableReader::update: sequence 0 has block -1 in entry 1, expected 0 .. 9");
  host.lengths[2] = 17;
  REQUIRE(refused(host) == "BlockTableReader::update: sequence 2 has 17 tokens, expected 0 .. 16");
  host.lengths[0] = -2147483647 - 1;
  REQUIRE(refused(host) == "BlockTableReader::update: sequence 0 has -2147483648 tokens, expected 0 .. 16");
}

TEMPLATE_LIST_TEST_CASE("a tree that does not fit is reported with capacity and need", "[block_tables]",
                        test::ExecutionSpaces) {
  const HostTables host{4, 10, {{7, 3, 9}, {7, 3, 4, 5}, {8}, {7, 3, 4, 6}}, {10, 16, 4, 13}};
  const DeviceTables<TestType> tables(host);
  const auto refused = [&](const TreeCapacity& capacity) {
    Reading<TestType> reading(4, 10, capacity);
    reading.reader.update(reading.exec, tables.tables, reading.tree);
    const std::string message =
        refusal([&] { (void)reading.reader.report(reading.exec); }, ErrorCode::capacity_exceeded);
    CHECK(test::device_counts(reading.tree) == std::array<std::int32_t, 4>{1, 4, 4, 0});
    return message;
  };
  REQUIRE(refused({5, 4, 7}) == "BlockTableReader::update: the tree has 6 nodes, its arrays have room for 5");
  REQUIRE(refused({6, 4, 6}) ==
          "BlockTableReader::update: the tree has 7 entries of the block table, its arrays have room for 6");
  Reading<TestType> exact(4, 10, {6, 4, 7});
  REQUIRE(exact.difference(host) == "");
}

TEMPLATE_LIST_TEST_CASE("calls that cannot be meant are refused before anything runs", "[block_tables]",
                        test::ExecutionSpaces) {
  using Exec = TestType;
  const Exec exec;
  const HostTables host{4, 10, {{7, 3}, {7, 4}}, {8, 8}};
  DeviceTables<Exec> device(host);
  BlockTableReader<Exec> reader(exec, {2, 10});
  TreeArrays<Exec> tree(exec, TreeCapacity{3, 2, 4});
  const auto refused = [&](const BlockTables<Exec>& tables, ErrorCode code) {
    return refusal([&] { reader.update(exec, tables, tree); }, code);
  };
  REQUIRE(refusal([&] { (void)reader.report(exec); }, ErrorCode::stale_plan) ==
          "BlockTableReader::report: there was no update yet");
  BlockTables<Exec> tables = device.tables;
  tables.block_tokens = 0;
  REQUIRE(refused(tables, ErrorCode::invalid_argument) ==
          "BlockTableReader::update: block_tokens is 0, expected 1 .. 256");
  tables = device.tables;
  tables.lengths = decltype(tables.lengths)(device.lengths.data(), 1);
  REQUIRE(refused(tables, ErrorCode::invalid_argument) ==
          "BlockTableReader::update: there are 1 lengths, but tables of 2 sequences");
  tables = device.tables;
  tables.blocks = decltype(tables.blocks)(device.memory.data(), Kokkos::LayoutStride(2, 1, 2, 2));
  REQUIRE(refused(tables, ErrorCode::invalid_argument) ==
          "BlockTableReader::update: the entries of a table are 2 apart, expected 1");
  tree = TreeArrays<Exec>(exec, TreeCapacity{3, 1, 4});
  REQUIRE(refused(device.tables, ErrorCode::capacity_exceeded) ==
          "TreeArrays::rewrite: the tree has 2 rows, the capacity is 1");
  tree = TreeArrays<Exec>(exec, TreeCapacity{0, 2, 4});
  REQUIRE(refused(device.tables, ErrorCode::capacity_exceeded) ==
          "BlockTableReader::update: the tree has at least 1 node, its arrays have room for 0");
  reader = BlockTableReader<Exec>(exec, {1, 10});
  REQUIRE(refused(device.tables, ErrorCode::capacity_exceeded) ==
          "BlockTableReader::update: there are 2 sequences, the capacity is 1");
  REQUIRE(refusal([&] { BlockTableReader<Exec>(exec, {-1, 10}); }, ErrorCode::invalid_argument) ==
          "BlockTableReader: capacity.sequences is -1, expected 0 .. 536870912");
}

}  // namespace espalier
