#pragma once
// Writes the arrays of a plan whose streams and cuts are settled: one kernel, whose teams each write one worker's tiles, or a
// share of the rest; and one for the merge lists.

#include "pieces.hpp"

namespace espalier::plan::streams {

inline constexpr std::int32_t kOpen = -1;

/// The list of segments of a strip, step by step: first copied nodes, then the small ones in line order.
struct SegmentList {
  const Context& c;
  const Pack& pack;
  std::int32_t row;
  std::int64_t first_segment;  ///< of the strip's

  KOKKOS_FUNCTION SegmentList(const Context& context, std::int32_t pack_row, std::int32_t part)
      : c(context),
        pack(context.pack[pack_row]),
        row(pack_row),
        first_segment(context.totals->nodes.wide_segments + pack.before.segments + std::int64_t(part) * pack.segments) {
  }

  /// Calls visit(node, parts) for each copied node that rows of the strip see; until it returns false.
  template <class Visit>
  KOKKOS_FUNCTION void for_each_copied(const Visit& visit) const {
    c.for_each_big(row, pack.end, [&](std::int32_t node) {
      if (!c.is_copied(node)) return true;
      return bool(visit(node, parts_of(c, node, rows_begin(node), rows_end(node))));
    });
  }
  KOKKOS_FUNCTION std::int32_t rows_begin(std::int32_t node) const { return Kokkos::max(row, c.tree.row_begin[node]); }
  KOKKOS_FUNCTION std::int32_t rows_end(std::int32_t node) const { return Kokkos::min(pack.end, c.tree.row_end[node]); }

  struct Place {
    std::int32_t segment;        ///< of the plan
    std::int32_t node;           ///< -1: a copied one
    std::int32_t step;           ///< inside the segment
    std::int32_t steps;          ///< of the segment
    std::int32_t tokens;         ///< of the segment
    std::int32_t tokens_before;  ///< of the step, in the list

    [[nodiscard]] KOKKOS_FUNCTION std::int32_t tokens_end() const {  ///< of the step
      return tokens_before + Kokkos::min(std::int32_t(kStepTokens), tokens - step * kStepTokens);
    }
  };

  KOKKOS_FUNCTION Place at(std::int32_t step) const {
    Place place{std::int32_t(first_segment), -1, step, 0, 0, 0};
    if (step < pack.copied_steps) {
      for_each_copied([&](std::int32_t, const Parts& parts) { return !enter(place, parts); });
      return place;
    }
    const NodeSums& first = c.before[pack.first_node];
    const std::int32_t wanted = step - pack.copied_steps + first.steps;
    place.node =
        last_where(pack.first_node, pack.end_node, [&](std::int32_t node) { return c.before[node].steps <= wanted; });
    const NodeSums& before = c.before[place.node];
    place.segment += pack.copied_segments + before.segments - first.segments;
    place.tokens_before = pack.copied_tokens + before.tokens - first.tokens;
    place.step = wanted - before.steps;
    enter(place, parts_of(c, place.node, c.tree.row_begin[place.node], c.tree.row_end[place.node]));
    return place;
  }

  /// The place of a step that is `more` steps behind a place, often in the same segment.
  KOKKOS_FUNCTION Place from(Place place, std::int32_t more, std::int32_t step) const {
    if (place.step + more >= place.steps) return at(step);
    place.step += more;
    place.tokens_before += more * kStepTokens;
    return place;
  }

  /// Pairs of the strip that may see a token of steps [begin, end).
  KOKKOS_FUNCTION void narrow_pairs(std::int32_t begin, std::int32_t first_node, std::int32_t last_node,
                                    const Strip& strip, std::int32_t& lo, std::int32_t& hi) const {
    if (begin < pack.copied_steps) return;
    std::int32_t top = last_node;
    while (c.tree.parent[top] >= first_node && !c.is_big(c.tree.parent[top])) top = c.tree.parent[top];
    lo = std::int32_t(std::int64_t(c.tree.row_begin[first_node]) * c.group - strip.pair_begin);
    hi = std::int32_t(std::int64_t(c.tree.row_end[top]) * c.group - strip.pair_begin);
  }

