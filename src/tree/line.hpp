#pragma once
// From nodes whose children are linked to a tree in line order: positions, rows, intervals, block table.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "copy_lists.hpp"
#include "espalier/tree_arrays.hpp"
#include "program.hpp"
#include "relaxed_load.hpp"
#include "sort.hpp"

namespace espalier::derive {

inline constexpr std::int32_t kNone = -1;
inline constexpr std::int64_t kInt32Max = 2147483647;

/// What can be wrong with an input, in the order in which it is reported.
enum class Fault : std::int32_t {
  parent,
  tokens,
  place,
  row_node,
  row_visible,
  length,
  block,
  node_capacity,
  block_capacity,
  token_total,
};
inline constexpr std::int32_t kFaults = 10;

/// What is sorted; see Sorting.
enum class Sorted : std::int32_t { siblings, boundaries, rows };

/// The state of a derivation, in the memory of the execution space.
struct Status {
  std::int64_t first[kFaults];  ///< smallest place with that fault, kNowhere if there is none
  std::int64_t offender;        ///< what lies at the place of the reported fault
  std::int32_t failed;
  std::int32_t unsorted[3];
  std::int32_t nodes;  ///< real ones
  std::int64_t blocks;
  std::int64_t tokens;
  std::int32_t suspect;   ///< BlockTableReader: the fast search is not trustworthy
  std::int32_t departed;  ///< BlockTableReader: the slow search has not ended

  static constexpr std::int64_t kNowhere = INT64_MAX;

  KOKKOS_FUNCTION void reset() {
    for (std::int64_t& place : first) place = kNowhere;
    offender = 0;
    failed = 0;
    for (std::int32_t& flag : unsorted) flag = 0;
    nodes = 0;
    blocks = 0;
    tokens = 0;
    suspect = 0;
    departed = 0;
  }

  void forget(Fault fault) { first[std::int32_t(fault)] = kNowhere; }

  KOKKOS_FUNCTION void report(Fault fault, std::int64_t place) {
    Kokkos::atomic_min(&first[std::int32_t(fault)], place);
    Kokkos::atomic_store(&failed, 1);
  }
};

/// From an event of the Euler tour to a later one, and the nodes that are entered from here to before there.
struct alignas(8) Hop {
  std::int32_t next;
  std::int32_t nodes;
};

/// A described tree, scratch arrays and the tree to be written. Events of the tour: i enters node i, leave(i) leaves
/// it.
struct Line {
  Status* status;
  std::int32_t max_nodes;     ///< of the description; status->nodes of them are real
  std::int32_t target_nodes;  ///< that the host counts in the target
  std::int32_t rows;
  std::int32_t block_tokens;
  std::int32_t merge_share;  ///< items that a thread merges at once
  std::int64_t block_capacity;
  const std::int32_t* parent;        // [max_nodes]
  const std::int32_t* tokens;        // [max_nodes]
  const std::int32_t* first_offset;  // [max_nodes]  null: 0
  const std::int32_t* row_node;      // [rows]
  const std::int32_t* row_visible;   // [rows]  -1: all; null: all of all
  SortBuffers sort;
  Hop* hops_a;  // [2 * max_nodes]
  Hop* hops_b;
  std::int32_t* list_places;  ///< of the lists that make up the block table; see copy_lists.hpp
  detail::TreeTarget target;

  KOKKOS_FUNCTION bool failed() const { return detail::relaxed_load(&status->failed) != 0; }
  KOKKOS_FUNCTION std::int32_t leave(std::int32_t node) const { return max_nodes + node; }

  /// Tokens of the node; the offset of its first one counts where it has any.
  KOKKOS_FUNCTION std::int32_t offset_of(std::int32_t node) const {
    return first_offset == nullptr || tokens[node] == 0 ? 0 : first_offset[node];
  }
  KOKKOS_FUNCTION std::int64_t blocks_of(std::int32_t node) const {
    if (tokens[node] == 0) return 0;
    return blocks_for(offset_of(node), tokens[node]);
  }
  /// @param offset  of the first token in its block, below block_tokens
  KOKKOS_FUNCTION std::int64_t blocks_for(std::int32_t offset, std::int32_t node_tokens) const {
    // The sum fits into 32 bits without a sign: divisions of 64 bits take many instructions.
    static_assert(kInt32Max + 2 * std::int64_t{kMaxBlockTokens} <= UINT32_MAX);
    const auto size = std::uint32_t(block_tokens);
    return (std::uint32_t(offset) + std::uint32_t(node_tokens) + size - 1) / size;
  }
};

/// List ranking: every pass lets each event hop over four times as many events as before.
struct Jump {
  static constexpr const char* kLabel = "espalier::DeviceOrder::jump";
  static constexpr std::int32_t kReach = 4;

  KOKKOS_FUNCTION static std::int32_t items(const Line& c) { return 2 * c.max_nodes; }

  KOKKOS_FUNCTION static std::int32_t passes(const Line& c) {
    static_assert(kReach == 4);
    return items(c) <= 1 ? 0 : (bit_width(std::uint32_t(items(c) - 1)) + 1) / 2;
  }

