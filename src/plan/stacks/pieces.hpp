#pragma once
// Streams that are cut into pieces, each of which is a tile; and the sizes of the merge lists.

#include "balance.hpp"

namespace espalier::plan::stacks {

/// One stream.
struct Stream {
  std::int32_t number;  ///< of its stack
  std::int32_t head;
  std::int32_t tile;  ///< of pairs
  std::int32_t stream;

  /// @param begin, end  places between which the stream begins
  KOKKOS_FUNCTION static Stream of_line(const Context& c, std::int32_t stream, const Cut& begin, const Cut& end) {
    const Line line(c);
    const std::int32_t number =
        last_where(begin.stack, end.stack + 1, [&](std::int32_t n) { return line.stream_before(n) <= stream; });
    const std::int32_t in_stack = stream - line.stream_before(number);
    const std::int32_t tiles = c.stack[number].tiles;
    return {number, in_stack / tiles, in_stack % tiles, stream};
  }
  KOKKOS_FUNCTION static Stream of_stack(const Context& c, std::int32_t number, std::int32_t head, std::int32_t tile) {
    return {number, head, tile, Line(c).stream_before(number) + head * c.stack[number].tiles + tile};
  }
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t pair_begin(const Context& c) const {
    return std::int64_t(c.stack[number].row_begin) * c.group + std::int64_t(tile) * detail::kTilePairs;
  }
  [[nodiscard]] KOKKOS_FUNCTION std::int32_t pairs(const Context& c) const {
    return Line::pairs_of(c, c.stack[number], tile);
  }
};

/// Pieces of streams, and their partials. The first piece of a stream that is merged in any case has a place of its own for
/// them. Each worker has two places more: for the piece that its span begins inside of, and for the one that it ends inside of.
struct Pieces {
  const Context& c;
  const Cut* cut;                   ///< [workers + 1]  where spans begin
  const std::int32_t* tile_before;  ///< [workers + 1]
  std::uint32_t update;             ///< which one this is
  KOKKOS_FUNCTION explicit Pieces(const Context& context) : c(context), update(*context.updates) {
    const std::int32_t place = c.totals->way * (c.workers + 1);
    cut = c.cuts + place;
    tile_before = c.tiles_before + place;
  }

  /// The worker whose span a stream begins in.
  /// @param guess  one that it may be, looked at first
  KOKKOS_FUNCTION std::int32_t first_worker(const Stream& stream, std::int32_t guess) const {
    const bool is_guess = cut[guess].is_at_most(stream.stream) && !cut[guess + 1].is_at_most(stream.stream);
    return is_guess ? guess : first_worker(stream);
  }
  KOKKOS_FUNCTION std::int32_t first_worker(const Stream& stream) const {
    return last_where(0, c.workers, [&](std::int32_t w) { return cut[w].is_at_most(stream.stream); });
  }

  static constexpr std::int32_t kAtATime = 8;
  /// Workers that begin inside a stream, of kAtATime from one on, whose cuts are loaded at once: they neither wait for each
  /// other nor for what is written about each piece.
  struct Further {
    std::uint32_t workers = 0;  ///< a bit for each that has a piece
    bool ends = false;          ///< there are no more
  };
  KOKKOS_FUNCTION Further further_pieces(std::int32_t stream, std::int32_t worker) const {
    Cut cuts[kAtATime + 1];
    for (std::int32_t k = 0; k <= kAtATime; ++k) cuts[k] = cut[Kokkos::min(worker + k, c.workers)];
    Further further;
    for (std::int32_t k = 0; k < kAtATime; ++k) {
      further.ends = further.ends || worker + k >= c.workers || cuts[k].stream != stream;
      if (!further.ends && !(cuts[k] == cuts[k + 1]) && cuts[k].block > 0) further.workers |= 1u << k;
    }
    return further;
  }

  /// Calls visit(worker, further) for what follows a stream's first piece, at least once.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_further(const Stream& stream, std::int32_t first, const Visit& visit) const {
    for (std::int32_t w = first + 1;; w += kAtATime) {
      const Further further = further_pieces(stream.stream, w);
      visit(w, further);
      if (further.ends) return;
    }
  }

  KOKKOS_FUNCTION std::int64_t first_partial(const Stream& stream, std::int32_t worker, bool begins) const {
    const std::int64_t of_streams = c.totals->all.pairs * c.kv_heads;
    const Stack& s = c.stack[stream.number];
    if (!begins) return of_streams + std::int64_t(2) * worker * detail::kTilePairs;
    if (s.merged == 0) return of_streams + (std::int64_t(2) * worker + 1) * detail::kTilePairs;
    return s.before.pairs * c.kv_heads + std::int64_t(s.row_end - s.row_begin) * c.group * stream.head +
           std::int64_t(stream.tile) * detail::kTilePairs;
  }
};

/// No token lies on the row's path.
KOKKOS_INLINE_FUNCTION bool sees_nothing(const detail::TreeView& tree, std::int32_t row) {
  if (tree.row_visible[row] > 0) return false;
  std::int32_t node = tree.parent[tree.row_node[row]];
  while (node >= 0 && tree.tokens[node] == 0) node = tree.parent[node];
  return node < 0;
}

/// The pairs of one merge list, and what covers them.
struct PairBlock {
  const Context& c;
  std::int64_t pair_begin, pair_end;
  std::int32_t row, row_end;

