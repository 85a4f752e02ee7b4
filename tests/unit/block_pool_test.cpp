#include "espalier/block_pool.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "espalier/error.hpp"
#include "support/execution_spaces.hpp"

namespace espalier {
namespace {

using Ints = std::vector<std::int32_t>;

/// A pool with plain vectors at its edges.
template <class Exec>
struct PoolUnderTest {
  Exec exec;
  BlockPool<Exec> pool;

  explicit PoolUnderTest(std::int32_t blocks) : pool(exec, {blocks, 16}) {}

  /// Blocks handed out; -7 where the pool has left the list as it was.
  Ints acquire(std::int32_t count) {
    const auto ids = test::to_view<Exec>(std::vector<BlockId>(std::size_t(count), BlockId{-7}));
    pool.acquire(exec, ids);
    exec.fence();
    Ints blocks;
    for (const BlockId id : test::to_vector(ids)) blocks.push_back(std::int32_t(id));
    return blocks;
  }
  void retain(const Ints& blocks) {
    pool.retain(exec, view_of(blocks));
    exec.fence();
  }
  void release(const Ints& blocks) {
    pool.release(exec, view_of(blocks));
    exec.fence();
  }
  void retain(const Ints& blocks, const Ints& references) {
    pool.retain(exec, view_of(blocks), test::to_view<Exec>(references));
    exec.fence();
  }
  void release(const Ints& blocks, const Ints& references) {
    pool.release(exec, view_of(blocks), test::to_view<Exec>(references));
    exec.fence();
  }

  [[nodiscard]] PoolStats stats() const { return pool.stats(exec); }
  [[nodiscard]] Ints counts() const { return test::to_vector(pool.counts()); }

  [[nodiscard]] bool failed_with(PoolFault fault, std::int32_t block, std::int32_t entry) const {
    const PoolError error = stats().error;
    CAPTURE(name_of(error.fault), error.block, error.entry);
    CHECK((error.fault == fault && error.block == block && error.entry == entry));
    return error.fault == fault && error.block == block && error.entry == entry;
  }

