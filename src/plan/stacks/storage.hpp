#pragma once

#include <string>

#include "espalier/plan.hpp"
#include "fill.hpp"

namespace espalier::plan::stacks {

/// Merge entries: a tile is in the lists of at most so many blocks of pairs, and a list has so many runs of rows that see nothing.
inline constexpr std::int64_t kTileEntries = detail::kTilePairs / detail::kMergePairs + 1, kListEntries = 8;

/// The arrays of a plan, in one memory space.
template <class Memory>
struct Storage {
  template <class T>
  using Array = Kokkos::View<T*, Memory>;

  Array<Totals> totals;
  Array<PathNode> path_node;
  Array<std::int32_t> alone_node;
  Array<NodeSums> before;
  Array<Unit> unit;
  Array<std::int32_t> stack_end, begins, stack_of, stack_row;
  Array<Stack> stack;
  Array<std::int32_t> turn_node;
  Array<std::uint32_t> inside, updates;
  Array<Cut> cuts;
  Array<std::int32_t> tiles_before, tile_end, segment_node;
  Array<std::uint64_t> tile_pairs;
  Array<detail::FusedPlanHeader> header;
  Array<detail::FusedSegment> segments;
  Array<detail::FusedTile> tiles;
  Array<detail::FusedWorker> worker;
  Array<std::int32_t> merge_count, share_entries, merge_begin;
  Array<detail::MergeEntry> merge_entries;

  /// @param with_tiles  room for tiles too: without, only CutTree can run
  template <class Exec>
  Storage(const Exec& exec, const PlanConfig& config, bool with_tiles) {
    const auto allocate = [&](auto& view, const char* label, std::int64_t count) {
      view = std::decay_t<decltype(view)>(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, std::string(label)),
                                          std::size_t(count));
    };
    const PlanCapacity& capacity = config.capacity;
    const std::int64_t nodes = capacity.nodes, rows = capacity.rows, workers = config.workers;
    const std::int64_t group = config.heads.group(), kv_heads = config.heads.kv_heads;
    const std::int64_t merge_lists = div_up(rows * group, std::int64_t(detail::kMergePairs)) * kv_heads;
    const auto clear = [&](auto& view, const char* label, std::int64_t count) {
      view = std::decay_t<decltype(view)>(Kokkos::view_alloc(exec, std::string(label)), std::size_t(count));
    };
    allocate(totals, "espalier::StackPlan::totals", 1);
    clear(updates, "espalier::StackPlan::updates", 1);
    allocate(path_node, "espalier::StackPlan::path_node", nodes);
    allocate(alone_node, "espalier::StackPlan::alone_node", nodes);
    allocate(before, "espalier::StackPlan::before", nodes + 1);
    allocate(unit, "espalier::StackPlan::unit", rows);
    allocate(stack_end, "espalier::StackPlan::stack_end", rows);
    allocate(begins, "espalier::StackPlan::begins", rows);
    allocate(stack_of, "espalier::StackPlan::stack_of", rows);
    allocate(stack_row, "espalier::StackPlan::stack_row", rows + 1);
    allocate(stack, "espalier::StackPlan::stack", nodes + rows + 1);
    allocate(turn_node, "espalier::StackPlan::turn_node", rows * Turns::kOfStack);
    allocate(inside, "espalier::StackPlan::inside", rows);
    allocate(cuts, "espalier::StackPlan::cuts", kWays * (workers + 1));
    allocate(tiles_before, "espalier::StackPlan::tiles_before", kWays * (workers + 1));
    if (!with_tiles) return;
    const std::int64_t most_tiles = capacity.tiles, most_segments = capacity.segments;
    allocate(merge_count, "espalier::StackPlan::merge_count", merge_lists);
    allocate(share_entries, "espalier::StackPlan::share_entries", merge_lists / kMergeShare + 1);
    allocate(merge_begin, "espalier::StackPlan::merge_begin", merge_lists + 1);
    clear(tile_pairs, "espalier::StackPlan::tile_pairs", most_tiles);
    allocate(tile_end, "espalier::StackPlan::tile_end", most_tiles);
    allocate(segment_node, "espalier::StackPlan::segment_node", most_segments);
    allocate(header, "espalier::StackPlan::header", 1);
    allocate(segments, "espalier::StackPlan::segments", most_segments);
    allocate(tiles, "espalier::StackPlan::tiles", most_tiles);
    allocate(worker, "espalier::StackPlan::worker", workers);
    allocate(merge_entries, "espalier::StackPlan::merge_entries",
             kTileEntries * most_tiles + kListEntries * merge_lists);
  }

  [[nodiscard]] Context context(const PlanConfig& config, const detail::TreeView& tree) const {
    Context c{};
    c.tree = tree;
    c.costs = costs_of(StackCosts{}, config.heads);
    c.group = config.heads.group();
    c.kv_heads = config.heads.kv_heads;
    c.workers = config.workers;
    c.stack_rows = std::max(1, detail::kTilePairs / c.group);
    c.window_rows = c.stack_rows * (c.is_small() ? kWindowOfSmall : kWindowOfLarge);
    c.small_rows = detail::kTilePairs / c.group;
    c.half_rows = detail::kTilePairs / 2 / c.group;
    c.half_last = (detail::kTilePairs / 2 - 1) / c.group;
    c.segment_capacity = config.capacity.segments;
    c.tile_capacity = config.capacity.tiles;
    c.partial_capacity = std::int64_t(config.capacity.partials) * c.group;
    c.totals = totals.data();
    c.updates = updates.data();
    c.path_node = path_node.data();
    c.alone_node = alone_node.data();
    c.before = before.data();
    c.unit = unit.data();
    c.stack_end = stack_end.data();
    c.begins = begins.data();
    c.stack_of = stack_of.data();
    c.stack_row = stack_row.data();
    c.stack = stack.data();
    c.turn_node = turn_node.data();
    c.inside = inside.data();
    c.cuts = cuts.data();
    c.tiles_before = tiles_before.data();
    c.tile_pairs = tile_pairs.data();
    c.tile_end = tile_end.data();
    c.segment_node = segment_node.data();
    c.header = header.data();
    c.segments = segments.data();
    c.tiles = tiles.data();
    c.worker = worker.data();
    c.merge_count = merge_count.data();
    c.share_entries = share_entries.data();
    c.merge_begin = merge_begin.data();
    c.merge_entries = merge_entries.data();
    return c;
  }
};

}  // namespace espalier::plan::stacks