  KOKKOS_FUNCTION PairBlock(const Context& context, std::int32_t block) : c(context) {
    pair_begin = std::int64_t(block) * detail::kMergePairs;
    pair_end = Kokkos::min(pair_begin + detail::kMergePairs, std::int64_t(c.tree.rows) * c.group);
    row = std::int32_t(pair_begin / c.group);
    row_end = std::int32_t((pair_end - 1) / c.group) + 1;
  }

  /// Calls visit(stream) for the streams of a KV head that have pairs of the block.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_stream(std::int32_t head, const Visit& visit) const {
    const std::int32_t first = c.stack_of[row], last = c.stack_of[row_end - 1], alone = c.totals->nodes.alone;
    for (std::int32_t number = first; number <= last; ++number) {
      const Stack& s = c.stack[alone + number];
      for_each_tile(alone + number, head, visit);
      if (alone == 0) continue;
      for (std::int32_t above = s.above; above >= 0;) {
        const PathNode node = c.path_node[above];
        if (number > first && node.row_begin < s.row_begin) break;  // and so is all above it
        if (node.kind == kAlone) for_each_tile(c.before[above].alone, head, visit);
        above = node.parent;
      }
    }
  }

  /// Calls visit(pair_begin, pair_end) for each run of rows that see no token.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_empty(const Visit& visit) const {
    std::int32_t begin = -1;
    for (std::int32_t r = row; r <= row_end; ++r) {
      const bool empty = r < row_end && sees_nothing(c.tree, r);
      if (empty && begin < 0) begin = r;
      if (empty || begin < 0) continue;
      visit(Kokkos::max(pair_begin, std::int64_t(begin) * c.group), Kokkos::min(pair_end, std::int64_t(r) * c.group));
      begin = -1;
    }
  }

 private:
  template <class Visit>
  KOKKOS_FUNCTION void for_each_tile(std::int32_t number, std::int32_t head, const Visit& visit) const {
    const Stack& s = c.stack[number];
    const std::int64_t begin = std::int64_t(s.row_begin) * c.group, end = std::int64_t(s.row_end) * c.group;
    if (s.tiles == 0) return;
    const std::int64_t first = Kokkos::max(pair_begin - begin, std::int64_t(0)) / detail::kTilePairs;
    const std::int64_t last = (Kokkos::min(pair_end, end) - 1 - begin) / detail::kTilePairs;
    for (std::int64_t tile = first; tile <= last; ++tile) visit(Stream::of_stack(c, number, head, std::int32_t(tile)));
  }
};

/// A plan without room for two partials of a row launches no merge, unless its rows are wider than a tile, so that less than
/// two of a row may have to be merged.
KOKKOS_INLINE_FUNCTION bool always_merges(std::int32_t group) { return group > detail::kTilePairs; }

/// Partials that are room for where there is anything to merge. Rows that see nothing have none, but the merge writes their results.
KOKKOS_INLINE_FUNCTION std::int64_t least_partials(const Context& c) {
  return always_merges(c.group) ? 0 : std::int64_t(2) * c.group;
}

/// Merge list l is that of pair block l / kv_heads and KV head l % kv_heads: counts its entries.
struct CountEntries {
  static constexpr const char* kLabel = "espalier::StackPlan::count_entries";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.merge_lists(); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  /// @param first_worker  becomes that of the list's last stream
  /// @returns the number of entries
  KOKKOS_FUNCTION static std::int32_t run(const Context& c, std::int32_t list, std::int32_t& first_worker) {
    std::int32_t entries = 0;
    if (c.totals->fits != 0) {
      const Pieces all(c);
      const PairBlock block(c, list / c.kv_heads);
      block.for_each_stream(list % c.kv_heads, [&](const Stream& stream) {
        std::int32_t pieces = 1;
        first_worker = all.first_worker(stream);
        all.for_each_further(stream, first_worker,
                             [&](std::int32_t, const Pieces::Further& further) { pieces += bits_of(further.workers); });
        // A piece that is all of its stream, which is all that its pairs see, is not merged.
        if (pieces > 1 || c.stack[stream.number].merged != 0) entries += pieces;
      });
      block.for_each_empty([&](std::int64_t, std::int64_t) { ++entries; });
    }
    c.merge_count[list] = entries;
    if (entries > 0 && c.totals->need_partials < least_partials(c))  // most lists find that another one was here before
      Kokkos::atomic_max(&c.totals->need_partials, least_partials(c));
    return entries;
  }
};

struct EntrySum {
  std::int64_t entries = 0;
  KOKKOS_FUNCTION EntrySum& operator+=(const EntrySum& other) {
    entries += other.entries;
    return *this;
  }
};

/// Where each merge list begins.
struct SumEntries {
  static constexpr const char* kLabel = "espalier::StackPlan::sum_entries";
  using Sum = EntrySum;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return CountEntries::items(c); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }
  KOKKOS_FUNCTION static EntrySum value(const Context& c, std::int32_t list) { return {c.merge_count[list]}; }
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t list, const EntrySum&, const EntrySum& before) {
    c.merge_begin[list] = std::int32_t(before.entries);
  }
  KOKKOS_FUNCTION static void total(const Context& c, const EntrySum& sums) {
    c.merge_begin[c.merge_lists()] = std::int32_t(sums.entries);
  }
};

}  // namespace espalier::plan::stacks
