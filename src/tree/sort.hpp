#pragma once
// A stable merge sort of (64-bit key, item) as steps of a program. It does nothing where the keys are sorted already.
//
// An Order says what is sorted: kLabel, kWhich (its flag in Status::unsorted), items(context), key(context, item).

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

template <class Order>
struct Sorting {
  static constexpr std::int32_t kRun = 8;  ///< items that one thread sorts in its registers

  template <class Context>
  KOKKOS_FUNCTION static std::int32_t passes(const Context& c) {
    std::int32_t passes = 0;
    for (std::int64_t width = kRun; width < Order::items(c); width *= 2) ++passes;
    return passes;
  }

  /// The buffer that `passes_left` passes before the end is read.
  template <class Context>
  KOKKOS_FUNCTION static SortBuffer buffer(const Context& c, std::int32_t passes_left) {
    return passes_left % 2 == 0 ? SortBuffer{c.sort.keys_a, c.sort.items_a} : SortBuffer{c.sort.keys_b, c.sort.items_b};
  }

  /// Computes the keys and sorts runs of kRun items.
  struct Runs {
    static constexpr const char* kLabel = Order::kLabel;

    template <class Context>
    KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
      return (Order::items(c) + kRun - 1) / kRun;
    }

    template <class Context>
    KOKKOS_FUNCTION static void run(const Context& c, std::int32_t run) {
      const std::int32_t first = run * kRun;
      const std::int32_t items = Order::items(c);
      std::uint64_t keys[kRun];
      std::int32_t item[kRun];
      bool sorted = true;
      std::uint64_t previous = first == 0 ? 0 : Order::key(c, first - 1);
      for (std::int32_t i = 0; i < kRun; ++i) {
        item[i] = first + i;
        keys[i] = first + i < items ? Order::key(c, first + i) : ~std::uint64_t{0};
        sorted = sorted && previous <= keys[i];
        previous = keys[i];
      }
      if (!sorted) Kokkos::atomic_store(&c.status->unsorted[Order::kWhich], 1);
      // Odd-even transposition: all indices are constants once the loops are unrolled.
      for (std::int32_t round = 0; round < kRun; ++round)
        for (std::int32_t i = round % 2; i + 1 < kRun; i += 2)
          if (keys[i] > keys[i + 1]) {
            Kokkos::kokkos_swap(keys[i], keys[i + 1]);
            Kokkos::kokkos_swap(item[i], item[i + 1]);
          }
      const SortBuffer out = buffer(c, passes(c));
      for (std::int32_t i = 0; i < kRun; ++i)
        if (first + i < items) {
          out.keys[first + i] = keys[i];
          out.items[first + i] = item[i];
        }
    }
  };

  /// Merges neighbouring runs: an item's new place is its own plus that in the other run.
  struct Merge {
    static constexpr const char* kLabel = Order::kLabel;

    template <class Context>
    KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
      return Order::items(c);
    }

    template <class Context>
    KOKKOS_FUNCTION static std::int32_t passes(const Context& c) {
      return Sorting::passes(c);
    }

    template <class Context>
    KOKKOS_FUNCTION static void run(const Context& c, std::int32_t pass, std::int32_t i) {
      if (c.status->unsorted[Order::kWhich] == 0) return;
      const std::int32_t left = Sorting::passes(c) - pass;
      const SortBuffer in = buffer(c, left);
      const SortBuffer out = buffer(c, left - 1);
      const std::int64_t width = std::int64_t{kRun} << pass;
      const std::int64_t items = Order::items(c);
      const std::int64_t pair_begin = i / (2 * width) * (2 * width);
      const std::int64_t middle = pair_begin + width < items ? pair_begin + width : items;
      const std::int64_t pair_end = middle + width < items ? middle + width : items;
      const std::uint64_t key = in.keys[i];
      // Among equal keys the left run goes first. Keys are below 2^64 - 1 or, all of them equal, at the end.
      std::int64_t place;
      if (i < middle) {
        place = i + (lower_bound(in.keys, std::int32_t(middle), std::int32_t(pair_end), key) - middle);
      } else if (key == ~std::uint64_t{0}) {
        place = i;
      } else {
        place = i - middle + lower_bound(in.keys, std::int32_t(pair_begin), std::int32_t(middle), key + 1);
      }
      out.keys[place] = key;
      out.items[place] = in.items[i];
    }
  };

  using Steps = Program<Each<Runs>, Passes<Merge>>;

  /// Where the result lies.
  template <class Context>
  KOKKOS_FUNCTION static SortBuffer result(const Context& c) {
    return buffer(c, c.status->unsorted[Order::kWhich] == 0 ? passes(c) : 0);
  }
};

}  // namespace espalier::derive