 private:
  /// Moves a place into the node's segments; true where it is inside one of them.
  KOKKOS_FUNCTION static bool enter(Place& place, const Parts& parts) {
    const std::int32_t head = parts.head_steps(), all = parts.steps();
    if (place.step >= all) {
      place.step -= all;
      place.segment += parts.segments();
      place.tokens_before += parts.tokens();
      return false;
    }
    place.steps = head;
    place.tokens = parts.head_tokens();
    if (place.step >= head) {
      place.segment += head > 0 ? 1 : 0;
      place.tokens_before += parts.head_tokens();
      place.step -= head;
      place.steps = all - head;
      place.tokens = parts.tail_tokens();
    }
    place.tokens_before += place.step * kStepTokens;
    return true;
  }
};

/// The pairs of a strip that a piece of one of its streams may concern.
struct NarrowPiece {
  std::int32_t lo, hi;

  KOKKOS_FUNCTION explicit NarrowPiece(const Strip& strip) : lo(0), hi(strip.pairs) {}
  KOKKOS_FUNCTION explicit NarrowPiece(std::uint32_t packed)
      : lo(std::int32_t(packed & 0xffff)), hi(std::int32_t(packed >> 16)) {}
  [[nodiscard]] KOKKOS_FUNCTION std::uint32_t packed() const { return std::uint32_t(lo) | (std::uint32_t(hi) << 16); }

  /// The first partial of a stream; those of each piece follow each other, one for each pair of the strip.
  KOKKOS_FUNCTION static std::int64_t first_slot(const Context& c, std::int32_t stream) {
    const std::int64_t wide = c.totals->nodes.wide > 0 ? WidePieces(c).partials() : 0;
    return wide + c.streams[stream].slots;
  }
};

/// Writes tiles.
struct FillTiles {
  const Context& c;

  /// Piece of the given number in the whole line, which lies in a span.
  /// @param span_first  the span's first piece
  struct Found {
    std::int32_t stream, index, begin, end;
  };
  KOKKOS_FUNCTION Found find(std::int64_t number, std::int32_t span, std::int64_t span_first) const {
    const std::int32_t stream = c.piece_stream[number];
    const NarrowPieces::Part part = NarrowPieces{c}.part(stream, NarrowLine(c).steps(stream / c.kv_heads), span);
    const auto index = std::int32_t(number - c.streams[stream].pieces);
    const auto of_part = stream == c.narrow_cut[span].stream ? std::int32_t(number - span_first) : index;
    return {stream, index, part.bound(of_part), part.bound(of_part + 1)};
  }

  KOKKOS_FUNCTION void narrow(std::int64_t place, const Found& piece) const {
    const std::int32_t number = piece.stream / c.kv_heads;
    const List& list = c.lists[number];
    const Pack& pack = c.pack[list.row];
    const Strip strip(c, list.row, list.part);
    NarrowPiece pairs(strip);
    detail::FusedTile tile{};
    std::int32_t tile_end = kOpen;
    if (list.gathered != 0) {
      const std::int64_t first = pack.before.gathered + std::int64_t(list.part) * pack.gathered;
      tile.segment_begin = std::int32_t(first + piece.begin * kStepTokens);
      tile.tokens = Kokkos::min(piece.end * kStepTokens, pack.gathered) - piece.begin * kStepTokens;
      tile.segment_end = tile.segment_begin + tile.tokens;
      tile.flags = detail::kTileGathered;
    } else if (const SegmentList segments(c, list.row, list.part); piece.begin == 0 && piece.end == pack.steps) {
      tile.segment_begin = std::int32_t(segments.first_segment);
      tile.segment_end = tile.segment_begin + pack.segments;
      tile.tokens = pack.tokens;
    } else {
      const SegmentList::Place first = segments.at(piece.begin);
      const SegmentList::Place last = segments.from(first, piece.end - 1 - piece.begin, piece.end - 1);
      tile.segment_begin = first.segment;
      tile.segment_end = last.segment + 1;
      tile.skip = first.step * kStepTokens;
      tile.tokens = last.tokens_end() - first.tokens_before;
      if (last.step + 1 < last.steps) tile_end = (last.step + 1) * kStepTokens;
      segments.narrow_pairs(piece.begin, first.node, last.node, strip, pairs.lo, pairs.hi);
    }
    c.piece_pairs[c.streams[piece.stream].pieces + piece.index] = pairs.packed();
    tile.pair_begin = std::int32_t(strip.pair_begin + pairs.lo);
    tile.pairs = std::uint16_t(pairs.hi - pairs.lo);
    tile.partial_begin =
        std::int32_t(NarrowPiece::first_slot(c, piece.stream) + std::int64_t(piece.index) * strip.pairs + pairs.lo);
    tile.kv_head = std::uint16_t(piece.stream - number * c.kv_heads);
    if (is_direct(pack, c.streams[piece.stream + 1].pieces - c.streams[piece.stream].pieces))
      tile.flags |= detail::kTileDirect;
    c.narrow_tiles[place] = tile;
    c.tile_end[place] = tile_end;
  }

