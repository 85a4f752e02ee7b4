#pragma once
// Streams that are cut into pieces, each of which is a tile; and the sizes of the merge lists.

#include "balance.hpp"

namespace espalier::plan::streams {

/// Pieces of a narrow stream: part of it in each worker's span, and each part in pieces of about equal length.
struct NarrowPieces {
  const Context& c;

  /// The span that holds a place.
  KOKKOS_FUNCTION std::int32_t span_of(const Cut& place) const {
    return last_where(0, c.workers + 1, [&](std::int32_t span) { return c.narrow_cut[span] <= place; });
  }

  struct Part {
    std::int32_t begin, end;  ///< steps
    std::int32_t pieces;
    /// Where piece i begins; pieces begin at a stage's two steps where they can.
    KOKKOS_FUNCTION std::int32_t bound(std::int32_t i) const {
      const std::int32_t length = end - begin;
      return i == pieces ? end : begin + (std::int32_t(std::int64_t(length) * i / pieces) & ~1);
    }
  };
  KOKKOS_FUNCTION Part part(std::int32_t stream, std::int32_t length, std::int32_t span) const {
    const Cut& begin = c.narrow_cut[span];
    const Cut& end = c.narrow_cut[span + 1];
    Part part;
    part.begin = begin.stream == stream ? begin.offset : 0;
    part.end = end.stream == stream ? end.offset : length;
    part.pieces = length <= c.totals->uncut ? 1 : div_up(part.end - part.begin, c.narrow_most[span]);
    return part;
  }

  /// How many there are of a stream; tells the spans that begin inside it how many come before them.
  KOKKOS_FUNCTION std::int32_t count(std::int32_t stream, std::int32_t length) const {
    std::int32_t pieces = 0;
    std::int32_t span = span_of({stream, 0});
    for (; span <= c.workers && c.narrow_cut[span] <= Cut{stream, length - 1}; ++span) {
      if (c.narrow_cut[span].stream == stream) c.span_pieces[span] = pieces;
      if (is_empty(span)) continue;
      const Part p = part(stream, length, span);
      if (p.begin < p.end) pieces += p.pieces;
    }
    return pieces;
  }

  /// The number of the first piece of a span.
  KOKKOS_FUNCTION std::int64_t first_piece(std::int32_t span) const {
    const Cut& cut = c.narrow_cut[span];
    const std::int32_t before = c.span_pieces[span];
    return c.streams[cut.stream].pieces + (cut.offset > 0 ? before : 0);
  }

 private:
  /// Of workers that are busy with wide tiles there may be many in a row.
  KOKKOS_FUNCTION bool is_empty(std::int32_t span) const { return c.narrow_cut[span] == c.narrow_cut[span + 1]; }
};

/// Pairs of a strip.
struct Strip {
  std::int64_t pair_begin;
  std::int32_t pairs;
  KOKKOS_FUNCTION Strip(const Context& c, std::int32_t row, std::int32_t part) {
    const std::int64_t begin = std::int64_t(row) * c.group;
    const std::int64_t end = std::int64_t(c.pack[row].end) * c.group;
    pair_begin = begin + std::int64_t(part) * detail::kNarrowPairs;
    pairs = std::int32_t(Kokkos::min<std::int64_t>(end - pair_begin, detail::kNarrowPairs));
  }
};

/// A narrow stream's one piece is all that its pairs see.
KOKKOS_INLINE_FUNCTION bool is_direct(const Pack& pack, std::int64_t pieces) {
  return pieces == 1 && pack.below_wide == 0 && (pack.steps == 0 || pack.gathered == 0);
}

/// Numbers the narrow pieces; says whether all fits.
struct SumPieces {
  static constexpr const char* kLabel = "espalier::StreamPlan::sum_pieces";
  static constexpr const char* kMeasureLabel = "espalier::StreamPlan::count_pieces";
  using Sum = StreamSums;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.totals->packs.lists * c.kv_heads; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return 2 * c.strips * c.tree.rows * c.kv_heads; }

