#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <memory>

#include "espalier/device_order.hpp"
#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// Page tables of an inference engine, in the memory of an execution space. Sequences share what their tables have in
/// common from the start: a table [7, 3, 9] and a table [7, 3, 4] share the tokens of blocks 7 and 3.
template <ExecutionSpace Exec>
struct BlockTables {
  /// [sequences, max_blocks]  block ids; entries behind a sequence's length are not read. Rows may have any stride, the
  /// entries of a row lie one after another.
  Kokkos::View<const std::int32_t**, Kokkos::LayoutStride, typename Exec::memory_space,
               Kokkos::MemoryTraits<Kokkos::Unmanaged>>
      blocks;

  /// [sequences]  tokens, 0 .. max_blocks * block_tokens
  Kokkos::View<const std::int32_t*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>> lengths;

  int block_tokens;
};

/// The largest tables that a reader takes; its memory is fixed.
struct BlockTableCapacity {
  std::int32_t sequences;
  std::int32_t pool_blocks;  ///< blocks of the cache: ids are 0 .. pool_blocks - 1
};

/// Infers which KV sequences share from their page tables alone, on the device: every sequence becomes a row, every run
/// of blocks that the same sequences have becomes a node.
///
/// Nodes begin at the start of a block. A node's last block may be filled partly, and sequences that end in it may have
/// different lengths: each row sees (`row_visible`) as many tokens as its sequence has, the node holds as many as the
/// longest. A sequence that is the beginning of a longer one ends at a node above the longer one's. Sequences without
/// tokens are rows of an empty root. Siblings are in the order of their first sequences, rows of a node by length, then
/// by number; so the tree depends on the sharing and on the order of the sequences, not on block ids.
///
/// There are at most 2 * sequences - 1 nodes; TreeArrays::nodes() is that, or the tree's capacity where that is smaller.
/// An update reads each shared entry of the tables twice, the others once: O(entries + sequences log sequences).
///
/// Method: in a cache, equal ids mean equal prefixes. So the first sequence that has a block, found for a sample of the
/// blocks, tells where each sequence leaves the others; then all entries before that place are compared. Tables that use
/// a block under different prefixes, which is legal, are found out by that and searched again: exact as well, but slow,
/// since one team does it.
template <ExecutionSpace Exec>
class BlockTableReader {
 public:
  /// @throws Error{invalid_argument} if a capacity is negative, or sequences exceed 2^29
  BlockTableReader(const Exec& exec, BlockTableCapacity capacity);
  ~BlockTableReader();
  BlockTableReader(BlockTableReader&&) noexcept;
  BlockTableReader& operator=(BlockTableReader&&) noexcept;

  /// Writes the tree of the tables into `tree`. Row r of the tree is sequence `row_index[r]`. Enqueued on the instance;
  /// allocates nothing, waits for nothing, so that it can be captured in a graph. Tables that are wrong or do not fit
  /// give a tree whose rows see nothing, and report() tells why.
  /// @throws Error{invalid_argument} if extents, strides or block_tokens are wrong
  /// @throws Error{capacity_exceeded} if there are more sequences than this object or `tree` has room for, or if `tree`
  /// has no room for a single node
  void update(const Exec& exec, const BlockTables<Exec>& tables, TreeArrays<Exec>& tree);

  /// Waits for the instance and describes the tree of the last update.
  /// @throws Error{stale_plan} before the first update
  /// @throws Error{invalid_argument} naming the first sequence whose length, or the first entry whose block is wrong
  /// @throws Error{capacity_exceeded} naming the capacity of the tree that did not suffice, its value and the need
  [[nodiscard]] DerivedTree report(const Exec& exec) const;

  /// Whether the last update met blocks under different prefixes and took the slow way. Waits for the instance.
  /// @throws Error{stale_plan} before the first update
  [[nodiscard]] bool searched_again(const Exec& exec) const;

 private:
  template <ExecutionSpace AnyExec>
  friend TreeArrays<AnyExec> tree_from_block_tables(const AnyExec& exec, const BlockTables<AnyExec>& tables,
                                                    std::int32_t pool_blocks);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The tree of an engine's page tables, in arrays of exactly its size. Allocates and waits: for tables that change with
/// every step use a BlockTableReader.
/// @param pool_blocks  blocks of the cache: ids are 0 .. pool_blocks - 1
/// @throws Error{invalid_argument} if the tables are wrong, naming the first sequence or entry
template <ExecutionSpace Exec>
[[nodiscard]] TreeArrays<Exec> tree_from_block_tables(const Exec& exec, const BlockTables<Exec>& tables,
                                                      std::int32_t pool_blocks);

}  // namespace espalier