  KOKKOS_FUNCTION void wide(std::int64_t place, std::int32_t gang, std::int32_t member, std::int32_t piece) const {
    const WideLine line(c);
    const WidePieces pieces(c);
    const Cut& begin = c.wide_cut[gang];
    const Cut& end = c.wide_cut[gang + 1];
    const std::int32_t stream = begin.stream + piece;
    const std::int32_t number = line.node_of(stream);
    const WideNode& wide = c.wide[number];
    const std::int32_t in_node = stream - line.stream_before(number);
    const std::int32_t head = in_node / line.chunks(number);
    const std::int32_t row_tile = ((in_node % line.chunks(number)) << line.gang_bits) + member;
    const std::int32_t first_block = piece == 0 ? begin.offset : 0;
    const std::int32_t first_token = first_block * kBlockTokens;
    const std::int32_t end_token =
        stream == end.stream ? Kokkos::min(end.offset * kBlockTokens, wide.tokens) : wide.tokens;
    const std::int64_t pairs = c.wide[number + 1].pairs_before - wide.pairs_before;
    detail::FusedTile tile{};
    tile.tokens = end_token - first_token;
    std::int32_t segment = c.wide[number + 1].segments_before, segment_end_token = wide.tokens;
    c.for_each_of_chain(wide.node, [&](std::int32_t, std::int32_t tokens) {
      --segment;
      const std::int32_t segment_token = segment_end_token - tokens;
      if (segment_token < end_token && end_token <= segment_end_token) tile.segment_end = segment + 1;
      if (segment_token <= first_token && first_token < segment_end_token) {
        tile.segment_begin = segment;
        tile.skip = first_token - segment_token;
      }
      segment_end_token = segment_token;
    });
    tile.pair_begin = c.tree.row_begin[wide.node] * c.group + row_tile * detail::kWidePairs;
    tile.pairs = std::uint16_t(
        Kokkos::min<std::int64_t>(pairs - std::int64_t(row_tile) * detail::kWidePairs, detail::kWidePairs));
    tile.partial_begin = std::int32_t(pieces.slot(number, head, row_tile, gang, first_block == 0));
    tile.kv_head = std::uint16_t(head);
    const std::int32_t row = tile.pair_begin / c.group;
    const std::int32_t own_token = wide.tokens - c.seen(wide.node);
    if (c.tree.row_node[row] == wide.node && c.tree.row_visible[row] < end_token - own_token)
      tile.flags |= detail::kTileLimited;
    const bool is_whole = first_block == 0 && end_token == wide.tokens;
    if (is_whole && pieces.is_direct(wide, row_tile, 1)) tile.flags |= detail::kTileDirect;
    c.wide_tiles[place] = tile;
    c.wide_open[place] = stream == end.stream ? 0 : 1;
  }
};

/// Writes the segments and gathered tokens of strips.
struct FillSegments {
  const Context& c;

