#pragma once
// From a tree to its streams: what each node is, how rows are cut into packs, and what lists their strips have.

#include "runners.hpp"

namespace espalier::plan::streams {

/// Clears what later steps add to; the units that are rows of big nodes.
struct Reset {
  static constexpr const char* kLabel = "espalier::StreamPlan::reset";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    return Kokkos::max(Kokkos::max(c.tree.nodes, c.tree.rows), c.workers);
  }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    if (i == 0) {
      *c.totals = Totals{};
      c.totals->bound = c.totals->best = INT64_MAX;
    }
    if (i < c.workers) c.splits[i] = Split{};
    if (c.share_entries != nullptr)
      for (std::int32_t share = i; share < c.merge_shares(); share += items(c)) c.share_entries[share] = 0;
    if (c.absorbs != 0 && i < c.tree.nodes) c.children[i] = {0, 0, INT32_MAX};
    if (i < c.tree.rows) {
      const std::int32_t node = c.tree.row_node[i];
      c.unit_end[i] = c.is_big(node) ? i + 1 : 0;
      c.unit_node[i] = node;
      c.begins[i] = 0;
    }
  }
};

/// What each node knows of its big children.
struct SumChildren {
  static constexpr const char* kLabel = "espalier::StreamPlan::sum_children";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.nodes; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.nodes; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t node) {
    const std::int32_t parent = c.tree.parent[node];
    if (parent < 0 || !c.is_big(node)) return;
    ChildSums& sums = c.children[parent];
    Kokkos::atomic_add(&sums.rows, c.tree.row_end[node] - c.tree.row_begin[node]);
    Kokkos::atomic_add(&sums.tiles, c.row_tiles(node));
    Kokkos::atomic_min(&sums.tokens, c.seen(node));
  }
};

/// What becomes of each node.
struct FindKinds {
  static constexpr const char* kLabel = "espalier::StreamPlan::find_kinds";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.nodes; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.nodes; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t node) { c.kind[node] = kind_of(c, node); }

 private:
  KOKKOS_FUNCTION static NodeKind kind_of(const Context& c, std::int32_t node) {
    if (!c.is_big(node)) return kSmall;
    if (is_absorbed(c, node)) return kAbsorbed;
    const std::int32_t seen = c.seen(node), parent = c.tree.parent[node];
    if (seen >= kShortTokens || (parent >= 0 && is_absorbed(c, parent))) return kWide;
    return seen > 0 ? kCopied : kEmpty;
  }

  /// A big node is absorbed where big children have all its rows, in no more row tiles than its own.
  KOKKOS_FUNCTION static bool is_absorbed(const Context& c, std::int32_t node) {
    if (c.absorbs == 0) return false;
    const ChildSums& child = c.children[node];
    return child.rows > 0 && child.rows == c.tree.row_end[node] - c.tree.row_begin[node] &&
           child.tiles == c.row_tiles(node) && c.tree.tokens[node] >= kShortTokens - child.tokens;
  }
};

