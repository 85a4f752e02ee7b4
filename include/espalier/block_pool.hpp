#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "espalier/types.hpp"

namespace espalier {

/// Largest number of token slots of a block.
inline constexpr int kMaxBlockTokens = 256;

/// The size of a pool, fixed for its life.
struct PoolConfig {
  std::int32_t blocks;  ///< capacity, at least 1
  int block_tokens;     ///< token slots of a block, 1 .. kMaxBlockTokens
};

/// What went wrong on the device, told by stats().
enum class PoolFault : std::int32_t {
  none,
  exhausted,       ///< acquire wanted more blocks than are free
  out_of_range,    ///< a list holds an id that is no block of this pool
  not_in_use,      ///< retain of a free block, or release of more references than a block has
  overflow,        ///< a block would have more than 2^31 - 1 references
  invalid_weight,  ///< a list of references holds a number below 1
};

[[nodiscard]] const char* name_of(PoolFault fault);

/// The first thing that an operation of a pool refused to do, and where.
struct PoolError {
  PoolFault fault = PoolFault::none;
  std::int32_t block = -1;  ///< the first offending id, in list order; for `exhausted` the number of blocks wanted
  std::int32_t entry = -1;  ///< its first place in the list; for `exhausted` the number of blocks that were free
};

/// What a pool holds when it is asked.
struct PoolStats {
  std::int32_t free;
  std::int32_t used;
  std::int32_t shared;  ///< blocks with more than one reference
  std::int32_t peak;    ///< largest `used` so far
  PoolError error;      ///< the first error since construction or clear_error
};

namespace detail {

/// State of a pool beside its arrays, in the same memory.
struct PoolHeader {
  std::int32_t free;       ///< free blocks
  std::int32_t peak;       ///< largest number of used blocks so far
  std::int32_t shared;     ///< written by stats alone
  std::int32_t freed;      ///< blocks that the running release frees
  std::int32_t bad_entry;  ///< first entry that fails in the running operation; 2^31 - 1: none
  PoolError error;
};

/// A pool's arrays as kernels see them; known to the library alone.
struct PoolView;

}  // namespace detail

/// Reference counts of the blocks of a KV cache, in the memory of an execution space.
///
/// Every operation takes a whole list, is enqueued on the given instance, allocates nothing and waits for nothing. An
/// operation that fails changes nothing but the error that stats() reports; later operations go on as usual.
///
/// Results depend on the lists alone, never on thread timing. The free blocks form a stack: acquire takes from its top;
/// at first block 0 is on top and the others follow in order; release puts the blocks it frees back as one pile, the
/// first of its list on top. So an acquire behind a release hands the same blocks out in the same order, and blocks
/// that were used together stay together.
///
/// Operations on one pool must be ordered by their instances: a pool is not for concurrent use.
template <ExecutionSpace Exec>
class BlockPool {
 public:
  using memory_space = typename Exec::memory_space;
  using BlockIds = Kokkos::View<BlockId*, memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  using ConstBlockIds = Kokkos::View<const BlockId*, memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  using ConstReferences = Kokkos::View<const std::int32_t*, memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  /// @throws Error{invalid_argument} unless blocks >= 1 and 1 <= block_tokens <= kMaxBlockTokens
  BlockPool(const Exec& exec, PoolConfig config);

  BlockPool(const BlockPool&) = delete;  // a copy would share its state
  BlockPool& operator=(const BlockPool&) = delete;
  BlockPool(BlockPool&&) = default;
  BlockPool& operator=(BlockPool&&) = default;

  // -- queries

  [[nodiscard]] const PoolConfig& config() const { return config_; }

  /// The references of each block, 0 for a free one.  [blocks]
  [[nodiscard]] Kokkos::View<const std::int32_t*, memory_space> counts() const { return counts_; }

  /// Free, used, shared and peak counts, and the first error. Reads all counts, and waits for the instance.
  [[nodiscard]] PoolStats stats(const Exec& exec) const;

  /// Number of free blocks; an acquire of no more than these will not fail. Waits for the instance.
  [[nodiscard]] std::int32_t free_blocks(const Exec& exec) const;

  // -- actions

  /// Takes out.extent(0) free blocks, each with one reference.
  /// @param out  [count]  written; left as it is where the pool has fewer free blocks (fault `exhausted`)
  void acquire(const Exec& exec, BlockIds out);

  /// Adds one reference for each entry; an id that occurs k times gains k.
  /// @param ids  [count]  read; every block must be in use
  void retain(const Exec& exec, ConstBlockIds ids);

  /// Adds references[i] references to block ids[i]; an id that occurs several times gains the sum.
  /// @param ids         [count]  read; every block must be in use
  /// @param references  [count]  read; at least 1 each
  /// @throws Error{invalid_argument} if the extents differ
  void retain(const Exec& exec, ConstBlockIds ids, ConstReferences references);

  /// Drops one reference for each entry; an id that occurs k times loses k. Blocks without references become free.
  /// @param ids  [count]  read; every block must have at least as many references as it has entries
  void release(const Exec& exec, ConstBlockIds ids);

  /// Drops references[i] references of block ids[i]; an id that occurs several times loses the sum.
  /// @param ids         [count]  read; every block must have at least as many references as it loses
  /// @param references  [count]  read; at least 1 each
  /// @throws Error{invalid_argument} if the extents differ
  void release(const Exec& exec, ConstBlockIds ids, ConstReferences references);

  /// Forgets the error that stats() reports.
  void clear_error(const Exec& exec);

 private:
  [[nodiscard]] detail::PoolView view() const;
  [[nodiscard]] detail::PoolHeader header_on_host(const Exec& exec) const;

  PoolConfig config_;
  Kokkos::View<std::int32_t*, memory_space> counts_;        // [blocks]
  Kokkos::View<std::int32_t*, memory_space> free_blocks_;   // [blocks]  a stack; its top is entry header.free - 1
  Kokkos::View<std::int64_t*, memory_space> wanted_;        // [blocks]  references named by the running list, else 0
  Kokkos::View<std::int32_t*, memory_space> first_entry_;   // [blocks]  where the running list first names a block
  Kokkos::View<detail::PoolHeader*, memory_space> header_;  // [1]
};

}  // namespace espalier
