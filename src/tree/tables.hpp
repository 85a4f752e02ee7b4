#pragma once
// From page tables to the nodes of their tree, in steps.
//
// A *chain* is what a sequence has of its own: its blocks from the place where it leaves all sequences before it.
// Chains hang at each other: sequence s leaves sequence origin[s] < s behind own_begin[s] blocks. That is the whole
// tree: nodes are the pieces of chains between the places where others leave them, or end.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "line.hpp"

namespace espalier::derive {

struct Tables : Line {
  const std::int32_t* blocks;  // [sequences, max_blocks]
  std::int64_t row_stride;
  const std::int32_t* lengths;  // [sequences]
  std::int32_t max_blocks;
  std::int32_t pool_blocks;

  std::int32_t* first_user;  // [pool_blocks]  the first sequence that registered the block, kNobody if none did
  std::int32_t* origin;      // [sequences]  -1: the sequence shares nothing with those before it
  std::int32_t* own_begin;   // [sequences]
  std::int32_t* leader;      // [sequences]  of the slow search
  std::int32_t* candidate;   // [sequences + 1]  of the slow search

  std::int32_t* node_of_end;    // [2 * sequences]  of a boundary, see Boundaries
  std::int32_t* place_of_head;  // [sequences]      place of a chain's first boundary among the sorted ones
  std::int32_t* chain_head;     // [sequences]      first node of a chain
  std::int32_t* node_chain;     // [max_nodes]      the chain that a node is a piece of, -1: the empty root
  std::int32_t* node_begin;     // [max_nodes]      its blocks are those from node_begin ..
  std::int32_t* node_end;       // [max_nodes]      .. to node_end of the chain's sequence
  std::int32_t* group_begin;    // [max_nodes]      place of the node's first boundary among the sorted ones
  std::int32_t* out_parent;     // what Line reads as parent, tokens, row_node, row_visible
  std::int32_t* out_tokens;
  std::int32_t* out_row_node;
  std::int32_t* out_row_visible;

  static constexpr std::int32_t kNobody = INT32_MAX;

  KOKKOS_FUNCTION const std::int32_t* row(std::int32_t sequence) const { return blocks + sequence * row_stride; }

  KOKKOS_FUNCTION bool length_is_valid(std::int32_t sequence) const {
    return lengths[sequence] >= 0 && lengths[sequence] <= std::int64_t{max_blocks} * block_tokens;
  }
  KOKKOS_FUNCTION std::int32_t blocks_of_sequence(std::int32_t sequence) const {
    return std::int32_t((std::int64_t{lengths[sequence]} + block_tokens - 1) / block_tokens);
  }
  KOKKOS_FUNCTION bool has_chain(std::int32_t sequence) const {
    return own_begin[sequence] < blocks_of_sequence(sequence);
  }
  KOKKOS_FUNCTION void suspect() const { Kokkos::atomic_store(&status->suspect, 1); }

  KOKKOS_FUNCTION std::int64_t offender(Fault fault, std::int64_t place) const {
    switch (fault) {
      case Fault::length: return lengths[place];
      case Fault::block: return row(std::int32_t(place / max_blocks))[place % max_blocks];
      case Fault::node_capacity: return status->nodes;
      case Fault::block_capacity: return status->blocks;
      case Fault::token_total: return status->tokens;
      default: return 0;
    }
  }
};

struct Clear {
  static constexpr const char* kLabel = "espalier::BlockTableReader::clear";
  using Always = void;
  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return c.pool_blocks > 0 ? c.pool_blocks : 1; }
  KOKKOS_FUNCTION static void run(const Tables& c, std::int32_t block) {
    if (block < c.pool_blocks) c.first_user[block] = Tables::kNobody;
    if (block == 0) c.status->reset();
  }
};

// ------------------------------------------------------------------------------------------------------- fast search
//
// In a cache, equal ids mean equal prefixes: if sequences s < t have the same block at some place, they have the same
// blocks before it. So the first user of t's blocks is some earlier sequence up to a place, and t itself behind it: that
// place is where t leaves. The first users of every kSample-th block tell between which two samples it lies; then the
// blocks between those are registered. What comes out is checked against the tables, so that ids without that property
// are found out.

inline constexpr std::int32_t kSample = 64;

KOKKOS_INLINE_FUNCTION void register_block(const Tables& c, std::int32_t sequence, std::int32_t place,
                                           std::int32_t user) {
  const std::int32_t block = c.row(sequence)[place];
  if (detail::relaxed_load(&c.first_user[block]) > user) Kokkos::atomic_min(&c.first_user[block], user);
}

