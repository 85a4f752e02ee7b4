#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "espalier/block_pool.hpp"
#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// Marks "the end of the branch" where a token position is expected.
inline constexpr std::int64_t kBranchEnd = std::numeric_limits<std::int64_t>::max();

/// `count` new branches that share the first `at_token` tokens of `branch`.
struct BranchFork {
  BranchId branch;
  std::int32_t count;
  std::int64_t at_token = kBranchEnd;
};

/// What a branch controller wants done after a step: all forks, then all prunes.
struct BranchDecision {
  std::vector<BranchFork> forks;
  std::vector<BranchId> prunes;
};

/// One row of a snapshot: the query token that follows the first `tokens` tokens of a branch.
struct BranchRow {
  BranchId branch;
  std::int64_t tokens = kBranchEnd;
};

/// What a tree has room for, see KvTree::reserve.
struct KvTreeCapacity {
  std::int32_t nodes = 0;
  std::int32_t branches = 0;     ///< live at a time
  std::int32_t node_blocks = 0;  ///< of the longest node
};

/// Topology of the live branches and the blocks that hold their KV; lives on the host, because engines decide there.
///
/// Every live branch holds one reference on each block of its path, so a fork counts up, a prune counts down, and
/// neither copies KV. A node is a run of tokens shared by exactly the same branches; a branch that has appended nothing
/// since its fork has no node of its own yet.
///
/// The first branch that appends behind a partly filled block continues in it; its siblings begin a new one. What such
/// a branch wrote into the block is free again once no branch needs it any more, and the next one may continue there.
/// When pruning leaves two nodes one behind the other with the same branches, they become one; only where the lower one
/// had begun a new block although the upper one's last block is not full, they remain two.
///
/// Others may retain blocks of a tree in the pool, for a prefix cache say, and must release only what they retained.
///
/// A call that throws changes nothing. Not for concurrent use.
class KvTree {
 public:
  using Exec = Kokkos::DefaultHostExecutionSpace;
  using Pool = BlockPool<Exec>;

  /// @param pool  must outlive the tree; several trees may share one
  KvTree(const Exec& exec, Pool& pool);
  ~KvTree();  // returns every block to the pool
  KvTree(KvTree&&) noexcept;
  KvTree& operator=(KvTree&&) noexcept;

  // -- queries

  [[nodiscard]] bool is_live(BranchId branch) const noexcept;
  [[nodiscard]] std::vector<BranchId> branches() const;  ///< live ones, in order of creation
  [[nodiscard]] std::int64_t tokens(BranchId branch) const;
  [[nodiscard]] std::int32_t nodes() const;
  [[nodiscard]] std::int64_t stored_tokens() const;    ///< each shared token counted once
  [[nodiscard]] std::int64_t unshared_tokens() const;  ///< what private copies of all branches would hold
  [[nodiscard]] const Pool& pool() const;

  /// Changes with every change of the tree.
  [[nodiscard]] std::uint64_t version() const;

  /// Slots of the tokens [begin, end) of a branch: where their K and V lie.
  /// @throws Error{invalid_argument} unless 0 <= begin <= end <= tokens(branch)
  [[nodiscard]] std::vector<std::int64_t> slots(BranchId branch, std::int64_t begin,
                                                std::int64_t end = kBranchEnd) const;

  /// Slots of the last `tokens` tokens of each branch, one branch after another: where the K and V of a decode step go.
  /// [branches * tokens]
  /// @throws Error{invalid_argument} if a branch is not live or has fewer tokens
  [[nodiscard]] std::vector<std::int64_t> last_slots(std::span<const BranchId> branches, std::int64_t tokens) const;

  /// The same, into the caller's memory.
  /// @param slots  [branches * tokens]  written
  /// @throws Error{invalid_argument} also if it has another size
  void last_slots(std::span<const BranchId> branches, std::int64_t tokens, std::span<std::int64_t> slots) const;

  /// The tree in line order with one row per live branch (in order of creation), at its end.
  [[nodiscard]] TreeSnapshot snapshot() const;

  /// The tree in line order with the given rows: roots and children in order of creation, the part below the cut of a
  /// split before what was appended above it. Nodes that no row sees are left out. A row with fewer tokens than its
  /// branch belongs to the node that holds the last of them; a row with none to the branch's root, of which it sees 0.
  /// @throws Error{invalid_argument} if a branch is not live or has fewer tokens than its row; Error{capacity_exceeded}
  /// if the rows see more than 2^31 - 1 tokens
  [[nodiscard]] TreeSnapshot snapshot(std::span<const BranchRow> rows) const;

  /// The same, into a snapshot that the caller keeps: what it has room for is not allocated again.
  void snapshot(std::span<const BranchRow> rows, TreeSnapshot& snapshot) const;

  // -- actions; all throw Error{invalid_argument} for a branch that is not live or a negative count,
  //    Error{capacity_exceeded} where the pool has too few free blocks

  /// Makes room, and keeps it: while the tree has no more nodes and live branches, and no node has more blocks, root,
  /// append and prune allocate nothing, and fork, split and apply nothing but what they return (where the pool is asked for
  /// blocks, Kokkos may allocate to launch its kernel). Queries that write into
  /// the caller's memory keep what they needed last. Never takes room away.
  /// @throws Error{invalid_argument} if one is negative; std::bad_alloc
  void reserve(const KvTreeCapacity& capacity);

  /// A new root with its first branch.
  BranchId root(std::int64_t tokens);

  /// `count` new branches with the same path; `branch` itself goes on as well. No block is copied.
  std::vector<BranchId> fork(BranchId branch, std::int32_t count);

  /// `count` new branches that share the first `at_token` tokens (0 .. tokens(branch)), also in the middle of a node or
  /// of a block; the block is then shared by the nodes on both sides.
  std::vector<BranchId> split(BranchId branch, std::int64_t at_token, std::int32_t count);

  /// Lengthens a branch.
  void append(BranchId branch, std::int64_t tokens);

  /// Lengthens several branches by the same number of tokens: one decode step. All or nothing.
  /// @param branches  each at most once
  void append(std::span<const BranchId> branches, std::int64_t tokens);

  /// Ends a branch; blocks that no other branch references become free.
  void prune(BranchId branch);

  /// All forks in order, then all prunes, with one update of the pool for the whole decision. A branch may be forked
  /// and pruned in one decision, but pruned only once. All or nothing.
  /// @return the new branches, those of the first fork first
  std::vector<BranchId> apply(const BranchDecision& decision);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier
