#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <string>

#include "arrays.hpp"
#include "bind.hpp"
#include "espalier/kv_tree.hpp"
#include "objects.hpp"

namespace espalier::python {
namespace {

using namespace nb::literals;
using Ids = std::vector<BranchId>;

// ------------------------------------------------------------------------------------------------------------- pool

HostPool::ConstBlockIds block_ids(const InArray& ids, const char* function) {
  const auto list = list_of<const std::int32_t, HostExec>(ids, function, "ids");
  return HostPool::ConstBlockIds(reinterpret_cast<const BlockId*>(list.data()), list.extent(0));
}

std::string error_of(const PoolError& error) {
  if (error.fault == PoolFault::none) return {};
  const std::string block = std::to_string(error.block), entry = std::to_string(error.entry);
  if (error.fault == PoolFault::exhausted) return "exhausted: " + block + " blocks wanted, " + entry + " free";
  return std::string(name_of(error.fault)) + ": block " + block + ", entry " + entry;
}

void bind_pool(nb::module_& m) {
  nb::class_<PoolStats>(m, "PoolStats", "What BlockPool.stats() tells.")
      .def_ro("free", &PoolStats::free)
      .def_ro("used", &PoolStats::used)
      .def_ro("shared", &PoolStats::shared, "Blocks with more than one reference.")
      .def_ro("peak", &PoolStats::peak, "Largest `used` so far.")
      .def_prop_ro(
          "error", [](const PoolStats& stats) { return error_of(stats.error); },
          "The first error since construction or clear_error(), such as 'not_in_use: block 3, entry 0'; else ''.");

  nb::class_<HeldPool>(m, "BlockPool", R"(Reference counts of the blocks of a KV cache, in host memory.

A KvTree takes its blocks from a pool; acquire, retain and release are for other users of the same pool, such as a
prefix cache. Their lists are int32 arrays in host memory. An operation that fails changes nothing but stats().error.)")
      .def(
          "__init__",
          [](HeldPool* self, std::int32_t blocks, int block_tokens) {
            const HostExec exec = host_instance();
            new (self) HeldPool(exec, PoolConfig{blocks, block_tokens});
          },
          "blocks"_a, "block_tokens"_a,
          "A pool of `blocks` free blocks of `block_tokens` (1 to 256) token slots each.\n\nRaises ValueError.")
      .def_prop_ro("blocks", [](HeldPool& pool) { return pool->config().blocks; })
      .def_prop_ro("block_tokens", [](HeldPool& pool) { return pool->config().block_tokens; })
      .def(
          "stats", [](HeldPool& pool) { return pool->stats(HostExec()); }, Unlocked(),
          "Free, used, shared and peak counts, and the first error. Reads all counts.")
      .def(
          "free_blocks", [](HeldPool& pool) { return pool->free_blocks(HostExec()); }, Unlocked())
      .def(
          "acquire",
          [](HeldPool& pool, const OutArray& out) {
            const auto list = list_of<std::int32_t, HostExec>(out, "acquire", "out");
            pool->acquire(HostExec(), HostPool::BlockIds(reinterpret_cast<BlockId*>(list.data()), list.extent(0)));
          },
          "out"_a.noconvert(),
          "Takes one free block for each entry of `out` (int32 [count], written), all or none: left as it is, with\n"
          "stats().error set, where the pool has fewer.")
      .def(
          "retain", [](HeldPool& pool, const InArray& ids) { pool->retain(HostExec(), block_ids(ids, "retain")); },
          "ids"_a, "Adds one reference for each entry of `ids`, int32 [count].")
      .def(
          "release", [](HeldPool& pool, const InArray& ids) { pool->release(HostExec(), block_ids(ids, "release")); },
          "ids"_a, "Drops one reference for each entry of `ids`, int32 [count]; blocks without any become free.")
      .def("clear_error", [](HeldPool& pool) { pool->clear_error(HostExec()); }, Unlocked());
}

// ------------------------------------------------------------------------------------------------------------- tree

void bind_branches(nb::module_& m) {
  nb::class_<BranchId>(m, "BranchId", "One live path of a KvTree. The id of a pruned branch is never valid again.")
      .def_ro("index", &BranchId::index)
      .def_ro("generation", &BranchId::generation)
      .def(nb::self == nb::self, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](const BranchId& id) {
             return std::hash<std::uint64_t>{}(std::uint64_t(id.generation) << 32 | std::uint32_t(id.index));
           })
      .def("__repr__", [](const BranchId& id) {
        return "BranchId(" + std::to_string(id.index) + ", generation " + std::to_string(id.generation) + ")";
      });

  nb::class_<BranchFork>(m, "BranchFork", "`count` new branches that share the first `at_token` tokens of `branch`.")
      .def(
          "__init__",
          [](BranchFork* self, BranchId branch, std::int32_t count, std::optional<std::int64_t> at_token) {
            new (self) BranchFork{branch, count, at_token.value_or(kBranchEnd)};
          },
          "branch"_a, "count"_a, "at_token"_a = nb::none(), "at_token None: all tokens of the branch.")
      .def_ro("branch", &BranchFork::branch)
      .def_ro("count", &BranchFork::count)
      .def_prop_ro("at_token", [](const BranchFork& fork) {
        return fork.at_token == kBranchEnd ? std::nullopt : std::optional(fork.at_token);
      });