/// The first of count places first, first + step, .. of the sequence that no earlier sequence has registered.
KOKKOS_INLINE_FUNCTION std::int32_t first_own(const Tables& c, std::int32_t sequence, std::int32_t count,
                                              std::int32_t first, std::int32_t step) {
  std::int32_t begin = 0;
  for (std::int32_t end = count; begin < end;) {
    const std::int32_t middle = begin + (end - begin) / 2;
    if (detail::relaxed_load(&c.first_user[c.row(sequence)[first + middle * step]]) < sequence) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

/// Places of a sequence where it may leave the earlier ones: behind its last shared sample, up to its first own one.
struct Gap {
  std::int32_t begin;
  std::int32_t end;
  std::int32_t companion;  ///< first sequence with the sample before the gap, -1 where the gap begins the sequence
};

KOKKOS_INLINE_FUNCTION Gap gap_of(const Tables& c, std::int32_t sequence) {
  const std::int32_t blocks = c.blocks_of_sequence(sequence);
  const std::int32_t samples = blocks / kSample;
  const std::int32_t own_sample = first_own(c, sequence, samples, kSample - 1, kSample);
  const std::int32_t begin = own_sample * kSample;
  return {begin, own_sample < samples ? begin + kSample - 1 : blocks,
          begin == 0 ? -1 : detail::relaxed_load(&c.first_user[c.row(sequence)[begin - 1]])};
}

/// Checks lengths and ids, registers samples.
struct CheckTables {
  static constexpr const char* kLabel = "espalier::BlockTableReader::check";
  using Always = void;

  template <class Team>
  KOKKOS_FUNCTION static void run(const Tables& c, const Team& team, std::int32_t sequence) {
    if (!c.length_is_valid(sequence)) {
      Kokkos::single(Kokkos::PerTeam(team), [&] { c.status->report(Fault::length, sequence); });
      return;
    }
    const std::int32_t* row = c.row(sequence);
    const std::int32_t blocks = c.blocks_of_sequence(sequence);
    const auto pool_blocks = std::uint32_t(c.pool_blocks);
    std::int32_t wrong = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamThreadRange(team, blocks),
        [=](std::int32_t place, std::int32_t& sum) { sum += std::uint32_t(row[place]) >= pool_blocks ? 1 : 0; }, wrong);
    if (wrong > 0) {
      Kokkos::parallel_for(Kokkos::TeamThreadRange(team, blocks), [&](std::int32_t place) {
        if (std::uint32_t(row[place]) >= pool_blocks)
          c.status->report(Fault::block, std::int64_t{sequence} * c.max_blocks + place);
      });
      return;
    }
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, blocks / kSample), [&](std::int32_t sample) {
      register_block(c, sequence, sample * kSample + kSample - 1, sequence);
    });
  }
};

/// Registers the blocks of each sequence's gap, and those that its companion has there.
struct RegisterGaps {
  static constexpr const char* kLabel = "espalier::BlockTableReader::register";

  template <class Team>
  KOKKOS_FUNCTION static void run(const Tables& c, const Team& team, std::int32_t sequence) {
    const Gap gap = gap_of(c, sequence);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, gap.begin, gap.end),
                         [&](std::int32_t place) { register_block(c, sequence, place, sequence); });
    if (gap.companion < 0 || gap.companion >= sequence) return;
    const std::int32_t blocks = c.blocks_of_sequence(gap.companion);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, gap.begin, blocks < gap.end ? blocks : gap.end),
                         [&](std::int32_t place) { register_block(c, gap.companion, place, gap.companion); });
  }
};

/// Where each sequence leaves, and whether it really has all blocks before that place in common with its origin.
struct FindChains {
  static constexpr const char* kLabel = "espalier::BlockTableReader::find";

  template <class Team>
  KOKKOS_FUNCTION static void run(const Tables& c, const Team& team, std::int32_t sequence) {
    const std::int32_t* row = c.row(sequence);
    const std::int32_t blocks = c.blocks_of_sequence(sequence);
    const Gap gap = gap_of(c, sequence);
    const std::int32_t leaves = gap.begin + first_own(c, sequence, gap.end - gap.begin, gap.begin, 1);
    std::int32_t origin = leaves == 0 ? -1 : detail::relaxed_load(&c.first_user[row[leaves - 1]]);
    const bool plausible = origin < sequence && (origin < 0 || c.blocks_of_sequence(origin) >= leaves);
    Kokkos::single(Kokkos::PerTeam(team), [&] {
      c.origin[sequence] = plausible ? origin : -1;
      c.own_begin[sequence] = plausible ? leaves : 0;
      if (!plausible) c.suspect();
    });
    if (!plausible || origin < 0) return;
    const std::int32_t* origin_row = c.row(origin);
    std::int32_t different = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamThreadRange(team, leaves),
        [=](std::int32_t place, std::int32_t& sum) { sum += row[place] != origin_row[place] ? 1 : 0; }, different);
    if (different > 0) c.suspect();
    if (leaves < blocks && leaves < c.blocks_of_sequence(origin) && row[leaves] == origin_row[leaves]) c.suspect();
  }
};

/// What is left to be known for chains to be right: that a sequence leaves its origin's own chain, and that no two
/// chains begin with the same block. (Two that leave at different places might; then the slow search is for nothing.)
struct CheckHeads {
  static constexpr const char* kLabel = "espalier::BlockTableReader::heads";
  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return c.rows; }

  KOKKOS_FUNCTION static void run(const Tables& c, std::int32_t sequence) {
    const std::int32_t origin = c.origin[sequence];
    const std::int32_t own_begin = c.own_begin[sequence];
    if (origin >= 0 && own_begin <= c.own_begin[origin]) c.suspect();
    if (!c.has_chain(sequence)) return;
    const std::int32_t head = c.row(sequence)[own_begin];
    if (Kokkos::atomic_exchange(&c.first_user[head], -1) == -1) c.suspect();
  }
};

// ------------------------------------------------------------------------------------------------------- slow search
//
// Exact for any tables, by one team. Sequences with a common beginning follow the first of them, their leader. Each
// goes along with its leader as far as their blocks agree. The first one that leaves is a leader from then on, and
// those that leave at the same place to the same block follow it; the others wait for the next round. Each round gives
// every group a new leader, so there are at most as many rounds as sequences, and every entry is compared once.

struct SlowSearch {
  static constexpr std::int32_t kSettled = -1;

  template <class Exec>
  static void on_grid(const Exec& exec, const Tables& c) {
    run_on_one_team<SlowSearch>(exec, "espalier::BlockTableReader::slow_search", c);
  }

  template <class Team>
  KOKKOS_FUNCTION static void on_team(const Team& team, const Tables& c) {
    if (c.failed() || detail::relaxed_load(&c.status->suspect) == 0) return;
    const auto each = [&](std::int32_t items, const auto& body) {
      for (std::int32_t i = team.team_rank(); i < items; i += team.team_size()) body(i);
      team.team_barrier();
    };
    each(c.rows + 1, [&](std::int32_t s) {
      if (s < c.rows) c.leader[s] = c.rows;  // nobody: the leader of those that have gone nowhere yet
      if (s < c.rows) c.own_begin[s] = 0;
      c.candidate[s] = Tables::kNobody;
    });
    for (bool ended = false; !ended;) {
      if (team.team_rank() == 0) c.status->departed = 0;
      team.team_barrier();
      each(c.rows, [&](std::int32_t s) { follow(c, s); });
      ended = detail::relaxed_load(&c.status->departed) == 0;
      each(c.rows, [&](std::int32_t s) { join(c, s); });
      each(c.rows + 1, [&](std::int32_t s) { c.candidate[s] = Tables::kNobody; });
    }
  }

 private:
  KOKKOS_FUNCTION static void settle(const Tables& c, std::int32_t s) {
    c.origin[s] = c.leader[s] == c.rows ? -1 : c.leader[s];
    c.leader[s] = kSettled;
  }

  KOKKOS_FUNCTION static void follow(const Tables& c, std::int32_t s) {
    const std::int32_t leader = c.leader[s];
    if (leader == kSettled) return;
    const std::int32_t blocks = c.blocks_of_sequence(s);
    const std::int32_t most = leader == c.rows                        ? 0
                              : c.blocks_of_sequence(leader) < blocks ? c.blocks_of_sequence(leader)
                                                                      : blocks;
    std::int32_t common = c.own_begin[s];
    while (common < most && c.row(s)[common] == c.row(leader)[common]) ++common;
    c.own_begin[s] = common;
    if (common == blocks) return settle(c, s);
    Kokkos::atomic_min(&c.candidate[leader], s);
    Kokkos::atomic_store(&c.status->departed, 1);
  }

  KOKKOS_FUNCTION static void join(const Tables& c, std::int32_t s) {
    if (c.leader[s] == kSettled) return;
    const std::int32_t first = c.candidate[c.leader[s]];
    if (s == first) return settle(c, s);
    const std::int32_t place = c.own_begin[s];
    if (place != c.own_begin[first] || c.row(s)[place] != c.row(first)[place]) return;
    c.leader[s] = first;
    ++c.own_begin[s];
  }
};

// ------------------------------------------------------------------------------------------------------------- nodes

