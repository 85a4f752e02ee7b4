#pragma once
// Writes the arrays of a plan whose stacks and cuts are settled: one kernel, whose teams each write one worker's tiles, or a
// share of the rest. Of large trees others begin and write the merge lists.

#include "pieces.hpp"
#include "relaxed_load.hpp"

namespace espalier::plan::stacks {

inline constexpr std::int32_t kOpen = -1;
inline constexpr std::int32_t kNoNode = INT32_MIN;

/// Pairs of a stream's tile.
struct TilePairs {
  std::int32_t lo, hi;
  KOKKOS_FUNCTION TilePairs(std::int32_t low, std::int32_t high) : lo(low), hi(high) {}
  KOKKOS_FUNCTION explicit TilePairs(std::uint64_t stored)
      : lo(std::int32_t(stored & 0xffff)), hi(std::int32_t(stored >> 16 & 0xffff)) {}
  /// As one word that says of which update it is: who waits for it needs no fence.
  [[nodiscard]] KOKKOS_FUNCTION std::uint64_t stored(std::uint32_t update) const {
    return std::uint64_t(lo) | std::uint64_t(hi) << 16 | std::uint64_t(update) << 32;
  }
  KOKKOS_FUNCTION static bool is_of(std::uint64_t stored, std::uint32_t update) { return stored >> 32 == update; }

  /// Those that may see a token between two places of a stack: with none of the big nodes above, these are often few.
  KOKKOS_FUNCTION TilePairs(const Turns& turns, const Stream& stream, const Place& begin, const Place& last)
      : lo(0), hi(stream.pairs(turns.c)) {
    if (begin.half < 0 || last.half < 0) return;
    const Context& c = turns.c;
    const std::int32_t row = turns.s.row_begin;
    const bool one_turn = begin.half == last.half && begin.turn == last.turn;
    if (begin.half == 0 || one_turn) lo = (c.tree.row_begin[begin.node] - row) * c.group;
    if (last.half == 0 && !one_turn) return;
    // Nodes above the last one may lie between the places, too, if they are small and the middle is not inside of them.
    const Middle middle(c, row);
    std::int32_t top_end = c.tree.row_end[last.node];
    for (std::int32_t above = c.tree.parent[last.node]; above >= 0;) {
      const PathNode node = c.path_node[above];
      const std::int32_t row_end = c.tree.row_end[above];
      if (node.kind != kSmall || middle.is_inside(node.row_begin, row_end)) break;
      top_end = row_end;
      above = node.parent;
    }
    hi = Kokkos::min(hi, (top_end - row) * c.group);
  }
};

/// Writes piece `piece` of a worker's span.
struct FillTiles {
  const Context& c;
  const Pieces& pieces;

  KOKKOS_FUNCTION void operator()(std::int32_t worker, std::int32_t piece) const {
    const Cut begin = pieces.cut[worker], end = pieces.cut[worker + 1];
    const Stream stream = Stream::of_line(c, begin.stream + piece, begin, end);
    const Stack& s = c.stack[stream.number];
    const std::int32_t first_slot = piece == 0 ? begin.block * detail::kTileSlots : 0;
    const std::int32_t end_slot =
        stream.stream == end.stream ? Kokkos::min(end.block * detail::kTileSlots, s.slots) : s.slots;
    const Turns turns(c, stream.number);
    const bool whole = first_slot == 0 && end_slot == s.slots;
    TilePairs pairs(0, stream.pairs(c));
    detail::FusedTile tile{};
    std::int32_t tile_end = kOpen;
    if (whole) {
      tile.segment_end = turns.segments();
    } else {
      const Place first(turns, first_slot), last(turns, end_slot - 1);
      tile.segment_begin = first.segment;
      tile.segment_end = last.segment + 1;
      tile.skip = first.skip;
      if (last.left > 1) tile_end = last.skip + 1;
      pairs = TilePairs(turns, stream, first, last);
    }
    tile.segment_begin += s.before.segments;
    tile.segment_end += s.before.segments;
    tile.slots = end_slot - first_slot;
    tile.pair_begin = std::int32_t(stream.pair_begin(c) + pairs.lo);
    tile.pairs = std::uint16_t(pairs.hi - pairs.lo);
    tile.kv_head = std::uint16_t(stream.head);
    if (whole && s.merged == 0)
      tile.flags = detail::kTileDirect;
    else
      tile.partial_begin = std::int32_t(pieces.first_partial(stream, worker, first_slot == 0) + pairs.lo);
    const std::int32_t place = pieces.tile_before[worker] + piece;
    Kokkos::atomic_store(&c.tile_pairs[place], pairs.stored(pieces.update));
    c.tiles[place] = tile;
    c.tile_end[place] = tile_end;
  }
};

/// Writes segments.
struct FillSegments {
  const Context& c;

