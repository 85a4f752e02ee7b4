#pragma once
// The kernels that turn a cut into a plan: count, fill, and the merge lists. Every order is decided by a scan or a
// sort, never by the timing of threads.

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "cuts.hpp"

namespace espalier::plan {

/// Sizes of a plan on the device. A plan that does not fit has no tiles; `need` then says what it wanted.
struct Totals {
  std::int64_t segments, tiles, partials, cost;  // over all KV heads
  std::int64_t need_segments, need_tiles, need_partials;
  std::int64_t items;
};

/// Arrays of a plan under construction, in the memory of the execution space.
struct Arrays {
  std::int32_t kv_heads;
  std::int32_t rows;
  std::int32_t workers;
  std::int64_t segment_capacity, tile_capacity, partial_capacity;
  Totals* totals;
  Counts* before;  // [items]  what the items before contribute, for one KV head
  detail::Segment* segments;
  detail::Tile* tiles;
  std::int32_t* worker_tiles;    // [workers]
  std::int32_t* worker_begin;    // [workers + 1]
  std::int32_t* merge_begin;     // [rows * kv_heads + 1]
  std::int32_t* merge_cursor;    // [rows * kv_heads]
  std::int32_t* merge_partials;  // [partial_capacity]
};

/// before[i] = what items 0 .. i - 1 contribute; the last item checks the capacities.
template <class Cut>
struct CountItems {
  using value_type = Counts;
  Cut cut;
  Arrays a;

  KOKKOS_FUNCTION void init(Counts& counts) const { counts = Counts{}; }
  KOKKOS_FUNCTION void join(Counts& counts, const Counts& other) const { counts += other; }

