#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <memory>

#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// What a tree that was derived on the device consists of.
struct DerivedTree {
  std::int32_t nodes;
  std::int32_t rows;
  std::int64_t blocks;  ///< entries of the block table
  std::int64_t tokens;
};

/// A tree that is described by arrays in the memory of an execution space, nodes in any order that has parents before
/// their children.
template <ExecutionSpace Exec>
struct DeviceTree {
  using Ints = Kokkos::View<const std::int32_t*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  Ints parent;        ///< [nodes]  number of the parent, below the node's own; -1 at a root
  Ints tokens;        ///< [nodes]  may be 0
  Ints first_block;   ///< [nodes]  entry of block_table that holds the node's first token; not read where tokens is 0
  Ints first_offset;  ///< [nodes]  place of the first token inside that block; not read where tokens is 0
  Ints row_node;      ///< [rows]
  Ints row_visible;   ///< [rows]   tokens of its own node that the row sees, -1 for all; empty: all rows see all
  Ints block_table;   ///< [blocks] block ids, the blocks of a node one after another
};

/// Brings described trees into line order on the device: what make_snapshot does on the host, with the same result.
///
/// Depth-first order comes from the Euler tour of the forest: each node is entered and left, and how many nodes are
/// entered behind each event is found by pointer jumping. That takes O((nodes + rows) log(nodes + rows)) operations, on
/// integers, so the result does not depend on the timing of threads. One team does small trees in one kernel; larger
/// ones take a kernel for each step.
///
/// Method: Tarjan and Vishkin 1985, "An efficient parallel biconnectivity algorithm" (the tour), and Wyllie 1979, "The
/// complexity of parallel computations" (the jumping).
template <ExecutionSpace Exec>
class DeviceOrder {
 public:
  /// @param nodes  largest number of nodes of a tree
  /// @param rows   largest number of rows
  /// @throws Error{invalid_argument} if one is negative or more than 2^30
  DeviceOrder(const Exec& exec, std::int32_t nodes, std::int32_t rows);
  ~DeviceOrder();
  DeviceOrder(DeviceOrder&&) noexcept;
  DeviceOrder& operator=(DeviceOrder&&) noexcept;

  /// Writes the described tree into `tree`, in line order, its block table in the order of the nodes. Enqueued on the
  /// instance; allocates nothing, waits for nothing. A description that is wrong or does not fit gives a tree whose
  /// rows see nothing, and report() tells why.
  /// @throws Error{invalid_argument} if extents or block_tokens are wrong, or if there are rows but no nodes
  /// @throws Error{capacity_exceeded} if nodes or rows exceed the capacity of this object or of `tree`
  void update(const Exec& exec, const DeviceTree<Exec>& described, int block_tokens, TreeArrays<Exec>& tree);

  /// Waits for the instance and describes the tree of the last update.
  /// @throws Error{stale_plan} before the first update
  /// @throws Error{invalid_argument} naming the first node or row that is wrong
  /// @throws Error{capacity_exceeded} if the block table of the tree did not suffice, naming the capacity and the need
  [[nodiscard]] DerivedTree report(const Exec& exec) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier
