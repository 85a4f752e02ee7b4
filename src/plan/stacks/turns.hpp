#pragma once
// Where a slot of a stack lies: above, inside the middle, or in a turn of one of its halves.

#include "stacks.hpp"

namespace espalier::plan::stacks {

/// The turns of a stack's two halves, in slots. The first one ends where a block of 128 slots does, and so do all others, up
/// to where one half has no more.
struct Turns {
  static constexpr std::int32_t kOfStack = 2 * kTurns;

  const Context& c;
  const Stack& s;
  std::int32_t shared;  ///< slots that are not in a half
  bool is_early;        ///< the halves are
  std::int32_t front;   ///< slots in front of them
  std::int32_t first;   ///< slots of the first half's first turn
  std::int32_t place;   ///< of the stack's turns in the arrays

  /// @param number  of the stack
  KOKKOS_FUNCTION Turns(const Context& context, std::int32_t number)
      : c(context),
        s(context.stack[number]),
        shared(s.shared_slots()),
        is_early(context.totals->alternate != 0 && s.alone == 0 && (number - context.totals->nodes.alone) % 2 == 1),
        front(is_early ? s.early_slots() : shared),
        first(s.turn_slots - front % detail::kTileSlots),
        place((number - context.totals->nodes.alone) * kOfStack) {}

  [[nodiscard]] KOKKOS_FUNCTION std::int32_t slots_of_halves() const { return s.slots - shared; }
  KOKKOS_FUNCTION bool is_shared(std::int32_t slot) const { return slot < front || slot >= front + slots_of_halves(); }
  /// The slots in front of halves of the node that begins at a shared slot; 0 where they do not part it.
  KOKKOS_FUNCTION std::int32_t parted(std::int32_t shared_slot) const {
    return is_early && shared_slot == 0 ? front : 0;
  }

  /// The first slot of a turn in its half; its end where there is no such turn.
  KOKKOS_FUNCTION std::int32_t begin(std::int32_t half, std::int32_t turn) const {
    const std::int32_t at = half == 1 ? turn * s.turn_slots : turn == 0 ? 0 : first + (turn - 1) * s.turn_slots;
    return Kokkos::min(at, s.half_slots[half]);
  }
  /// The turn that a slot of a half is in.
  KOKKOS_FUNCTION std::int32_t turn_of(std::int32_t half, std::int32_t slot) const {
    if (half == 1) return slot / s.turn_slots;
    return slot < first ? 0 : 1 + (slot - first) / s.turn_slots;
  }
  KOKKOS_FUNCTION std::int32_t count(std::int32_t half) const {
    return s.half_slots[half] > 0 ? turn_of(half, s.half_slots[half] - 1) + 1 : 0;
  }
  /// Slots of the stack in front of a turn.
  KOKKOS_FUNCTION std::int32_t slots_before(std::int32_t half, std::int32_t turn) const {
    return front + begin(half, turn) + (half == 0 ? begin(1, turn) : begin(0, turn + 1));
  }

