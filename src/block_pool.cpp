#include "espalier/block_pool.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>

#include "espalier/error.hpp"
#include "relaxed_load.hpp"

namespace espalier {

struct detail::PoolView {
  std::int32_t blocks;
  std::int32_t* counts;
  std::int32_t* free_blocks;
  std::int64_t* wanted;
  std::int32_t* first_entry;
  PoolHeader* header;

  KOKKOS_FUNCTION void report(const PoolError& error) const {
    if (header->error.fault == PoolFault::none) header->error = error;
  }
};

namespace {

using detail::expects;
using detail::PoolHeader;
using detail::PoolView;

/// Made once: a tree that has reserved its memory allocates nothing in a decode step.
const std::string acquire_label = "espalier::BlockPool::acquire";
const std::string retain_label = "espalier::BlockPool::retain";
const std::string release_label = "espalier::BlockPool::release";
const std::string header_label = "espalier::BlockPool::header_on_host";

constexpr std::int32_t kNoEntry = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxReferences = std::numeric_limits<std::int32_t>::max();

template <class Exec>
inline constexpr bool kOnHost = std::is_same_v<typename Exec::memory_space, Kokkos::HostSpace>;

/// Longest list that one team handles in a single kernel; for longer ones each step is a kernel on the whole device.
/// Retain and release of 4,096 blocks take 41 us by one team of an H200 and 53 us step by step, those of 8,192 blocks
/// 73 us and 52 us. On two CPU cores both take the same at 4,096.
constexpr std::int32_t kTeamEntries = 4096;

constexpr std::int32_t kMaxTeam = 1024;  // threads of a thread block, on every GPU

// Steps of an operation. Each is a loop over the list, and ends before the next one begins.
struct Count {};   // how many references does the list name for each block?
struct Check {};   // may each block gain or lose them?
struct Push {};    // a scan: put the blocks that become free on the stack
struct Settle {};  // change the counts, clear what Count has written
struct Close {};   // one item: the header

/// Takes blocks from the top of the stack.
struct Acquire {
  PoolView pool;
  BlockId* out;
  std::int32_t entries;

  KOKKOS_FUNCTION bool fits() const { return entries <= pool.header->free; }

  KOKKOS_FUNCTION void operator()(Settle, std::int32_t entry) const {
    if (!fits()) return;
    const std::int32_t block = pool.free_blocks[pool.header->free - 1 - entry];
    pool.counts[block] = 1;
    out[entry] = BlockId{block};
  }

  KOKKOS_FUNCTION void operator()(Close, std::int32_t) const {
    PoolHeader& header = *pool.header;
    if (!fits()) {
      pool.report({PoolFault::exhausted, entries, header.free});
      return;
    }
    header.free -= entries;
    const std::int32_t used = pool.blocks - header.free;
    if (used > header.peak) header.peak = used;
  }

  /// All steps, one team.
  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, entries), [&](std::int32_t entry) { (*this)(Settle{}, entry); });
    team.team_barrier();
    Kokkos::single(Kokkos::PerTeam(team), [&] { (*this)(Close{}, 0); });
  }
};

enum class Change { retain, release };

/// Adds or drops the references that a list names.
template <Change kChange>
struct Update {
  using value_type = std::int32_t;  // of the scan

  PoolView pool;
  const BlockId* ids;
  const std::int32_t* references;  // null: 1 each
  std::int32_t entries;

  KOKKOS_FUNCTION std::int32_t block_at(std::int32_t entry) const { return static_cast<std::int32_t>(ids[entry]); }
  KOKKOS_FUNCTION std::int32_t weight_at(std::int32_t entry) const { return references ? references[entry] : 1; }
  KOKKOS_FUNCTION bool in_range(std::int32_t block) const { return 0 <= block && block < pool.blocks; }
  KOKKOS_FUNCTION bool valid() const { return pool.header->bad_entry == kNoEntry; }

  KOKKOS_FUNCTION bool allowed(std::int32_t block) const {
    const std::int64_t count = pool.counts[block];
    if constexpr (kChange == Change::release) return pool.wanted[block] <= count;
    return count > 0 && count + pool.wanted[block] <= kMaxReferences;
  }