/// Sums of what nodes are; lists the wide nodes; finds the units that are small subtrees.
struct SumNodes {
  static constexpr const char* kLabel = "espalier::StreamPlan::sum_nodes";
  static constexpr const char* kMeasureLabel = "espalier::StreamPlan::measure_nodes";
  using Sum = NodeSums;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.nodes; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.nodes; }

  KOKKOS_FUNCTION static NodeSums measure(const Context& c, std::int32_t node) {
    const std::int32_t kind = c.kind[node];
    NodeSums sums;
    const std::int32_t row_begin = c.tree.row_begin[node], row_end = c.tree.row_end[node];
    if (row_begin < row_end && kind == kSmall) {
      const Parts parts = parts_of(c, node, row_begin, row_end);
      sums.segments = parts.segments();
      sums.gathered = parts.gathered();
      sums.steps = parts.steps();
      sums.tokens = parts.tokens();
    } else if (kind == kWide) {
      std::int32_t tokens = 0;
      const auto add = [&](std::int32_t, std::int32_t more) {
        ++sums.wide_segments;
        tokens += more;
      };
      c.for_each_of_chain(node, add);
      sums.wide = 1;
      sums.pairs = c.pairs_of(node);
      sums.tiles = c.row_tiles(node);
      sums.blocks = std::int64_t(sums.tiles) * div_up(tokens, kBlockTokens);
    }
    c.before[node] = sums;
    return sums;
  }
  KOKKOS_FUNCTION static NodeSums value(const Context& c, std::int32_t node) { return c.before[node]; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t node, const NodeSums& own, const NodeSums& before) {
    c.before[node] = before;
    if (own.tokens > kMostTokens) report_length(c, own.tokens);
    const std::int32_t begin = c.tree.row_begin[node];
    if (begin == c.tree.row_end[node]) return;
    const std::int32_t parent = c.tree.parent[node];
    if (own.wide != 0) {
      std::int32_t tokens = 0, top = node;
      c.for_each_of_chain(node, [&](std::int32_t member, std::int32_t more) {
        if (more > kMostTokens) report_length(c, more);
        tokens += more;
        top = member;
      });
      c.wide[before.wide] = {before.blocks, before.pairs,
                             before.tiles,  before.wide_segments,
                             node,          div_up(tokens, kBlockTokens),
                             tokens,        is_alone(c, c.tree.parent[top]) ? 1 : 0};
      Kokkos::atomic_or(&c.totals->tile_counts, own.tiles);
    }
    if (!c.is_big(node) && (parent < 0 || c.is_big(parent))) {
      c.unit_end[begin] = c.tree.row_end[node];
      c.unit_node[begin] = node;
    }
  }

  KOKKOS_FUNCTION static void total(const Context& c, const NodeSums& sums) {
    c.before[c.tree.nodes] = sums;
    c.wide[sums.wide] = {sums.blocks, sums.pairs, sums.tiles, sums.wide_segments, -1, 0, 0, 0};
    c.totals->nodes = sums;
  }

 private:
  KOKKOS_FUNCTION static void report_length(const Context& c, std::int32_t tokens) {
    Kokkos::atomic_max(&c.totals->longest, std::int64_t(tokens));
  }
  KOKKOS_FUNCTION static bool is_alone(const Context& c, std::int32_t parent) {
    while (parent >= 0 && c.tree.tokens[parent] == 0) parent = c.tree.parent[parent];
    return parent < 0;
  }
};

/// Where a pack would end that begins with a unit: units with work of their own go together up to a narrow tile's pairs
/// and a number of steps; units without any go together by themselves.
struct EndPacks {
  static constexpr const char* kLabel = "espalier::StreamPlan::end_packs";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.rows; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.rows; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t row) {
    if (c.unit_end[row] == 0) return;
    const std::int64_t share =
        std::int64_t(steps_of(c.totals->nodes)) * c.kv_heads / (std::int64_t(c.workers) * kPacksPerWorker) + 1;
    const auto most_steps = std::int32_t(Kokkos::clamp<std::int64_t>(share, kLeastPack, kMostPack));
    std::int32_t end = c.unit_end[row];
    std::int32_t steps = unit_steps(c, row);
    const bool works = has_work(c, row, steps);
    while (end < c.tree.rows && c.unit_end[end] - row <= c.pack_rows) {
      const std::int32_t more = unit_steps(c, end);
      if (steps > 0 && steps + more > most_steps) break;
      if (has_work(c, end, more) != works) break;
      steps += more;
      end = c.unit_end[end];
    }
    c.pack_end[row] = end;
  }

 private:
  KOKKOS_FUNCTION static std::int32_t steps_of(const NodeSums& sums) {
    return sums.steps + div_up(sums.gathered, kStepTokens);
  }
  KOKKOS_FUNCTION static std::int32_t unit_steps(const Context& c, std::int32_t unit) {
    const std::int32_t node = c.unit_node[unit];
    if (c.is_big(node)) return 0;
    const NodeSums& end = c.before[c.tree.subtree_end[node]];
    const NodeSums& begin = c.before[node];
    return end.steps - begin.steps + div_up(end.gathered - begin.gathered, kStepTokens);
  }
  KOKKOS_FUNCTION static bool has_work(const Context& c, std::int32_t unit, std::int32_t steps) {
    if (steps > 0) return true;
    bool works = false;
    c.for_each_big(unit, unit + 1, [&](std::int32_t node) {
      works = c.is_copied(node);
      return !works;
    });
    return works;
  }
};

