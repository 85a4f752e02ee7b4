#pragma once
// What DeviceOrder and BlockTableReader have in common on the host: scratch memory, the state, and how it is told.

#include <Kokkos_Core.hpp>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <sstream>
#include <string>

#include "espalier/block_pool.hpp"
#include "espalier/device_order.hpp"
#include "espalier/error.hpp"
#include "espalier/tree_arrays.hpp"
#include "line.hpp"

namespace espalier::derive {

/// Words of error messages about the last update.
struct Limits {
  std::int64_t block_table_entries = 0;  ///< of a described tree
  std::int64_t max_blocks = 1;           ///< of a sequence's table
  std::int64_t pool_blocks = 0;
};

template <class T, class Exec>
Kokkos::View<T*, typename Exec::memory_space> allocate(const Exec& exec, const char* label, std::size_t entries) {
  return Kokkos::View<T*, typename Exec::memory_space>(
      Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, std::string(label)), entries);
}

inline void expects_block_tokens(const char* function, int block_tokens) {
  detail::expects(1 <= block_tokens && block_tokens <= kMaxBlockTokens, ErrorCode::invalid_argument, function,
                  ": block_tokens is ", block_tokens, ", expected 1 .. ", kMaxBlockTokens);
}

template <class Exec>
class Derivation {
 public:
  using Memory = typename Exec::memory_space;

  /// @param sorted  most items of a sort
  Derivation(const Exec& exec, std::size_t nodes, std::size_t sorted)
      : status_(allocate<Status>(exec, "espalier::Derivation::status", 1)),
        keys_(allocate<std::uint64_t>(exec, "espalier::Derivation::keys", 2 * sorted)),
        items_(allocate<std::int32_t>(exec, "espalier::Derivation::items", 2 * sorted)),
        hops_(allocate<Hop>(exec, "espalier::Derivation::hops", 4 * nodes)),
        list_places_(Kokkos::view_alloc(exec, "espalier::Derivation::list_places"), nodes),
        nodes_(nodes),
        sorted_(sorted) {}

  /// Begins an update: takes the tree's arrays over, and returns all of a Line but the description.
  [[nodiscard]] Line begin(TreeArrays<Exec>& tree, std::int32_t max_nodes, std::int32_t target_nodes, std::int32_t rows,
                           int block_tokens, const Limits& limits) {
    Line line{};
    line.target = tree.rewrite(target_nodes, rows, block_tokens);
    line.status = status_.data();
    line.max_nodes = max_nodes;
    line.target_nodes = target_nodes;
    line.rows = rows;
    line.block_tokens = block_tokens;
    line.merge_share = kRunsOnHost<Exec> ? 512 : 4;
    line.block_capacity = tree.capacity().blocks;
    line.sort = {keys_.data(), keys_.data() + sorted_, items_.data(), items_.data() + sorted_};
    line.hops_a = hops_.data();
    line.hops_b = hops_.data() + 2 * nodes_;
    line.list_places = list_places_.data();
    updated_ = true;
    rows_ = rows;
    block_tokens_ = block_tokens;
    target_nodes_ = target_nodes;
    block_capacity_ = line.block_capacity;
    limits_ = limits;
    return line;
  }

  /// Waits for the instance. @throws Error{stale_plan} before the first update
  [[nodiscard]] Status status(const Exec& exec, const char* function) const {
    detail::expects(updated_, ErrorCode::stale_plan, function, ": there was no update yet");
    Status status;
    const Kokkos::View<Status*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(&status, 1);
    Kokkos::deep_copy(exec, target, status_);
    exec.fence("espalier::Derivation::status");
    return status;
  }

  /// What was derived. @throws the fault that status() holds, if it holds one
  [[nodiscard]] DerivedTree checked(const Status& status, const char* function) const {
    for (std::int32_t fault = 0; fault < kFaults; ++fault)
      if (status.first[fault] != Status::kNowhere) fail(function, Fault{fault}, status.first[fault], status.offender);
    return {status.nodes, rows_, status.blocks, status.tokens};
  }

 private:
  [[noreturn]] void fail(const char* function, Fault fault, std::int64_t place, std::int64_t found) const {
    const bool exceeded = fault == Fault::node_capacity || fault == Fault::block_capacity;
    std::ostringstream text;
    switch (fault) {
      case Fault::parent:
        text << "node " << place << " has parent " << found << ", expected a node before it, or -1 for a root";
        break;
      case Fault::tokens: text << "node " << place << " has " << found << " tokens, expected 0 or more"; break;
      case Fault::place:
        text << "node " << place << " begins in entry " << found
             << " of the block table, expected all of its blocks in the " << limits_.block_table_entries
             << " entries, and first_offset in 0 .. " << block_tokens_ - 1;
        break;
      case Fault::row_node: text << "row " << place << " is at node " << found << ", expected one of the nodes"; break;
      case Fault::row_visible:
        text << "row " << place << " sees " << found
             << " tokens of its node, expected no more than it has, or -1 for all";
        break;
      case Fault::length:
        text << "sequence " << place << " has " << found << " tokens, expected 0 .. "
             << limits_.max_blocks * block_tokens_;
        break;
      case Fault::block:
        text << "sequence " << place / limits_.max_blocks << " has block " << found << " in entry "
             << place % limits_.max_blocks << ", expected 0 .. " << limits_.pool_blocks - 1;
        break;
      case Fault::node_capacity:
        text << "the tree has " << found << " nodes, its arrays have room for " << target_nodes_;
        break;
      case Fault::block_capacity:
        text << "the tree has " << found << " entries of the block table, its arrays have room for " << block_capacity_;
        break;
      case Fault::token_total: text << "the tree has " << found << " tokens, expected at most " << kInt32Max; break;
    }
    detail::fail(std::source_location::current(), exceeded ? ErrorCode::capacity_exceeded : ErrorCode::invalid_argument,
                 function, ": ", text.str());
  }

  Kokkos::View<Status*, Memory> status_;             // [1]
  Kokkos::View<std::uint64_t*, Memory> keys_;        // [2 * sorted]
  Kokkos::View<std::int32_t*, Memory> items_;        // [2 * sorted]
  Kokkos::View<Hop*, Memory> hops_;                  // [2 * 2 * nodes]
  Kokkos::View<std::int32_t*, Memory> list_places_;  // [nodes]  0 between updates
  std::size_t nodes_;
  std::size_t sorted_;

  // Of the last update:
  bool updated_ = false;
  std::int32_t rows_ = 0;
  std::int32_t target_nodes_ = 0;
  int block_tokens_ = 0;
  std::int64_t block_capacity_ = 0;
  Limits limits_;
};

}  // namespace espalier::derive
