#pragma once
// From a tree to its stacks: units, which of them go together, which nodes are alone, and how many slots each stack has.

#include "runners.hpp"

namespace espalier::plan::stacks {

/// The unit of each row, which the thread of its node finds where that is big, and else the thread of the small subtree's
/// root; clears what later steps add to.
struct FindUnits {
  static constexpr const char* kLabel = "espalier::StackPlan::find_units";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    return Kokkos::max(Kokkos::max(c.tree.nodes, c.tree.rows), 1);
  }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    if (i == 0) {
      *c.totals = Totals{};
      ++*c.updates;
    }
    if (c.share_entries != nullptr)
      for (std::int32_t share = i; share < c.merge_shares(); share += items(c)) c.share_entries[share] = 0;
    // What the row and the node need is asked for before anything is written.
    const bool is_row = i < c.tree.rows, is_node = i < c.tree.nodes;
    const std::int32_t row_node = is_row ? c.tree.row_node[i] : 0, parent = is_node ? c.tree.parent[i] : -1;
    const std::int32_t begin = is_node ? c.tree.row_begin[i] : 0, end = is_node ? c.tree.row_end[i] : 0;
    const bool of_big = is_row && c.is_big(row_node), below_big = parent < 0 || c.is_big(parent);
    if (is_row) {
      c.begins[i] = 0;
      c.inside[i] = 0;
      if (of_big) c.unit[i] = {i, row_node, row_node};
    }
    if (end - begin > c.small_rows || !below_big) return;
    for (std::int32_t row = begin; row < end; ++row) c.unit[row] = {begin, i, parent};
  }
};

/// Where a stack would end that begins with a unit: what lies above it is above all its units.
struct EndStacks {
  static constexpr const char* kLabel = "espalier::StackPlan::end_stacks";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.rows; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.rows; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t row) {
    const Unit unit = c.unit[row];
    if (unit.row != row) return;
    const std::int32_t limit = row + c.stack_rows;
    std::int32_t end = limit < c.tree.rows ? c.unit[limit].row : c.tree.rows;
    // A big node between two units of the same one would be between them with all its rows, which are too many.
    const auto is_same = [&](std::int32_t r) { return c.unit[r].above == unit.above; };
    if (!is_same(end - 1)) end = last_where(row, end, is_same) + 1;
    c.stack_end[row] = end;
  }
};

/// Rows are cut into windows in which packing begins afresh, each for one thread.
struct MarkStacks {
  static constexpr const char* kLabel = "espalier::StackPlan::mark_stacks";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return div_up(c.tree.rows, c.window_rows); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t number) {
    const std::int32_t end = first_of(c, number + 1);
    for (std::int32_t row = first_of(c, number); row < end; row = c.stack_end[row]) c.begins[row] = 1;
  }

 private:
  /// Where the first unit in a window begins, or the first one behind it.
  KOKKOS_FUNCTION static std::int32_t first_of(const Context& c, std::int32_t number) {
    const std::int32_t row = number * c.window_rows;
    if (row >= c.tree.rows) return c.tree.rows;
    const Unit unit = c.unit[row];
    return unit.row == row ? row : c.tree.row_end[unit.node];
  }
};

struct NumberStacks {
  static constexpr const char* kLabel = "espalier::StackPlan::number_stacks";
  using Sum = Count;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.rows; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.rows; }

  KOKKOS_FUNCTION static Count value(const Context& c, std::int32_t row) { return {c.begins[row]}; }
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t row, const Count& own, const Count& before) {
    c.stack_of[row] = before.count + own.count - 1;
    if (own.count != 0) c.stack_row[before.count] = row;
  }
  KOKKOS_FUNCTION static void total(const Context& c, const Count& sum) {
    c.stack_row[sum.count] = c.tree.rows;
    c.totals->stacks = sum.count;
  }
};

/// What 128 slots of a stack cost, and those that one half alone sees.
struct BlockCosts {
  std::int64_t full, half;
  KOKKOS_FUNCTION BlockCosts(const Context& c, std::int64_t pairs) {
    const bool few = pairs <= detail::kTilePairs / 2;
    full = few ? c.costs.small_block : c.costs.block;
    half = few ? c.costs.small_block : c.costs.half_block;
  }
};

/// Pairs in front of the middle of a tile are those of one warpgroup.
struct Middle {
  std::int32_t last_row, row;  ///< of the pair in front of it, and of the pair behind it

  KOKKOS_FUNCTION Middle(const Context& c, std::int32_t row_begin)
      : last_row(row_begin + c.half_last), row(row_begin + c.half_rows) {}
  KOKKOS_FUNCTION bool is_inside(std::int32_t row_begin, std::int32_t row_end) const {
    return row_begin <= last_row && row < row_end;
  }
};

KOKKOS_INLINE_FUNCTION std::int64_t tiles_of(std::int64_t pairs) {
  return div_up(pairs, std::int64_t(detail::kTilePairs));
}