  KOKKOS_FUNCTION void node(std::int32_t node) const {
    if (c.tree.row_begin[node] == c.tree.row_end[node]) return;
    const std::int32_t row_begin = c.tree.row_begin[node], row_end = c.tree.row_end[node];
    if (!c.is_big(node)) {
      const std::int32_t row = c.pack_row[c.pack_of[row_begin]];
      const SegmentList list(c, row, 0);
      const NodeSums& before = c.before[node];
      const NodeSums& first = c.before[list.pack.first_node];
      Writer writer{c, list.first_segment + list.pack.copied_segments + before.segments - first.segments,
                    list.pack.before.gathered + list.pack.copied_gathered + before.gathered - first.gathered};
      writer.write(node, parts_of(c, node, row_begin, row_end), row_begin, row_end, Strip(c, row, 0));
    } else if (c.is_wide(node)) {
      std::int32_t place = c.wide[c.before[node].wide + 1].segments_before;
      c.for_each_of_chain(node, [&](std::int32_t member, std::int32_t tokens) {
        --place;
        c.segments[place] = Writer::segment_of(c, member, 0, tokens, c.tree.row_begin[member], c.tree.row_end[member]);
        c.segment_node[place] = member;
        const auto limited = [&](std::int32_t row) {
          return c.tree.row_node[row] == node && c.tree.row_visible[row] < tokens;
        };
        if (member == node && limited(row_begin))
          c.segments[place].own_row_end = last_where(row_begin, row_end, limited) + 1;
      });
    }
  }

  /// What is copied into the strips of a pack.
  KOKKOS_FUNCTION void copies(std::int32_t row) const {
    if (c.begins[row] == 0 || c.pack[row].copied_segments + c.pack[row].copied_gathered == 0) return;
    for (std::int32_t part = 0; part < c.strips; ++part) {
      const SegmentList list(c, row, part);
      Writer writer{c, list.first_segment, list.pack.before.gathered + std::int64_t(part) * list.pack.gathered};
      list.for_each_copied([&](std::int32_t node, const Parts& parts) {
        writer.write(node, parts, list.rows_begin(node), list.rows_end(node), Strip(c, row, part));
        return true;
      });
    }
  }

 private:
  struct Writer {
    const Context& c;
    std::int64_t segment, gathered;  ///< places

    KOKKOS_FUNCTION static detail::FusedSegment segment_of(const Context& c, std::int32_t node, std::int32_t node_token,
                                                           std::int32_t tokens, std::int32_t row_begin,
                                                           std::int32_t row_end) {
      const std::int32_t place = c.tree.first_offset[node] + node_token;
      detail::FusedSegment segment{};
      segment.table_begin = c.tree.first_block[node] + place / c.tree.block_tokens;
      segment.first_block = c.tree.block_table[segment.table_begin];
      segment.block_offset = place % c.tree.block_tokens;
      segment.tokens = tokens;
      segment.row_begin = row_begin;
      segment.row_end = row_end;
      segment.own_row_end = row_begin;
      segment.node_token = node_token;
      return segment;
    }

    KOKKOS_FUNCTION void write(std::int32_t node, const Parts& parts, std::int32_t row_begin, std::int32_t row_end,
                               const Strip& strip) {
      if (parts.head_tokens() > 0) {
        c.segment_node[segment] = parts.head == parts.seen ? node : ~node;
        c.segments[segment++] = segment_of(c, node, 0, parts.head, row_begin, row_end);
      }
      if (parts.tail_tokens() > 0) {
        c.segment_node[segment] = node;
        c.segments[segment++] = segment_of(c, node, parts.tail, parts.seen - parts.tail, parts.tail_row, row_end);
      }
      std::int32_t row = row_begin;
      const std::int32_t end = parts.tail_listed || parts.head == parts.seen ? parts.seen : parts.tail;
      for (std::int32_t token = parts.head_tokens(); token < end; ++token) {
        while (c.tree.row_node[row] == node && c.tree.row_visible[row] <= token) ++row;
        const std::int32_t place = c.tree.first_offset[node] + token;
        const std::int32_t block = c.tree.block_table[c.tree.first_block[node] + place / c.tree.block_tokens];
        detail::GatheredToken entry;
        entry.slot = block * c.tree.block_tokens + place % c.tree.block_tokens;
        entry.pair_lo = clip(std::int64_t(row) * c.group, strip);
        entry.pair_hi = clip(std::int64_t(row_end) * c.group, strip);
        c.gathered[gathered++] = entry;
      }
    }