  /// Every block has one entry that acts for it: the first. Other entries of the block may ask while that one settles.
  KOKKOS_FUNCTION bool acts(std::int32_t entry, std::int32_t block) const {
    return in_range(block) && detail::relaxed_load(&pool.first_entry[block]) == entry;
  }

  KOKKOS_FUNCTION void operator()(Count, std::int32_t entry) const {
    const std::int32_t block = block_at(entry);
    if (!in_range(block) || weight_at(entry) < 1) {
      Kokkos::atomic_min(&pool.header->bad_entry, entry);
      return;
    }
    Kokkos::atomic_add(&pool.wanted[block], std::int64_t{weight_at(entry)});
    Kokkos::atomic_min(&pool.first_entry[block], entry);
  }

  KOKKOS_FUNCTION void operator()(Check, std::int32_t entry) const {
    const std::int32_t block = block_at(entry);
    if (acts(entry, block) && !allowed(block)) Kokkos::atomic_min(&pool.header->bad_entry, entry);
  }

  /// The list is walked backwards, so that its first block comes to lie on top.
  KOKKOS_FUNCTION void operator()(Push, std::int32_t step, std::int32_t& freed, bool is_final) const {
    const std::int32_t entry = entries - 1 - step;
    const std::int32_t block = block_at(entry);
    const bool becomes_free = valid() && acts(entry, block) && pool.wanted[block] == pool.counts[block];
    if (is_final && becomes_free) pool.free_blocks[pool.header->free + freed] = block;
    freed += becomes_free ? 1 : 0;
    if (is_final && entry == 0) pool.header->freed = freed;
  }

  KOKKOS_FUNCTION void operator()(Settle, std::int32_t entry) const {
    const std::int32_t block = block_at(entry);
    if (!acts(entry, block)) return;
    if (valid()) {
      const auto wanted = static_cast<std::int32_t>(pool.wanted[block]);
      pool.counts[block] += kChange == Change::retain ? wanted : -wanted;
    }
    pool.wanted[block] = 0;
    Kokkos::atomic_store(&pool.first_entry[block], kNoEntry);
  }

  KOKKOS_FUNCTION void operator()(Close, std::int32_t) const {
    PoolHeader& header = *pool.header;
    if (valid()) {
      header.free += header.freed;
    } else {
      const std::int32_t block = block_at(header.bad_entry);
      pool.report({fault_at(header.bad_entry), block, header.bad_entry});
    }
    header.freed = 0;
    header.bad_entry = kNoEntry;
  }

  /// Why the entry failed, after Settle.
  KOKKOS_FUNCTION PoolFault fault_at(std::int32_t entry) const {
    const std::int32_t block = block_at(entry);
    if (!in_range(block)) return PoolFault::out_of_range;
    if (weight_at(entry) < 1) return PoolFault::invalid_weight;
    return kChange == Change::release || pool.counts[block] == 0 ? PoolFault::not_in_use : PoolFault::overflow;
  }

  /// All steps, one team.
  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const auto range = Kokkos::TeamThreadRange(team, entries);
    Kokkos::parallel_for(range, [&](std::int32_t entry) { (*this)(Count{}, entry); });
    team.team_barrier();
    Kokkos::parallel_for(range, [&](std::int32_t entry) { (*this)(Check{}, entry); });
    team.team_barrier();
    if constexpr (kChange == Change::release) {
      Kokkos::parallel_scan(range, [&](std::int32_t step, std::int32_t& freed, bool is_final) {
        (*this)(Push{}, step, freed, is_final);
      });
      team.team_barrier();
    }
    Kokkos::parallel_for(range, [&](std::int32_t entry) { (*this)(Settle{}, entry); });
    team.team_barrier();
    Kokkos::single(Kokkos::PerTeam(team), [&] { (*this)(Close{}, 0); });
  }
};

/// On a host a team is one thread: the barriers between the steps cost more than a short loop. On a GPU it is as many
/// threads as there are entries, in powers of two, because the scan needs one.
template <class Exec, class Operation>
void run_on_one_team(const Exec& exec, const std::string& label, const Operation& operation) {
  const std::uint32_t entries = std::min(operation.entries, kMaxTeam);
  const int threads = kOnHost<Exec> ? 1 : int(std::max(64u, std::bit_ceil(entries)));
  Kokkos::parallel_for(label, Kokkos::TeamPolicy<Exec, Kokkos::LaunchBounds<kMaxTeam, 1>>(exec, 1, threads), operation);
}

