#pragma once
// The kernels that turn a cut into a plan: count, fill, and the merge lists. Every order is decided by a scan or a
// sort, never by the timing of threads.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "cuts.hpp"

namespace espalier::plan {

/// Sizes of a plan on the device. A plan that does not fit has no tiles; `need` then says what it wanted.
struct Totals {
  detail::PlanSizes of_head;
  std::int64_t segments, tiles, partials, cost;  // over all KV heads
  std::int64_t need_segments, need_tiles, need_partials;
  std::int64_t items;
};

/// Arrays of a plan under construction, in the memory of the execution space. Tiles and merge lists are those of KV head
/// 0: all heads have the same.
struct Arrays {
  std::int32_t stride;  // threads that share work whose size is known on the device alone
  std::int32_t kv_heads;
  std::int32_t rows;
  std::int32_t workers;
  std::int64_t segment_capacity, tile_capacity, partial_capacity;
  Totals* totals;
  Counts* before;  // [items]  what the items before contribute, for one KV head
  detail::Segment* segments;
  detail::Tile* tiles;           // [tile_capacity / kv_heads]
  std::int32_t* end_in_last;     // [tile_capacity / kv_heads]  where each ends in its last segment
  std::int64_t* cost_before;     // [tile_capacity / kv_heads + 1]  of the tiles before each, then of all
  std::int32_t* worker_begin;    // [workers + 1]
  std::int32_t* merge_begin;     // [rows + 1]
  std::int32_t* merge_cursor;    // [rows]
  std::int32_t* merge_partials;  // [partial_capacity / kv_heads]
  std::int32_t* merge_entered;   // [partial_capacity / kv_heads]  lists before they are ordered; on a host null
  std::int32_t* partial_row;     // [partial_capacity / kv_heads]
};

/// Adds 1 to a counter that `stride` threads share.
/// @return what it was
KOKKOS_INLINE_FUNCTION std::int32_t fetch_inc(std::int32_t& counter, std::int32_t stride) {
  return stride == 1 ? counter++ : Kokkos::atomic_fetch_inc(&counter);
}

/// before[i] = what item i contributes; clears what the later kernels add to.
template <class Cut>
struct CountItems {
  Cut cut;
  Arrays a;
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t size() const {
    const std::int64_t items = cut.items();
    return items > a.rows ? items : std::int64_t(a.rows) + 1;
  }
  KOKKOS_FUNCTION void operator()(std::int32_t i) const {
    if (i == 0) {
      *a.totals = Totals{};
      a.merge_begin[a.rows] = 0;
    }
    if (i < a.rows) a.merge_cursor[i] = 0;
    if (i < cut.items()) a.before[i] = cut.count(i);
  }
};

/// before[i] = what items 0 .. i - 1 contribute; the last item checks the capacities.
struct SumItems {
  using value_type = Counts;
  std::int32_t items;
  Arrays a;

  KOKKOS_FUNCTION void init(Counts& counts) const { counts = Counts{}; }
  KOKKOS_FUNCTION void join(Counts& counts, const Counts& other) const { counts += other; }

  KOKKOS_FUNCTION void operator()(std::int32_t item, Counts& sum, bool final) const {
    const Counts own = a.before[item];
    if (final) a.before[item] = sum;
    sum += own;
    if (final && item == items - 1) *a.totals = totals_of(sum);
  }

 private:
  KOKKOS_FUNCTION Totals totals_of(const Counts& sum) const {
    Totals totals{};
    totals.need_segments = sum.segments;
    totals.need_tiles = sum.tiles * a.kv_heads;
    totals.need_partials = sum.partials * a.kv_heads;
    if (totals.need_segments > a.segment_capacity || totals.need_tiles > a.tile_capacity ||
        totals.need_partials > a.partial_capacity)
      return totals;
    totals.of_head = {std::int32_t(sum.tiles), std::int32_t(sum.partials)};
    totals.segments = totals.need_segments;
    totals.tiles = totals.need_tiles;
    totals.partials = totals.need_partials;
    totals.cost = sum.cost * a.kv_heads;
    totals.items = items;
    return totals;
  }
};

template <class Cut>
struct FillSegments {
  Cut cut;
  Arrays a;
  KOKKOS_FUNCTION void operator()(std::int32_t item) const {
    if (item < a.totals->items) cut.write_segments(item, a.segments + a.before[item].segments);
  }
};

/// Thread i fills tiles i, i + stride, ...
template <class Cut>
struct FillTiles {
  Cut cut;
  Arrays a;

  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    const std::int32_t tiles = a.totals->of_head.tiles;
    for (std::int64_t t = first; t < tiles; t += a.stride) fill(std::int32_t(t));
  }