/// Where chains are cut. Boundary s < sequences is the place where the chain of s hangs, boundary sequences + s the
/// place where sequence s ends; each is (chain, blocks before it). Sorted, boundaries of one place are neighbours: first
/// the chains that hang there, in order, then the sequences that end there.
struct Boundaries {
  static constexpr const char* kLabel = "espalier::BlockTableReader::boundaries";
  static constexpr std::int32_t kWhich = std::int32_t(Sorted::boundaries);
  static constexpr std::uint64_t kEmptyRoot = 0;                    ///< where sequences without tokens end
  static constexpr std::uint64_t kAtRoot = std::uint64_t{1} << 63;  ///< where chains hang that share nothing
  static constexpr std::uint64_t kNoBoundary = ~std::uint64_t{0};

  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return 2 * c.rows; }

  KOKKOS_FUNCTION static std::uint64_t key(const Tables& c, std::int32_t boundary) {
    const bool is_end = boundary >= c.rows;
    const std::int32_t s = is_end ? boundary - c.rows : boundary;
    const std::int32_t blocks = c.blocks_of_sequence(s);
    if (!is_end && !c.has_chain(s)) return kNoBoundary;
    if (is_end && c.has_chain(s)) return key_of(s, blocks);
    if (c.own_begin[s] == 0) return is_end ? kEmptyRoot : kAtRoot;
    return key_of(c.origin[s], c.own_begin[s]);
  }

  KOKKOS_FUNCTION static bool is_node(std::uint64_t key) { return key < kAtRoot; }
  KOKKOS_FUNCTION static std::uint64_t key_of(std::int32_t chain, std::int32_t blocks) {
    return std::uint64_t(chain + 1) << 32 | std::uint32_t(blocks);
  }
  KOKKOS_FUNCTION static std::int32_t chain_of(std::uint64_t key) { return std::int32_t(key >> 32) - 1; }
  KOKKOS_FUNCTION static std::int32_t blocks_of(std::uint64_t key) { return std::int32_t(key & 0xffffffff); }
  KOKKOS_FUNCTION static SortBuffer sorted(const Tables& c) { return Sorting<Boundaries>::result(c); }
};

/// Boundaries of different places are the ends of different nodes; the empty root has one of its own.
struct NumberNodes {
  static constexpr const char* kLabel = "espalier::BlockTableReader::number";
  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return 2 * c.rows; }

  KOKKOS_FUNCTION static bool is_first(const SortBuffer& sorted, std::int32_t place) {
    return Boundaries::is_node(sorted.keys[place]) && (place == 0 || sorted.keys[place - 1] != sorted.keys[place]);
  }
  KOKKOS_FUNCTION static Sums value(const Tables& c, std::int32_t place) {
    return {is_first(Boundaries::sorted(c), place) ? 1 : 0, 0};
  }
  KOKKOS_FUNCTION static void run(const Tables& c, std::int32_t place, const Sums& before) {
    const SortBuffer sorted = Boundaries::sorted(c);
    const std::int32_t boundary = sorted.items[place];
    const std::uint64_t key = sorted.keys[place];
    if (boundary < c.rows) c.place_of_head[boundary] = place;
    if (!Boundaries::is_node(key)) return;
    const bool first = is_first(sorted, place);
    const std::int32_t node = std::int32_t(before.first) - (first ? 0 : 1);
    c.node_of_end[boundary] = node;
    if (!first) return;
    c.node_chain[node] = Boundaries::chain_of(key);
    c.node_end[node] = Boundaries::blocks_of(key);
    c.group_begin[node] = place;
  }
  KOKKOS_FUNCTION static void total(const Tables& c, const Sums& sums) {
    c.status->nodes = std::int32_t(sums.first);
    if (sums.first > c.target_nodes) c.status->report(Fault::node_capacity, 0);
  }
};

/// A node begins where the one before it on its chain ends, or where the chain hangs.
struct BeginNodes {
  static constexpr const char* kLabel = "espalier::BlockTableReader::begin";
  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return c.target_nodes; }

  KOKKOS_FUNCTION static void run(const Tables& c, std::int32_t node) {
    if (node >= c.status->nodes) return;
    const std::int32_t chain = c.node_chain[node];
    if (chain < 0) {
      c.node_begin[node] = 0;
      c.out_parent[node] = -1;
    } else if (node > 0 && c.node_chain[node - 1] == chain) {
      c.node_begin[node] = c.node_end[node - 1];
      c.out_parent[node] = node - 1;
    } else {
      c.node_begin[node] = c.own_begin[chain];
      c.out_parent[node] = c.own_begin[chain] == 0 ? -1 : c.node_of_end[chain];
      c.chain_head[chain] = node;
    }
  }
};