    KOKKOS_FUNCTION static std::int16_t clip(std::int64_t pair, const Strip& strip) {
      return std::int16_t(Kokkos::clamp<std::int64_t>(pair - strip.pair_begin, 0, strip.pairs));
    }
  };
};

/// Writes part i % merge_parts of merge list i / merge_parts.
struct FillEntries {
  static constexpr const char* kLabel = "espalier::StreamPlan::fill_entries";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    return c.totals->fits != 0 ? CountEntries::items(c) : 0;
  }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return CountEntries::items(c); }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) { write(c, i, c.merge_count[i]); }

  /// @param place  of the part's first entry
  KOKKOS_FUNCTION static void write(const Context& c, std::int32_t i, std::int32_t place) {
    const std::int32_t list_number = i / c.merge_parts, head = list_number % c.kv_heads;
    const PairBlock block(c, list_number / c.kv_heads, i % c.merge_parts);
    detail::MergeEntry* entry = c.merge_entries + place;
    const auto add = [&](std::int64_t slot, std::int64_t pair_begin, std::int64_t pair_end) {
      // An entry for no pairs: of a tile that covers others of its strip's.
      const std::int64_t lo = Kokkos::max(pair_begin, block.pair_begin), hi = Kokkos::min(pair_end, block.pair_end);
      *entry++ = lo < hi
                     ? detail::MergeEntry{std::int32_t(slot + block.pair_begin - pair_begin),
                                          std::uint16_t(lo - block.pair_begin), std::uint16_t(hi - block.pair_begin)}
                     : detail::MergeEntry{detail::kNoPartial, 0, 0};
    };
    block.for_each_list([&](std::int32_t list, const Pack& pack, const Strip& strip) {
      const std::int32_t stream = list * c.kv_heads + head;
      if (is_direct(pack, c.streams[stream + 1].pieces - c.streams[stream].pieces)) return;
      const std::int64_t first = c.streams[stream].pieces, end = c.streams[stream + 1].pieces;
      const std::int64_t slot = NarrowPiece::first_slot(c, stream);
      constexpr int kAtATime = 4;  // whose loads do not wait for what is written
      for (std::int64_t number = first; number < end; number += kAtATime) {
        std::uint32_t packed[kAtATime];
        for (int k = 0; k < kAtATime; ++k) packed[k] = c.piece_pairs[Kokkos::min(number + k, end - 1)];
        for (int k = 0; k < kAtATime && number + k < end; ++k) {
          const NarrowPiece piece(packed[k]);
          add(slot + (number + k - first) * strip.pairs + piece.lo, strip.pair_begin + piece.lo,
              strip.pair_begin + piece.hi);
        }
      }
    });
    if (c.totals->nodes.wide > 0) {
      const WideLine line(c);
      const WidePieces wide(c);
      block.for_each_wide([&](std::int32_t number, std::int32_t tile) {
        const WideNode& node = c.wide[number];
        const std::int32_t stream = line.stream_before(number) + head * line.chunks(number) + (tile >> line.gang_bits);
        if (node.alone != 0 && wide.is_direct(node, tile, wide.count(number, stream))) return;
        const std::int64_t pair_begin =
            std::int64_t(c.tree.row_begin[node.node]) * c.group + std::int64_t(tile) * detail::kWidePairs;
        const std::int64_t pair_end =
            Kokkos::min(pair_begin + detail::kWidePairs, std::int64_t(c.tree.row_end[node.node]) * c.group);
        wide.for_each_piece(number, stream, [&](std::int32_t gang, bool first) {
          add(wide.slot(number, head, tile, gang, first), pair_begin, pair_end);
        });
      });
    }
    block.for_each_empty([&](std::int64_t pair_begin, std::int64_t pair_end) {
      *entry++ = {detail::kNoPartial, std::uint16_t(pair_begin - block.pair_begin),
                  std::uint16_t(pair_end - block.pair_begin)};
    });
  }
};

