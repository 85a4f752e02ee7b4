#pragma once
// Brings a plan up to date with longer nodes: segments that end with what their rows see get longer, and so do the tiles
// that reach to the end of one.

#include "fill.hpp"

namespace espalier::plan::stacks {

/// Items are tiles, each for all lanes, and then groups of segments, one for each lane.
template <int kLanes>
struct Grow {
  Context c;

  /// @param sum_lanes   sum_lanes(value): the sum of value(lane) over all lanes
  /// @param each_lane  each_lane(action): calls action(lane) for all lanes
  template <class SumLanes, class EachLane>
  KOKKOS_FUNCTION void operator()(std::int64_t first, std::int64_t stride, const SumLanes& sum_lanes,
                                  const EachLane& each_lane) const {
    if (c.totals->fits == 0) return;
    const std::int64_t tiles = c.totals->tiles, segments = c.totals->need_segments;
    const std::int64_t items = tiles + div_up(segments, std::int64_t(kLanes));
    for (std::int64_t i = first; i < items; i += stride) {
      if (i < tiles) {
        tile(i, sum_lanes);
        continue;
      }
      const std::int64_t begin = (i - tiles) * kLanes;
      each_lane([&](int lane) {
        if (begin + lane < segments) segment(begin + lane);
      });
    }
  }

 private:
  /// Reads nothing that segment() writes. What it reads of the tree does not wait for what it might decide not to read.
  KOKKOS_FUNCTION std::int32_t slots_now(std::int64_t s) const {
    const detail::FusedSegment& segment = c.segments[s];
    const std::int32_t mark = c.segment_node[s];
    const std::int32_t node = mark < 0 ? ~mark : mark;
    const std::int32_t row = segment.row_end - 1;
    const std::int32_t own_node = c.tree.row_node[row];
    const std::int32_t visible = c.tree.row_visible[row], tokens = c.tree.tokens[node];
    if (mark < 0) return detail::stack_slots(segment.tokens);
    return detail::stack_slots((own_node == node ? visible : tokens) - segment.node_token);
  }

  template <class SumLanes>
  KOKKOS_FUNCTION void tile(std::int64_t t, const SumLanes& sum_lanes) const {
    detail::FusedTile& tile = c.tiles[t];
    const std::int32_t first = tile.segment_begin, last = tile.segment_end - 1, skip = tile.skip, end = c.tile_end[t];
    if (end != kOpen && first == last) return;
    const std::int32_t slots = sum_lanes([&](int lane) {
      std::int32_t sum = 0;
      for (std::int32_t s = first + lane; s <= last; s += kLanes) sum += s < last || end == kOpen ? slots_now(s) : end;
      return sum;
    });
    tile.slots = slots - skip;
  }

  KOKKOS_FUNCTION void segment(std::int64_t s) const {
    const std::int32_t mark = c.segment_node[s];
    if (mark == kNoNode) return;
    detail::FusedSegment& segment = c.segments[s];
    const std::int32_t node = mark < 0 ? ~mark : mark;
    const std::int32_t place = c.tree.first_offset[node] + segment.node_token;
    const std::int32_t entry = c.tree.first_block[node] + place / c.tree.block_tokens;
    segment.table_begin = entry;
    segment.first_block = c.tree.block_table[entry];
    segment.block_offset = place % c.tree.block_tokens;
    if (mark >= 0) segment.tokens = c.seen(node) - segment.node_token;
  }
};

/// All in the calling thread, or a share of it.
struct GrowOnHost {
  static constexpr const char* kLabel = "espalier::StackPlan::grow";
  Context c;
  std::int32_t stride;

  void operator()(std::int32_t first) const {
    Grow<1>{c}(first, stride, [](const auto& value) { return value(0); }, [](const auto& action) { action(0); });
  }
};

template <class Exec>
struct GrowOnDevice {
  static constexpr const char* kLabel = "espalier::StackPlan::grow";
  static constexpr int kLanes = 32;
  static constexpr int kThreads = 4;
  static constexpr std::int64_t kMostTeams = 2048;
  using Policy = Kokkos::TeamPolicy<Exec>;
  using Team = typename Policy::member_type;
  Context c;

  [[nodiscard]] std::int32_t teams() const {
    const std::int64_t most = c.tile_capacity + div_up(c.segment_capacity, std::int64_t(kLanes));
    return std::int32_t(std::min(div_up(most, std::int64_t(kThreads)), kMostTeams));
  }
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const auto sum_lanes = [&](const auto& value) {
      std::int32_t all = 0;
      Kokkos::parallel_reduce(
          Kokkos::ThreadVectorRange(team, kLanes), [&](int lane, std::int32_t& sum) { sum += value(lane); }, all);
      return all;
    };
    const auto each_lane = [&](const auto& action) {
      Kokkos::parallel_for(Kokkos::ThreadVectorRange(team, kLanes), action);
    };
    Grow<kLanes>{c}(std::int64_t(team.league_rank()) * team.team_size() + team.team_rank(),
                    std::int64_t(team.league_size()) * team.team_size(), sum_lanes, each_lane);
  }
};

}  // namespace espalier::plan::stacks