 private:
  KOKKOS_FUNCTION void fill(std::int32_t t) const {
    std::int32_t item = 0;  // the last item that begins at or before the tile
    for (std::int32_t low = 0, high = std::int32_t(a.totals->items); low < high;) {
      const std::int32_t middle = low + (high - low) / 2;
      if (a.before[middle].tiles <= t) {
        item = middle;
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const Counts& before = a.before[item];
    Counts in_item;
    const std::int64_t first_segment = a.before[segment_item(item)].segments;
    detail::Tile tile = cut.tile(item, std::int32_t(t - before.tiles), a.segments + first_segment, in_item);
    tile.segment_begin += std::int32_t(first_segment);
    tile.segment_end += std::int32_t(first_segment);
    tile.partial_begin = std::int32_t(before.partials + in_item.partials);
    std::int64_t behind = -std::int64_t(tile.skip) - tile.tokens;  // tokens of its segments that the tile leaves
    for (std::int32_t s = tile.segment_begin; s < tile.segment_end; ++s) behind += a.segments[s].tokens;
    tile.open = behind == 0 ? 1 : 0;
    a.end_in_last[t] = std::int32_t(a.segments[tile.segment_end - 1].tokens - behind);
    a.tiles[t] = tile;
    a.cost_before[t] = before.cost + in_item.cost;
    if (t == a.totals->of_head.tiles - 1) a.cost_before[t + 1] = a.totals->cost / a.kv_heads;
    for (std::int32_t row = tile.row_begin; row < tile.row_end; ++row) {
      a.partial_row[tile.partial_begin + row - tile.row_begin] = row;
      fetch_inc(a.merge_cursor[row], a.stride);
    }
  }

  KOKKOS_FUNCTION std::int32_t segment_item(std::int32_t item) const {
    if constexpr (requires { cut.segment_item(item); })
      return cut.segment_item(item);
    else
      return item;
  }
};

/// Every worker gets an equal span of the line of costs: the tiles whose middles lie in it. A tile's KV heads follow each
/// other, since their K and V lie side by side; those that are attended together stay together.
struct FindWorkers {
  CutContext c;
  Arrays a;

  /// Finds the first tile whose middle lies in the span.
  KOKKOS_FUNCTION void find(std::int32_t worker) const {
    const std::int32_t tiles = a.totals->of_head.tiles;
    const std::int64_t cost = a.totals->cost;
    // ceil(cost * worker / workers), without overflow
    const std::int64_t span_begin = cost / a.workers * worker + ceil_div(cost % a.workers * worker, a.workers);
    std::int32_t tile = 0;
    for (std::int32_t end = tiles; tile < end;) {
      const std::int32_t middle = tile + (end - tile) / 2;
      if (middle_of(middle, a.kv_heads - 1) < span_begin)
        tile = middle + 1;
      else
        end = middle;
    }
    std::int32_t kv_head = 0;
    if (tile < tiles && middle_of(tile, 0) < span_begin)
      kv_head = std::int32_t(ceil_div(span_begin - middle_of(tile, 0), cost_of(tile)));
    if (tile < tiles) kv_head = with_neighbours(tile, kv_head);
    a.worker_begin[worker] = worker == a.workers ? tiles * a.kv_heads : tile * a.kv_heads + kv_head;
  }

 private:
  /// Moves a KV head with which a worker would begin to the nearest boundary of heads that are attended together; unless
  /// others, at the end of the line, would wait for the worker that has all of them.
  KOKKOS_FUNCTION std::int32_t with_neighbours(std::int32_t tile, std::int32_t kv_head) const {
    const std::int32_t together = c.heads_together(a.tiles[tile].row_end - a.tiles[tile].row_begin);
    const std::int32_t end = Kokkos::min(kv_head / together * together + together, a.kv_heads);
    const std::int64_t cost = cost_of(tile) * together;
    const std::int64_t cost_behind = a.totals->cost - a.cost_before[tile] * a.kv_heads - cost_of(tile) * end;
    constexpr std::int64_t kFewSpans = 3;
    if (cost > kFewSpans * (a.totals->cost / a.workers) && cost * (c.workers_at_a_time - 1) > cost_behind)
      return kv_head;
    return Kokkos::min((kv_head + together / 2) / together * together, a.kv_heads);
  }
  KOKKOS_FUNCTION std::int64_t cost_of(std::int32_t tile) const {
    return a.cost_before[tile + 1] - a.cost_before[tile];
  }
  KOKKOS_FUNCTION std::int64_t middle_of(std::int32_t tile, std::int32_t kv_head) const {
    return a.cost_before[tile] * a.kv_heads + cost_of(tile) * kv_head + cost_of(tile) / 2;
  }
};

/// merge_begin[row] = how many partials the rows before it have; merge_cursor is left holding the same.
struct BeginMergeLists {
  using value_type = std::int32_t;
  Arrays a;

  KOKKOS_FUNCTION void operator()(std::int32_t row, std::int32_t& sum, bool final) const {
    const std::int32_t count = a.merge_cursor[row];
    if (final) {
      a.merge_begin[row] = sum;
      a.merge_cursor[row] = sum;
      if (row == a.rows - 1) a.merge_begin[a.rows] = sum + count;
    }
    sum += count;
  }
};

/// Enters each partial into the list of its row, in no particular order.
struct FillMerge {
  Arrays a;
  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    std::int32_t* lists = a.merge_entered != nullptr ? a.merge_entered : a.merge_partials;
    for (std::int64_t partial = first; partial < a.totals->of_head.partials; partial += a.stride)
      lists[fetch_inc(a.merge_cursor[a.partial_row[partial]], a.stride)] = std::int32_t(partial);
  }
};

/// Orders the lists so that merging always adds in the same order: each entry by itself goes to its place, which is how many
/// of its list are smaller. For a GPU, where one thread that sorts a list takes longer than all other steps together.
struct RankMerge {
  Arrays a;
  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    for (std::int64_t i = first; i < a.totals->of_head.partials; i += a.stride) {
      const std::int32_t partial = a.merge_entered[i];
      const std::int32_t row = a.partial_row[partial];
      const std::int32_t begin = a.merge_begin[row], end = a.merge_begin[row + 1];
      std::int32_t place = begin;
      for (std::int32_t other = begin; other < end; ++other) place += a.merge_entered[other] < partial ? 1 : 0;
      a.merge_partials[place] = partial;
    }
  }
};

