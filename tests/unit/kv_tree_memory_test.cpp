// What a KvTree does when memory runs out: every allocation of every action fails once.

#include <catch2/catch_test_macros.hpp>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "espalier/kv_tree.hpp"

namespace {

/// Allocations that still succeed before one fails; negative: none fails.
thread_local int allocations_until_failure = -1;

void* allocate(std::size_t bytes) {
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

}  // namespace espalier