/// The children of a node are the next piece of its chain, then the chains that hang at its end.
struct LinkNodes {
  static constexpr const char* kLabel = "espalier::BlockTableReader::link";
  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return c.target_nodes; }

  KOKKOS_FUNCTION static void run(const Tables& c, std::int32_t node) {
    if (node >= c.status->nodes) return;
    const std::int32_t child = first_child(c, node);
    c.hops_a[node] = {child == kNone ? c.leave(node) : child, 1};
    const std::int32_t sibling = next_sibling(c, node);
    const std::int32_t parent = c.out_parent[node];
    c.hops_a[c.leave(node)] = {sibling != kNone ? sibling : parent >= 0 ? c.leave(parent) : kNone, 0};
    c.out_tokens[node] = child == kNone ? 0 : (c.node_end[node] - c.node_begin[node]) * c.block_tokens;
  }

 private:
  KOKKOS_FUNCTION static bool goes_on(const Tables& c, std::int32_t node) {
    return c.node_chain[node] >= 0 && node + 1 < c.status->nodes && c.node_chain[node + 1] == c.node_chain[node];
  }

  /// Head of the chain that hangs at a place of the sorted boundaries, if one does.
  KOKKOS_FUNCTION static std::int32_t hanging_at(const Tables& c, std::int32_t place, std::uint64_t key) {
    const SortBuffer sorted = Boundaries::sorted(c);
    if (place >= Boundaries::items(c) || sorted.keys[place] != key || sorted.items[place] >= c.rows) return kNone;
    return c.chain_head[sorted.items[place]];
  }
  KOKKOS_FUNCTION static std::int32_t first_hanging_at(const Tables& c, std::int32_t node) {
    const std::int32_t place = c.group_begin[node];
    return hanging_at(c, place, Boundaries::sorted(c).keys[place]);
  }

  KOKKOS_FUNCTION static std::int32_t first_child(const Tables& c, std::int32_t node) {
    return goes_on(c, node) ? node + 1 : first_hanging_at(c, node);
  }

  KOKKOS_FUNCTION static std::int32_t next_sibling(const Tables& c, std::int32_t node) {
    const SortBuffer sorted = Boundaries::sorted(c);
    const std::int32_t chain = c.node_chain[node];
    if (chain < 0) {
      const std::int32_t place = lower_bound(sorted.keys, 0, Boundaries::items(c), Boundaries::kAtRoot);
      return hanging_at(c, place, Boundaries::kAtRoot);
    }
    if (c.chain_head[chain] != node) return first_hanging_at(c, node - 1);
    const std::int32_t place = c.place_of_head[chain];
    return hanging_at(c, place + 1, sorted.keys[place]);
  }
};

/// Rows, and the tokens of nodes whose last block is filled partly.
struct MakeRows {
  static constexpr const char* kLabel = "espalier::BlockTableReader::rows";
  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return c.rows; }

  KOKKOS_FUNCTION static void run(const Tables& c, std::int32_t sequence) {
    const std::int32_t node = c.node_of_end[c.rows + sequence];
    const std::int32_t visible = c.lengths[sequence] - c.node_begin[node] * c.block_tokens;
    c.out_row_node[sequence] = node;
    c.out_row_visible[sequence] = visible;
    Kokkos::atomic_max(&c.out_tokens[node], visible);
  }
};

/// What each sequence has of its own: the pieces of a chain follow each other in the line.
struct ChainBlocks {
  static constexpr const char* kLabel = "espalier::BlockTableReader::block_table";
  static constexpr bool kKnownBefore = false;
  KOKKOS_FUNCTION static std::int32_t items(const Tables& c) { return c.rows; }

  KOKKOS_FUNCTION static const std::int32_t* source(const Tables& c, std::int32_t sequence) {
    return c.row(sequence) + c.own_begin[sequence];
  }
  KOKKOS_FUNCTION static std::int32_t length(const Tables& c, std::int32_t sequence) {
    return c.blocks_of_sequence(sequence) - c.own_begin[sequence];
  }
  KOKKOS_FUNCTION static std::int32_t place(const Tables& c, std::int32_t sequence) {
    return c.has_chain(sequence) ? c.target.first_block[Jump::position(c, c.chain_head[sequence])] : kNowhere;
  }
};

struct TableSteps : Program<Each<CheckHeads>, SlowSearch, Sorting<Boundaries>::Steps, Scan<NumberNodes>,
                            Each<BeginNodes>, Each<LinkNodes>, Each<MakeRows>, LineSteps<ChainBlocks>> {};

}  // namespace espalier::derive