  nb::class_<BranchDecision>(m, "BranchDecision", "What is done after a step: all forks, then all prunes.")
      .def(
          "__init__",
          [](BranchDecision* self, std::vector<BranchFork> forks, Ids prunes) {
            new (self) BranchDecision{std::move(forks), std::move(prunes)};
          },
          "forks"_a = std::vector<BranchFork>(), "prunes"_a = Ids())
      .def_ro("forks", &BranchDecision::forks)
      .def_ro("prunes", &BranchDecision::prunes);

  nb::class_<BranchRow>(m, "BranchRow", "The query token that follows the first `tokens` tokens of a branch.")
      .def(
          "__init__",
          [](BranchRow* self, BranchId branch, std::optional<std::int64_t> tokens) {
            new (self) BranchRow{branch, tokens.value_or(kBranchEnd)};
          },
          "branch"_a, "tokens"_a = nb::none(), "tokens None: all tokens of the branch.")
      .def_ro("branch", &BranchRow::branch);
}

void bind_kv_tree(nb::module_& m) {
  nb::class_<HeldTree>(m, "KvTree",
                       R"(Topology of the live branches and the blocks that hold their KV; lives on the host.

Every live branch holds one reference on each block of its path: a fork counts up, a prune counts down, and neither
copies KV. A call that raises changes nothing. Not for concurrent use.

Raises ValueError for a branch that is not live or a negative count, CapacityError where the pool has too few free
blocks.)")
      .def(
          "__init__", [](HeldTree* self, HeldPool& pool) { new (self) HeldTree(host_instance(), *pool); }, "pool"_a,
          nb::keep_alive<1, 2>(), "An empty tree that takes its blocks from `pool`.")
      .def(
          "is_live", [](HeldTree& tree, BranchId branch) { return tree->is_live(branch); }, "branch"_a)
      .def(
          "branches", [](HeldTree& tree) { return tree->branches(); }, "The live branches, in order of creation.")
      .def(
          "tokens", [](HeldTree& tree, BranchId branch) { return tree->tokens(branch); }, "branch"_a,
          "Tokens of a branch, its shared ones included.")
      .def_prop_ro("nodes", [](HeldTree& tree) { return tree->nodes(); })
      .def_prop_ro(
          "stored_tokens", [](HeldTree& tree) { return tree->stored_tokens(); }, "Each shared token counted once.")
      .def_prop_ro(
          "unshared_tokens", [](HeldTree& tree) { return tree->unshared_tokens(); },
          "What private copies of all branches would hold.")
      .def_prop_ro(
          "version", [](HeldTree& tree) { return tree->version(); }, "Changes with every change of the tree.")
      .def(
          "slots",
          [](HeldTree& tree, BranchId branch, std::int64_t begin, std::optional<std::int64_t> end) {
            return numpy_of(tree->slots(branch, begin, end.value_or(kBranchEnd)));
          },
          "branch"_a, "begin"_a = 0, "end"_a = nb::none(),
          "Slots of the tokens [begin, end) of a branch, int64: where their K and V lie.\n\n"
          "slot = block * block_tokens + place in the block.")
      .def(
          "last_slots",
          [](HeldTree& tree, const Ids& branches, std::int64_t tokens) {
            return numpy_of(tree->last_slots(branches, tokens));
          },
          "branches"_a, "tokens"_a = 1,
          "Slots of the last `tokens` tokens of each branch, one branch after another, int64 [branches * tokens]:\n"
          "where the K and V of a decode step go.")
      .def(
          "snapshot", [](HeldTree& tree) { return tree->snapshot(); }, Unlocked(),
          "The tree in line order with one row per live branch (in order of creation), at its end.")
      .def(
          "snapshot", [](HeldTree& tree, const std::vector<BranchRow>& rows) { return tree->snapshot(rows); }, "rows"_a,
          Unlocked(), "The tree in line order with the given rows; nodes that no row sees are left out.")
      .def(
          "root", [](HeldTree& tree, std::int64_t tokens) { return tree->root(tokens); }, "tokens"_a, Unlocked(),
          "A new root with its first branch.")
      .def(
          "fork", [](HeldTree& tree, BranchId branch, std::int32_t count) { return tree->fork(branch, count); },
          "branch"_a, "count"_a = 1, Unlocked(),
          "`count` new branches with the same path; `branch` itself goes on as well. No block is copied.")
      .def(
          "split",
          [](HeldTree& tree, BranchId branch, std::int64_t at_token, std::int32_t count) {
            return tree->split(branch, at_token, count);
          },
          "branch"_a, "at_token"_a, "count"_a = 1, Unlocked(),
          "`count` new branches that share the first `at_token` tokens, also in the middle of a node or block.")
      .def(
          "append", [](HeldTree& tree, BranchId branch, std::int64_t tokens) { tree->append(branch, tokens); },
          "branch"_a, "tokens"_a = 1, Unlocked(), "Lengthens a branch.")
      .def(
          "append",
          [](HeldTree& tree, const Ids& branches, std::int64_t tokens) {
            tree->append(std::span<const BranchId>(branches), tokens);
          },
          "branches"_a, "tokens"_a = 1, Unlocked(),
          "Lengthens several branches by the same number of tokens: one decode step, all or nothing.")
      .def(
          "prune", [](HeldTree& tree, BranchId branch) { tree->prune(branch); }, "branch"_a, Unlocked(),
          "Ends a branch; blocks that no other branch references become free.")
      .def(
          "apply", [](HeldTree& tree, const BranchDecision& decision) { return tree->apply(decision); }, "decision"_a,
          Unlocked(), "All forks in order, then all prunes, all or nothing. Returns the new branches.");
}

}  // namespace

void bind_tree(nb::module_& m) {
  bind_pool(m);
  bind_branches(m);
  bind_kv_tree(m);
}

}  // namespace espalier::python