  KOKKOS_FUNCTION void operator()(std::int32_t item, Counts& sum, bool final) const {
    if (final) a.before[item] = sum;
    sum += cut.count(item);
    if (final && item == cut.items() - 1) {
      Totals totals{};
      totals.need_segments = sum.segments;
      totals.need_tiles = sum.tiles * a.kv_heads;
      totals.need_partials = sum.partials * a.kv_heads;
      if (totals.need_segments <= a.segment_capacity && totals.need_tiles <= a.tile_capacity &&
          totals.need_partials <= a.partial_capacity) {
        totals.segments = totals.need_segments;
        totals.tiles = totals.need_tiles;
        totals.partials = totals.need_partials;
        totals.cost = sum.cost * a.kv_heads;
        totals.items = cut.items();
      }
      *a.totals = totals;
    }
  }
};

/// Clears what the later kernels add to.
struct Clear {
  Arrays a;
  KOKKOS_FUNCTION void operator()(std::int32_t i) const {
    if (i == 0) {
      *a.totals = Totals{};
      a.worker_begin[a.workers] = 0;
      a.merge_begin[a.rows * a.kv_heads] = 0;
    }
    if (i < a.workers) a.worker_tiles[i] = 0;
    if (i < a.rows * a.kv_heads) a.merge_cursor[i] = 0;
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

/// Thread i fills tiles i, i + stride, ...: the number of tiles is known on the device alone. A tile's KV heads follow
/// each other, since their K and V lie side by side.
template <class Cut>
struct FillTiles {
  Cut cut;
  Arrays a;
  std::int32_t stride;

  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    const std::int64_t tiles = a.totals->tiles;
    for (std::int64_t t = first; t < tiles; t += stride) fill(t);
  }

 private:
  KOKKOS_FUNCTION void fill(std::int64_t t) const {
    const std::int64_t in_head = t / a.kv_heads;
    const std::int64_t kv_head = t % a.kv_heads;
    std::int32_t item = 0;  // the last item that begins at or before the tile
    for (std::int32_t low = 0, high = std::int32_t(a.totals->items); low < high;) {
      const std::int32_t middle = low + (high - low) / 2;
      if (a.before[middle].tiles <= in_head) {
        item = middle;
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const Counts& before = a.before[item];
    Counts in_item;
    const std::int64_t first_segment = a.before[segment_item(item)].segments;
    detail::Tile tile = cut.tile(item, std::int32_t(in_head - before.tiles), a.segments + first_segment, in_item);
    tile.segment_begin += std::int32_t(first_segment);
    tile.segment_end += std::int32_t(first_segment);
    tile.kv_head = std::int16_t(kv_head);
    tile.partial_begin = std::int32_t(kv_head * (a.totals->partials / a.kv_heads) + before.partials + in_item.partials);
    std::int64_t behind = -std::int64_t(tile.skip) - tile.tokens;  // tokens of its segments that the tile leaves
    for (std::int32_t s = tile.segment_begin; s < tile.segment_end; ++s) behind += a.segments[s].tokens;
    tile.open = behind == 0 ? 1 : 0;
    a.tiles[t] = tile;
    const std::int64_t cost = cost_of(tile);
    const std::int64_t cost_before = (before.cost + in_item.cost) * a.kv_heads + kv_head * cost;
    Kokkos::atomic_inc(&a.worker_tiles[worker_at(cost_before + cost / 2)]);
    for (std::int32_t row = tile.row_begin; row < tile.row_end; ++row)
      Kokkos::atomic_inc(&a.merge_cursor[row * a.kv_heads + kv_head]);
  }

  KOKKOS_FUNCTION std::int32_t segment_item(std::int32_t item) const {
    if constexpr (requires { cut.segment_item(item); })
      return cut.segment_item(item);
    else
      return item;
  }

  KOKKOS_FUNCTION std::int64_t cost_of(const detail::Tile& tile) const {
    if constexpr (requires { cut.cost_of(tile); })
      return cut.cost_of(tile);
    else
      return tile_cost(tile.row_end - tile.row_begin, tile.tokens, cut.c.group);
  }

  /// Every worker gets an equal span of the line of costs: the tiles whose middles lie in it.
  KOKKOS_FUNCTION std::int32_t worker_at(std::int64_t cost) const {
    const auto worker = std::int32_t(double(cost) / double(a.totals->cost) * a.workers);
    return worker < a.workers ? worker : a.workers - 1;
  }
};

/// begin[i] = sum of counts[0 .. i - 1]; `counts` is left holding the same, as a cursor.
struct ScanCounts {
  using value_type = std::int32_t;
  std::int32_t entries;
  std::int32_t* counts;  // [entries]
  std::int32_t* begin;   // [entries + 1]

  KOKKOS_FUNCTION void operator()(std::int32_t i, std::int32_t& sum, bool final) const {
    const std::int32_t count = counts[i];
    if (final) {
      begin[i] = sum;
      counts[i] = sum;
      if (i == entries - 1) begin[entries] = sum + count;
    }
    sum += count;
  }
};

/// Enters each tile's partials into the lists of their rows, in no particular order.
struct FillMerge {
  Arrays a;
  std::int32_t stride;
  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    for (std::int64_t t = first; t < a.totals->tiles; t += stride) {
      const detail::Tile& tile = a.tiles[t];
      for (std::int32_t row = tile.row_begin; row < tile.row_end; ++row) {
        const std::int32_t place = Kokkos::atomic_fetch_inc(&a.merge_cursor[row * a.kv_heads + tile.kv_head]);
        a.merge_partials[place] = tile.partial_begin + row - tile.row_begin;
      }
    }
  }
};

/// Sorts each list, so that merging always adds in the same order.
struct SortMerge {
  Arrays a;
  KOKKOS_FUNCTION void operator()(std::int32_t list) const {
    std::int32_t* entries = a.merge_partials + a.merge_begin[list];
    const std::int32_t count = a.merge_begin[list + 1] - a.merge_begin[list];
    if (count <= 1) return;
    // Heap sort: in place, without recursion, and never quadratic.
    for (std::int32_t root = count / 2 - 1; root >= 0; --root) sift_down(entries, root, count);
    for (std::int32_t last = count - 1; last > 0; --last) {
      Kokkos::kokkos_swap(entries[0], entries[last]);
      sift_down(entries, 0, last);
    }
  }

 private:
  KOKKOS_FUNCTION static void sift_down(std::int32_t* heap, std::int32_t root, std::int32_t count) {
    for (std::int32_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
      if (child + 1 < count && heap[child + 1] > heap[child]) ++child;
      if (heap[root] >= heap[child]) return;
      Kokkos::kokkos_swap(heap[root], heap[child]);
      root = child;
    }
  }
};

/// What grew since the plan was made, for a tree of the same nodes and rows.
struct Growth {
  detail::TreeView tree;
  Arrays a;
  std::int32_t stride;

  /// Tokens of a segment now: to the end of its node, or of what its only row sees of it. Where no row sees the end of
  /// the node, none sees what it gained.
  KOKKOS_FUNCTION std::int32_t tokens_now(const detail::Segment& segment) const {
    if (segment.own_row_end == segment.row_end) return segment.tokens;
    const bool is_own = segment.row_end == segment.row_begin + 1 && segment.own_row_end == segment.row_begin &&
                        tree.row_node[segment.row_begin] == segment.node;
    return (is_own ? tree.row_visible[segment.row_begin] : tree.tokens[segment.node]) - segment.node_token;
  }
};

/// Tiles that reach to the end of a segment grow with it.
struct GrowTiles : Growth {
  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    for (std::int64_t t = first; t < a.totals->tiles; t += stride) {
      detail::Tile& tile = a.tiles[t];
      for (std::int32_t s = tile.segment_begin; s < tile.segment_end - (tile.open != 0 ? 0 : 1); ++s)
        tile.tokens += tokens_now(a.segments[s]) - a.segments[s].tokens;
    }
  }
};

/// Segments follow their nodes: more tokens, and another place in the block table.
struct GrowSegments : Growth {
  KOKKOS_FUNCTION void operator()(std::int32_t first) const {
    for (std::int64_t s = first; s < a.totals->segments; s += stride) {
      detail::Segment& segment = a.segments[s];
      segment.tokens = tokens_now(segment);
      const std::int32_t place = tree.first_offset[segment.node] + segment.node_token;
      segment.table_begin = tree.first_block[segment.node] + place / tree.block_tokens;
      segment.block_offset = place % tree.block_tokens;
    }
  }
};

}  // namespace espalier::plan