/// Which nodes are alone; what small nodes add to the halves of their stacks.
struct SumNodes {
  static constexpr const char* kLabel = "espalier::StackPlan::sum_nodes";
  static constexpr const char* kMeasureLabel = "espalier::StackPlan::measure_nodes";
  using Sum = NodeSums;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.tree.nodes; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.nodes; }

  KOKKOS_FUNCTION static NodeSums measure(const Context& c, std::int32_t node) {
    const std::int32_t parent = c.tree.parent[node], row_begin = c.tree.row_begin[node], row_end = c.tree.row_end[node];
    const std::int32_t tokens = c.seen(node);
    const NodeSums sums = sums_of(c, tokens, row_begin, row_end);
    const NodeKind kind = sums.alone != 0 ? kAlone : row_end - row_begin > c.small_rows ? kBig : kSmall;
    c.before[node] = sums;
    c.path_node[node] = {parent, row_begin, tokens, kind};
    return sums;
  }
  KOKKOS_FUNCTION static NodeSums value(const Context& c, std::int32_t node) { return c.before[node]; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t node, const NodeSums& own, const NodeSums& before) {
    c.before[node] = before;
    if (own.alone != 0) c.alone_node[before.alone] = node;
  }
  KOKKOS_FUNCTION static void total(const Context& c, const NodeSums& sums) {
    c.before[c.tree.nodes] = sums;
    c.totals->nodes = sums;
  }

 private:
  KOKKOS_FUNCTION static NodeSums sums_of(const Context& c, std::int32_t tokens, std::int32_t row_begin,
                                          std::int32_t row_end) {
    NodeSums sums;
    if (tokens == 0) return sums;
    sums.runs = div_up(tokens, detail::kStackSlots);
    const std::int32_t stack = c.stack_of[row_begin];
    if (row_end - row_begin <= c.small_rows) {
      if (Middle(c, c.stack_row[stack]).is_inside(row_begin, row_end)) return sums;
      sums.listed = 1;
      sums.slots = detail::stack_slots(tokens);
      return sums;
    }
    // A node whose rows fill more tiles in stacks than by itself by an eighth is alone.
    const std::int64_t stacks = (row_end < c.tree.rows ? c.stack_of[row_end] : c.totals->stacks) - stack;
    const std::int64_t tiles = tiles_of(std::int64_t(row_end - row_begin) * c.group);
    sums.alone = tokens >= kShortTokens && 8 * stacks * tiles_of(c.group) > 9 * tiles ? 1 : 0;
    return sums;
  }
};

/// Slots of the small nodes in front of a node, of the same half of a stack.
KOKKOS_INLINE_FUNCTION std::int32_t slots_between(const Context& c, std::int32_t first, std::int32_t node) {
  return c.before[node].slots - c.before[first].slots;
}

/// What a stream costs, block by block.
struct StreamCost {
  std::int64_t fixed, full, half;
  std::int32_t blocks, half_begin, half_end;  ///< blocks [half_begin, half_end) cost `half`

  KOKKOS_FUNCTION StreamCost(const Context& c, const Stack& s) : fixed(c.costs.tile) {
    const BlockCosts costs(c, std::int64_t(s.row_end - s.row_begin) * c.group);
    full = costs.full;
    half = costs.half;
    blocks = div_up(s.slots, detail::kTileSlots);
    half_begin = div_up(s.shared_slots(), detail::kTileSlots);
    half_end = s.half_slots[0] + s.half_slots[1] > 0 ? blocks : half_begin;
  }
  /// Blocks in front of one.
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t until(std::int32_t block) const {
    const std::int32_t halves = Kokkos::clamp(block, half_begin, half_end) - half_begin;
    return (block - halves) * full + halves * half;
  }
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t all() const { return fixed + until(blocks); }
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t halves() const { return (half_end - half_begin) * half; }

  /// The block whose begin is nearest to a cost.
  [[nodiscard]] KOKKOS_FUNCTION std::int32_t block_at(std::int64_t cost) const {
    if (cost <= 0) return 0;
    const bool in_halves = cost >= until(half_begin) && cost < until(half_end);
    const std::int32_t first = cost < until(half_begin) ? 0 : in_halves ? half_begin : half_end;
    const std::int64_t each = in_halves ? half : full;
    return first + std::int32_t((cost - until(first) + each / 2) / each);
  }
};

/// What memory takes to bring all tokens once.
KOKKOS_INLINE_FUNCTION std::int64_t memory_cost(const Context& c) {
  return std::int64_t(c.totals->nodes.runs) * c.kv_heads * c.costs.memory_run;
}

