#pragma once
// What a KvTree holds, and what all of its parts do with branches and blocks: forks.cpp, growth.cpp and lines.cpp have
// the rest, kv_tree.cpp the public face.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "espalier/error.hpp"
#include "espalier/kv_tree.hpp"
#include "line_order.hpp"
#include "tree_topology.hpp"

namespace espalier::detail {

inline constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

/// Made once: nothing may allocate between a change of the pool and that of the tree.
inline const std::string wait_label = "espalier::KvTree: wait for the pool";

/// How messages name a branch; costs nothing until one is written.
struct Named {
  BranchId branch;
  friend std::ostream& operator<<(std::ostream& out, const Named& named) {
    return out << '(' << named.branch.index << ", generation " << named.branch.generation << ')';
  }
};

/// One place of the table of branches. Live branches form a list in order of creation.
struct Branch {
  NodeIndex tail = -1;  ///< the branch ends where this node ends; -1: not live
  std::uint32_t generation = 0;
  std::int32_t previous = -1;
  std::int32_t next = -1;
  std::uint64_t call = 0;  ///< last call that named the branch
};

/// Blocks and how many references each gains or loses.
struct ReferenceList {
  std::vector<BlockId> blocks;
  std::vector<std::int32_t> references;

  void clear() noexcept {
    blocks.clear();
    references.clear();
  }

  void reserve(std::size_t count) {
    blocks.reserve(count);
    references.reserve(count);
  }

  void add(std::span<const BlockId> ids, std::int32_t each) {
    blocks.insert(blocks.end(), ids.begin(), ids.end());
    references.insert(references.end(), ids.size(), each);
  }
};

/// How one branch of an append grows.
struct Growth {
  std::int32_t branch;
  bool in_own_node;  ///< its tail node belongs to it alone
  bool continues;    ///< a new node, which begins behind the tail's last token in the same block
  std::int64_t new_blocks;
};

}  // namespace espalier::detail