  KOKKOS_FUNCTION static StreamSums measure(const Context& c, std::int32_t stream) {
    const std::int32_t number = stream / c.kv_heads;
    const List& list = c.lists[number];
    const std::int32_t length = c.lists[number + 1].steps_before - list.steps_before;
    StreamSums sums;
    sums.pieces = NarrowPieces{c}.count(stream, length);
    sums.slots = is_direct(c.pack[list.row], sums.pieces) ? 0 : sums.pieces * Strip(c, list.row, list.part).pairs;
    c.streams[stream] = sums;
    return sums;
  }
  KOKKOS_FUNCTION static StreamSums value(const Context& c, std::int32_t stream) { return c.streams[stream]; }
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t stream, const StreamSums& own,
                                  const StreamSums& before) {
    c.streams[stream] = before;
    if (c.piece_stream == nullptr) return;
    const std::int64_t end = Kokkos::min(before.pieces + own.pieces, c.tile_capacity);
    for (std::int64_t piece = before.pieces; piece < end; ++piece) c.piece_stream[piece] = stream;
  }
  KOKKOS_FUNCTION static void total(const Context& c, const StreamSums& sums) {
    c.streams[items(c)] = sums;
    c.totals->streams = sums;
    check_capacity(c);
  }

 private:
  KOKKOS_FUNCTION static void check_capacity(const Context& c);
};

/// Pieces of a wide stream, and their partials. The first piece of a stream has a place of its own for its partials, each
/// further one that of the gang which begins with it.
struct WidePieces {
  const Context& c;
  std::int32_t gang_bits, gangs;
  KOKKOS_FUNCTION explicit WidePieces(const Context& context)
      : c(context), gang_bits(context.gang_bits()), gangs(context.totals->gangs) {}

  /// The gang that has the first piece of a stream. Gangs have equal shares of the line but for rounding.
  KOKKOS_FUNCTION std::int32_t first_gang(std::int32_t number, std::int32_t stream) const {
    const WideLine line(c);
    const std::int32_t in_node = stream - line.stream_before(number);
    const std::int64_t x = line.cost_before(number) + in_node * (c.wide[number].blocks * line.block + line.fixed);
    const auto begins = [&](std::int32_t g) { return c.wide_cut[g] <= Cut{stream, 0}; };
    auto g = std::int32_t(Kokkos::min<std::int64_t>(x / c.totals->wide_share, gangs - 1));
    while (g + 1 < gangs && begins(g + 1)) ++g;
    while (g > 0 && !begins(g)) --g;
    return g;
  }

  /// Calls visit(gang, whether the stream begins there) for each piece.
  /// @param number  of the stream's wide node
  template <class Visit>
  KOKKOS_FUNCTION void for_each_piece(std::int32_t number, std::int32_t stream, const Visit& visit) const {
    const std::int32_t first = first_gang(number, stream);
    visit(first, true);
    for (std::int32_t g = first + 1; g < gangs; g += kAtATime) {
      const Further further = further_pieces(stream, g);
      for (std::int32_t k = 0; k < kAtATime; ++k)
        if ((further.gangs >> k & 1) != 0) visit(g + k, false);
      if (further.ends) return;
    }
  }
  KOKKOS_FUNCTION std::int32_t count(std::int32_t number, std::int32_t stream) const {
    std::int32_t pieces = 0;
    for_each_piece(number, stream, [&](std::int32_t, bool) { ++pieces; });
    return pieces;
  }

