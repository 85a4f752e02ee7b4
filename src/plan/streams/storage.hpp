#pragma once

#include <string>

#include "context.hpp"
#include "espalier/plan.hpp"
#include "stream_plan.hpp"

namespace espalier::plan::streams {

/// The arrays of a plan, in one memory space.
template <class Memory>
struct Storage {
  template <class T>
  using Array = Kokkos::View<T*, Memory>;

  Array<Totals> totals;
  Array<ChildSums> children;
  Array<NodeSums> before;
  Array<WideNode> wide;
  Array<std::int32_t> unit_end, unit_node, pack_end, begins, pack_row, pack_of;
  Array<Pack> pack;
  Array<List> lists;
  Array<Split> splits;
  Array<Cut> wide_cut, narrow_cut;
  Array<std::int64_t> wide_blocks, narrow_steps;
  Array<WorkerSums> worker_sums;
  Array<StreamSums> streams;
  Array<std::int32_t> span_pieces, piece_stream;
  Array<std::int64_t> keys;
  Array<std::int32_t> kind, tile_end, wide_open, segment_node;
  Array<std::uint32_t> piece_pairs;
  Array<detail::FusedPlanHeader> header;
  Array<detail::FusedSegment> segments;
  Array<detail::GatheredToken> gathered;
  Array<detail::FusedTile> wide_tiles, narrow_tiles;
  Array<detail::FusedWorker> worker;
  Array<std::int32_t> merge_count, share_entries, merge_begin;
  Array<detail::MergeEntry> merge_entries;

  /// @param tiles  room for tiles too: without, only the front steps can run
  template <class Exec>
  Storage(const Exec& exec, const PlanConfig& config, bool tiles) {
    const auto allocate = [&](auto& view, const char* label, std::int64_t count) {
      view = std::decay_t<decltype(view)>(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, std::string(label)),
                                          std::size_t(count));
    };
    const PlanCapacity& capacity = config.capacity;
    const std::int64_t nodes = capacity.nodes, rows = capacity.rows, workers = config.workers;
    const std::int64_t group = config.heads.group(), kv_heads = config.heads.kv_heads;
    const std::int64_t most_lists = 2 * div_up(group, std::int64_t(detail::kNarrowPairs)) * rows;
    const std::int64_t merge_lists = div_up(rows * group, std::int64_t(detail::kMergePairs)) * kv_heads;
    allocate(totals, "espalier::StreamPlan::totals", 1);
    allocate(children, "espalier::StreamPlan::children", nodes);
    allocate(kind, "espalier::StreamPlan::kind", nodes);
    allocate(before, "espalier::StreamPlan::before", nodes + 1);
    allocate(wide, "espalier::StreamPlan::wide", nodes + 1);
    allocate(unit_end, "espalier::StreamPlan::unit_end", rows);
    allocate(unit_node, "espalier::StreamPlan::unit_node", rows);
    allocate(pack_end, "espalier::StreamPlan::pack_end", rows);
    allocate(begins, "espalier::StreamPlan::begins", rows);
    allocate(pack, "espalier::StreamPlan::pack", rows);
    allocate(pack_row, "espalier::StreamPlan::pack_row", rows + 1);
    allocate(pack_of, "espalier::StreamPlan::pack_of", rows);
    allocate(lists, "espalier::StreamPlan::lists", most_lists + 1);
    allocate(splits, "espalier::StreamPlan::splits", workers);
    allocate(wide_cut, "espalier::StreamPlan::wide_cut", workers + 1);
    allocate(wide_blocks, "espalier::StreamPlan::wide_blocks", workers + 1);
    allocate(worker_sums, "espalier::StreamPlan::worker_sums", workers + 1);
    allocate(narrow_cut, "espalier::StreamPlan::narrow_cut", workers + 2);
    allocate(narrow_steps, "espalier::StreamPlan::narrow_steps", workers + 2);
    allocate(span_pieces, "espalier::StreamPlan::span_pieces", workers + 2);
    allocate(streams, "espalier::StreamPlan::streams", most_lists * kv_heads + 1);
    if (!tiles) return;
    const std::int64_t most_tiles = capacity.tiles, most_segments = capacity.segments;
    allocate(merge_count, "espalier::StreamPlan::merge_count", merge_lists * kMergeParts);
    allocate(share_entries, "espalier::StreamPlan::share_entries", merge_lists * kMergeParts / kMergeShare + 1);
    allocate(merge_begin, "espalier::StreamPlan::merge_begin", merge_lists + 1);
    allocate(piece_stream, "espalier::StreamPlan::piece_stream", most_tiles);
    allocate(keys, "espalier::StreamPlan::keys", most_tiles);
    allocate(piece_pairs, "espalier::StreamPlan::piece_pairs", most_tiles);
    allocate(tile_end, "espalier::StreamPlan::tile_end", most_tiles);
    allocate(wide_open, "espalier::StreamPlan::wide_open", most_tiles);
    allocate(segment_node, "espalier::StreamPlan::segment_node", most_segments);
    allocate(header, "espalier::StreamPlan::header", 1);
    allocate(segments, "espalier::StreamPlan::segments", most_segments);
    allocate(gathered, "espalier::StreamPlan::gathered", most_segments);
    allocate(wide_tiles, "espalier::StreamPlan::wide_tiles", most_tiles);
    allocate(narrow_tiles, "espalier::StreamPlan::narrow_tiles", most_tiles);
    allocate(worker, "espalier::StreamPlan::worker", workers);
    allocate(merge_entries, "espalier::StreamPlan::merge_entries", 9 * most_tiles + 8 * merge_lists);
  }