  KOKKOS_FUNCTION static Hop* buffer(const Line& c, std::int32_t pass) { return pass % 2 == 0 ? c.hops_a : c.hops_b; }

  KOKKOS_FUNCTION static void run(const Line& c, std::int32_t pass, std::int32_t event) {
    const std::int32_t node = event < c.max_nodes ? event : event - c.max_nodes;
    if (node >= c.status->nodes) return;
    const Hop* in = buffer(c, pass);
    buffer(c, pass + 1)[event] = further(in, in[event]);
  }

  /// kReach hops at once.
  KOKKOS_FUNCTION static Hop further(const Hop* hops, Hop hop) {
    for (std::int32_t i = 1; i < kReach && hop.next != kNone; ++i) {
      const Hop next = hops[hop.next];
      hop = {next.next, hop.nodes + next.nodes};
    }
    return hop;
  }

  /// Nodes that the tour enters before the event.
  KOKKOS_FUNCTION static std::int32_t entered_before(const Line& c, std::int32_t event) {
    return c.status->nodes - buffer(c, passes(c))[event].nodes;
  }
  KOKKOS_FUNCTION static std::int32_t position(const Line& c, std::int32_t node) { return entered_before(c, node); }
};

/// The ranks of all events. One thread walks the tour, which takes fewer steps; many threads jump.
struct RankEvents {
  static constexpr int kMostEvents = 4;  ///< of a thread that keeps its hops in registers

  template <class Team>
  KOKKOS_FUNCTION static void on_team(const Team& team, const Line& c) {
    if (team.team_size() > 1) {
      const bool fits = Jump::items(c) <= kMostEvents * team.team_size() &&
                        std::size_t(Jump::items(c)) * sizeof(Hop) <= kStepScratchBytes;
      return fits ? jump_in_scratch(team, c) : Passes<Jump>::on_team(team, c);
    }
    if (c.failed() || c.status->nodes == 0) return;
    Hop* out = Jump::buffer(c, Jump::passes(c));
    std::int32_t left = c.status->nodes;
    for (std::int32_t event = 0; event != kNone;) {  // node 0 is the first root
      const Hop hop = c.hops_a[event];
      out[event].nodes = left;
      left -= hop.nodes;
      event = hop.next;
    }
  }

  template <class Exec, class Context>
  static void on_grid(const Exec& exec, const Context& c) {
    if constexpr (kRunsOnHost<Exec>) {
      run_on_one_team<RankEvents>(exec, Jump::kLabel, c);
    } else {
      Passes<Jump>::on_grid(exec, c);
    }
  }

 private:
  /// The passes of Jump, in the team's scratch memory.
  template <class Team>
  KOKKOS_FUNCTION static void jump_in_scratch(const Team& team, const Line& c) {
    if (c.failed()) return;
    const std::int32_t events = Jump::items(c), passes = Jump::passes(c), nodes = c.status->nodes;
    auto* hops = static_cast<Hop*>(
        team.team_scratch(0).get_shmem_aligned(std::ptrdiff_t(std::size_t(events) * sizeof(Hop)), alignof(Hop)));
    bool is_own[kMostEvents];
    Hop own[kMostEvents] = {};
    const auto for_each_own = [&](const auto& visit) {
      for (int i = 0; i < kMostEvents; ++i)
        if (is_own[i]) visit(team.team_rank() + i * team.team_size(), own[i]);
    };
    for (int i = 0; i < kMostEvents; ++i) {
      const std::int32_t event = team.team_rank() + i * team.team_size();
      is_own[i] = event < events && (event < c.max_nodes ? event : event - c.max_nodes) < nodes;
    }
    for_each_own([&](std::int32_t event, Hop& hop) { hop = c.hops_a[event]; });
    for (std::int32_t pass = 0; pass < passes; ++pass) {
      for_each_own([&](std::int32_t event, Hop& hop) { hops[event] = hop; });
      team.team_barrier();
      for_each_own([&](std::int32_t, Hop& hop) { hop = Jump::further(hops, hop); });
      team.team_barrier();
    }
    Hop* out = Jump::buffer(c, passes);
    for_each_own([&](std::int32_t event, Hop& hop) { out[event] = hop; });
    team.team_barrier();
  }
};

/// Nodes go to their positions; first_block holds the number of blocks at first.
struct Place {
  static constexpr const char* kLabel = "espalier::DeviceOrder::place";
  KOKKOS_FUNCTION static std::int32_t items(const Line& c) { return c.max_nodes; }

  KOKKOS_FUNCTION static void run(const Line& c, std::int32_t node) {
    if (node >= c.status->nodes) return;
    const std::int32_t position = Jump::position(c, node);
    const std::int32_t parent = c.parent[node];
    c.target.parent[position] = parent < 0 ? -1 : Jump::position(c, parent);
    c.target.tokens[position] = c.tokens[node];
    c.target.first_offset[position] = c.offset_of(node);
    c.target.subtree_end[position] = Jump::entered_before(c, c.leave(node));
    c.target.first_block[position] = std::int32_t(c.blocks_of(node));
  }
};

/// Numbers of blocks become places in the block table; blocks and tokens are summed.
struct PlaceBlocks {
  static constexpr const char* kLabel = "espalier::DeviceOrder::blocks";
  KOKKOS_FUNCTION static std::int32_t items(const Line& c) { return c.target_nodes; }

