#include "espalier/kv_tree.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "espalier/error.hpp"

namespace espalier {
namespace {

using Ints = std::vector<std::int32_t>;
using Slots = std::vector<std::int64_t>;
using Branches = std::vector<BranchId>;

constexpr int kBlockTokens = 4;

struct TreeUnderTest {
  KvTree::Exec exec;
  KvTree::Pool pool;
  KvTree tree;

  explicit TreeUnderTest(std::int32_t blocks = 64) : pool(exec, {blocks, kBlockTokens}), tree(exec, pool) {}

  [[nodiscard]] PoolStats stats() const { return pool.stats(exec); }
  [[nodiscard]] std::int32_t used() const { return stats().used; }
  [[nodiscard]] std::int32_t references(std::int32_t block) const { return pool.counts()(std::size_t(block)); }
};

Slots range(std::int64_t first, std::int64_t last) {  // both included
  Slots slots(std::size_t(last - first + 1));
  std::iota(slots.begin(), slots.end(), first);
  return slots;
}

Slots operator+(Slots a, const Slots& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

template <class Call>
std::string refusal(ErrorCode code, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("a new tree is empty and holds no block", "[kv_tree]") {
  const TreeUnderTest t;
  REQUIRE(t.tree.branches().empty());
  REQUIRE(t.tree.nodes() == 0);
  REQUIRE(t.tree.stored_tokens() == 0);
  REQUIRE(t.tree.unshared_tokens() == 0);
  REQUIRE(t.tree.version() == 0);
  REQUIRE(t.tree.snapshot().nodes() == 0);
  REQUIRE(t.used() == 0);
}

TEST_CASE("a root takes the blocks of its tokens and fills them from the start", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId prompt = t.tree.root(9);
  REQUIRE(t.tree.tokens(prompt) == 9);
  REQUIRE(t.tree.slots(prompt, 0) == range(0, 8));
  REQUIRE(t.used() == 3);
  t.tree.append(prompt, 3);
  REQUIRE(t.used() == 3);
  t.tree.append(prompt, 1);
  REQUIRE(t.used() == 4);
  REQUIRE(t.tree.slots(prompt, 2, 13) == range(2, 12));
  REQUIRE(t.tree.nodes() == 1);
}

TEST_CASE("a fork copies nothing and counts up", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId prompt = t.tree.root(6);
  const Branches forks = t.tree.fork(prompt, 3);
  REQUIRE(forks.size() == 3);
  REQUIRE(t.used() == 2);
  REQUIRE(t.references(0) == 4);
  REQUIRE(t.references(1) == 4);
  REQUIRE(t.tree.nodes() == 1);
  REQUIRE(t.tree.branches() == Branches{prompt, forks[0], forks[1], forks[2]});
  for (const BranchId fork : forks) REQUIRE(t.tree.slots(fork, 0) == t.tree.slots(prompt, 0));
  REQUIRE(t.tree.stored_tokens() == 6);
  REQUIRE(t.tree.unshared_tokens() == 24);
}

TEST_CASE("the first branch behind a partly filled block continues in it and its siblings begin a new one",
          "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(6);
  const BranchId b = t.tree.fork(a, 1)[0];
  t.tree.append(b, 3);
  t.tree.append(a, 3);
  REQUIRE(t.tree.slots(b, 0) == range(0, 8));
  REQUIRE(t.tree.slots(a, 0) == range(0, 5) + range(12, 14));
  REQUIRE(t.tree.nodes() == 3);
  REQUIRE(t.references(1) == 2);  // shared by both paths, though b alone wrote its end
  REQUIRE(t.references(2) == 1);
  REQUIRE(t.references(3) == 1);
}

TEST_CASE("what a pruned branch wrote into a shared block can be written again", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(6);
  const Branches forks = t.tree.fork(a, 2);
  t.tree.append(forks[0], 1);
  t.tree.append(forks[1], 1);
  REQUIRE(t.tree.slots(forks[0], 6) == Slots{6});
  REQUIRE(t.tree.slots(forks[1], 6) == Slots{8});
  t.tree.prune(forks[0]);
  t.tree.append(a, 1);
  REQUIRE(t.tree.slots(a, 6) == Slots{6});
  REQUIRE(t.used() == 3);
}

TEST_CASE("branches that fork at the end of a full block all begin a new one", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(8);
  const BranchId b = t.tree.fork(a, 1)[0];
  t.tree.append(Branches{a, b}, 1);
  REQUIRE(t.tree.last_slots(Branches{b, a}, 1) == Slots{12, 8});
  REQUIRE(t.tree.last_slots(Branches{b, a}, 2) == Slots{7, 12, 7, 8});
}

TEST_CASE("one append lengthens many branches, each where it belongs", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(3);
  const BranchId other = t.tree.root(4);
  const Branches forks = t.tree.fork(a, 2);
  t.tree.append(Branches{forks[1], a, other, forks[0]}, 5);
  REQUIRE(t.tree.slots(forks[1], 0) == range(0, 3) + range(8, 11));  // named first: continues in block 0
  REQUIRE(t.tree.slots(a, 3) == range(12, 16));
  REQUIRE(t.tree.slots(other, 0) == range(4, 7) + range(20, 24));
  REQUIRE(t.tree.slots(forks[0], 3) == range(28, 32));
  REQUIRE(t.tree.stored_tokens() == 27);
  REQUIRE(t.tree.unshared_tokens() == 33);
  REQUIRE(t.tree.nodes() == 5);
}

TEST_CASE("pruning gives back what no other branch references", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(8);
  const BranchId b = t.tree.fork(a, 1)[0];
  t.tree.append(a, 9);
  REQUIRE(t.used() == 5);
  t.tree.prune(a);
  REQUIRE(t.used() == 2);
  REQUIRE(t.references(0) == 1);
  REQUIRE(t.tree.slots(b, 0) == range(0, 7));
  t.tree.prune(b);
  REQUIRE(t.used() == 0);
  REQUIRE(t.tree.nodes() == 0);
  REQUIRE(t.tree.branches().empty());
  REQUIRE(t.tree.stored_tokens() == 0);
  REQUIRE(t.tree.unshared_tokens() == 0);
}

TEST_CASE("a node and its only child become one node where their slots follow each other", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(6);
  const Branches forks = t.tree.fork(a, 2);
  t.tree.append(Branches{a, forks[0], forks[1]}, 4);
  REQUIRE(t.tree.nodes() == 4);

  SECTION("in the middle of a block, which the child continues") {
    t.tree.apply({{}, forks});
    REQUIRE(t.tree.nodes() == 1);
    REQUIRE(t.tree.slots(a, 0) == range(0, 9));
    const TreeSnapshot tree = t.tree.snapshot();
    REQUIRE(tree.tokens == Ints{10});
    REQUIRE(tree.block_table == std::vector<BlockId>{BlockId{0}, BlockId{1}, BlockId{2}});
    t.tree.append(a, 3);
    REQUIRE(t.tree.slots(a, 0) == range(0, 12 - 1) + Slots{12});
  }
  SECTION("but not where the child had begun a new block behind one that is not full") {
    t.tree.apply({{}, {a, forks[0]}});
    REQUIRE(t.tree.nodes() == 2);
    REQUIRE(t.tree.slots(forks[1], 0) == range(0, 5) + range(16, 19));
    REQUIRE(t.tree.snapshot().tokens == Ints{6, 4});
  }
  SECTION("at the end of a full block") {
    t.tree.append(forks[1], 4);  // its node ends with a block
    const BranchId c = t.tree.fork(forks[1], 1)[0];
    t.tree.append(Branches{c, forks[1]}, 2);
    REQUIRE(t.tree.nodes() == 6);
    t.tree.prune(c);
    REQUIRE(t.tree.nodes() == 4);
    REQUIRE(t.tree.slots(forks[1], 6) == range(16, 19) + range(20, 23) + range(28, 29));
  }
}

TEST_CASE("joined nodes keep their place among their siblings", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(4);
  const BranchId b = t.tree.fork(a, 1)[0];
  t.tree.append(Branches{a, b}, 4);
  const BranchId c = t.tree.fork(a, 1)[0];
  t.tree.append(Branches{a, c}, 4);
  t.tree.prune(a);
  const TreeSnapshot tree = t.tree.snapshot();
  REQUIRE(tree.tokens == Ints{4, 8, 4});  // the prompt, c below a's old node, b
  REQUIRE(tree.row_node == Ints{1, 2});
  REQUIRE(tree.row_index == Ints{1, 0});  // b was created before c
}

TEST_CASE("a cut node keeps its place among its siblings", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(4);
  const BranchId b = t.tree.fork(a, 1)[0];
  t.tree.append(Branches{a, b}, 4);
  (void)t.tree.split(a, 5, 1);
  REQUIRE(t.tree.snapshot().tokens == Ints{4, 1, 3, 4});
  const BranchId other = t.tree.root(8);
  (void)t.tree.split(b, 3, 1);
  REQUIRE(t.tree.snapshot().tokens == Ints{3, 1, 1, 3, 4, 8});
  REQUIRE(t.tree.tokens(other) == 8);
}

TEST_CASE("a split in the middle of a block shares the block between both nodes", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(10);
  const Branches twigs = t.tree.split(a, 6, 2);
  REQUIRE(t.tree.tokens(twigs[0]) == 6);
  REQUIRE(t.tree.nodes() == 2);
  REQUIRE(t.references(0) == 3);
  REQUIRE(t.references(1) == 3);  // one reference for each path, although two nodes list it
  REQUIRE(t.references(2) == 1);
  REQUIRE(t.tree.slots(a, 0) == range(0, 9));
  REQUIRE(t.tree.slots(twigs[1], 0) == range(0, 5));

  const TreeSnapshot tree = t.tree.snapshot();
  REQUIRE(tree.tokens == Ints{6, 4});
  REQUIRE(tree.first_block == Ints{0, 2});
  REQUIRE(tree.first_offset == Ints{0, 2});
  REQUIRE(tree.block_table == std::vector<BlockId>{BlockId{0}, BlockId{1}, BlockId{1}, BlockId{2}});
  REQUIRE(tree.row_node == Ints{0, 0, 1});
  REQUIRE(tree.row_index == Ints{1, 2, 0});

  SECTION("the rest of the block is taken: a new branch begins its own") {
    t.tree.append(twigs[0], 1);
    REQUIRE(t.tree.slots(twigs[0], 6) == Slots{12});
  }
  SECTION("the rest of the block is free again when the part below the cut goes") {
    t.tree.prune(a);
    REQUIRE(t.used() == 2);
    t.tree.append(twigs[0], 1);
    REQUIRE(t.tree.slots(twigs[0], 6) == Slots{6});
  }
  SECTION("both parts become one again when the new branches go") {
    t.tree.apply({{}, twigs});
    REQUIRE(t.tree.nodes() == 1);
    REQUIRE(t.tree.slots(a, 0) == range(0, 9));
    REQUIRE(t.references(1) == 1);
  }
}

TEST_CASE("a split at a block's end and at a node's end cuts nothing that is whole", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(8);
  const BranchId b = t.tree.split(a, 4, 1)[0];
  REQUIRE(t.tree.nodes() == 2);
  REQUIRE(t.references(1) == 1);
  const BranchId c = t.tree.split(a, 4, 1)[0];  // the cut exists
  REQUIRE(t.tree.nodes() == 2);
  const BranchId d = t.tree.split(a, 8, 1)[0];  // the end of the branch
  REQUIRE(t.tree.nodes() == 2);
  REQUIRE(t.tree.slots(b, 0) == t.tree.slots(c, 0));
  REQUIRE(t.tree.slots(d, 0) == t.tree.slots(a, 0));
}

TEST_CASE("a split at the very start leaves an empty path that can grow", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(5);
  const BranchId b = t.tree.split(a, 0, 1)[0];
  REQUIRE(t.tree.tokens(b) == 0);
  REQUIRE(t.tree.slots(b, 0).empty());
  REQUIRE(t.references(0) == 1);
  const BranchId c = t.tree.split(b, 0, 1)[0];
  REQUIRE(t.tree.snapshot().tokens == Ints{0, 5});
  t.tree.append(Branches{b, c}, 2);
  REQUIRE(t.tree.slots(b, 0) == range(8, 9));
  REQUIRE(t.tree.slots(c, 0) == range(12, 13));
  REQUIRE(t.tree.nodes() == 4);
  t.tree.apply({{}, {a, c}});
  REQUIRE(t.tree.nodes() == 1);
  REQUIRE(t.tree.slots(b, 0) == range(8, 9));
}

TEST_CASE("an empty root grows in place", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(0);
  REQUIRE(t.used() == 0);
  REQUIRE(t.tree.nodes() == 1);
  const TreeSnapshot tree = t.tree.snapshot();
  REQUIRE(tree.tokens == Ints{0});
  REQUIRE(tree.row_visible == Ints{0});
  t.tree.append(a, 5);
  REQUIRE(t.tree.nodes() == 1);
  REQUIRE(t.tree.slots(a, 0) == range(0, 4));
}

TEST_CASE("rows may end before their branches do, and at none of its tokens", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(6);
  const BranchId b = t.tree.fork(a, 1)[0];
  t.tree.append(Branches{a, b}, 3);
  const std::vector<BranchRow> rows{{b, 9}, {a, 6}, {b, 7}, {a, 0}, {b}, {a, 1}};
  const TreeSnapshot tree = t.tree.snapshot(rows);
  REQUIRE(tree.parent == Ints{-1, 0});  // a's own node is seen by no row
  REQUIRE(tree.tokens == Ints{6, 3});
  REQUIRE(tree.row_node == Ints{0, 0, 0, 1, 1, 1});
  REQUIRE(tree.row_visible == Ints{0, 1, 6, 1, 3, 3});
  REQUIRE(tree.row_index == Ints{3, 5, 1, 2, 0, 4});
  REQUIRE(tree.row_begin == Ints{0, 3});
  REQUIRE(tree.row_end == Ints{6, 6});
  REQUIRE(tree.version == t.tree.version());
  REQUIRE(tree.block_tokens == kBlockTokens);
  REQUIRE(t.tree.snapshot(std::vector<BranchRow>{}).nodes() == 0);
}

TEST_CASE("a decision forks first and prunes then", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(6);
  const BranchId b = t.tree.fork(a, 1)[0];
  t.tree.append(Branches{a, b}, 2);
  const std::uint64_t version = t.tree.version();
  const Branches created = t.tree.apply({{{a, 2}, {b, 0}, {a, 1, 7}, {b, 1}}, {a}});
  REQUIRE(created.size() == 4);
  REQUIRE(t.tree.branches() == Branches{b, created[0], created[1], created[2], created[3]});
  REQUIRE_FALSE(t.tree.is_live(a));
  REQUIRE(t.tree.tokens(created[0]) == 8);
  REQUIRE(t.tree.tokens(created[2]) == 7);
  REQUIRE(t.tree.slots(created[1], 6) == range(6, 7));
  REQUIRE(t.tree.version() == version + 1);
  REQUIRE(t.references(0) == 5);
}

TEST_CASE("an empty decision changes nothing", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(6);
  const std::uint64_t version = t.tree.version();
  REQUIRE(t.tree.apply({}).empty());
  REQUIRE(t.tree.fork(a, 0).empty());
  REQUIRE(t.tree.split(a, 3, 0).empty());
  t.tree.append(a, 0);
  t.tree.append(Branches{}, 5);
  REQUIRE(t.tree.nodes() == 1);
  REQUIRE(t.tree.version() == version);
}

TEST_CASE("a pruned branch is an error wherever it is named, also when its place is used again", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId keeper = t.tree.root(2);
  const BranchId gone = t.tree.root(2);
  t.tree.prune(gone);
  const BranchId newer = t.tree.root(3);
  REQUIRE(newer.index == gone.index);
  REQUIRE(newer.generation != gone.generation);
  REQUIRE_FALSE(t.tree.is_live(gone));
  REQUIRE_FALSE(t.tree.is_live(BranchId{}));
  REQUIRE_FALSE(t.tree.is_live(BranchId{99, 0}));
  const std::uint64_t version = t.tree.version();
  const auto refused = [&](const auto& call) { return refusal(ErrorCode::invalid_argument, call); };
  REQUIRE(refused([&] { (void)t.tree.fork(gone, 1); }) == "KvTree::fork: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { (void)t.tree.split(gone, 0, 1); }) == "KvTree::split: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { t.tree.append(gone, 1); }) == "KvTree::append: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { t.tree.append(Branches{keeper, gone}, 1); }) ==
          "KvTree::append: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { t.tree.prune(gone); }) == "KvTree::prune: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { t.tree.apply({{{keeper, 1}}, {gone}}); }) ==
          "KvTree::apply: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { (void)t.tree.tokens(gone); }) == "KvTree::tokens: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { (void)t.tree.slots(gone, 0); }) == "KvTree::slots: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { (void)t.tree.last_slots(Branches{gone}, 0); }) ==
          "KvTree::last_slots: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { (void)t.tree.snapshot(std::vector<BranchRow>{{gone}}); }) ==
          "KvTree::snapshot: branch (1, generation 0) is not live");
  REQUIRE(refused([&] { t.tree.prune(BranchId{}); }) == "KvTree::prune: branch (-1, generation 0) is not live");
  REQUIRE(t.tree.version() == version);
  REQUIRE(t.tree.tokens(keeper) == 2);
}

TEST_CASE("counts and positions out of range are named", "[kv_tree]") {
  TreeUnderTest t;
  const BranchId a = t.tree.root(5);
  const auto refused = [&](const auto& call) { return refusal(ErrorCode::invalid_argument, call); };
  REQUIRE(refused([&] { t.tree.root(-1); }) == "KvTree::root: tokens is -1, expected 0 or more");
  REQUIRE(refused([&] { t.tree.append(a, -2); }) == "KvTree::append: tokens is -2, expected 0 or more");
  REQUIRE(refused([&] { t.tree.append(Branches{a, a}, 2); }) ==
          "KvTree::append: branch (0, generation 0) is named twice");
  REQUIRE(refused([&] { (void)t.tree.fork(a, -1); }) ==
          "KvTree::fork: count is -1 for branch (0, generation 0), expected 0 or more");
  REQUIRE(refused([&] { (void)t.tree.split(a, 6, 1); }) ==
          "KvTree::split: at_token is 6 for branch (0, generation 0), expected 0 .. 5");
  REQUIRE(refused([&] { (void)t.tree.split(a, -1, 1); }) ==
          "KvTree::split: at_token is -1 for branch (0, generation 0), expected 0 .. 5");
  REQUIRE(refused([&] { t.tree.apply({{}, {a, a}}); }) == "KvTree::apply: branch (0, generation 0) is named twice");
  REQUIRE(refused([&] { (void)t.tree.slots(a, 3, 2); }) ==
          "KvTree::slots: tokens 3 .. 2 of branch (0, generation 0), which has 5");
  REQUIRE(refused([&] { (void)t.tree.slots(a, -1, 2); }) ==
          "KvTree::slots: tokens -1 .. 2 of branch (0, generation 0), which has 5");
  REQUIRE(refused([&] { (void)t.tree.slots(a, 0, 6); }) ==
          "KvTree::slots: tokens 0 .. 6 of branch (0, generation 0), which has 5");
  REQUIRE(refused([&] { (void)t.tree.last_slots(Branches{a}, 6); }) ==
          "KvTree::last_slots: the last 6 tokens of branch (0, generation 0), which has 5");
  REQUIRE(refused([&] { (void)t.tree.snapshot(std::vector<BranchRow>{{a}, {a, 6}}); }) ==
          "KvTree::snapshot: row 1 sees 6 tokens of branch (0, generation 0), expected 0 .. 5");
  REQUIRE(refusal(ErrorCode::capacity_exceeded, [&] { t.tree.apply({{{a, 2147483647}, {a, 1}}, {}}); }) ==
          "KvTree::apply: the tree would have 2147483649 branches, expected at most 2^31 - 1");
}

TEST_CASE("a pool that is too small leaves the tree as it was", "[kv_tree]") {
  TreeUnderTest t(4);
  const BranchId a = t.tree.root(6);
  const Branches forks = t.tree.fork(a, 2);
  const std::uint64_t version = t.tree.version();
  const auto refused = [&](const auto& call) { return refusal(ErrorCode::capacity_exceeded, call); };
  REQUIRE(refused([&] { t.tree.append(Branches{a, forks[0], forks[1]}, 3); }) ==
          "KvTree::append: needs 3 blocks of 4 tokens, the pool has 2 free of 4");
  REQUIRE(refused([&] { t.tree.root(12); }) == "KvTree::root: needs 3 blocks of 4 tokens, the pool has 2 free of 4");
  REQUIRE(refused([&] { t.tree.append(a, kBranchEnd); }).starts_with("KvTree::append: needs "));
  REQUIRE(refused([&] { t.tree.append(Branches{a, forks[0]}, kBranchEnd); }).starts_with("KvTree::append: needs "));
  REQUIRE(refused([&] { t.tree.root(kBranchEnd); }).starts_with("KvTree::root: needs "));
  REQUIRE(t.tree.version() == version);
  REQUIRE(t.tree.nodes() == 1);
  REQUIRE(t.used() == 2);
  REQUIRE(t.stats().error.fault == PoolFault::none);
  t.tree.append(Branches{a, forks[0], forks[1]}, 2);  // two new blocks: one branch continues in the second
  REQUIRE(t.used() == 4);
}

TEST_CASE("several trees share a pool and each gives back its own blocks", "[kv_tree]") {
  const KvTree::Exec exec;
  KvTree::Pool pool(exec, {16, kBlockTokens});
  KvTree first(exec, pool);
  const BranchId a = first.root(8);
  {
    KvTree second(exec, pool);
    const BranchId b = second.root(20);
    (void)second.fork(b, 5);
    second.append(b, 7);
    REQUIRE(pool.stats(exec).used == 9);
  }
  REQUIRE(pool.stats(exec).used == 2);
  REQUIRE(first.slots(a, 0) == range(0, 7));
  REQUIRE(&first.pool() == &pool);
}

TEST_CASE("a tree can be moved, and the one it replaces gives back its blocks", "[kv_tree]") {
  const KvTree::Exec exec;
  KvTree::Pool pool(exec, {16, kBlockTokens});
  KvTree tree(exec, pool);
  const BranchId a = tree.root(8);
  KvTree moved(std::move(tree));
  REQUIRE(moved.tokens(a) == 8);
  KvTree other(exec, pool);
  other.root(12);
  REQUIRE(pool.stats(exec).used == 5);
  other = std::move(moved);
  REQUIRE(pool.stats(exec).used == 2);
  REQUIRE(other.tokens(a) == 8);
}

TEST_CASE("thousands of cuts in one path leave a chain of nodes", "[kv_tree]") {
  TreeUnderTest t(5000);
  const std::int32_t cuts = 3000;
  const BranchId branch = t.tree.root(cuts + 1);
  BranchDecision decision;
  for (std::int32_t token = cuts; token > 0; --token) decision.forks.push_back({branch, 1, token});
  const Branches created = t.tree.apply(decision);
  REQUIRE(t.tree.nodes() == cuts + 1);
  const TreeSnapshot snapshot = t.tree.snapshot();
  REQUIRE(snapshot.tokens == Ints(std::size_t(cuts + 1), 1));
  REQUIRE(snapshot.row_end == Ints(std::size_t(cuts + 1), cuts + 1));
  REQUIRE(t.tree.slots(branch, 0) == range(0, cuts));
  REQUIRE(t.references(0) == cuts + 1);
  t.tree.apply({{}, created});
  REQUIRE(t.tree.nodes() == 1);
  REQUIRE(t.tree.slots(branch, 0) == range(0, cuts));
}

}  // namespace espalier