 private:
  Kokkos::View<BlockId*, typename Exec::memory_space> view_of(const Ints& blocks) const {
    std::vector<BlockId> ids;
    for (const std::int32_t block : blocks) ids.push_back(BlockId{block});
    return test::to_view<Exec>(ids);
  }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("an idle pool is full", "[block_pool]", test::ExecutionSpaces) {
  const PoolUnderTest<TestType> pool(5);
  const PoolStats stats = pool.stats();
  REQUIRE(stats.free == 5);
  REQUIRE(stats.used == 0);
  REQUIRE(stats.shared == 0);
  REQUIRE(stats.peak == 0);
  REQUIRE(stats.error.fault == PoolFault::none);
  REQUIRE(pool.counts() == Ints(5, 0));
  REQUIRE(pool.pool.free_blocks(pool.exec) == 5);
}

TEMPLATE_LIST_TEST_CASE("a pool of impossible size is refused", "[block_pool]", test::ExecutionSpaces) {
  const TestType exec;
  const auto refusal = [&](PoolConfig config) -> std::string {
    try {
      const BlockPool<TestType> pool(exec, config);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  REQUIRE(refusal({0, 16}) == "BlockPool: blocks is 0, expected at least 1");
  REQUIRE(refusal({-3, 16}) == "BlockPool: blocks is -3, expected at least 1");
  REQUIRE(refusal({1, 0}) == "BlockPool: block_tokens is 0, expected 1 .. 256");
  REQUIRE(refusal({1, 257}) == "BlockPool: block_tokens is 257, expected 1 .. 256");
}

TEMPLATE_LIST_TEST_CASE("blocks are handed out in order, and those given back last come first", "[block_pool]",
                        test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(8);
  REQUIRE(pool.acquire(6) == Ints{0, 1, 2, 3, 4, 5});
  pool.release({4, 1, 3});
  REQUIRE(pool.acquire(2) == Ints{4, 1});
  pool.release({5});
  REQUIRE(pool.acquire(4) == Ints{5, 3, 6, 7});
}

TEMPLATE_LIST_TEST_CASE("a block becomes free with its last reference", "[block_pool]", test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(4);
  REQUIRE(pool.acquire(3) == Ints{0, 1, 2});
  pool.retain({1, 2, 1});  // duplicates count
  REQUIRE(pool.counts() == Ints{1, 3, 2, 0});
  REQUIRE(pool.stats().shared == 2);
  pool.release({1, 0, 1});
  REQUIRE(pool.counts() == Ints{0, 1, 2, 0});
  REQUIRE(pool.stats().free == 2);
  pool.release({2, 1, 2});
  REQUIRE(pool.counts() == Ints(4, 0));
  REQUIRE(pool.stats().free == 4);
  REQUIRE(pool.stats().peak == 3);
  REQUIRE(pool.stats().error.fault == PoolFault::none);
  REQUIRE(pool.acquire(4) == Ints{2, 1, 0, 3});  // in the place of its first entry, where a block occurs twice
}

TEMPLATE_LIST_TEST_CASE("a list may carry a number of references for each entry", "[block_pool]",
                        test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(3);
  (void)pool.acquire(3);
  pool.retain({2, 0, 2}, {5, 1, 10});
  REQUIRE(pool.counts() == Ints{2, 1, 16});
  pool.release({2, 1}, {15, 1});
  REQUIRE(pool.counts() == Ints{2, 0, 1});
  REQUIRE(pool.stats().free == 1);
  REQUIRE_THROWS_AS(pool.retain({2, 0}, {1}), Error);
}

TEMPLATE_LIST_TEST_CASE("empty lists change nothing", "[block_pool]", test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(2);
  REQUIRE(pool.acquire(0).empty());
  pool.retain({});
  pool.release({});
  pool.release({}, {});
  REQUIRE(pool.stats().free == 2);
  REQUIRE(pool.stats().error.fault == PoolFault::none);
}

TEMPLATE_LIST_TEST_CASE("an exhausted pool hands out nothing and says how much was wanted", "[block_pool]",
                        test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(5);
  (void)pool.acquire(2);
  REQUIRE(pool.acquire(4) == Ints(4, -7));
  REQUIRE(pool.failed_with(PoolFault::exhausted, 4, 3));
  REQUIRE(pool.stats().free == 3);
  REQUIRE(pool.counts() == Ints{1, 1, 0, 0, 0});
  REQUIRE(pool.acquire(3) == Ints{2, 3, 4});  // what fits still goes
}

TEMPLATE_LIST_TEST_CASE("a list with an id that is no block changes nothing", "[block_pool]", test::ExecutionSpaces) {
  for (const std::int32_t stray :
       {-1, 4, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
    CAPTURE(stray);
    PoolUnderTest<TestType> released(4);
    (void)released.acquire(4);
    released.release({0, stray, 1, stray});
    REQUIRE(released.failed_with(PoolFault::out_of_range, stray, 1));
    REQUIRE(released.counts() == Ints(4, 1));
    PoolUnderTest<TestType> retained(4);
    (void)retained.acquire(4);
    retained.retain({0, 2, stray});
    REQUIRE(retained.failed_with(PoolFault::out_of_range, stray, 2));
    REQUIRE(retained.counts() == Ints(4, 1));
  }
}

TEMPLATE_LIST_TEST_CASE("releasing or retaining a free block changes nothing", "[block_pool]", test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(4);
  (void)pool.acquire(2);
  pool.release({1, 3, 0});
  REQUIRE(pool.failed_with(PoolFault::not_in_use, 3, 1));
  REQUIRE(pool.counts() == Ints{1, 1, 0, 0});
  pool.pool.clear_error(pool.exec);
  pool.retain({0, 1, 0, 2});
  REQUIRE(pool.failed_with(PoolFault::not_in_use, 2, 3));
  REQUIRE(pool.counts() == Ints{1, 1, 0, 0});
}

TEMPLATE_LIST_TEST_CASE("releasing more references than a block has changes nothing", "[block_pool]",
                        test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(4);
  (void)pool.acquire(3);
  pool.retain({1});
  pool.release({0, 1, 2, 1, 1});  // block 1 has two references; the error names its first place in the list
  REQUIRE(pool.failed_with(PoolFault::not_in_use, 1, 1));
  REQUIRE(pool.counts() == Ints{1, 2, 1, 0});
  REQUIRE(pool.stats().free == 1);
  pool.pool.clear_error(pool.exec);
  pool.release({0, 1, 2}, {1, 3, 1});
  REQUIRE(pool.failed_with(PoolFault::not_in_use, 1, 1));
  REQUIRE(pool.counts() == Ints{1, 2, 1, 0});
}

TEMPLATE_LIST_TEST_CASE("a count that would overflow changes nothing, through duplicates as well", "[block_pool]",
                        test::ExecutionSpaces) {
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
  PoolUnderTest<TestType> pool(3);
  (void)pool.acquire(2);
  pool.retain({1}, {kMost - 2});
  REQUIRE(pool.counts() == Ints{1, kMost - 1, 0});
  pool.retain({0, 1, 1});
  REQUIRE(pool.failed_with(PoolFault::overflow, 1, 1));
  REQUIRE(pool.counts() == Ints{1, kMost - 1, 0});
  pool.pool.clear_error(pool.exec);
  pool.retain({1});
  REQUIRE(pool.counts() == Ints{1, kMost, 0});
  REQUIRE(pool.stats().error.fault == PoolFault::none);
  pool.retain({1, 1, 0, 1, 1}, {kMost, kMost, 1, kMost, kMost});  // beyond 32 bits in one list
  REQUIRE(pool.failed_with(PoolFault::overflow, 1, 0));
  pool.pool.clear_error(pool.exec);
  pool.release({1, 1}, {kMost, kMost});
  REQUIRE(pool.failed_with(PoolFault::not_in_use, 1, 0));
  REQUIRE(pool.counts() == Ints{1, kMost, 0});
}

TEMPLATE_LIST_TEST_CASE("a number of references below one changes nothing", "[block_pool]", test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(3);
  (void)pool.acquire(3);
  pool.release({0, 1, 2}, {1, 0, -5});
  REQUIRE(pool.failed_with(PoolFault::invalid_weight, 1, 1));
  pool.pool.clear_error(pool.exec);
  pool.retain({0, 2, 2}, {1, 3, -1});
  REQUIRE(pool.failed_with(PoolFault::invalid_weight, 2, 2));
  REQUIRE(pool.counts() == Ints(3, 1));
}

TEMPLATE_LIST_TEST_CASE("the first error stays until it is cleared, and operations go on behind it", "[block_pool]",
                        test::ExecutionSpaces) {
  PoolUnderTest<TestType> pool(3);
  pool.release({2});
  (void)pool.acquire(9);
  REQUIRE(pool.failed_with(PoolFault::not_in_use, 2, 0));
  REQUIRE(pool.acquire(1) == Ints{0});
  pool.pool.clear_error(pool.exec);
  REQUIRE(pool.stats().error.fault == PoolFault::none);
  REQUIRE(pool.stats().error.block == -1);
  (void)pool.acquire(9);
  REQUIRE(pool.failed_with(PoolFault::exhausted, 9, 2));
}

TEMPLATE_LIST_TEST_CASE("a long list does what a short one does", "[block_pool]", test::ExecutionSpaces) {
  for (const std::int32_t count : {4095, 4096, 4097, 20000}) {  // around the longest list of a single team
    CAPTURE(count);
    PoolUnderTest<TestType> pool(count + 3);
    Ints expected(static_cast<std::size_t>(count));
    std::iota(expected.begin(), expected.end(), 0);
    REQUIRE(pool.acquire(count) == expected);
    REQUIRE(pool.acquire(count) == Ints(std::size_t(count), -7));
    REQUIRE(pool.failed_with(PoolFault::exhausted, count, 3));
    pool.pool.clear_error(pool.exec);
    pool.retain(expected);
    REQUIRE(pool.stats().shared == count);

    Ints twice_shuffled;
    for (std::int32_t i = 0; i < 2 * count; ++i) twice_shuffled.push_back(std::int32_t(i * std::int64_t{7919} % count));
    Ints broken = twice_shuffled;
    broken[std::size_t(count) + 5] = count + 1;
    pool.release(broken);
    REQUIRE(pool.failed_with(PoolFault::not_in_use, count + 1, count + 5));
    REQUIRE(pool.stats().used == count);
    pool.pool.clear_error(pool.exec);

    pool.release(twice_shuffled);
    REQUIRE(pool.stats().used == 0);
    REQUIRE(pool.stats().error.fault == PoolFault::none);
    twice_shuffled.resize(std::size_t(count));  // 7919 is coprime to each count: the first half names each block once
    REQUIRE(pool.acquire(count) == twice_shuffled);
  }
}

TEST_CASE("every fault has a name", "[block_pool]") {
  REQUIRE(std::string(name_of(PoolFault::none)) == "none");
  REQUIRE(std::string(name_of(PoolFault::exhausted)) == "exhausted");
  REQUIRE(std::string(name_of(PoolFault::invalid_weight)) == "invalid_weight");
}

}  // namespace espalier