  KOKKOS_FUNCTION static Sums value(const Line& c, std::int32_t position) {
    if (position >= c.status->nodes) return {};
    return {c.target.first_block[position], c.target.tokens[position]};
  }
  KOKKOS_FUNCTION static void run(const Line& c, std::int32_t position, const Sums& before) {
    if (position < c.status->nodes) c.target.first_block[position] = std::int32_t(before.first);
  }
  KOKKOS_FUNCTION static void total(const Line& c, const Sums& sums) {
    c.status->blocks = sums.first;
    c.status->tokens = sums.second;
    if (sums.first > c.block_capacity) c.status->report(Fault::block_capacity, 0);
    if (sums.second > kInt32Max) c.status->report(Fault::token_total, 0);
  }
};

/// Rows by position of their node, then by what they see of it.
struct RowOrder {
  static constexpr const char* kLabel = "espalier::DeviceOrder::rows";
  static constexpr std::int32_t kWhich = std::int32_t(Sorted::rows);
  KOKKOS_FUNCTION static std::int32_t items(const Line& c) { return c.rows; }

  KOKKOS_FUNCTION static std::uint64_t key(const Line& c, std::int32_t row) {
    const std::int32_t node = c.row_node[row];
    const std::int32_t visible = c.row_visible == nullptr ? -1 : c.row_visible[row];
    return key_of(Jump::position(c, node), visible < 0 ? c.tokens[node] : visible);
  }
  KOKKOS_FUNCTION static std::uint64_t key_of(std::int32_t position, std::int32_t visible) {
    return std::uint64_t(std::uint32_t(position)) << 32 | std::uint32_t(visible);
  }
};

/// The sorted rows, and where those below each node begin.
struct PlaceRows {
  static constexpr const char* kLabel = "espalier::DeviceOrder::place_rows";
  KOKKOS_FUNCTION static std::int32_t items(const Line& c) { return c.target_nodes > c.rows ? c.target_nodes : c.rows; }

  KOKKOS_FUNCTION static void run(const Line& c, std::int32_t i) {
    const SortBuffer sorted = Sorting<RowOrder>::result(c);
    if (i < c.rows) {
      c.target.row_node[i] = std::int32_t(sorted.keys[i] >> 32);
      c.target.row_visible[i] = std::int32_t(sorted.keys[i] & 0xffffffff);
      c.target.row_index[i] = sorted.items[i];
    }
    if (i < c.status->nodes) c.target.row_begin[i] = lower_bound(sorted.keys, 0, c.rows, RowOrder::key_of(i, 0));
  }
};

/// Rows below a node end where those of the node behind its subtree begin. Nodes behind the real ones become empty roots. A
/// derivation that failed becomes a tree whose rows see nothing.
struct Finish {
  static constexpr const char* kLabel = "espalier::DeviceOrder::finish";
  using Always = void;
  KOKKOS_FUNCTION static std::int32_t items(const Line& c) {
    const std::int32_t items = PlaceRows::items(c);
    return items > 0 ? items : 1;
  }

  template <class Context>
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    const bool failed = c.failed();
    const std::int32_t nodes = !failed ? c.status->nodes : c.rows > 0 ? 1 : 0;
    const auto blocks = failed ? 0 : std::int32_t(c.status->blocks);
    if (i < nodes && !failed) {
      const std::int32_t end = c.target.subtree_end[i];
      c.target.row_end[i] = end < nodes ? c.target.row_begin[end] : c.rows;
    } else if (i < c.target_nodes) {
      const bool holds_rows = i < nodes;
      c.target.parent[i] = -1;
      c.target.tokens[i] = 0;
      c.target.first_block[i] = blocks;
      c.target.first_offset[i] = 0;
      c.target.subtree_end[i] = i + 1;
      c.target.row_begin[i] = holds_rows ? 0 : c.rows;
      c.target.row_end[i] = c.rows;
    }
    if (i < c.rows && failed) {
      c.target.row_node[i] = 0;
      c.target.row_visible[i] = 0;
      c.target.row_index[i] = i;
    }
    if (i > 0) return;
    c.target.counts[0] = nodes;
    c.target.counts[1] = c.rows;
    c.target.counts[2] = c.block_tokens;
    c.target.counts[3] = blocks;
    for (std::int32_t fault = kFaults - 1; fault >= 0; --fault)
      if (c.status->first[fault] != Status::kNowhere)
        c.status->offender = c.offender(Fault{fault}, c.status->first[fault]);
  }
};

/// From linked nodes to the tree.
/// @tparam Lists  that make up its block table, each the blocks of a node or of nodes that follow each other
template <class Lists>
struct LineSteps : Program<RankEvents, Each<Place>, Scan<PlaceBlocks>, Each<TellPlaces<Lists>, Sorting<RowOrder>::Keys>,
                           Sorting<RowOrder>::OfKeys, Each<PlaceRows>, Each<Finish>> {};

}  // namespace espalier::derive