/// Rows are cut into windows in which packing begins afresh, each for one thread.
struct MarkPacks {
  static constexpr const char* kLabel = "espalier::StreamPlan::mark_packs";
  KOKKOS_FUNCTION static std::int32_t window(const Context& c) { return kWindowPacks * c.pack_rows; }
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return Kokkos::max(div_up(c.tree.rows, window(c)), 1); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  /// The first unit in a window, or behind it.
  KOKKOS_FUNCTION static std::int32_t first_of(const Context& c, std::int32_t number) {
    std::int32_t row = Kokkos::min(number * window(c), c.tree.rows);
    while (row < c.tree.rows && c.unit_end[row] == 0) ++row;
    return row;
  }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t number) {
    if (number == 0) c.totals->gang_bits = gang_bits_of(c);
    const std::int32_t end = first_of(c, number + 1);
    for (std::int32_t row = first_of(c, number); row < end; row = c.pack_end[row]) c.begins[row] = 1;
  }

 private:
  /// The most that makes gangs which divide the row tiles of every wide node.
  KOKKOS_FUNCTION static std::int32_t gang_bits_of(const Context& c) {
    std::int32_t bits = 0;
    while ((1 << bits) < kGang && (2 << bits) <= c.workers && (c.totals->tile_counts & (1 << bits)) == 0) ++bits;
    return bits;
  }
};

/// What a strip of each pack has; numbers the packs and their lists.
struct SumPacks {
  static constexpr const char* kLabel = "espalier::StreamPlan::sum_packs";
  static constexpr const char* kMeasureLabel = "espalier::StreamPlan::measure_packs";
  using Sum = PackSums;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.rows; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.rows; }

  KOKKOS_FUNCTION static PackSums measure(const Context& c, std::int32_t row) {
    if (c.begins[row] == 0) return {};
    Pack pack{};
    pack.end = Kokkos::min(c.pack_end[row], MarkPacks::first_of(c, row / MarkPacks::window(c) + 1));
    std::int32_t last = row;
    while (c.unit_end[last] < pack.end) last = c.unit_end[last];
    const std::int32_t last_node = c.unit_node[last];
    pack.first_node = c.unit_node[row];
    pack.end_node = c.is_big(last_node) ? last_node + 1 : c.tree.subtree_end[last_node];
    c.for_each_big(row, pack.end, [&](std::int32_t node) {
      if (!c.is_copied(node)) {
        if (c.is_wide(node)) pack.below_wide = 1;
        return true;
      }
      const Parts parts =
          parts_of(c, node, Kokkos::max(row, c.tree.row_begin[node]), Kokkos::min(pack.end, c.tree.row_end[node]));
      pack.copied_segments += parts.segments();
      pack.copied_steps += parts.steps();
      pack.copied_tokens += parts.tokens();
      pack.copied_gathered += parts.gathered();
      return true;
    });
    const NodeSums& begin = c.before[pack.first_node];
    const NodeSums& end = c.before[pack.end_node];
    pack.segments = pack.copied_segments + end.segments - begin.segments;
    pack.steps = pack.copied_steps + end.steps - begin.steps;
    pack.tokens = pack.copied_tokens + end.tokens - begin.tokens;
    pack.gathered = pack.copied_gathered + end.gathered - begin.gathered;
    c.pack[row] = pack;
    return sums_of(c, pack);
  }
  KOKKOS_FUNCTION static PackSums value(const Context& c, std::int32_t row) {
    return c.begins[row] != 0 ? sums_of(c, c.pack[row]) : PackSums{};
  }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t row, const PackSums&, const PackSums& before) {
    c.pack_of[row] = before.packs - 1 + c.begins[row];
    if (c.begins[row] == 0) return;
    Pack& pack = c.pack[row];
    pack.before = before;
    c.pack_row[before.packs] = row;
    auto steps = std::int32_t(before.steps);
    std::int32_t list = before.lists;
    for (std::int32_t part = 0; part < c.strips; ++part) {
      if (pack.steps > 0) c.lists[list++] = {row, part, 0, steps};
      steps += pack.steps;
      if (pack.gathered > 0) c.lists[list++] = {row, part, 1, steps};
      steps += div_up(pack.gathered, kStepTokens);
    }
  }

  KOKKOS_FUNCTION static void total(const Context& c, const PackSums& sums) {
    c.pack_row[sums.packs] = c.tree.rows;
    c.lists[sums.lists] = {c.tree.rows, 0, 0, std::int32_t(sums.steps)};
    c.totals->packs = sums;
    c.totals->large = sums.steps * c.kv_heads > c.costs.large_steps ? 1 : 0;
  }

 private:
  KOKKOS_FUNCTION static PackSums sums_of(const Context& c, const Pack& pack) {
    const std::int64_t strips = c.strips;
    PackSums sums;
    sums.packs = 1;
    sums.lists = c.strips * ((pack.steps > 0 ? 1 : 0) + (pack.gathered > 0 ? 1 : 0));
    sums.segments = strips * pack.segments;
    sums.gathered = strips * pack.gathered;
    sums.steps = strips * (pack.steps + div_up(pack.gathered, kStepTokens));
    return sums;
  }
};

}  // namespace espalier::plan::streams