  /// Of an alone node, or of a small one that is in a half of its stack: a segment for each turn that it is in.
  KOKKOS_FUNCTION void node(std::int32_t node) const {
    const NodeSums &before = c.before[node], &end = c.before[node + 1];
    if (end.alone > before.alone)
      return write(c.stack[before.alone].before.segments, node, 0, c.path_node[node].tokens, node);
    if (end.listed == before.listed) return;
    const std::int32_t number = c.totals->nodes.alone + c.stack_of[c.tree.row_begin[node]];
    const Turns turns(c, number);
    const std::int32_t half = node < turns.s.middle_node ? 0 : 1, tokens = c.path_node[node].tokens;
    const std::int32_t slot = slots_between(c, turns.first_node(half), node);
    std::int32_t turn = turns.turn_of(half, slot);
    for (std::int32_t token = 0; token < tokens; ++turn) {
      const std::int32_t now = Kokkos::min(tokens - token, turns.begin(half, turn + 1) - slot - token);
      const std::int32_t place = turns.s.before.segments + turns.segments_before(half, turn) + before.listed -
                                 c.before[turns.node(half, turn)].listed;
      write(place, node, token, now, token + now < tokens ? ~node : node);
      token += now;
    }
  }

  /// What both halves of a stack of units see; clears the room that it does not need.
  KOKKOS_FUNCTION void stack(std::int32_t stack) const {
    const std::int32_t number = c.totals->nodes.alone + stack;
    const Turns turns(c, number);
    const Stack& s = turns.s;
    std::int32_t place = s.before.segments + turns.shared_segments_end(), begin = turns.shared;
    const auto enter = [&](std::int32_t node, std::int32_t tokens) {
      begin -= detail::stack_slots(tokens);
      const std::int32_t parted = turns.parted(begin);
      const bool is_in_front = parted >= tokens;  // all of it
      const std::int32_t first = is_in_front ? 0 : parted;
      write(is_in_front ? s.before.segments : --place, node, first, tokens - first, node);
    };
    c.for_each_inner(s, enter);
    c.for_each_above(s, enter);
    const std::int32_t end = c.stack[number + 1].before.segments;
    for (std::int32_t i = s.before.segments + turns.segments(); i < end; ++i) {
      c.segments[i] = detail::FusedSegment{};
      c.segment_node[i] = kNoNode;
    }
  }

  /// The part of a stack's topmost node that is in front of early halves. Another thread writes what is behind them.
  KOKKOS_FUNCTION void front(std::int32_t stack) const {
    const Turns turns(c, c.totals->nodes.alone + stack);
    if (!turns.is_early || !turns.s.splits_top()) return;
    std::int32_t topmost = -1;
    const auto pass = [&](std::int32_t node, std::int32_t) { topmost = node; };
    c.for_each_inner(turns.s, pass);
    c.for_each_above(turns.s, pass);
    write(turns.s.before.segments, topmost, 0, turns.front, ~topmost);
  }