/// The same on a host: sorts each list in its place.
struct SortMerge {
  Arrays a;
  KOKKOS_FUNCTION void sort(std::int32_t row) const {
    std::int32_t* entries = a.merge_partials + a.merge_begin[row];
    const std::int32_t count = a.merge_begin[row + 1] - a.merge_begin[row];
    constexpr std::int32_t kFew = 32;
    count <= kFew ? insert_each(entries, count) : heap_sort(entries, count);
  }

 private:
  /// Fast where they are nearly in order, as they mostly are.
  KOKKOS_FUNCTION static void insert_each(std::int32_t* entries, std::int32_t count) {
    for (std::int32_t i = 1; i < count; ++i) {
      const std::int32_t entry = entries[i];
      std::int32_t place = i;
      for (; place > 0 && entries[place - 1] > entry; --place) entries[place] = entries[place - 1];
      entries[place] = entry;
    }
  }

  /// In place, without recursion, and never quadratic.
  KOKKOS_FUNCTION static void heap_sort(std::int32_t* entries, std::int32_t count) {
    for (std::int32_t root = count / 2 - 1; root >= 0; --root) sift_down(entries, root, count);
    for (std::int32_t last = count - 1; last > 0; --last) {
      Kokkos::kokkos_swap(entries[0], entries[last]);
      sift_down(entries, 0, last);
    }
  }

  KOKKOS_FUNCTION static void sift_down(std::int32_t* heap, std::int32_t root, std::int32_t count) {
    for (std::int32_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
      if (child + 1 < count && heap[child + 1] > heap[child]) ++child;
      if (heap[root] >= heap[child]) return;
      Kokkos::kokkos_swap(heap[root], heap[child]);
      root = child;
    }
  }
};

/// The end of a plan: whatever needs the tiles and the merge lists alone.
struct Finish {
  FindWorkers workers;
  Arrays a;
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t size() const {
    const std::int64_t lists = a.merge_entered != nullptr ? a.stride : a.rows;
    return lists > a.workers ? lists : std::int64_t(a.workers) + 1;
  }
  KOKKOS_FUNCTION void operator()(std::int32_t i) const {
    if (i <= a.workers) workers.find(i);
    if (a.merge_entered == nullptr) {
      if (i < a.rows) SortMerge{a}.sort(i);
    } else if (i < a.stride) {
      RankMerge{a}(i);
    }
  }
};