template <class Step, class Exec, class Operation>
void run_step(const Exec& exec, const std::string& label, std::int32_t items, const Operation& operation) {
  Kokkos::parallel_for(label, Kokkos::RangePolicy<Exec, Step, Kokkos::IndexType<std::int32_t>>(exec, 0, items),
                       operation);
}

template <class Exec>
void run(const Exec& exec, const std::string& label, const Acquire& acquire) {
  if (acquire.entries <= kTeamEntries) return run_on_one_team(exec, label, acquire);
  run_step<Settle>(exec, label, acquire.entries, acquire);
  run_step<Close>(exec, label, 1, acquire);
}

template <class Exec, Change kChange>
void run(const Exec& exec, const std::string& label, const Update<kChange>& update) {
  if (update.entries <= kTeamEntries) return run_on_one_team(exec, label, update);
  run_step<Count>(exec, label, update.entries, update);
  run_step<Check>(exec, label, update.entries, update);
  if constexpr (kChange == Change::release) {
    Kokkos::parallel_scan(
        label, Kokkos::RangePolicy<Exec, Push, Kokkos::IndexType<std::int32_t>>(exec, 0, update.entries), update);
  }
  run_step<Settle>(exec, label, update.entries, update);
  run_step<Close>(exec, label, 1, update);
}

/// All blocks free, block 0 on top of the stack.
struct Initialize {
  PoolView pool;
  KOKKOS_FUNCTION void operator()(std::int32_t block) const {
    pool.counts[block] = 0;
    pool.free_blocks[pool.blocks - 1 - block] = block;
    pool.wanted[block] = 0;
    pool.first_entry[block] = kNoEntry;
    if (block == 0) *pool.header = {pool.blocks, 0, 0, 0, kNoEntry, {}};
  }
};

struct CountShared {
  const std::int32_t* counts;
  KOKKOS_FUNCTION void operator()(std::int32_t block, std::int32_t& shared) const {
    if (counts[block] > 1) ++shared;
  }
};

struct ClearError {
  PoolHeader* header;
  KOKKOS_FUNCTION void operator()(std::int32_t) const { header->error = {}; }
};

/// The length of a list as the kernels count it.
template <class View>
std::int32_t entries_of(const View& list, const char* function) {
  expects(list.extent(0) <= std::size_t{std::numeric_limits<std::int32_t>::max()}, ErrorCode::invalid_argument,
          function, ": the list has ", list.extent(0), " entries, expected at most 2^31 - 1");
  return static_cast<std::int32_t>(list.extent(0));
}

template <class Ids, class References>
void expects_one_each(const Ids& ids, const References& references, const char* function) {
  expects(references.extent(0) == ids.extent(0), ErrorCode::invalid_argument, function, ": references has extent ",
          references.extent(0), ", expected ", ids.extent(0), " (entries of ids)");
}

PoolConfig checked(const PoolConfig& config) {
  expects(config.blocks >= 1, ErrorCode::invalid_argument, "BlockPool: blocks is ", config.blocks,
          ", expected at least 1");
  expects(1 <= config.block_tokens && config.block_tokens <= kMaxBlockTokens, ErrorCode::invalid_argument,
          "BlockPool: block_tokens is ", config.block_tokens, ", expected 1 .. ", kMaxBlockTokens);
  return config;
}

template <class View, class Exec>
View allocate(const Exec& exec, const std::string& label, std::int32_t entries) {
  return View(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, label), static_cast<std::size_t>(entries));
}

}  // namespace

const char* name_of(PoolFault fault) {
  switch (fault) {
    case PoolFault::none: return "none";
    case PoolFault::exhausted: return "exhausted";
    case PoolFault::out_of_range: return "out_of_range";
    case PoolFault::not_in_use: return "not_in_use";
    case PoolFault::overflow: return "overflow";
    case PoolFault::invalid_weight: return "invalid_weight";
  }
  return "unknown";
}