/// Begins and writes the merge lists of a small tree: each team adds up what lies before its own.
struct FillLists {
  static constexpr const char* kLabel = "espalier::StreamPlan::fill_lists";
  static constexpr int kThreads = kMergeShare;
  static constexpr std::size_t kScratchBytes = (kMergeShare + 2) * sizeof(std::int32_t);
  Context c;

  KOKKOS_FUNCTION std::int32_t teams() const { return c.merge_shares(); }

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const std::int32_t lists = CountEntries::items(c);
    const std::int32_t team_begin = team.league_rank() * kMergeShare;
    const std::int32_t share = kMergeShare / team.team_size();
    const std::int32_t begin = Kokkos::min(team_begin + share * team.team_rank(), lists);
    const std::int32_t end = Kokkos::min(begin + share, lists);
    std::int32_t before = 0;
    if (team.league_rank() > 0)
      Kokkos::parallel_reduce(
          Kokkos::TeamThreadRange(team, team.league_rank()),
          [&](std::int32_t i, std::int32_t& sum) { sum += c.share_entries[i]; }, before);
    std::int32_t own = 0;
    for (std::int32_t i = begin; i < end; ++i) own += c.merge_count[i];
    std::int64_t place = std::int64_t(before) + team.team_scan(own);
    auto* const places =
        static_cast<std::int32_t*>(team.team_scratch(0).get_shmem(std::ptrdiff_t(kMergeShare * sizeof(std::int32_t))));
    for (std::int32_t i = begin; i < end; ++i) {
      SumEntries::begin(c, i, std::int32_t(place));
      places[i - team_begin] = std::int32_t(place);
      place += c.merge_count[i];
    }
    const bool is_last = team_begin + kMergeShare > lists && team.team_rank() == team.team_size() - 1;
    if (is_last) SumEntries::total(c, {place});
    if (c.totals->fits == 0) return;
    team.team_barrier();
    for (std::int32_t thread = team.team_rank(); thread < kMergeShare; thread += team.team_size()) {
      const std::int32_t i = item_of_thread(c, team_begin + thread);
      if (i < lists) FillEntries::write(c, i, places[i - team_begin]);
    }
  }
};

/// The kernel: teams 0 .. workers - 1 write their worker's tiles, the others kShare items each of the rest: sizes of merge
/// lists, segments, copies.
struct Fill {
  static constexpr const char* kLabel = "espalier::StreamPlan::fill";
  static constexpr int kThreads = 128;
  static constexpr std::size_t kScratchBytes = 0;
  static constexpr std::int32_t kShare = 128;
  Context c;

