#pragma once
// Attention of the tiles of a plan, on any Kokkos execution space. The kernel to read first.
//
//   score[t] = soft_cap(scale * q . k[t]),  weight[t] = 2^(score[t] * log2(e) - peak),
//   out = sum_t weight[t] v[t] / sum_t weight[t],  lse = ln(2) * (peak + log2(sum_t weight[t]))
//
// Mapping. A team runs the tiles of one worker, one after another; a CPU thread then takes the next worker that is
// left. A lane is one (row, query head) of the tile: lane l is row l / group and head l % group of the tile's KV
// head. Lanes are cut into panels of 32, 16, 8 or 4. Tokens come in chunks of kChunkTokens; each panel turns a chunk
// into scores s[t][lane], scores into weights, and adds to its output. There are two ways to do the two products:
//
//   wide panels      s[t][lane] = sum_d k[t][d] * q[d][lane],   o[d][lane] += sum_t v[t][d] * s[t][lane]
//     A scalar of K or V, broadcast, times a vector of lanes; queries and output lie transposed. K and V of a chunk
//     are copied to scratch once, as floats, for all panels of the tile.
//   narrow panels    s[t][lane] = k[t][:] . q[lane][:],         o[lane][:] += sum_t s[t][lane] * v[t][:]
//     With 8 lanes or fewer a vector of lanes is mostly empty, so vectors run along d; K and V are read in place.
//     CPU only: there a tile of few rows is bound by memory, and copying would double the traffic. Tokens may lie far
//     apart (KV heads are between them), so that such a tile's chunks are short: kNarrowChunkTokens.
//
// A CPU attends neighbouring KV heads of a tile together, as far as their lanes fit: K and V of the heads of a token lie
// side by side, so that memory is read in order. A GPU takes them one by one.
//
// Sums of 8 rows x 32 lanes, or 16 x 16, stay in registers. On a CPU a team is one thread and vectors fill the registers; on a GPU a
// thread of the team takes a panel and each of its vector lanes one lane.
//
// Scratch of a team: q and o, kTileLanes * head_dim floats each; K and V of a chunk, kChunkTokens * head_dim floats
// each; scores, kChunkTokens * 32 floats for each thread.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "attend.hpp"
#include "lanes.hpp"
#include "panel.hpp"

namespace espalier::portable {

inline constexpr int kChunkTokens = 64;
inline constexpr int kNarrowChunkTokens = 32;  // rows of K and V that are read in place at once; README.md, "Tried"
inline constexpr int kPanelLanes = 32;
inline constexpr int kNarrowLanes = 8;
inline constexpr int kSquare = 4;  // lanes times dimensions that are transposed in registers
inline constexpr int kBlock = 8;   // 8 rows of sums of 32 lanes: 16 of AVX-512's 32 registers; see kBlockOf

/// Where the tokens of a chunk lie, for one of the KV heads that are attended together, and who sees them.
template <class Element>
struct Chunk {
  int tokens;
  int head;  // counted from the tile's
  const Element* k[kChunkTokens];
  const Element* v[kChunkTokens];
  float row_begin[kChunkTokens];  // rows of the tile, counted from its first; exact, since a tile has few rows
  float row_end[kChunkTokens];
};

/// Carves arrays out of a team's scratch memory.
struct ScratchLayout {
  std::size_t bytes = 0;
  template <class T>
  KOKKOS_FUNCTION std::size_t take(std::size_t count) {
    const std::size_t begin = bytes;
    bytes += (count * sizeof(T) + 63) / 64 * 64;
    return begin;
  }
};

template <class Exec, class Element>
struct AttendTiles {
  using Policy = Kokkos::TeamPolicy<Exec>;
  using Member = typename Policy::member_type;
  static constexpr bool kOnHost =
      bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);
  static constexpr int kLanesOfTile = kTileLanes<Exec>;
  static constexpr int kTeamThreads = kOnHost ? 1 : kLanesOfTile / kPanelLanes;

  detail::AttendParams p;

  // -- scratch of a team