  [[nodiscard]] Context context(const PlanConfig& config, const StreamOptions& options,
                                const detail::TreeView& tree) const {
    Context c{};
    c.tree = tree;
    c.costs = costs_of(StreamCosts{}, config.heads);
    c.group = config.heads.group();
    c.kv_heads = config.heads.kv_heads;
    c.workers = config.workers;
    c.strips = div_up(c.group, detail::kNarrowPairs);
    c.pack_rows = std::max(1, detail::kNarrowPairs / c.group);
    c.small_rows = detail::kNarrowPairs / c.group;
    c.absorbs = options.chains ? 1 : 0;
    c.merge_parts = c.is_small() ? kMergeParts : 1;
    c.segment_capacity = config.capacity.segments;
    c.tile_capacity = config.capacity.tiles;
    c.partial_capacity = std::int64_t(config.capacity.partials) * c.group;
    c.totals = totals.data();
    c.children = children.data();
    c.kind = kind.data();
    c.before = before.data();
    c.wide = wide.data();
    c.unit_end = unit_end.data();
    c.unit_node = unit_node.data();
    c.pack_end = pack_end.data();
    c.begins = begins.data();
    c.pack = pack.data();
    c.pack_row = pack_row.data();
    c.pack_of = pack_of.data();
    c.lists = lists.data();
    c.splits = splits.data();
    c.wide_cut = wide_cut.data();
    c.wide_blocks = wide_blocks.data();
    c.worker_sums = worker_sums.data();
    c.narrow_cut = narrow_cut.data();
    c.narrow_steps = narrow_steps.data();
    c.streams = streams.data();
    c.span_pieces = span_pieces.data();
    c.piece_stream = piece_stream.data();
    c.keys = keys.data();
    c.piece_pairs = piece_pairs.data();
    c.tile_end = tile_end.data();
    c.wide_open = wide_open.data();
    c.segment_node = segment_node.data();
    c.header = header.data();
    c.segments = segments.data();
    c.gathered = gathered.data();
    c.wide_tiles = wide_tiles.data();
    c.narrow_tiles = narrow_tiles.data();
    c.worker = worker.data();
    c.merge_count = merge_count.data();
    c.share_entries = share_entries.data();
    c.merge_begin = merge_begin.data();
    c.merge_entries = merge_entries.data();
    return c;
  }
};

}  // namespace espalier::plan::streams