  /// Gangs that begin inside a stream, of kAtATime from g on, whose cuts are loaded at once: they neither wait for each other
  /// nor for what is written about each piece.
  static constexpr std::int32_t kAtATime = 8;
  struct Further {
    std::uint32_t gangs = 0;  ///< a bit for each that has a piece
    bool ends = false;        ///< there are no more
  };
  KOKKOS_FUNCTION Further further_pieces(std::int32_t stream, std::int32_t g) const {
    Cut cuts[kAtATime + 1];
    for (std::int32_t k = 0; k <= kAtATime; ++k) cuts[k] = c.wide_cut[Kokkos::min(g + k, gangs)];
    Further further;
    for (std::int32_t k = 0; k < kAtATime; ++k) {
      further.ends = further.ends || g + k >= gangs || cuts[k].stream != stream;
      if (!further.ends && !(cuts[k] == cuts[k + 1]) && cuts[k].offset > 0) further.gangs |= 1u << k;
    }
    return further;
  }

  KOKKOS_FUNCTION std::int64_t partials() const {
    return c.totals->nodes.pairs * c.kv_heads + (std::int64_t(gangs) << gang_bits) * detail::kWidePairs;
  }
  /// Partials of row tile `tile` of wide node `number`.
  KOKKOS_FUNCTION std::int64_t slot(std::int32_t number, std::int32_t head, std::int32_t tile, std::int32_t g,
                                    bool first) const {
    if (!first) {
      const std::int32_t member = tile & ((1 << gang_bits) - 1);
      return c.totals->nodes.pairs * c.kv_heads + ((std::int64_t(g) << gang_bits) + member) * detail::kWidePairs;
    }
    const WideNode& node = c.wide[number];
    const std::int64_t pairs = c.wide[number + 1].pairs_before - node.pairs_before;
    return node.pairs_before * c.kv_heads + pairs * head + std::int64_t(tile) * detail::kWidePairs;
  }

  /// The row tile's one piece is all that its rows see.
  KOKKOS_FUNCTION bool is_direct(const WideNode& wide, std::int32_t tile, std::int32_t pieces) const {
    if (pieces > 1 || wide.alone == 0) return false;
    const std::int64_t end =
        std::int64_t(c.tree.row_begin[wide.node]) * c.group + std::int64_t(tile + 1) * detail::kWidePairs;
    const std::int64_t last = Kokkos::min((end - 1) / c.group, std::int64_t(c.tree.row_end[wide.node]) - 1);
    return c.tree.row_node[last] == wide.node;
  }
};

KOKKOS_INLINE_FUNCTION void SumPieces::check_capacity(const Context& c) {
  Totals& totals = *c.totals;
  totals.need_segments = totals.nodes.wide_segments + totals.packs.segments;
  totals.need_gathered = totals.packs.gathered;
  totals.need_tiles = (std::int64_t(totals.workers.wide_pieces) << c.gang_bits()) + totals.streams.pieces;
  totals.need_partials = totals.streams.slots;
  if (totals.nodes.wide > 0) totals.need_partials += WidePieces(c).partials();
  totals.fits = totals.need_segments <= c.segment_capacity && totals.need_gathered <= c.segment_capacity &&
                        totals.need_tiles <= c.tile_capacity && totals.need_partials <= c.partial_capacity &&
                        totals.longest == 0
                    ? 1
                    : 0;
}

/// No token lies on the row's path.
KOKKOS_INLINE_FUNCTION bool sees_nothing(const detail::TreeView& tree, std::int32_t row) {
  if (tree.row_visible[row] > 0) return false;
  std::int32_t node = tree.parent[tree.row_node[row]];
  while (node >= 0 && tree.tokens[node] == 0) node = tree.parent[node];
  return node < 0;
}

/// The pairs of one merge list, and what covers them. A thread takes one of merge_parts parts of a list, which follow each
/// other in it: every pack and row tile is several loads that wait for each other, and these parts do so side by side.
struct PairBlock {
  const Context& c;
  std::int64_t pair_begin, pair_end;
  std::int32_t row, row_end;
  std::int32_t merge_part;

