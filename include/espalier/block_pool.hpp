#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "espalier/types.hpp"

namespace espalier {

/// Largest number of token slots of a block.
inline constexpr int kMaxBlockTokens = 256;

struct PoolConfig {
  std::int32_t blocks;  ///< capacity, at least 1
  int block_tokens;     ///< token slots of a block, 1 .. kMaxBlockTokens
};

/// What went wrong on the device, told by stats().
enum class PoolFault : std::int32_t {
  none,
  exhausted,     ///< acquire wanted more blocks than are free
  out_of_range,  ///< a list holds an id that is no block of this pool
  not_in_use,    ///< release or retain of a free block, or more releases than references
  overflow       ///< a count would exceed 2^31 - 1
};

struct PoolError {
  PoolFault fault = PoolFault::none;
  std::int32_t block = -1;  ///< the first offending id, in list order; for `exhausted` the number of blocks wanted
  std::int32_t entry = -1;  ///< its place in the list; for `exhausted` the number of blocks that were free
};

struct PoolStats {
  std::int32_t free;
  std::int32_t used;
  std::int32_t shared;  ///< blocks with more than one reference
  std::int32_t peak;    ///< largest `used` so far
  PoolError error;      ///< the first error since construction or clear_error
};

/// Reference counts of the blocks of a KV cache, in the memory of an execution space.
///
/// Every operation takes a whole list, is enqueued on the given instance and waits for nothing. An operation that fails
/// changes nothing but the error that stats() reports. Results depend on the lists alone, never on thread timing:
/// acquire hands out the lowest-numbered free list entries in order, release returns blocks in list order.
/// Operations on one pool must be ordered by their instances; a pool is not for concurrent use.
template <ExecutionSpace Exec>
class BlockPool {
 public:
  using memory_space = typename Exec::memory_space;
  using BlockIds = Kokkos::View<BlockId*, memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  using ConstBlockIds = Kokkos::View<const BlockId*, memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  /// @throws Error{invalid_argument} unless blocks >= 1 and 1 <= block_tokens <= 256
  BlockPool(const Exec& exec, PoolConfig config);

  [[nodiscard]] const PoolConfig& config() const { return config_; }

  /// Free, used, shared and peak counts, and the first error. The one function that waits for the instance.
  [[nodiscard]] PoolStats stats(const Exec& exec) const;

  /// Takes out.extent(0) free blocks, each with one reference.
  /// @param out  [count]  written; left as it is where the pool has fewer free blocks (fault `exhausted`)
  void acquire(const Exec& exec, BlockIds out);

  /// Adds one reference for each entry; an id that occurs k times gains k.
  /// @param ids  [count]  read; every block must be in use
  void retain(const Exec& exec, ConstBlockIds ids);

  /// Drops one reference for each entry; an id that occurs k times loses k. Blocks without references become free.
  /// @param ids  [count]  read; every block must have at least as many references as it has entries
  void release(const Exec& exec, ConstBlockIds ids);

  /// Forgets the error that stats() reports.
  void clear_error(const Exec& exec);

  /// The references of each block, 0 for a free one.  [blocks]
  [[nodiscard]] Kokkos::View<const std::int32_t*, memory_space> counts() const { return counts_; }

 private:
  PoolConfig config_;
  Kokkos::View<std::int32_t*, memory_space> counts_;  // [blocks]
};

}  // namespace espalier
