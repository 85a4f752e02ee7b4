#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/block_pool.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// One node of a tree that is described from outside: parents come before children, -1 marks a root.
struct NodeSpec {
  std::int32_t parent;
  std::int32_t tokens;  ///< may be 0
};

/// One row: it sees the path above its node, and the first `visible` tokens of the node itself.
struct RowSpec {
  std::int32_t node;
  std::int32_t visible = -1;  ///< -1: all
};

/// A tree in line order, on the host: nodes in depth-first order (children in the order they are given), rows by
/// (node, visible, caller's number). The rows below node i are then the interval [row_begin[i], row_end[i]).
struct TreeSnapshot {
  int block_tokens = 0;
  std::uint64_t version = 0;
  std::vector<std::int32_t> parent;        ///< [nodes]  position of the parent, -1 at a root
  std::vector<std::int32_t> tokens;        ///< [nodes]
  std::vector<std::int32_t> first_block;   ///< [nodes]  entry of block_table that holds the node's first token
  std::vector<std::int32_t> first_offset;  ///< [nodes]  place of the first token inside that block
  std::vector<std::int32_t> subtree_end;   ///< [nodes]  position behind the node's last descendant
  std::vector<std::int32_t> row_begin;     ///< [nodes]
  std::vector<std::int32_t> row_end;       ///< [nodes]
  std::vector<std::int32_t> row_node;      ///< [rows]   position of the row's node
  std::vector<std::int32_t> row_visible;   ///< [rows]   tokens of its own node that the row sees
  std::vector<std::int32_t> row_index;     ///< [rows]   the caller's number of the row
  std::vector<BlockId> block_table;        ///< blocks of all nodes, one node after another

  [[nodiscard]] std::int32_t nodes() const { return static_cast<std::int32_t>(parent.size()); }
  [[nodiscard]] std::int32_t rows() const { return static_cast<std::int32_t>(row_node.size()); }
};

/// How the tokens of a described tree lie in the cache.
enum class TreeLayout : std::uint8_t {
  aligned,    ///< every node begins a block of its own; blocks are numbered in node order
  contiguous  ///< the tokens of all nodes lie one after another in node order, from slot 0
};

/// The snapshot of a tree that is described from outside.
/// @param nodes  parents before children
/// @param rows   empty: one row per leaf, in node order
/// @throws Error{invalid_argument} naming the first node or row that is wrong, or if tokens exceed 2^31 - 1
[[nodiscard]] TreeSnapshot make_snapshot(std::span<const NodeSpec> nodes, std::span<const RowSpec> rows,
                                         int block_tokens, TreeLayout layout = TreeLayout::aligned);

/// The slots of all tokens of a described tree in node order: where an engine writes its K and V.  [tokens]
[[nodiscard]] std::vector<std::int64_t> slots_in_node_order(std::span<const NodeSpec> nodes, int block_tokens,
                                                            TreeLayout layout = TreeLayout::aligned);

/// The largest tree that fits; memory is allocated once.
struct TreeCapacity {
  std::int32_t nodes;
  std::int32_t rows;
  std::int32_t blocks;  ///< entries of the block table; a KvTree's are at most the blocks of its pool plus one a node
};

namespace detail {

/// The arrays of a TreeView, for kernels that write them.
struct TreeTarget {
  std::int32_t* counts;  ///< [4]  as TreeArrays::device_counts()
  std::int32_t* parent;
  std::int32_t* tokens;
  std::int32_t* first_block;
  std::int32_t* first_offset;
  std::int32_t* subtree_end;
  std::int32_t* row_begin;
  std::int32_t* row_end;
  std::int32_t* row_node;
  std::int32_t* row_visible;
  std::int32_t* row_index;
  std::int32_t* block_table;
};

}  // namespace detail

/// A snapshot in the memory of an execution space, at fixed addresses, so that a captured graph that reads it stays
/// valid while the tree changes.
template <ExecutionSpace Exec>
class TreeArrays {
 public:
  using memory_space = typename Exec::memory_space;