namespace espalier {

struct KvTree::Impl {
  Impl(const Exec& instance, Pool& shared_pool)
      : exec(instance), pool(shared_pool), topology(shared_pool.config().block_tokens) {}
  ~Impl() { release_everything(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  [[nodiscard]] int block_tokens() const { return pool.config().block_tokens; }

  // -- branches

  [[nodiscard]] bool is_live(BranchId id) const noexcept {
    return 0 <= id.index && id.index < std::ssize(branches) && branches[id.index].tail >= 0 &&
           branches[id.index].generation == id.generation;
  }

  const detail::Branch& expects_live(BranchId id, const char* function) const {
    detail::expects(is_live(id), ErrorCode::invalid_argument, function, ": branch ", detail::Named{id}, " is not live");
    return branches[id.index];
  }

  /// Also that the call under way names the branch for the first time.
  detail::Branch& expects_once(BranchId id, const char* function) {
    expects_live(id, function);
    detail::Branch& branch = branches[id.index];
    detail::expects(branch.call != call, ErrorCode::invalid_argument, function, ": branch ", detail::Named{id},
                    " is named twice");
    branch.call = call;
    return branch;
  }

  [[nodiscard]] BranchId id_of(std::int32_t index) const { return {index, branches[index].generation}; }
  [[nodiscard]] std::int64_t tokens_of(const detail::Branch& branch) const { return topology[branch.tail].end; }

  void reserve_branches(std::int64_t count) {
    const std::int64_t more = count - std::int64_t(unused_branches.size());
    if (more <= 0) return;
    const std::size_t need = branches.size() + std::size_t(more);
    detail::expects(std::int64_t(need) <= detail::kInt32Max, ErrorCode::capacity_exceeded, "KvTree: ", need,
                    " branches, expected at most 2^31 - 1");
    if (need > branches.capacity()) branches.reserve(std::max(need, 2 * branches.capacity()));
    unused_branches.reserve(branches.capacity());
  }

  /// Needs reserve_branches.
  BranchId add_branch(detail::NodeIndex tail) noexcept {
    std::int32_t index;
    if (unused_branches.empty()) {
      index = std::int32_t(branches.size());
      branches.emplace_back();
    } else {
      index = unused_branches.back();
      unused_branches.pop_back();
    }
    detail::Branch& branch = branches[index];
    branch.tail = tail;
    branch.previous = last_branch;
    branch.next = -1;
    (last_branch >= 0 ? branches[last_branch].next : first_branch) = index;
    last_branch = index;
    ++live_branches;
    unshared_tokens += tokens_of(branch);
    ++topology[tail].tails;
    return id_of(index);
  }

  void remove_branch(std::int32_t index) noexcept {
    detail::Branch& branch = branches[index];
    --topology[branch.tail].tails;
    unshared_tokens -= tokens_of(branch);
    --live_branches;
    (branch.previous >= 0 ? branches[branch.previous].next : first_branch) = branch.next;
    (branch.next >= 0 ? branches[branch.next].previous : last_branch) = branch.previous;
    branch.tail = -1;
    // A place whose generations are used up is never used again, so that no old id can become valid.
    if (++branch.generation != std::numeric_limits<std::uint32_t>::max()) unused_branches.push_back(index);
  }

  // -- blocks

  /// @throws Error{capacity_exceeded} unless the pool has that many free blocks
  void expects_free(std::int64_t count, const char* function) const {
    if (count == 0) return;
    const std::int32_t free = pool.free_blocks(exec);
    detail::expects(count <= free, ErrorCode::capacity_exceeded, function, ": needs ", count, " blocks of ",
                    block_tokens(), " tokens, the pool has ", free, " free of ", pool.config().blocks);
  }

  /// Needs expects_free. Throws std::bad_alloc. The result is good until the next call.
  [[nodiscard]] std::span<const BlockId> acquire(std::int64_t count) {
    work.acquired.resize(static_cast<std::size_t>(count));
    if (count == 0) return {};
    pool.acquire(exec, Pool::BlockIds(work.acquired.data(), work.acquired.size()));
    exec.fence(detail::wait_label);
    return work.acquired;
  }

  void retain(const detail::ReferenceList& list) {
    if (list.blocks.empty()) return;
    pool.retain(exec, Pool::ConstBlockIds(list.blocks.data(), list.blocks.size()),
                Pool::ConstReferences(list.references.data(), list.references.size()));
    exec.fence(detail::wait_label);
  }

  void release(const detail::ReferenceList& list) {
    if (list.blocks.empty()) return;
    pool.release(exec, Pool::ConstBlockIds(list.blocks.data(), list.blocks.size()),
                 Pool::ConstReferences(list.references.data(), list.references.size()));
    exec.fence(detail::wait_label);
  }

  /// Both or none. A launch that cannot allocate throws and has changed nothing.
  void retain_and_release(const detail::ReferenceList& gained, const detail::ReferenceList& lost) {
    retain(gained);
    try {
      release(lost);
    } catch (...) {
      release(gained);
      throw;
    }
  }

  /// For the destructor: needs no memory of its own.
  void release_everything() {
    std::array<BlockId, 256> blocks;
    std::array<std::int32_t, 256> references;
    for (detail::NodeIndex node = 0; node < topology.node_limit(); ++node) {
      if (topology[node].branches <= 0) continue;
      references.fill(topology[node].branches);
      std::span<const BlockId> rest = topology[node].own_blocks();
      while (!rest.empty()) {
        const std::size_t count = std::min(rest.size(), blocks.size());
        std::copy_n(rest.begin(), count, blocks.begin());
        pool.release(exec, Pool::ConstBlockIds(blocks.data(), count), Pool::ConstReferences(references.data(), count));
        exec.fence(detail::wait_label);
        rest = rest.subspan(count);
      }
    }
  }

  // -- forks and prunes

  std::vector<BranchId> change(std::span<const BranchFork> forks, std::span<const BranchId> prunes,
                               const char* function);
  void expects_forks(std::span<const BranchFork> forks, const char* function) const;
  detail::NodeIndex fork_node(const BranchFork& fork, std::vector<detail::NodeIndex>& cuts);
  void count_change(detail::NodeIndex tail, std::int32_t by, std::vector<detail::NodeIndex>& changed);
  void remove_unused_nodes(detail::NodeIndex tail) noexcept;

  // -- growth

  BranchId root(std::int64_t tokens);
  void append(std::span<const BranchId> ids, std::int64_t tokens);
  [[nodiscard]] std::int64_t blocks_for(std::int64_t tokens) const;
  detail::Growth plan_growth(BranchId id, std::int64_t tokens);
  void reserve_blocks(const detail::Growth& growth);
  [[nodiscard]] std::vector<BlockId> begin_blocks(const detail::Growth& growth);
  void lengthen(detail::NodeIndex node, std::int64_t tokens) noexcept;
  detail::NodeIndex add_own_node(const detail::Growth& growth, std::vector<BlockId> blocks) noexcept;

  // -- slots, snapshots

  void write_slots(detail::NodeIndex tail, std::int64_t begin, std::span<std::int64_t> slots) const;
  void last_slots(std::span<const BranchId> ids, std::int64_t tokens, std::span<std::int64_t> slots) const;
  void snapshot(std::span<const BranchRow> rows, TreeSnapshot& snapshot) const;
  void add_to_line(detail::NodeIndex node, std::int32_t position_of_parent, TreeSnapshot& snapshot) const;

  void reserve(const KvTreeCapacity& capacity);

  /// What actions work on; kept, so that they need not allocate it again.
  struct Work {
    std::vector<detail::NodeIndex> fork_nodes, prune_tails, cuts, changed;
    detail::ReferenceList gained, lost;
    std::vector<detail::Growth> growths;
    std::vector<std::vector<BlockId>> new_lists;
    std::vector<BlockId> acquired;
  };

  /// Likewise for snapshots.
  struct SnapshotWork {
    std::vector<std::int32_t> position;  // of each node in the line
    std::vector<detail::NodeIndex> row_nodes;
    std::vector<detail::PlacedRow> placed;
  };

  Exec exec;
  Pool& pool;
  detail::TreeTopology topology;
  Work work;
  mutable SnapshotWork snapshot_work;
  std::vector<detail::Branch> branches;
  std::vector<std::int32_t> unused_branches;  // capacity for all of branches
  std::int32_t first_branch = -1;
  std::int32_t last_branch = -1;
  std::int32_t live_branches = 0;
  std::int64_t stored_tokens = 0;
  std::int64_t unshared_tokens = 0;
  std::uint64_t version = 0;
  std::uint64_t call = 0;  // number of the action under way: marks what it has met
};

}  // namespace espalier