  KOKKOS_FUNCTION std::int64_t items() const {
    return std::int64_t(c.tree.nodes) + c.tree.rows + CountEntries::items(c);
  }
  KOKKOS_FUNCTION std::int32_t rest_teams() const {  // one at least: it writes the header
    return std::int32_t(items() / kShare) + 1;
  }
  KOKKOS_FUNCTION std::int32_t teams() const { return c.workers + rest_teams(); }

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const std::int32_t number = team.league_rank();
    if (number < c.workers)
      fill_worker(team, number);
    else
      fill_rest(team, number - c.workers);
  }

 private:
  template <class Team>
  KOKKOS_FUNCTION void fill_worker(const Team& team, std::int32_t worker) const {
    if (c.totals->fits == 0) {
      if (team.team_rank() == 0) c.worker[worker] = {};
      return;
    }
    const FillTiles tiles{c};
    const std::int32_t gang_bits = c.gang_bits();
    const std::int32_t busy = c.totals->gangs << gang_bits;
    detail::FusedWorker lists{};
    if (worker < busy) {
      const std::int32_t g = worker >> gang_bits, member = worker & ((1 << gang_bits) - 1);
      const auto before = c.worker_sums[g].wide_pieces;
      const auto pieces = std::int32_t(c.worker_sums[g + 1].wide_pieces - before);
      lists.wide_begin = std::int32_t((before << gang_bits) + std::int64_t(member) * pieces);
      lists.wide_end = lists.wide_begin + pieces;
      // The threads that have no narrow ones, as a rule.
      for (std::int32_t i = team.team_size() - 1 - team.team_rank(); i < pieces; i += team.team_size())
        tiles.wide(lists.wide_begin + i, g, member, i);
    }
    const std::int32_t span = worker < busy ? c.workers - busy + worker : worker - busy;
    const std::int64_t first = NarrowPieces{c}.first_piece(span);
    const auto pieces = std::int32_t(NarrowPieces{c}.first_piece(span + 1) - first);
    lists.narrow_begin = std::int32_t(first);
    lists.narrow_end = lists.narrow_begin + pieces;
    if (team.team_rank() == 0) c.worker[worker] = lists;
    FillTiles::Found own{};  // of this thread: the first of its pieces, and as a rule all
    for (std::int32_t i = team.team_rank(); i < pieces; i += team.team_size()) {
      const FillTiles::Found piece = tiles.find(first + i, span, first);
      if (i < team.team_size()) own = piece;
      c.keys[first + i] = key(piece, c.narrow_cut[span].stream / c.kv_heads);
    }
    team.team_barrier();
    for (std::int32_t i = team.team_rank(); i < pieces; i += team.team_size())
      tiles.narrow(first + rank(c.keys + first, pieces, i),
                   i < team.team_size() ? own : tiles.find(first + i, span, first));
  }

  /// Sorts the longest first; and of equal ones the KV heads of the same tokens together, since they lie side by side in
  /// memory.
  KOKKOS_FUNCTION std::int64_t key(const FillTiles::Found& piece, std::int32_t first_list) const {
    const std::int64_t length = Kokkos::min(piece.end - piece.begin, 255);
    const std::int64_t list = Kokkos::min(piece.stream / c.kv_heads - first_list, kSortedPieces - 1);
    const std::int64_t head = piece.stream % c.kv_heads;
    return ((255 - length) << 54) | (list << 43) | (std::int64_t(piece.begin) << 15) | head;
  }
  KOKKOS_FUNCTION static std::int32_t rank(const std::int64_t* keys, std::int32_t pieces, std::int32_t i) {
    if (pieces > kSortedPieces) return i;
    std::int32_t before = 0;
    for (std::int32_t j = 0; j < pieces; ++j) before += keys[j] < keys[i] || (keys[j] == keys[i] && j < i) ? 1 : 0;
    return before;
  }

  template <class Team>
  KOKKOS_FUNCTION void fill_rest(const Team& team, std::int32_t number) const {
    const bool fits = c.totals->fits != 0;
    const std::int64_t begin = std::int64_t(number) * kShare;
    for (std::int64_t i = begin + team.team_rank(); i < begin + kShare; i += team.team_size())
      if (i < items()) fill_item(i, fits);
    const std::int64_t queue_begin = fits ? NarrowPieces{c}.first_piece(c.workers) : 0;
    const std::int64_t queue_end = fits ? c.totals->streams.pieces : 0;
    if (number == 0 && team.team_rank() == 0)
      *c.header = {c.tree.rows, std::int32_t(queue_begin), std::int32_t(queue_end), 0};
    const FillTiles tiles{c};
    const std::int64_t stride = std::int64_t(rest_teams()) * team.team_size();
    for (std::int64_t i = queue_begin + std::int64_t(number) * team.team_size() + team.team_rank(); i < queue_end;
         i += stride)
      tiles.narrow(i, tiles.find(i, c.workers, queue_begin));
  }

  KOKKOS_FUNCTION void fill_item(std::int64_t i, bool fits) const {
    const std::int64_t lists = CountEntries::items(c);
    if (i < lists) return CountEntries::run(c, item_of_thread(c, std::int32_t(i)));
    if (!fits) return;
    i -= lists;
    if (i < c.tree.nodes) return FillSegments{c}.node(std::int32_t(i));
    FillSegments{c}.copies(std::int32_t(i - c.tree.nodes));
  }
};

}  // namespace espalier::plan::streams