 private:
  /// @param mark  ~node where the segment does not grow
  KOKKOS_FUNCTION void write(std::int32_t place, std::int32_t node, std::int32_t node_token, std::int32_t tokens,
                             std::int32_t mark) const {
    const std::int32_t row_begin = c.tree.row_begin[node], row_end = c.tree.row_end[node];
    const std::int32_t first = c.tree.first_offset[node] + node_token;
    detail::FusedSegment segment{};
    segment.table_begin = c.tree.first_block[node] + first / c.tree.block_tokens;
    segment.first_block = c.tree.block_table[segment.table_begin];
    segment.block_offset = first % c.tree.block_tokens;
    segment.tokens = tokens;
    segment.row_begin = segment.own_row_end = row_begin;
    segment.row_end = row_end;
    segment.node_token = node_token;
    const auto limited = [&](std::int32_t row) {
      return c.tree.row_node[row] == node && c.tree.row_visible[row] < node_token + tokens;
    };
    if (limited(row_begin)) segment.own_row_end = last_where(row_begin, row_end, limited) + 1;
    c.segments[place] = segment;
    c.segment_node[place] = mark;
  }
};

/// Writes a merge list, as soon as the tiles that it is of are known.
struct FillEntries {
  static constexpr const char* kLabel = "espalier::StackPlan::fill_entries";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    return c.totals->fits != 0 ? CountEntries::items(c) : 0;
  }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return CountEntries::items(c); }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t list) { write(c, list, c.merge_begin[list], 0); }

  /// @param place  of the list's first entry
  /// @param guess  which worker a stream may begin in
  KOKKOS_FUNCTION static void write(const Context& c, std::int32_t list, std::int32_t place, std::int32_t guess) {
    const PairBlock block(c, list / c.kv_heads);
    const Pieces all(c);
    detail::MergeEntry* entry = c.merge_entries + place;
    const auto add = [&](std::int64_t partial, std::int64_t pair_begin, std::int64_t pair_end) {
      // An entry for no pairs: of a tile that covers others of its stream's.
      const std::int64_t lo = Kokkos::max(pair_begin, block.pair_begin), hi = Kokkos::min(pair_end, block.pair_end);
      *entry++ = lo < hi
                     ? detail::MergeEntry{std::int32_t(partial + block.pair_begin - pair_begin),
                                          std::uint16_t(lo - block.pair_begin), std::uint16_t(hi - block.pair_begin)}
                     : detail::MergeEntry{detail::kNoPartial, 0, 0};
    };
    block.for_each_stream(list % c.kv_heads, [&](const Stream& stream) {
      const std::int64_t pair_begin = stream.pair_begin(c);
      const auto add_piece = [&](std::int32_t worker, bool begins, std::int32_t tile, std::uint64_t stored) {
        while (!TilePairs::is_of(stored, all.update)) stored = detail::relaxed_load(&c.tile_pairs[tile]);
        const TilePairs pairs(stored);
        add(all.first_partial(stream, worker, begins) + pairs.lo, pair_begin + pairs.lo, pair_begin + pairs.hi);
      };
      const std::int32_t first = all.first_worker(stream, guess);
      bool is_merged = c.stack[stream.number].merged != 0, has_first = false;
      all.for_each_further(stream, first, [&](std::int32_t w, const Pieces::Further& further) {
        constexpr std::int32_t kAtATime = Pieces::kAtATime;
        std::int32_t tiles[kAtATime];
        std::uint64_t stored[kAtATime];
        is_merged = is_merged || further.workers != 0;
        if (!is_merged) return;
        if (!has_first) add_piece(first, true, all.tile_before[first] + stream.stream - all.cut[first].stream, 0);
        has_first = true;
        for (std::int32_t k = 0; k < kAtATime; ++k) tiles[k] = all.tile_before[Kokkos::min(w + k, c.workers)];
        for (std::int32_t k = 0; k < kAtATime; ++k)
          stored[k] = (further.workers >> k & 1) != 0 ? detail::relaxed_load(&c.tile_pairs[tiles[k]]) : 0;
        for (std::int32_t k = 0; k < kAtATime; ++k)
          if ((further.workers >> k & 1) != 0) add_piece(w + k, false, tiles[k], stored[k]);
      });
    });
    block.for_each_empty([&](std::int64_t pair_begin, std::int64_t pair_end) {
      *entry++ = {detail::kNoPartial, std::uint16_t(pair_begin - block.pair_begin),
                  std::uint16_t(pair_end - block.pair_begin)};
    });
  }
};