  struct Scratch {
    float* q;       // [panel][head_dim][lane], of a narrow panel [lane][head_dim]
    float* o;       // like q
    float* scores;  // [thread][kChunkTokens][kPanelLanes]
    float* peak;    // [kTileLanes]  base 2
    float* weight;  // [kTileLanes]
    float* row;     // [kTileLanes]  row of the lane, counted from the tile's first
    float* k;       // [kChunkTokens][head_dim], for wide panels
    float* v;
    Chunk<Element>* chunks;  // [2]  the one at work and the one after it
  };

  KOKKOS_FUNCTION static std::size_t carve(char* base, int head_dim, Scratch& scratch) {
    ScratchLayout layout;
    const auto floats = [&](std::size_t count) { return reinterpret_cast<float*>(base + layout.take<float>(count)); };
    scratch.q = floats(std::size_t(kLanesOfTile) * head_dim);
    scratch.o = floats(std::size_t(kLanesOfTile) * head_dim);
    scratch.scores = floats(std::size_t(kTeamThreads) * kChunkTokens * kPanelLanes);
    scratch.peak = floats(kLanesOfTile);
    scratch.weight = floats(kLanesOfTile);
    scratch.row = floats(kLanesOfTile);
    scratch.k = floats(std::size_t(kChunkTokens) * head_dim);
    scratch.v = floats(std::size_t(kChunkTokens) * head_dim);
    scratch.chunks = reinterpret_cast<Chunk<Element>*>(base + layout.take<Chunk<Element>>(2));
    return layout.bytes;
  }

  static std::size_t scratch_bytes(int head_dim) {
    Scratch unused;
    return carve(nullptr, head_dim, unused) + 64;
  }

  static Policy policy(const Exec& exec, int workers, int head_dim) {
    return Policy(exec, kOnHost ? exec.concurrency() : workers, kTeamThreads, kOnHost ? 1 : kPanelLanes)
        .set_scratch_size(1, Kokkos::PerTeam(scratch_bytes(head_dim)));
  }

  // -- one worker

