#pragma once
// A stable merge sort of (64-bit key, item) as steps of a program. It does nothing where the keys are sorted already.
//
// An Order says what is sorted: kLabel, kWhich (its flag in Status::unsorted), items(context), key(context, item).

#include <Kokkos_BitManipulation.hpp>
#include <Kokkos_Core.hpp>
#include <cstdint>

#include "program.hpp"

namespace espalier::derive {

/// Two buffers; a pass reads one and writes the other.
struct SortBuffers {
  std::uint64_t* keys_a;
  std::uint64_t* keys_b;
  std::int32_t* items_a;
  std::int32_t* items_b;
};

struct SortBuffer {
  std::uint64_t* keys;
  std::int32_t* items;
};

/// First place in keys [begin, end) whose key is not below the given one.
KOKKOS_INLINE_FUNCTION std::int32_t lower_bound(const std::uint64_t* keys, std::int32_t begin, std::int32_t end,
                                                std::uint64_t key) {
  while (begin < end) {
    const std::int32_t middle = begin + (end - begin) / 2;
    if (keys[middle] < key) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

KOKKOS_INLINE_FUNCTION std::int32_t bit_width(std::uint32_t number) {
  return 32 - Kokkos::Experimental::countl_zero_builtin(number);
}

template <class Order>
struct Sorting {
  static constexpr std::int32_t kRun = 8;  ///< items that one thread sorts in its registers

  template <class Context>
  KOKKOS_FUNCTION static std::int32_t passes(const Context& c) {
    const std::int32_t items = Order::items(c);
    return items <= kRun ? 0 : bit_width(std::uint32_t(items - 1) / kRun);
  }

  /// The buffer that `passes_left` passes before the end is read.
  template <class Context>
  KOKKOS_FUNCTION static SortBuffer buffer(const Context& c, std::int32_t passes_left) {
    return passes_left % 2 == 0 ? SortBuffer{c.sort.keys_a, c.sort.items_a} : SortBuffer{c.sort.keys_b, c.sort.items_b};
  }

  /// Computes the keys.
  struct Keys {
    static constexpr const char* kLabel = Order::kLabel;

    template <class Context>
    KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
      return Order::items(c);
    }

    template <class Context>
    KOKKOS_FUNCTION static void run(const Context& c, std::int32_t item) {
      const std::uint64_t key = Order::key(c, item);
      if (item > 0 && Order::key(c, item - 1) > key) Kokkos::atomic_store(&c.status->unsorted[Order::kWhich], 1);
      const SortBuffer out = buffer(c, passes(c));
      out.keys[item] = key;
      out.items[item] = item;
    }
  };

  /// Sorts runs of kRun items.
  struct Runs {
    static constexpr const char* kLabel = Order::kLabel;

    template <class Context>
    KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
      return (Order::items(c) + kRun - 1) / kRun;
    }

    template <class Context>
    KOKKOS_FUNCTION static void run(const Context& c, std::int32_t run) {
      if (is_sorted(c)) return;
      const SortBuffer buffer = Sorting::buffer(c, Sorting::passes(c));
      const std::int32_t first = run * kRun;
      const std::int32_t items = Order::items(c);
      std::uint64_t keys[kRun];
      std::int32_t item[kRun];
      for (std::int32_t i = 0; i < kRun; ++i) {
        item[i] = first + i;
        keys[i] = first + i < items ? buffer.keys[first + i] : ~std::uint64_t{0};
      }
      // Odd-even transposition: all indices are constants once the loops are unrolled.
      for (std::int32_t round = 0; round < kRun; ++round)
        for (std::int32_t i = round % 2; i + 1 < kRun; i += 2)
          if (keys[i] > keys[i + 1]) {
            Kokkos::kokkos_swap(keys[i], keys[i + 1]);
            Kokkos::kokkos_swap(item[i], item[i + 1]);
          }
      for (std::int32_t i = 0; i < kRun; ++i)
        if (first + i < items) {
          buffer.keys[first + i] = keys[i];
          buffer.items[first + i] = item[i];
        }
    }
  };

  /// Merges pairs of neighbouring runs. A thread writes merge_share neighbouring items: where they come from in the two
  /// runs is found by bisection, then they are merged one by one.
  /// Method: Odeh, Green, Mwassi, Shmueli and Birk 2012, "Merge path: parallel merging made simple".
  struct Merge {
    static constexpr const char* kLabel = Order::kLabel;

    template <class Context>
    KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
      return (Order::items(c) + c.merge_share - 1) / c.merge_share;
    }

    template <class Context>
    KOKKOS_FUNCTION static std::int32_t passes(const Context& c) {
      return Sorting::passes(c);
    }

    template <class Context>
    KOKKOS_FUNCTION static bool idle(const Context& c) {
      return is_sorted(c);
    }

    template <class Context>
    KOKKOS_FUNCTION static void run(const Context& c, std::int32_t pass, std::int32_t share) {
      if (is_sorted(c)) return;
      const std::int32_t left = Sorting::passes(c) - pass;
      const SortBuffer in = buffer(c, left);
      const SortBuffer out = buffer(c, left - 1);
      const std::uint32_t width = std::uint32_t{kRun} << pass;
      const auto items = std::uint32_t(Order::items(c));
      const auto at_most = [=](std::uint32_t place, std::uint32_t end) { return place < end ? place : end; };
      std::uint32_t begin = std::uint32_t(share) * std::uint32_t(c.merge_share);
      const std::uint32_t share_end = at_most(begin + std::uint32_t(c.merge_share), items);
      while (begin < share_end) {
        const std::uint32_t first = begin & ~(2 * width - 1);
        const std::uint32_t middle = at_most(first + width, items);
        const std::uint32_t last = at_most(middle + width, items);
        const std::uint32_t end = at_most(share_end, last);
        merge(in, out, {first, middle, last}, begin, end);
        begin = end;
      }
    }

   private:
    /// The runs [first, middle) and [middle, last).
    struct Pair {
      std::uint32_t first, middle, last;
    };

    /// Writes places [begin, end) of the merged pair. Among equal keys the left run goes first.
    KOKKOS_FUNCTION static void merge(const SortBuffer& in, const SortBuffer& out, const Pair& pair,
                                      std::uint32_t begin, std::uint32_t end) {
      // Of the places before `begin`, those up to `a` come from the left run, as many as are left from the right one.
      const std::uint32_t before = begin - pair.first;
      const std::uint32_t right = pair.last - pair.middle;
      std::uint32_t a = pair.first + (before > right ? before - right : 0);
      for (std::uint32_t high = begin < pair.middle ? begin : pair.middle; a < high;) {
        const std::uint32_t middle = a + (high - a) / 2;
        if (in.keys[middle] <= in.keys[pair.middle + begin - middle - 1]) {
          a = middle + 1;
        } else {
          high = middle;
        }
      }
      std::uint32_t b = pair.middle + begin - a;
      for (std::uint32_t place = begin; place < end; ++place) {
        const bool from_left = b == pair.last || (a < pair.middle && in.keys[a] <= in.keys[b]);
        const std::uint32_t from = from_left ? a++ : b++;
        out.keys[place] = in.keys[from];
        out.items[place] = in.items[from];
      }
    }
  };

  /// What follows the step Keys.
  struct OfKeys : Program<Each<Runs>, Passes<Merge>> {};
  struct Steps : Program<Each<Keys>, OfKeys> {};

  /// Known once there are keys.
  template <class Context>
  KOKKOS_FUNCTION static bool is_sorted(const Context& c) {
    return c.status->unsorted[Order::kWhich] == 0;
  }

  /// Where the result lies.
  template <class Context>
  KOKKOS_FUNCTION static SortBuffer result(const Context& c) {
    return buffer(c, is_sorted(c) ? passes(c) : 0);
  }
};

}  // namespace espalier::derive