/// The kernel: teams 0 .. workers - 1 write their worker's tiles, the next merge_shares() begin and write merge lists, the others
/// write kShare items each of the rest: segments of nodes, of stacks, and in front of early halves. Teams wait for some with lower numbers, which a GPU
/// starts before them.
/// @tparam kWritesLists  or else they are counted only, and then begun and written by other kernels
template <bool kWritesLists>
struct Fill {
  static constexpr const char* kLabel = "espalier::StackPlan::fill";
  static constexpr int kThreads = 128;
  static constexpr std::int32_t kShare = 128;
  Context c;

  KOKKOS_FUNCTION std::int64_t rest() const { return std::int64_t(c.tree.nodes) + 2 * std::int64_t(c.tree.rows); }
  KOKKOS_FUNCTION std::int32_t teams() const {
    return c.workers + c.merge_shares() + std::int32_t(div_up(rest(), std::int64_t(kShare)));
  }

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const std::int32_t number = team.league_rank() - c.workers;
    if (number < 0)
      fill_worker(team, team.league_rank());
    else if (number < c.merge_shares())
      fill_lists(team, number);
    else if (c.totals->fits != 0)
      fill_segments(team, number - c.merge_shares());
  }

 private:
  template <class Team>
  KOKKOS_FUNCTION void fill_worker(const Team& team, std::int32_t worker) const {
    const bool fits = c.totals->fits != 0;
    const Pieces pieces(c);
    const std::int32_t begin = fits ? pieces.tile_before[worker] : 0, end = fits ? pieces.tile_before[worker + 1] : 0;
    if (team.team_rank() == 0) c.worker[worker] = {begin, end};
    for (std::int32_t piece = team.team_rank(); piece < end - begin; piece += team.team_size())
      FillTiles{c, pieces}(worker, piece);
  }

  template <class Team>
  KOKKOS_FUNCTION void fill_lists(const Team& team, std::int32_t number) const {
    if (number == 0 && team.team_rank() == 0) *c.header = {c.tree.rows};
    const std::int32_t lists = c.merge_lists(), of_thread = kMergeShare / team.team_size();
    const std::int32_t begin = Kokkos::min(number * kMergeShare + of_thread * team.team_rank(), lists);
    const std::int32_t end = Kokkos::min(begin + of_thread, lists);
    std::int32_t own = 0, first_worker = 0;
    for (std::int32_t list = begin; list < end; ++list) own += CountEntries::run(c, list, first_worker);
    if constexpr (kWritesLists) {
      std::int64_t place = team.team_scan(own);
      const bool is_last = team.team_rank() == team.team_size() - 1;
      if (is_last) Kokkos::atomic_store(&c.share_entries[number], std::int32_t(place + own + 1));
      place += entries_before(team, number);
      if (is_last && number == c.merge_shares() - 1) SumEntries::total(c, {place + own});
      for (std::int32_t list = begin; list < end; ++list) {
        c.merge_begin[list] = std::int32_t(place);
        if (c.totals->fits != 0) FillEntries::write(c, list, std::int32_t(place), first_worker);
        place += c.merge_count[list];
      }
    }
  }

  /// Waits for what lies before a share of the merge lists to be counted.
  template <class Team>
  KOKKOS_FUNCTION std::int32_t entries_before(const Team& team, std::int32_t number) const {
    std::int32_t before = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamThreadRange(team, number),
        [&](std::int32_t i, std::int32_t& sum) {
          std::int32_t entries = 0;
          while ((entries = detail::relaxed_load(&c.share_entries[i])) == 0) {
          }
          sum += entries - 1;
        },
        before);
    return before;
  }

  template <class Team>
  KOKKOS_FUNCTION void fill_segments(const Team& team, std::int32_t number) const {
    const std::int64_t begin = std::int64_t(number) * kShare;
    for (std::int64_t i = begin + team.team_rank(); i < begin + kShare; i += team.team_size()) {
      const std::int64_t stack = i - c.tree.nodes, stacks = c.totals->stacks;
      if (stack < 0)
        FillSegments{c}.node(std::int32_t(i));
      else if (stack < stacks)
        FillSegments{c}.stack(std::int32_t(stack));
      else if (c.totals->alternate != 0 && stack < 2 * stacks)
        FillSegments{c}.front(std::int32_t(stack - stacks));
    }
  }
};

}  // namespace espalier::plan::stacks
