// Random operations on a pool, against a model that does one thing after another.

#include <algorithm>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "espalier/block_pool.hpp"
#include "support/execution_spaces.hpp"

namespace espalier {
namespace {

using Ints = std::vector<std::int32_t>;

struct PoolModel {
  Ints counts;
  Ints stack;  // free blocks, the top last
  std::int32_t peak = 0;
  PoolError error;

  explicit PoolModel(std::int32_t blocks) : counts(std::size_t(blocks), 0) {
    for (std::int32_t block = blocks; block-- > 0;) stack.push_back(block);
  }

  void report(PoolFault fault, std::int32_t block, std::int32_t entry) {
    if (error.fault == PoolFault::none) error = {fault, block, entry};
  }

  /// The blocks handed out; the list as it was where they do not suffice.
  Ints acquire(Ints out) {
    if (out.size() > stack.size()) {
      report(PoolFault::exhausted, std::int32_t(out.size()), std::int32_t(stack.size()));
      return out;
    }
    for (std::int32_t& block : out) {
      block = stack.back();
      stack.pop_back();
      counts[block] = 1;
    }
    peak = std::max(peak, std::int32_t(counts.size() - stack.size()));
    return out;
  }

  void change(const Ints& list, const Ints& references, int sign) {
    const auto in_range = [&](std::int32_t block) { return 0 <= block && block < std::ssize(counts); };
    std::map<std::int32_t, std::int64_t> wanted;
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (in_range(list[i]) && references[i] >= 1) wanted[list[i]] += references[i];
    }
    const auto fault_at = [&](std::size_t i) {
      if (!in_range(list[i])) return PoolFault::out_of_range;
      if (references[i] < 1) return PoolFault::invalid_weight;
      const std::int64_t count = counts[list[i]];
      if (count == 0 || (sign < 0 && wanted[list[i]] > count)) return PoolFault::not_in_use;
      if (sign > 0 && count + wanted[list[i]] > std::numeric_limits<std::int32_t>::max()) return PoolFault::overflow;
      return PoolFault::none;
    };
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (fault_at(i) == PoolFault::none) continue;
      report(fault_at(i), list[i], std::int32_t(i));
      return;
    }
    Ints freed;
    for (const std::int32_t block : list) {  // each block at its first entry
      if (wanted[block] == 0) continue;
      counts[block] += sign * std::int32_t(wanted[block]);
      wanted[block] = 0;
      if (counts[block] == 0) freed.push_back(block);
    }
    stack.insert(stack.end(), freed.rbegin(), freed.rend());
  }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("a pool does what a sequential model does, faults and order included", "[block_pool][property]",
                        test::ExecutionSpaces) {
  const TestType exec;
  for (const std::uint64_t seed : {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{Catch::getSeed()}}) {
    std::mt19937_64 random(seed);
    const auto below = [&](std::int64_t limit) { return std::int32_t(random() % std::uint64_t(limit)); };
    const bool large = seed % 2 != 0;  // lists on both sides of the longest one of a single team
    const std::int32_t blocks = large ? 9000 + below(1000) : 1 + below(60);
    CAPTURE(seed, blocks);
    BlockPool<TestType> pool(exec, {blocks, 1});
    PoolModel model(blocks);

    for (int step = 0; step < (large ? 120 : 600); ++step) {
      CAPTURE(step);
      const int kind = below(8);
      if (kind < 3) {
        const Ints untouched(std::size_t(below(blocks / (below(8) == 0 ? 1 : 8) + 2)), -7);
        const auto ids = test::to_view<TestType>(std::vector<BlockId>(untouched.size(), BlockId{-7}));
        pool.acquire(exec, ids);
        exec.fence();
        Ints acquired;
        for (const BlockId id : test::to_vector(ids)) acquired.push_back(std::int32_t(id));
        REQUIRE(acquired == model.acquire(untouched));
      } else {
        const bool releases = kind < 6;
        Ints in_use;
        for (std::int32_t block = 0; block < blocks; ++block) {
          if (model.counts[block] > 0) in_use.push_back(block);
        }
        std::vector<BlockId> ids;
        Ints list;
        Ints references;
        const std::int32_t entries = below(std::ssize(in_use) + 2);
        const bool distinct = below(3) != 0;  // long lists with duplicates nearly always release too much
        if (distinct) std::shuffle(in_use.begin(), in_use.end(), random);
        for (std::int32_t entry = 0; entry < entries; ++entry) {
          const bool stray = entry >= std::ssize(in_use) || below(8 * entries) == 0;
          list.push_back(stray ? below(blocks + 4) - 2 : distinct ? in_use[entry] : in_use[below(std::ssize(in_use))]);
          references.push_back(below(8 * entries) == 0 ? below(3) - 1 : !releases && below(2) == 0 ? 2 : 1);
          ids.push_back(BlockId{list.back()});
        }
        const bool weighted = below(2) == 0;
        if (!weighted) std::fill(references.begin(), references.end(), 1);
        const auto id_view = test::to_view<TestType>(ids);
        const auto reference_view = test::to_view<TestType>(references);
        if (releases && weighted) pool.release(exec, id_view, reference_view);
        if (releases && !weighted) pool.release(exec, id_view);
        if (!releases && weighted) pool.retain(exec, id_view, reference_view);
        if (!releases && !weighted) pool.retain(exec, id_view);
        exec.fence();
        model.change(list, references, releases ? -1 : 1);
      }

      const PoolStats stats = pool.stats(exec);
      REQUIRE(test::to_vector(pool.counts()) == model.counts);
      REQUIRE(stats.free == std::ssize(model.stack));
      REQUIRE(stats.used == blocks - std::ssize(model.stack));
      REQUIRE(stats.shared == std::count_if(model.counts.begin(), model.counts.end(), [](auto n) { return n > 1; }));
      REQUIRE(stats.peak == model.peak);
      REQUIRE(stats.error.fault == model.error.fault);
      REQUIRE(stats.error.block == model.error.block);
      REQUIRE(stats.error.entry == model.error.entry);
      if (below(4) == 0) {
        pool.clear_error(exec);
        model.error = {};
      }
    }
  }
}

}  // namespace espalier
