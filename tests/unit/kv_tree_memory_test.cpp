// What a KvTree does when memory runs out: every allocation of every action fails once.

#include <catch2/catch_test_macros.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "espalier/error.hpp"
#include "espalier/kv_tree.hpp"

namespace {

/// Allocations that still succeed before one fails; negative: none fails.
thread_local int allocations_until_failure = -1;

thread_local std::int64_t allocations = 0;

void* allocate(std::size_t bytes) {
  ++allocations;
  if (allocations_until_failure >= 0 && allocations_until_failure-- == 0) throw std::bad_alloc();
  void* const memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes > 0 ? bytes : 1); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes > 0 ? bytes : 1); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace espalier {
namespace {

using Branches = std::vector<BranchId>;

/// All that can be seen of a tree.
struct Picture {
  std::vector<BranchId> branches;
  std::vector<std::vector<std::int64_t>> slots;
  std::vector<std::int32_t> references;
  std::int32_t nodes;
  std::int64_t stored_tokens;
  std::int64_t unshared_tokens;
  std::uint64_t version;
  friend bool operator==(const Picture&, const Picture&) = default;
};

struct TreeInTrouble {
  KvTree::Exec exec;
  KvTree::Pool pool{exec, {100, 4}};
  KvTree tree{exec, pool};
  BranchId a = tree.root(10);
  Branches forks = tree.fork(a, 3);

  TreeInTrouble() {
    tree.append(forks[0], 3);
    tree.append(forks[1], 6);
    tree.append(forks[2], 5);
  }

  [[nodiscard]] Picture picture() const {
    Picture picture{tree.branches(), {}, {}, tree.nodes(), tree.stored_tokens(), tree.unshared_tokens(),
                    tree.version()};
    for (const BranchId branch : picture.branches) picture.slots.push_back(tree.slots(branch, 0));
    for (std::size_t block = 0; block < 100; ++block) picture.references.push_back(pool.counts()(block));
    return picture;
  }
};

/// Lets the first, second, ... allocation of the action fail until it needs no more of them.
/// Returns how many failures the action has met; each has left the tree as it was.
int failures_met(const std::function<void(TreeInTrouble&)>& action) {
  for (int failing = 0;; ++failing) {
    TreeInTrouble trouble;
    const Picture before = trouble.picture();
    bool failed = false;
    allocations_until_failure = failing;
    try {
      action(trouble);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    const bool all_met = allocations_until_failure >= 0;
    allocations_until_failure = -1;
    CAPTURE(failing);
    if (failed) {
      REQUIRE(trouble.picture() == before);
      action(trouble);  // and it can be done after all
    }
    REQUIRE_FALSE(trouble.picture() == before);
    if (all_met) return failing;
  }
}

}  // namespace

TEST_CASE("an action that runs out of memory leaves the tree as it was", "[kv_tree]") {
  REQUIRE(failures_met([](TreeInTrouble& t) { t.tree.root(9); }) > 0);
  REQUIRE(failures_met([](TreeInTrouble& t) { (void)t.tree.fork(t.forks[1], 70); }) > 0);
  REQUIRE(failures_met([](TreeInTrouble& t) { (void)t.tree.split(t.forks[1], 5, 2); }) > 0);
  REQUIRE(failures_met([](TreeInTrouble& t) { (void)t.tree.split(t.a, 0, 2); }) > 0);
  REQUIRE(failures_met([](TreeInTrouble& t) { t.tree.append(t.forks[0], 40); }) > 0);
  REQUIRE(failures_met([](TreeInTrouble& t) { t.tree.append(t.tree.branches(), 9); }) > 0);
  REQUIRE(failures_met([](TreeInTrouble& t) { t.tree.prune(t.a); }) > 0);
  REQUIRE(failures_met([](TreeInTrouble& t) {
            (void)t.tree.apply({{{t.forks[0], 30, 11}, {t.forks[0], 1, 12}, {t.a, 2, 0}, {t.forks[2], 3}},
                                {t.a, t.forks[1], t.forks[0]}});
          }) > 0);
}

namespace {

/// How often an action has allocated.
template <class Action>
std::int64_t allocations_of(const Action& action) {
  const std::int64_t before = allocations;
  action();
  return allocations - before;
}

}  // namespace

TEST_CASE("a tree with reserved memory decodes without allocating, but for what Kokkos does to launch a kernel",
          "[kv_tree]") {
  const KvTree::Exec exec;
  KvTree::Pool pool(exec, {4000, 4});
  KvTree tree(exec, pool);
  constexpr std::int32_t kBranches = 9;
  tree.reserve({.nodes = 20, .branches = kBranches, .node_blocks = 200});
  std::vector<BranchRow> rows;
  rows.reserve(kBranches);
  std::vector<std::int64_t> slots(kBranches);
  TreeSnapshot snapshot;
  snapshot.block_table.reserve(4000);

  // One kernel of the pool, as a call that needs or returns blocks runs.
  std::vector<BlockId> lent(1);
  pool.acquire(exec, KvTree::Pool::BlockIds(lent.data(), 1));
  const std::int64_t launch = allocations_of([&] { pool.release(exec, KvTree::Pool::ConstBlockIds(lent.data(), 1)); });

  BranchId root;
  CHECK(allocations_of([&] { root = tree.root(100); }) <= launch);
  for (int round = 0; round < 4; ++round) {
    Branches branches;
    CHECK(allocations_of([&] { branches = tree.split(root, tree.tokens(root) - 3, kBranches - 1); }) <= 1 + launch);
    rows.clear();
    for (const BranchId branch : branches) rows.push_back({branch});
    for (int step = 0; step < 50; ++step) {
      CAPTURE(round, step);
      const std::int32_t free = pool.free_blocks(exec);
      const std::int64_t of_append = allocations_of([&] { tree.append(branches, 1); });
      CHECK(of_append <= (pool.free_blocks(exec) < free ? launch : 0));
      const std::span<std::int64_t> last(slots.data(), branches.size());
      CHECK(allocations_of([&] { tree.last_slots(branches, 1, last); }) == 0);
      REQUIRE(tree.last_slots(branches, 1) == std::vector<std::int64_t>(last.begin(), last.end()));
      const std::int64_t of_snapshot = allocations_of([&] { tree.snapshot(rows, snapshot); });
      if (round > 0 || step > 0) CHECK(of_snapshot == 0);  // the caller's snapshot grows once
      REQUIRE(tree.snapshot(rows).block_table == snapshot.block_table);
    }
    CHECK(allocations_of([&] { tree.append(root, 7); }) <= launch);
    for (const BranchId branch : branches) CHECK(allocations_of([&] { tree.prune(branch); }) <= launch);
  }
  CHECK(tree.nodes() == 1);
}

TEST_CASE("a tree keeps what it holds when it gets room for more", "[kv_tree]") {
  TreeInTrouble trouble;
  const Picture before = trouble.picture();
  trouble.tree.reserve({.nodes = 100, .branches = 50, .node_blocks = 30});
  CHECK(trouble.picture() == before);
  trouble.tree.reserve({});
  CHECK(trouble.picture() == before);
  CHECK_THROWS_AS(trouble.tree.reserve({.nodes = -1}), Error);
  CHECK_THROWS_AS(trouble.tree.reserve({.branches = -1}), Error);
  CHECK_THROWS_AS(trouble.tree.reserve({.node_blocks = -1}), Error);
  std::vector<std::int64_t> slots(1);
  CHECK_THROWS_AS(trouble.tree.last_slots(trouble.tree.branches(), 1, slots), Error);
}

}  // namespace espalier