  /// An empty tree.
  /// @throws Error{invalid_argument} if a capacity is negative
  TreeArrays(const Exec& exec, TreeCapacity capacity);

  /// A tree of exactly the snapshot's size.
  TreeArrays(const Exec& exec, const TreeSnapshot& snapshot);

  TreeArrays(const TreeArrays&) = delete;  // two owners of one staging ring would overwrite each other's uploads
  TreeArrays& operator=(const TreeArrays&) = delete;
  TreeArrays(TreeArrays&&) = default;
  TreeArrays& operator=(TreeArrays&&) = default;

  [[nodiscard]] const TreeCapacity& capacity() const { return capacity_; }

  /// Nodes that the host counts. Of a tree that was derived on the device this may be an upper bound: the nodes behind
  /// the last real one are then empty roots without rows, so that a planner need not know.
  [[nodiscard]] std::int32_t nodes() const { return nodes_; }
  [[nodiscard]] std::int32_t rows() const { return rows_; }
  [[nodiscard]] int block_tokens() const { return block_tokens_; }
  [[nodiscard]] std::uint64_t version() const { return version_; }

  /// Plain pointers to the arrays, for kernels. The pointers never change; the counts are those of the last upload
  /// or rewrite.
  [[nodiscard]] detail::TreeView view() const;

  /// Nodes, rows, block_tokens and entries of the block table, in the memory of Exec: what a kernel in a captured graph
  /// reads instead of the counts of view(). The nodes are the real ones alone.  [4]
  [[nodiscard]] const std::int32_t* device_counts() const { return arrays_.data(); }

  /// Replaces the content; enqueued on the instance. The snapshot is copied before the call returns. Waits only if
  /// the uploads of the last few calls have not yet left the staging ring.
  /// @throws Error{capacity_exceeded} naming the capacity and the snapshot's need; the content stays as it was
  void upload(const Exec& exec, const TreeSnapshot& snapshot);

  /// One decode step: each row at the end of a leaf gets the next token there. The leaf has one token more, the row sees
  /// it, and `slots` says where its K and V go. One kernel on the instance, so that a captured graph of this, Plan::grow,
  /// append and attend goes on from step to step without the host.
  ///
  /// The block table must have entries for what is to come: those between a node's first one and that of the next node
  /// are its own. A row stays as it is, and its slot is -1, which append skips, where they are used up, where the row does
  /// not see all of its node, shares it with another row, or where the node has children.
  /// @param slots  [rows]  written; rows as the caller numbers them
  /// @throws Error{invalid_argument} if slots has another extent
  void grow(const Exec& exec, const Kokkos::View<std::int64_t*, memory_space>& slots);

  /// Hands the arrays to kernels that derive a tree on the device. They write all entries of `nodes` nodes and `rows`
  /// rows, make the nodes behind the last real one empty roots without rows, and set the counts.
  /// @throws Error{capacity_exceeded} naming the capacity and the need; nothing changes then
  [[nodiscard]] detail::TreeTarget rewrite(std::int32_t nodes, std::int32_t rows, int block_tokens);

 private:
  TreeCapacity capacity_;
  std::int32_t nodes_ = 0;
  std::int32_t rows_ = 0;
  int block_tokens_ = 0;
  std::uint64_t version_ = 0;
  Kokkos::View<std::int32_t*, memory_space> arrays_;  // counts, then all arrays, each at its capacity

  // Only where Exec does not run on the host:
  std::uint64_t uploads_ = 0;
  Kokkos::View<std::int32_t*, Kokkos::SharedHostPinnedSpace> staging_;    // a ring of packed snapshots
  Kokkos::View<std::uint64_t*, Kokkos::SharedHostPinnedSpace> finished_;  // [1]  uploads that have left the ring
};

}  // namespace espalier