template <ExecutionSpace Exec>
BlockPool<Exec>::BlockPool(const Exec& exec, PoolConfig config)
    : config_(checked(config)),
      counts_(allocate<decltype(counts_)>(exec, "espalier::BlockPool::counts", config.blocks)),
      free_blocks_(allocate<decltype(free_blocks_)>(exec, "espalier::BlockPool::free_blocks", config.blocks)),
      wanted_(allocate<decltype(wanted_)>(exec, "espalier::BlockPool::wanted", config.blocks)),
      first_entry_(allocate<decltype(first_entry_)>(exec, "espalier::BlockPool::first_entry", config.blocks)),
      header_(allocate<decltype(header_)>(exec, "espalier::BlockPool::header", 1)) {
  Kokkos::parallel_for("espalier::BlockPool::initialize",
                       Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec, 0, config_.blocks),
                       Initialize{view()});
}

template <ExecutionSpace Exec>
PoolStats BlockPool<Exec>::stats(const Exec& exec) const {
  Kokkos::parallel_reduce(
      "espalier::BlockPool::stats", Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec, 0, config_.blocks),
      CountShared{counts_.data()},
      Kokkos::View<std::int32_t, memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(&header_.data()->shared));
  const PoolHeader header = header_on_host(exec);
  return {header.free, config_.blocks - header.free, header.shared, header.peak, header.error};
}

template <ExecutionSpace Exec>
std::int32_t BlockPool<Exec>::free_blocks(const Exec& exec) const {
  return header_on_host(exec).free;
}

template <ExecutionSpace Exec>
void BlockPool<Exec>::acquire(const Exec& exec, BlockIds out) {
  const std::int32_t entries = entries_of(out, "BlockPool::acquire");
  if (entries == 0) return;
  run(exec, acquire_label, Acquire{view(), out.data(), entries});
}

template <ExecutionSpace Exec>
void BlockPool<Exec>::retain(const Exec& exec, ConstBlockIds ids) {
  const std::int32_t entries = entries_of(ids, "BlockPool::retain");
  if (entries == 0) return;
  run(exec, retain_label, Update<Change::retain>{view(), ids.data(), nullptr, entries});
}

template <ExecutionSpace Exec>
void BlockPool<Exec>::retain(const Exec& exec, ConstBlockIds ids, ConstReferences references) {
  expects_one_each(ids, references, "BlockPool::retain");
  const std::int32_t entries = entries_of(ids, "BlockPool::retain");
  if (entries == 0) return;
  run(exec, retain_label, Update<Change::retain>{view(), ids.data(), references.data(), entries});
}

template <ExecutionSpace Exec>
void BlockPool<Exec>::release(const Exec& exec, ConstBlockIds ids) {
  const std::int32_t entries = entries_of(ids, "BlockPool::release");
  if (entries == 0) return;
  run(exec, release_label, Update<Change::release>{view(), ids.data(), nullptr, entries});
}

template <ExecutionSpace Exec>
void BlockPool<Exec>::release(const Exec& exec, ConstBlockIds ids, ConstReferences references) {
  expects_one_each(ids, references, "BlockPool::release");
  const std::int32_t entries = entries_of(ids, "BlockPool::release");
  if (entries == 0) return;
  run(exec, release_label, Update<Change::release>{view(), ids.data(), references.data(), entries});
}

template <ExecutionSpace Exec>
void BlockPool<Exec>::clear_error(const Exec& exec) {
  Kokkos::parallel_for("espalier::BlockPool::clear_error",
                       Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec, 0, 1),
                       ClearError{header_.data()});
}

template <ExecutionSpace Exec>
PoolView BlockPool<Exec>::view() const {
  return {config_.blocks, counts_.data(), free_blocks_.data(), wanted_.data(), first_entry_.data(), header_.data()};
}

template <ExecutionSpace Exec>
PoolHeader BlockPool<Exec>::header_on_host(const Exec& exec) const {
  if constexpr (kOnHost<Exec>) {
    exec.fence(header_label);
    return *header_.data();
  } else {
    PoolHeader header;
    const Kokkos::View<PoolHeader*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(&header, 1);
    Kokkos::deep_copy(exec, target, header_);
    exec.fence(header_label);
    return header;
  }
}

#define ESPALIER_INSTANTIATE(Exec) template class BlockPool<Exec>;
#include "instantiate.inc"

}  // namespace espalier