/// The first steps from a tree to a plan: what each item contributes, and what lies before it.
template <class Cut>
struct OrderItems {
  CutRecipe<Cut> recipe;
  Arrays a;

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION Cut operator()(const Runner& run) const {
    const Cut cut = recipe.prepare(run);
    const CountItems<Cut> count{cut, a};
    run.each("espalier::Plan::count", count.size(), count);
    run.scan("espalier::Plan::sum", cut.items(), SumItems{cut.items(), a});
    return cut;
  }
};

/// All steps.
template <class Cut>
struct BuildPlan {
  OrderItems<Cut> order;

  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION void operator()(const Runner& run) const {
    fill(run, order(run));
  }

  /// Those after OrderItems.
  ESPALIER_FOR_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION void fill(const Runner& run, const Cut& cut) const {
    const Arrays& a = order.a;
    run.each("espalier::Plan::segments", cut.items(), FillSegments<Cut>{cut, a});
    run.each("espalier::Plan::tiles", a.stride, FillTiles<Cut>{cut, a});
    run.scan("espalier::Plan::merge_begin", a.rows, BeginMergeLists{a});
    run.each("espalier::Plan::merge_lists", a.stride, FillMerge{a});
    const Finish finish{{order.recipe.context, a}, a};
    run.each("espalier::Plan::finish", finish.size(), finish);
  }
};

/// What grew since the plan was made, for a tree of the same nodes and rows.
struct Growth {
  detail::TreeView tree;
  Arrays a;

  /// Tokens of a segment now: to the end of its node, or of what its only row sees of it. Where no row sees the end of
  /// the node, none sees what it gained.
  KOKKOS_FUNCTION std::int32_t tokens_now(const detail::Segment& segment) const {
    if (segment.own_row_end == segment.row_end) return segment.tokens;
    const bool is_own = segment.row_end == segment.row_begin + 1 && segment.own_row_end == segment.row_begin &&
                        tree.row_node[segment.row_begin] == segment.node;
    return (is_own ? tree.row_visible[segment.row_begin] : tree.tokens[segment.node]) - segment.node_token;
  }
};

/// Tiles that reach to the end of a segment grow with it. Reads nothing of a segment that GrowSegments writes.
struct GrowTiles : Growth {
  KOKKOS_FUNCTION void operator()(std::int32_t t) const {
    detail::Tile& tile = a.tiles[t];
    const std::int32_t last = tile.segment_end - 1;
    if (tile.open == 0 && tile.segment_begin == last) return;
    std::int32_t tokens = (tile.open != 0 ? tokens_now(a.segments[last]) : a.end_in_last[t]) - tile.skip;
    for (std::int32_t s = tile.segment_begin; s < last; ++s) tokens += tokens_now(a.segments[s]);
    tile.tokens = tokens;
  }
};

/// Segments follow their nodes: more tokens, and another place in the block table.
struct GrowSegments : Growth {
  KOKKOS_FUNCTION void operator()(std::int32_t s) const {
    detail::Segment& segment = a.segments[s];
    if (segment.own_row_end != segment.row_end) segment.tokens = tokens_now(segment);
    const std::int32_t place = tree.first_offset[segment.node] + segment.node_token;
    segment.table_begin = tree.first_block[segment.node] + place / tree.block_tokens;
    segment.block_offset = place % tree.block_tokens;
  }
};

/// Thread i grows tiles and segments i, i + stride, ...
struct GrowPlan {
  Growth growth;

  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    const Arrays& a = growth.a;
    for (std::int64_t t = first; t < a.totals->of_head.tiles; t += a.stride) GrowTiles{growth}(std::int32_t(t));
    for (std::int64_t s = first; s < a.totals->segments; s += a.stride) GrowSegments{growth}(std::int32_t(s));
  }
};

/// All steps for a small tree, in one team.
template <class Steps, class Exec>
struct StepsOnTeam {
  using Policy = Kokkos::TeamPolicy<Exec, Kokkos::LaunchBounds<kTeamThreads, 1>>;
  using Team = typename Policy::member_type;
  Steps steps;
  KOKKOS_FUNCTION void operator()(const Team& team) const { steps(OnTeam<Team>(team)); }
};

}  // namespace espalier::plan