  KOKKOS_FUNCTION PairBlock(const Context& context, std::int32_t block, std::int32_t part)
      : c(context), merge_part(part) {
    pair_begin = std::int64_t(block) * detail::kMergePairs;
    pair_end = Kokkos::min(pair_begin + detail::kMergePairs, std::int64_t(c.tree.rows) * c.group);
    row = std::int32_t(pair_begin / c.group);
    row_end = std::int32_t((pair_end - 1) / c.group) + 1;
  }

  /// Calls visit(list, pack, strip) for the lists of the strips that overlap the block; of packs that are the part's.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_list(const Visit& visit) const {
    const std::int32_t last_pack = c.pack_of[row_end - 1];
    for (std::int32_t pack = c.pack_of[row] + merge_part; pack <= last_pack; pack += c.merge_parts) {
      const std::int32_t begin = c.pack_row[pack];
      const Pack& p = c.pack[begin];
      const std::int32_t kinds = (p.steps > 0 ? 1 : 0) + (p.gathered > 0 ? 1 : 0);
      if (kinds == 0) continue;
      const std::int64_t into = pair_begin - std::int64_t(begin) * c.group;
      std::int32_t part = into > 0 ? std::int32_t(into / detail::kNarrowPairs) : 0;
      for (; part < c.strips; ++part) {
        const Strip strip(c, begin, part);
        if (strip.pair_begin >= pair_end) break;
        if (strip.pair_begin + strip.pairs <= pair_begin) continue;
        for (std::int32_t kind = 0; kind < kinds; ++kind) visit(p.before.lists + part * kinds + kind, p, strip);
      }
    }
  }

  /// Calls visit(number, row tile) for the row tiles of wide nodes that overlap the block; of nodes that are the part's.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_wide(const Visit& visit) const {
    const std::int32_t unit = c.unit_at(row);
    std::int32_t turn = 0;
    c.for_each_big(unit, row_end, [&](std::int32_t node) {
      if (turn++ % c.merge_parts != merge_part) return true;
      const std::int64_t begin = std::int64_t(c.tree.row_begin[node]) * c.group;
      const std::int64_t end = std::int64_t(c.tree.row_end[node]) * c.group;
      if (end <= pair_begin || !c.is_wide(node)) return true;
      const std::int64_t first = Kokkos::max(pair_begin - begin, std::int64_t(0));
      const std::int64_t last = Kokkos::min(pair_end, end) - 1 - begin;
      const auto last_tile = std::int32_t(last / detail::kWidePairs);
      for (auto tile = std::int32_t(first / detail::kWidePairs); tile <= last_tile; ++tile)
        visit(c.before[node].wide, tile);
      return true;
    });
  }

  /// Calls visit(pair_begin, pair_end) for each run of rows that see no token.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_empty(const Visit& visit) const {
    if (merge_part != 0) return;
    std::int32_t begin = -1;
    for (std::int32_t r = row; r <= row_end; ++r) {
      const bool empty = r < row_end && sees_nothing(c.tree, r);
      if (empty && begin < 0) begin = r;
      if (empty || begin < 0) continue;
      visit(Kokkos::max(pair_begin, std::int64_t(begin) * c.group), Kokkos::min(pair_end, std::int64_t(r) * c.group));
      begin = -1;
    }
  }
};

/// A plan without room for two partials of a row launches no merge, unless its rows are wider than a tile, so that less than
/// two of a row may have to be merged.
KOKKOS_INLINE_FUNCTION bool always_merges(std::int32_t group) { return group > detail::kNarrowPairs; }

/// Partials that are room for where there is anything to merge. Rows that see nothing have none, but the merge writes their results.
KOKKOS_INLINE_FUNCTION std::int64_t least_partials(const Context& c) {
  return always_merges(c.group) ? 0 : std::int64_t(2) * c.group;
}