  KOKKOS_FUNCTION std::int32_t first_node(std::int32_t half) const { return half == 0 ? s.first_node : s.middle_node; }
  KOKKOS_FUNCTION std::int32_t end_node(std::int32_t half) const { return half == 0 ? s.middle_node : s.end_node; }
  /// The node that holds the first slot of a turn.
  KOKKOS_FUNCTION std::int32_t node(std::int32_t half, std::int32_t turn) const {
    return turn < count(half) ? c.turn_node[place + half * kTurns + turn] : end_node(half);
  }
  /// The node of [from, to) that holds a slot of a half.
  KOKKOS_FUNCTION std::int32_t node_of(std::int32_t half, std::int32_t slot, std::int32_t from, std::int32_t to) const {
    const std::int32_t before = c.before[first_node(half)].slots;
    return last_where(from, to, [&](std::int32_t node) { return c.before[node].slots - before <= slot; });
  }
  /// Segments of a half in front of a turn: one for each node, and one more for each turn that begins inside a node.
  KOKKOS_FUNCTION std::int32_t segments_of_half(std::int32_t half, std::int32_t turn) const {
    if (s.half_slots[half] == 0) return 0;
    const std::uint32_t turns = (2u << Kokkos::min(turn, kTurns - 1)) - 1;
    const std::uint32_t inside = c.inside[place / kOfStack] >> half * kTurns & turns;
    return c.before[node(half, turn)].listed - c.before[first_node(half)].listed + bits_of(inside);
  }
  /// Segments of the stack in front of a turn.
  KOKKOS_FUNCTION std::int32_t segments_before(std::int32_t half, std::int32_t turn) const {
    return front_segments() + segments_of_half(0, half == 0 ? turn : turn + 1) + segments_of_half(1, turn);
  }
  KOKKOS_FUNCTION std::int32_t shared_segments() const {
    return s.above_segments + s.inner_segments + (is_early && s.splits_top() ? 1 : 0);
  }
  KOKKOS_FUNCTION std::int32_t front_segments() const { return !is_early ? shared_segments() : front > 0 ? 1 : 0; }
  KOKKOS_FUNCTION std::int32_t segments() const {
    return shared_segments() + segments_of_half(0, count(0)) + segments_of_half(1, count(1));
  }
  /// The end of those that are not in a half.
  KOKKOS_FUNCTION std::int32_t shared_segments_end() const { return is_early ? segments() : shared_segments(); }
};

/// The nodes that turns begin in: of all stacks of units first the halves' first turns, which most have, and then the second ones.
struct FindTurns {
  static constexpr const char* kLabel = "espalier::StackPlan::find_turns";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.totals->stacks * Turns::kOfStack; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.tree.rows * Turns::kOfStack; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    const std::int32_t halves = 2 * c.totals->stacks, turn = i / halves, stack = i % halves / 2, half = i % 2;
    const Turns turns(c, c.totals->nodes.alone + stack);
    if (turn >= turns.count(half)) return;
    const std::int32_t slot = turns.begin(half, turn);
    const std::int32_t node = turns.node_of(half, slot, turns.first_node(half), turns.end_node(half));
    c.turn_node[turns.place + half * kTurns + turn] = node;
    if (slots_between(c, turns.first_node(half), node) < slot)
      Kokkos::atomic_or(&c.inside[stack], 1u << (half * kTurns + turn));
  }
};
static_assert(2 * kTurns == 32, "`inside` has a bit for each");

/// A slot of a stack.
struct Place {
  std::int32_t segment = 0;  ///< of the stack's list
  std::int32_t skip = 0;     ///< slots of that segment in front of it
  std::int32_t left = 0;     ///< and from it on
  std::int32_t half = -1;    ///< -1: both see it
  std::int32_t turn = -1;
  std::int32_t node = -1;

  KOKKOS_FUNCTION Place(const Turns& turns, std::int32_t slot) {
    if (turns.is_shared(slot)) {
      find_shared(turns, slot);
      return;
    }
    const std::int32_t turns_of_longer = Kokkos::max(turns.count(0), turns.count(1));
    turn = last_where(0, turns_of_longer, [&](std::int32_t t) { return turns.slots_before(0, t) <= slot; });
    half = slot < turns.slots_before(1, turn) ? 0 : 1;
    const std::int32_t of_half = turns.begin(half, turn) + slot - turns.slots_before(half, turn);
    const std::int32_t begin = turns.node(half, turn);
    const std::int32_t end = Kokkos::min(turns.node(half, turn + 1) + 1, turns.end_node(half));
    node = turns.node_of(half, of_half, begin, end);
    const std::int32_t node_first = slots_between(turns.c, turns.first_node(half), node);
    const std::int32_t first = Kokkos::max(node_first, turns.begin(half, turn));
    const std::int32_t last =
        Kokkos::min(slots_between(turns.c, turns.first_node(half), node + 1), turns.begin(half, turn + 1));
    segment = turns.segments_before(half, turn) + turns.c.before[node].listed - turns.c.before[begin].listed;
    skip = of_half - first;
    left = last - of_half;
  }

 private:
  KOKKOS_FUNCTION void find_shared(const Turns& turns, std::int32_t slot) {
    const std::int32_t at = slot < turns.front ? slot : slot - turns.slots_of_halves();
    std::int32_t end = turns.shared, number = turns.shared_segments_end();
    std::int32_t topmost = -1;
    const auto enter = [&](std::int32_t member, std::int32_t tokens) {
      const std::int32_t begin = end - detail::stack_slots(tokens), first = begin + turns.parted(begin);
      --number;
      if (first <= at && at < end) {
        segment = number;
        skip = at - first;
        left = end - at;
        node = member;
      }
      end = begin;
      topmost = member;
    };
    turns.c.for_each_inner(turns.s, enter);
    turns.c.for_each_above(turns.s, enter);
    if (node >= 0) return;
    skip = at;  // in front of early halves
    left = turns.front - at;
    node = topmost;
  }
};

}  // namespace espalier::plan::stacks