/// What each stack has.
struct SumStacks {
  static constexpr const char* kLabel = "espalier::StackPlan::sum_stacks";
  static constexpr const char* kMeasureLabel = "espalier::StackPlan::measure_stacks";
  using Sum = StackSums;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.stacks(); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.nodes + c.tree.rows; }

  KOKKOS_FUNCTION static StackSums measure(const Context& c, std::int32_t number) {
    const std::int32_t alone = c.totals->nodes.alone;
    Stack s = number < alone ? of_alone(c, c.alone_node[number]) : of_units(c, number - alone);
    s.slots = s.shared_slots() + s.half_slots[0] + s.half_slots[1];
    s.tiles = s.slots > 0 ? std::int32_t(tiles_of(std::int64_t(s.row_end - s.row_begin) * c.group)) : 0;
    s.before = own_sums(c, s);
    c.stack[number] = s;
    return s.before;
  }
  KOKKOS_FUNCTION static StackSums value(const Context& c, std::int32_t number) { return c.stack[number].before; }
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t number, const StackSums&, const StackSums& before) {
    c.stack[number].before = before;
  }
  KOKKOS_FUNCTION static void total(const Context& c, const StackSums& sums) {
    c.stack[c.stacks()].before = sums;
    c.totals->all = sums;
    c.totals->alternate = alternates(c, sums) ? 1 : 0;
  }

 private:
  /// Workers that take whole stacks would all be above at the same time, when memory has nothing to do, and then all wait for
  /// memory below. Where halves take longer to arrive than to compute, but not longer than everything, every other stack has
  /// them early.
  KOKKOS_FUNCTION static bool alternates(const Context& c, const StackSums& all) {
    const std::int64_t memory = memory_cost(c) * c.workers;
    const std::int64_t streams = std::int64_t(all.tiles) * c.kv_heads;
    return 10 * streams >= 9 * c.workers && all.half_cost * c.kv_heads < memory &&
           5 * memory < 4 * all.cost * c.kv_heads;
  }

  KOKKOS_FUNCTION static Stack of_alone(const Context& c, std::int32_t node) {
    Stack s{};
    s.row_begin = c.tree.row_begin[node];
    s.row_end = c.tree.row_end[node];
    s.above = node;
    s.alone = s.merged = 1;
    s.above_segments = 1;
    s.above_slots = detail::stack_slots(c.path_node[node].tokens);
    s.inner = -1;
    s.first_node = s.middle_node = s.end_node = node;
    s.turn_slots = detail::kTileSlots;
    return s;
  }

  KOKKOS_FUNCTION static Stack of_units(const Context& c, std::int32_t number) {
    Stack s{};
    s.row_begin = c.stack_row[number];
    s.row_end = c.stack_row[number + 1];
    s.above = c.unit[s.row_begin].above;
    find_small_nodes(c, s);
    for (std::int32_t number_of_node = s.above; number_of_node >= 0;) {
      const PathNode node = c.path_node[number_of_node];
      if (node.kind == kAlone) {
        s.merged = 1;
      } else if (node.tokens > 0) {
        ++s.above_segments;
        s.top_slots = detail::stack_slots(node.tokens);
        s.above_slots += s.top_slots;
      }
      number_of_node = node.parent;
    }
    c.for_each_inner(s, [&](std::int32_t, std::int32_t tokens) {
      ++s.inner_segments;
      s.inner_slots += detail::stack_slots(tokens);
      if (s.above_segments == 0) s.top_slots = detail::stack_slots(tokens);
    });
    s.half_slots[0] = slots_between(c, s.first_node, s.middle_node);
    s.half_slots[1] = slots_between(c, s.middle_node, s.end_node);
    // The first turn may end up to a block before it is full.
    const std::int32_t most = Kokkos::max(s.half_slots[0] + detail::kTileSlots, s.half_slots[1]);
    s.turn_slots = Kokkos::max(div_up(most, kTurns * detail::kTileSlots), 1) * detail::kTileSlots;
    return s;
  }

  KOKKOS_FUNCTION static StackSums own_sums(const Context& c, const Stack& s) {
    StackSums sums;
    sums.tiles = s.tiles;
    const StreamCost cost(c, s);
    sums.cost = s.tiles * cost.all();
    sums.half_cost = s.tiles * cost.halves();
    sums.pairs = s.merged != 0 && s.tiles > 0 ? std::int64_t(s.row_end - s.row_begin) * c.group : 0;
    sums.segments = s.above_segments + s.inner_segments + c.before[s.end_node].listed - c.before[s.first_node].listed;
    sums.segments += s.splits_top() ? 1 : 0;
    for (const std::int32_t slots : s.half_slots)
      sums.segments += slots > 0 ? div_up(slots + detail::kTileSlots, s.turn_slots) - 1 : 0;  // further parts of nodes
    return sums;
  }

  KOKKOS_FUNCTION static void find_small_nodes(const Context& c, Stack& s) {
    const std::int32_t last = c.unit[s.row_end - 1].node;
    s.first_node = c.unit[s.row_begin].node;
    s.end_node = c.is_big(last) ? last + 1 : c.tree.subtree_end[last];
    s.middle_node = s.end_node;
    s.inner = -1;
    const Middle middle(c, s.row_begin);
    if (middle.row >= s.row_end) return;
    // From the node of the row behind the middle up: first those that begin there, then those that began before. A big node:
    // only rows of it are in front of it, and small nodes behind it.
    std::int32_t number = c.tree.row_node[middle.row];
    s.middle_node = number + 1;
    while (number >= 0) {
      const PathNode node = c.path_node[number];
      if (node.kind != kSmall) return;
      if (node.row_begin <= middle.last_row) {
        s.inner = number;
        return;
      }
      s.middle_node = number;
      number = node.parent;
    }
  }
};

}  // namespace espalier::plan::stacks