/// Merge list l is that of pair block l / kv_heads and KV head l % kv_heads; item i is part i % merge_parts of list
/// i / merge_parts: counts its entries.
struct CountEntries {
  static constexpr const char* kLabel = "espalier::StreamPlan::count_entries";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.merge_lists() * c.merge_parts; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    if (c.totals->fits == 0) {
      c.merge_count[i] = 0;
      return;
    }
    const std::int32_t list_number = i / c.merge_parts, head = list_number % c.kv_heads;
    const PairBlock block(c, list_number / c.kv_heads, i % c.merge_parts);
    std::int32_t entries = 0;
    block.for_each_list([&](std::int32_t list, const Pack& pack, const Strip&) {
      const std::int32_t stream = list * c.kv_heads + head;
      const auto pieces = std::int32_t(c.streams[stream + 1].pieces - c.streams[stream].pieces);
      if (!is_direct(pack, pieces)) entries += pieces;
    });
    if (c.totals->nodes.wide > 0) {
      const WideLine line(c);
      const WidePieces wide(c);
      block.for_each_wide([&](std::int32_t number, std::int32_t tile) {
        const std::int32_t pieces =
            wide.count(number, line.stream_before(number) + head * line.chunks(number) + (tile >> line.gang_bits));
        if (!wide.is_direct(c.wide[number], tile, pieces)) entries += pieces;
      });
    }
    block.for_each_empty([&](std::int64_t, std::int64_t) { ++entries; });
    c.merge_count[i] = entries;
    if (entries == 0) return;
    Kokkos::atomic_add(&c.share_entries[i / kMergeShare], entries);
    Kokkos::atomic_max(&c.totals->need_partials, least_partials(c));
  }
};

/// The item of CountEntries that thread i takes: threads that run in step with each other take the same part of their lists,
/// since each would wait while another goes through a different one.
KOKKOS_INLINE_FUNCTION std::int32_t item_of_thread(const Context& c, std::int32_t i) {
  constexpr std::int32_t kInStep = 32;
  const std::int32_t share = kInStep * c.merge_parts;
  const std::int32_t first = i / share * share;
  if (first + share > CountEntries::items(c)) return i;
  return first + (i - first) % kInStep * c.merge_parts + (i - first) / kInStep;
}

struct EntrySum {
  std::int64_t entries = 0;
  KOKKOS_FUNCTION EntrySum& operator+=(const EntrySum& other) {
    entries += other.entries;
    return *this;
  }
};

/// Where each merge list begins, and each part of it.
struct SumEntries {
  static constexpr const char* kLabel = "espalier::StreamPlan::sum_entries";
  using Sum = EntrySum;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return CountEntries::items(c); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }
  KOKKOS_FUNCTION static EntrySum value(const Context& c, std::int32_t i) { return {c.merge_count[i]}; }
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i, const EntrySum&, const EntrySum& before) {
    c.merge_count[i] = std::int32_t(before.entries);
    begin(c, i, std::int32_t(before.entries));
  }

  KOKKOS_FUNCTION static void begin(const Context& c, std::int32_t i, std::int32_t place) {
    if (i % c.merge_parts == 0) c.merge_begin[i / c.merge_parts] = place;
  }

  KOKKOS_FUNCTION static void total(const Context& c, const EntrySum& sums) {
    c.merge_begin[c.merge_lists()] = std::int32_t(sums.entries);
    c.totals->entries = sums.entries;
  }
};

/// What orders a plan: what its streams are, and how they are cut.
struct CutTree {
  ESPALIER_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION void operator()(const Runner& run, const Context& c) const {
    if (c.absorbs != 0) {
      run.template each<Reset>();
      run.template each<SumChildren>();
    } else {
      run.template begin<Reset>();
    }
    run.template each<FindKinds>();
    run.template scan<SumNodes>();
    run.template each<EndPacks>();
    run.template each<MarkPacks>();
    run.template scan<SumPacks>();
    run.template each<BoundSplits>();
    run.template each<CostSplits>();
    run.template each<ChooseSplit>();
    run.template each<CutWide>();
    run.template scan<SumWorkers>();
    run.template each<CutNarrow>();
    run.template scan<SumPieces>();
  }
};

}  // namespace espalier::plan::streams