  KOKKOS_FUNCTION void operator()(const Member& team) const {
    const auto base = reinterpret_cast<std::uintptr_t>(team.team_scratch(1).get_shmem(scratch_bytes_on_device()));
    Scratch scratch;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): Kokkos aligns scratch memory to 8 bytes only
    carve(reinterpret_cast<char*>((base + 63) / 64 * 64), p.head_dim, scratch);
    if constexpr (kOnHost)
      for (int worker = next_worker(); worker < p.plan.workers; worker = next_worker())
        attend_worker(team, worker, scratch);
    else
      attend_worker(team, team.league_rank(), scratch);
  }

  /// Threads take the workers in order, as a plan expects. Kokkos' dynamic schedule does not: its threads have ranges of
  /// their own, and one that is done takes over others' from their ends.
  KOKKOS_FUNCTION int next_worker() const { return Kokkos::atomic_fetch_inc(p.plan.next_worker); }

  KOKKOS_FUNCTION void attend_worker(const Member& team, int worker, const Scratch& scratch) const {
    const int end = p.plan.worker_begin[worker + 1];
    for (int number = p.plan.worker_begin[worker]; number < end;) {
      const detail::Tile tile = tile_of_plan(number);
      const int heads = heads_together(tile, end - number);
      attend_tile(team, tile, heads, scratch);
      number += heads;
    }
  }

  KOKKOS_FUNCTION detail::Tile tile_of_plan(int number) const {
    return of_head(p.plan.tiles[number / p.kv_heads], number % p.kv_heads);
  }

  /// The tile of a KV head so many heads behind.
  KOKKOS_FUNCTION detail::Tile of_head(detail::Tile tile, int heads) const {
    tile.kv_head = std::int16_t(tile.kv_head + heads);
    tile.partial_begin += heads * p.plan.sizes->partials;
    return tile;
  }

  KOKKOS_FUNCTION int lanes_of(const detail::Tile& tile) const {
    return (tile.row_end - tile.row_begin) * (p.query_heads / p.kv_heads);
  }

  /// How many KV heads of a tile are attended together, if so many of the worker's tiles are left.
  KOKKOS_FUNCTION int heads_together(const detail::Tile& tile, int left) const {
    const int room = kOnHost ? kLanesOfTile / with_padding(lanes_of(tile)) : 1;
    const int heads = Kokkos::min(p.kv_heads - tile.kv_head, left);
    return Kokkos::max(1, Kokkos::min(heads, room));
  }

  KOKKOS_FUNCTION std::size_t scratch_bytes_on_device() const {
    Scratch unused;
    return carve(nullptr, p.head_dim, unused) + 64;
  }

  /// The scratch of the lanes from `lane` on.
  KOKKOS_FUNCTION Scratch from_lane(Scratch scratch, int lane) const {
    scratch.q += std::size_t(lane) * p.head_dim;
    scratch.o += std::size_t(lane) * p.head_dim;
    scratch.peak += lane;
    scratch.weight += lane;
    scratch.row += lane;
    return scratch;
  }

  /// The tile of its own and of the next KV heads, `heads` in all. A tile with more lanes than fit comes alone, and is
  /// attended in several passes over its tokens.
  KOKKOS_FUNCTION void attend_tile(const Member& team, const detail::Tile& tile, int heads,
                                   const Scratch& scratch) const {
    const int all_lanes = lanes_of(tile);
    for (int first = 0; first < all_lanes; first += kLanesOfTile) {
      const int lanes = all_lanes - first < kLanesOfTile ? all_lanes - first : kLanesOfTile;
      attend_lanes(team, tile, heads, first, lanes, scratch, false);
      for (int head = 0; head < heads; ++head) {
        const detail::Tile tile_of_head = of_head(tile, head);
        const Scratch scratch_of_head = from_lane(scratch, head * with_padding(lanes));
        // A hidden token has weight 0, but 0 times an infinity or a NaN is a NaN. What a row does not see (another
        // branch, perhaps another user's) must not reach it: then each lane adds up only what it sees.
        if (tile.masked && !all_finite(team, lanes, scratch_of_head))
          attend_lanes(team, tile_of_head, 1, first, lanes, scratch_of_head, true);
        for_panels(team, lanes, [&](auto width, int lane) {
          store_results<decltype(width)::value>(team, tile_of_head, first, lane, lanes, scratch_of_head);
        });
      }
      team.team_barrier();
    }
  }

  /// @param only_seen  each lane adds up only the tokens that it sees, one by one; for masked tiles
  KOKKOS_FUNCTION void attend_lanes(const Member& team, const detail::Tile& tile, int heads, int first_lane, int lanes,
                                    const Scratch& scratch, bool only_seen) const {
    const int stride = with_padding(lanes);
    for (int head = 0; head < heads; ++head) {
      const detail::Tile tile_of_head = of_head(tile, head);
      const Scratch scratch_of_head = from_lane(scratch, head * stride);
      for_panels(team, lanes, [&](auto width, int lane) {
        load_queries<decltype(width)::value>(team, tile_of_head, first_lane, lane, lanes, scratch_of_head);
      });
    }
    Cursor cursor{tile.segment_begin, tile.skip, tile.tokens};
    find_tokens(team, tile, cursor, scratch.chunks[0]);
    for (int current = 0; scratch.chunks[current].tokens > 0; current = 1 - current) {
      const Chunk<Element>& chunk = scratch.chunks[current];
      Chunk<Element>& next = scratch.chunks[1 - current];
      const Scratch scratch_of_head = from_lane(scratch, chunk.head * stride);
      if (chunk.head + 1 < heads)
        find_in_next_head(tile, chunk, next);
      else
        find_tokens(team, tile, cursor, next);
      if (!kOnHost || lanes > kNarrowLanes) {
        copy_tokens(team, chunk.tokens, chunk.k, scratch.k);
        copy_tokens(team, chunk.tokens, chunk.v, scratch.v);
        prefetch(next, 0, next.tokens);
      }
      team.team_barrier();
      for_panels(team, lanes, [&](auto width, int lane) {
        attend_panel<decltype(width)::value>(team, tile, lane, chunk, next, scratch_of_head, only_seen);
      });
      team.team_barrier();
    }
  }

  /// Whether the sums of all panels are finite.
  KOKKOS_FUNCTION bool all_finite(const Member& team, int lanes, const Scratch& scratch) const {
    int others = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(team, with_padding(lanes) * p.head_dim),
        [&](int i, int& sum) { sum += Kokkos::abs(scratch.o[i]) <= kLargest ? 0 : 1; }, others);
    return others == 0;
  }

  // -- tokens

  /// What is left of a tile.
  struct Cursor {
    int segment;
    int skip;    // tokens of that segment that are done
    int tokens;  // over all segments
  };

  /// Finds the next tokens of the tile, up to a chunk; the cursor moves on behind them.
  KOKKOS_FUNCTION void find_tokens(const Member& team, const detail::Tile& tile, Cursor& cursor,
                                   Chunk<Element>& chunk) const {
    const float rows = float(tile.row_end - tile.row_begin);
    const int most = kOnHost && lanes_of(tile) <= kNarrowLanes ? kNarrowChunkTokens : kChunkTokens;
    const int tokens = cursor.tokens < most ? cursor.tokens : most;
    for (int done = 0; done < tokens;) {
      const detail::Segment& s = p.plan.segments[cursor.segment];
      const int here = s.tokens - cursor.skip < tokens - done ? s.tokens - cursor.skip : tokens - done;
      const int from = cursor.skip;
      const int to = done;
      Kokkos::parallel_for(Kokkos::TeamVectorRange(team, here), [&](int i) {
        const int position = s.block_offset + from + i;
        const std::int64_t block = p.plan.block_table[s.table_begin + position / p.block_tokens];
        const std::int64_t in_block = position % p.block_tokens;
        chunk.k[to + i] = static_cast<const Element*>(p.k) + block * p.k_block_stride + in_block * p.k_token_stride +
                          tile.kv_head * p.k_head_stride;
        chunk.v[to + i] = static_cast<const Element*>(p.v) + block * p.v_block_stride + in_block * p.v_token_stride +
                          tile.kv_head * p.v_head_stride;
        if (tile.masked) {
          const float end = float(s.row_end - tile.row_begin);
          chunk.row_begin[to + i] = float(first_row(s, from + i) - tile.row_begin);
          chunk.row_end[to + i] = end < rows ? end : rows;
        }
      });
      done += here;
      cursor.skip += here;
      if (cursor.skip == s.tokens) {
        ++cursor.segment;
        cursor.skip = 0;
      }
    }
    cursor.tokens -= tokens;
    Kokkos::single(Kokkos::PerTeam(team), [&] {
      chunk.tokens = tokens;
      chunk.head = 0;
    });
    team.team_barrier();
  }

  /// The same tokens of the next KV head, on a CPU.
  KOKKOS_FUNCTION void find_in_next_head(const detail::Tile& tile, const Chunk<Element>& chunk,
                                         Chunk<Element>& next) const {
    next.tokens = chunk.tokens;
    next.head = chunk.head + 1;
    for (int t = 0; t < chunk.tokens; ++t) {
      next.k[t] = chunk.k[t] + p.k_head_stride;
      next.v[t] = chunk.v[t] + p.v_head_stride;
    }
    for (int t = 0; tile.masked && t < chunk.tokens; ++t) {
      next.row_begin[t] = chunk.row_begin[t];
      next.row_end[t] = chunk.row_end[t];
    }
  }

  /// Asks a CPU for tokens [begin, end) of a chunk; their rows lie too far apart for its own prefetchers.
  KOKKOS_FUNCTION void prefetch([[maybe_unused]] const Chunk<Element>& chunk, [[maybe_unused]] int begin,
                                [[maybe_unused]] int end) const {
    KOKKOS_IF_ON_HOST((constexpr int kLine = 64 / int(sizeof(Element));
                       for (int t = begin; t < end; ++t) for (int d = 0; d < p.head_dim; d += kLine) {
                         __builtin_prefetch(chunk.k[t] + d);
                         __builtin_prefetch(chunk.v[t] + d);
                       }))
  }

  /// target[t][:] = source[t][:], as floats.
  KOKKOS_FUNCTION void copy_tokens(const Member& team, int tokens, const Element* const* source, float* target) const {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, tokens), [&](int t) {
      const Element* from = source[t];
      float* to = target + std::size_t(t) * p.head_dim;
      constexpr int kRun = kOnHost ? kVectorFloats : 1;
      const int runs = p.head_dim / kRun;
      Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, runs),
                           [&](int run) { Lanes<kRun>::load(from + run * kRun).store(to + run * kRun); });
      for (int d = runs * kRun; d < p.head_dim; ++d) to[d] = to_float(from[d]);
    });
  }

  /// The first row that sees token t of a segment: a node's own rows are sorted by how much of it they see.
  KOKKOS_FUNCTION int first_row(const detail::Segment& s, int t) const {
    int low = s.row_begin;
    int high = s.own_row_end;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (p.plan.row_visible[middle] > s.node_token + t)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }

  // -- panels

  /// Calls body(width, first lane) for each panel: full ones, then the narrowest that holds the rest.
  template <class Body>
  KOKKOS_FUNCTION static void for_panels(const Member& team, int lanes, const Body& body) {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, (lanes + kPanelLanes - 1) / kPanelLanes), [&](int panel) {
      const int lane = panel * kPanelLanes;
      switch (panel_width(lanes - lane)) {
        case 32: return body(std::integral_constant<int, 32>{}, lane);
        case 16: return body(std::integral_constant<int, 16>{}, lane);
        case 8: return body(std::integral_constant<int, 8>{}, lane);
        default: return body(std::integral_constant<int, 4>{}, lane);
      }
    });
  }

  KOKKOS_FUNCTION static int panel_width(int lanes) { return lanes > 16 ? 32 : lanes > 8 ? 16 : lanes > 4 ? 8 : 4; }

  /// Lanes of all panels.
  KOKKOS_FUNCTION static int with_padding(int lanes) {
    const int full = lanes / kPanelLanes * kPanelLanes;
    return full < lanes ? full + panel_width(lanes - full) : full;
  }

  /// Calls body(vectors, lane) so that `vectors` x Lanes together are the kWidth lanes of a panel: once with the widest
  /// registers on a CPU, once for each lane on a GPU.
  template <int kWidth, class Body>
  KOKKOS_FUNCTION static void for_lanes([[maybe_unused]] const Member& team, const Body& body) {
    if constexpr (kOnHost) {
      constexpr int kVector = kWidth < kVectorFloats ? kWidth : kVectorFloats;
      body(Lanes<kVector>{}, std::integral_constant<int, kWidth / kVector>{}, 0);
    } else {
      Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, kWidth),
                           [&](int lane) { body(Lanes<1>{}, std::integral_constant<int, 1>{}, lane); });
    }
  }

  static constexpr bool kHasVectors = kOnHost && kVectorFloats > 1;

  /// Rows of sums of a block: with one vector of lanes a row it takes 16 to hide the latency of multiply-adds.
  template <int kVectors>
  static constexpr int kBlockOf = kHasVectors && kVectors == 1 ? 2 * kBlock : kBlock;

  /// Vectors of this panel run along the dimensions.
  template <int kWidth>
  static constexpr bool kNarrow = kHasVectors && kWidth <= kNarrowLanes;

  /// Place of (lane, dimension) in a panel's q and o.
  template <int kWidth>
  KOKKOS_FUNCTION int place(int lane, int d) const {
    return kNarrow<kWidth> ? lane * p.head_dim + d : d * kWidth + lane;
  }

  template <int kWidth>
  KOKKOS_FUNCTION void load_queries(const Member& team, const detail::Tile& tile, int first_lane, int lane, int lanes,
                                    const Scratch& scratch) const {
    const int group = p.query_heads / p.kv_heads;
    const float factor = p.soft_cap > 0 ? p.scale / p.soft_cap : p.scale * kLog2E;
    float* q = scratch.q + std::size_t(lane) * p.head_dim;
    float* o = scratch.o + std::size_t(lane) * p.head_dim;
    Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, kWidth), [&](int l) {
      const int row = (first_lane + lane + l) / group;
      scratch.row[lane + l] = float(row);
      scratch.peak[lane + l] = -kInfinity;
      scratch.weight[lane + l] = 0;
    });
    Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, kWidth * p.head_dim), [&](int i) { o[i] = 0; });
    const auto query = [&](int l) -> const Element* {
      if (lane + l >= lanes) return nullptr;
      const int of_tile = first_lane + lane + l;
      const std::int64_t row = p.plan.row_index[tile.row_begin + of_tile / group];
      return static_cast<const Element*>(p.q) + row * p.q_row_stride +
             (tile.kv_head * group + of_tile % group) * p.q_head_stride;
    };
    int done = 0;  // dimensions
    if constexpr (kHasVectors) {
      for (int l = 0; l < kWidth; l += kSquare) {
        const Element* const source[kSquare] = {query(l), query(l + 1), query(l + 2), query(l + 3)};
        load_squares<kWidth>(source, factor, l, q);
      }
      done = p.head_dim / kSquare * kSquare;
    }
    Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, kWidth), [&](int l) {
      const Element* source = query(l);
      for (int d = done; d < p.head_dim; ++d)
        q[place<kWidth>(l, d)] = source == nullptr ? 0.0f : to_float(source[d]) * factor;
    });
  }

  /// q of kSquare lanes of a panel = factor * source, on a CPU; zero where there is no source.
  template <int kWidth>
  void load_squares(const Element* const (&source)[kSquare], float factor, int lane, float* q) const {
    using Vector = Lanes<kSquare>;
    for (int d = 0; d + kSquare <= p.head_dim; d += kSquare) {
      Vector square[kSquare];
      for (int i = 0; i < kSquare; ++i)
        square[i] =
            source[i] == nullptr ? Vector::broadcast(0) : Vector::load(source[i] + d) * Vector::broadcast(factor);
      if constexpr (!kNarrow<kWidth>) transpose(square);
      for (int i = 0; i < kSquare; ++i) square[i].store(q + square_place<kWidth>(lane, d, i));
    }
  }

  /// Place in q and o of vector i of the square that begins at (lane, dimension): vectors of a narrow panel run along the
  /// dimensions, those of a wide one along the lanes.
  template <int kWidth>
  int square_place(int lane, int d, int i) const {
    return kNarrow<kWidth> ? place<kWidth>(lane + i, d) : place<kWidth>(lane, d + i);
  }

  template <int kWidth>
  KOKKOS_FUNCTION void attend_panel(const Member& team, const detail::Tile& tile, int lane, const Chunk<Element>& chunk,
                                    const Chunk<Element>& next, const Scratch& scratch, bool only_seen) const {
    const int tokens = chunk.tokens;
    float* q = scratch.q + std::size_t(lane) * p.head_dim;
    float* o = scratch.o + std::size_t(lane) * p.head_dim;
    float* s = scratch.scores + std::size_t(team.team_rank()) * kChunkTokens * kPanelLanes;
    float rescale[kPanelLanes];
    if constexpr (kNarrow<kWidth>) {
      constexpr int kVector = kWidth < kVectorFloats ? kWidth : kVectorFloats;
      for (int first = 0; first < kWidth; first += 4) dot_panel<kWidth>(chunk, next, q + first * p.head_dim, s + first);
      weigh<kWidth, Lanes<kVector>, kWidth / kVector>(tile, lane, chunk, scratch, s, rescale);
      if (only_seen) return add_seen_values<kWidth>(0, kWidth, lane, chunk, scratch, s, rescale, o);
      for (int first = 0; first < kWidth; first += 4)
        weighted_values<kWidth>(p.head_dim, tokens, chunk.v, s + first, rescale + first, o + first * p.head_dim);
    } else {
      for_lanes<kWidth>(team, [&](auto vector, auto vectors, int l) {
        using Vector = decltype(vector);
        constexpr int kVectors = decltype(vectors)::value;
        constexpr int kRows = kBlockOf<kVectors>;
        // Whole blocks: scores behind the last token come from stale scratch, and nobody reads them.
        for (int t = 0; t < tokens; t += kRows) {
          const float* k = scratch.k + t * p.head_dim;
          block_product<kWidth, kRows, Vector, kVectors>(
              p.head_dim, [&](int i, int d) { return k[i * p.head_dim + d]; }, q + l, s + t * kWidth + l, nullptr);
        }
        weigh<kWidth, Vector, kVectors>(tile, lane + l, chunk, scratch, s + l, rescale);
        if (only_seen)
          return add_seen_values<kWidth>(l, kVectors * Vector::kFloats, lane, chunk, scratch, s, rescale, o);
        for_blocks<kRows>(p.head_dim, [&](auto rows, int first) {
          const float* v = scratch.v + first;
          block_product<kWidth, decltype(rows)::value, Vector, kVectors>(
              tokens, [&](int i, int t) { return v[t * p.head_dim + i]; }, s + l, o + first * kWidth + l, rescale);
        });
      });
    }
  }

  /// o[lane] = rescale * o[lane] + sum over the tokens that the lane sees of s[t][lane] * v[t], for `lanes` lanes.
  template <int kWidth>
  KOKKOS_FUNCTION void add_seen_values(int first_lane, int lanes, int panel, const Chunk<Element>& chunk,
                                       const Scratch& scratch, const float* s, const float* rescale, float* o) const {
    for (int i = 0; i < lanes; ++i) {
      const int lane = first_lane + i;
      const float row = scratch.row[panel + lane];
      for (int d = 0; d < p.head_dim; ++d) {
        float sum = rescale[i] * o[place<kWidth>(lane, d)];
        for (int t = 0; t < chunk.tokens; ++t)
          if (row >= chunk.row_begin[t] && row < chunk.row_end[t])
            sum += s[t * kWidth + lane] * to_float(chunk.v[t][d]);
        o[place<kWidth>(lane, d)] = sum;
      }
    }
  }

  /// Scores of 4 lanes of a narrow panel. Meanwhile the tokens of the next chunk are on their way.
  template <int kWidth>
  void dot_panel(const Chunk<Element>& chunk, const Chunk<Element>& next, const float* q, float* s) const {
    constexpr int kTokens = kVectorFloats == 16 ? 4 : 2;  // times 4 lanes: half of the registers
    int t = 0;
    for (; t + kTokens <= chunk.tokens; t += kTokens) {
      prefetch(next, t, t + kTokens < next.tokens ? t + kTokens : next.tokens);
      dot_products<kWidth, kTokens>(p.head_dim, chunk.k + t, q, s + t * kWidth);
    }
    for (; t < chunk.tokens; ++t) dot_products<kWidth, 1>(p.head_dim, chunk.k + t, q, s + t * kWidth);
  }

  /// Scores to weights: cap, mask, online softmax.
  template <int kWidth, class Vector, int kVectors>
  KOKKOS_FUNCTION void weigh(const detail::Tile& tile, int lane, const Chunk<Element>& chunk, const Scratch& scratch,
                             float* s, float* rescale) const {
    const int tokens = chunk.tokens;
    if (p.soft_cap > 0) cap_scores<kWidth, Vector, kVectors>(tokens, p.soft_cap, s);
    if (tile.masked)
      mask_scores<kWidth, Vector, kVectors>(tokens, chunk.row_begin, chunk.row_end, scratch.row + lane, s);
    weigh_scores<kWidth, Vector, kVectors>(tokens, s, scratch.peak + lane, scratch.weight + lane, rescale);
  }

  /// Calls body(rows, first) for blocks of kRows, then of one.
  template <int kRows, class Body>
  KOKKOS_FUNCTION static void for_blocks(int count, const Body& body) {
    int i = 0;
    for (; i + kRows <= count; i += kRows) body(std::integral_constant<int, kRows>{}, i);
    for (; i < count; ++i) body(std::integral_constant<int, 1>{}, i);
  }

  // -- the ends of a tile

  KOKKOS_FUNCTION std::int64_t partial_of(const detail::Tile& tile, int row, int in_group) const {
    return (std::int64_t(tile.partial_begin) + row - tile.row_begin) * (p.query_heads / p.kv_heads) + in_group;
  }

  KOKKOS_FUNCTION bool has_other_partials(int row) const {
    return p.plan.merge_begin[row + 1] - p.plan.merge_begin[row] > 1;
  }

  /// Where a lane's result goes: to one of the two, or nowhere if the lane only fills its panel.
  struct Target {
    float* partial = nullptr;
    Element* out = nullptr;
  };

  /// A row that no other tile attends gets its result at once, the others a partial.
  template <int kWidth>
  KOKKOS_FUNCTION void store_results(const Member& team, const detail::Tile& tile, int first_lane, int lane, int lanes,
                                     const Scratch& scratch) const {
    const int group = p.query_heads / p.kv_heads;
    const float* o = scratch.o + std::size_t(lane) * p.head_dim;
    Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, kWidth), [&](int l) {
      if (lane + l >= lanes) return;
      const int of_tile = first_lane + lane + l;
      const int row = tile.row_begin + of_tile / group;
      const int in_group = of_tile % group;
      const float weight = scratch.weight[lane + l];
      const float inverse = weight == 0 ? 0.0f : 1 / weight;  // a NaN stays one
      const float lse = weight == 0 ? -kInfinity : kLn2 * (scratch.peak[lane + l] + Kokkos::log2(weight));
      if (has_other_partials(row))
        p.plan.partial_lse[partial_of(tile, row, in_group)] = lse;
      else if (p.lse)
        p.lse[p.plan.row_index[row] * p.lse_row_stride + tile.kv_head * group + in_group] = lse;
      scratch.weight[lane + l] = inverse;
    });
    const auto target_of = [&](int l) {
      Target target;
      if (lane + l >= lanes) return target;
      const int of_tile = first_lane + lane + l;
      const int row = tile.row_begin + of_tile / group;
      const int in_group = of_tile % group;
      if (has_other_partials(row))
        target.partial = p.plan.partial_out + partial_of(tile, row, in_group) * p.head_dim;
      else
        target.out = static_cast<Element*>(p.out) + p.plan.row_index[row] * p.out_row_stride +
                     (tile.kv_head * group + in_group) * p.out_head_stride;
      return target;
    };
    int done = 0;  // dimensions
    if constexpr (kHasVectors) {
      for (int l = 0; l < kWidth; l += kSquare) {
        const Target targets[kSquare] = {target_of(l), target_of(l + 1), target_of(l + 2), target_of(l + 3)};
        store_squares<kWidth>(o, scratch.weight + lane + l, l, targets);
      }
      done = p.head_dim / kSquare * kSquare;
    }
    Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, kWidth), [&](int l) {
      const Target to = target_of(l);
      const float inverse = scratch.weight[lane + l];
      for (int d = done; d < p.head_dim; ++d) {
        const float result = o[place<kWidth>(l, d)] * inverse;
        if (to.partial != nullptr)
          to.partial[d] = result;
        else if (to.out != nullptr)
          to.out[d] = from_float<Element>(result);
      }
    });
  }

  /// target = inverse * o of kSquare lanes of a panel, on a CPU.
  template <int kWidth>
  void store_squares(const float* o, const float* inverse, int lane, const Target (&target)[kSquare]) const {
    using Vector = Lanes<kSquare>;
    for (int d = 0; d + kSquare <= p.head_dim; d += kSquare) {
      Vector square[kSquare];
      for (int i = 0; i < kSquare; ++i) square[i] = Vector::load(o + square_place<kWidth>(lane, d, i));
      if constexpr (!kNarrow<kWidth>) transpose(square);
      for (int i = 0; i < kSquare; ++i) {
        const Vector result = square[i] * Vector::broadcast(inverse[i]);
        if (target[i].partial != nullptr)
          result.store(target[i].partial + d);
        else if (target[i].out != nullptr)
          result.store(target[i].out + d);
      }
    }
  }
};

}  // namespace espalier::portable
