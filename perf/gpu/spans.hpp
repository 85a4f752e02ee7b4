#pragma once
// Spans of a line of stacks for workers, by what stacks are predicted to cost: each worker takes the next ones until its time
// is full, and the time is the shortest that suffices for all.

#include <algorithm>
#include <cmath>
#include <vector>

#include "espalier/detail/fused_plan.hpp"

namespace espalier::perf {

/// What blocks of 128 slots of a stack take, in microseconds.
struct StackCost {
  int blocks;
  double block;
  double tile;               ///< once for each span
  int half_begin, half_end;  ///< blocks of which one half of the pairs sees nothing: each takes `half_block`
  double half_block;

  [[nodiscard]] double of_blocks_before(int end) const {
    const int halves = std::clamp(end, half_begin, half_end) - half_begin;
    return (end - halves) * block + halves * half_block;
  }
  [[nodiscard]] double of(int begin, int end) const { return of_blocks_before(end) - of_blocks_before(begin) + tile; }

  /// How many blocks from one on a time suffices for.
  [[nodiscard]] int fitting(int begin, double time) const {
    const double end_time = of_blocks_before(begin) + time - tile + 1e-9;
    const auto count = [](double rest, double each) {
      return static_cast<int>(std::min(std::floor(rest / each), 1e8));
    };
    if (end_time < of_blocks_before(half_begin)) return count(end_time, block) - begin;
    if (end_time < of_blocks_before(half_end))
      return half_begin + count(end_time - of_blocks_before(half_begin), half_block) - begin;
    return half_end + count(end_time - of_blocks_before(half_end), block) - begin;
  }
};

/// Blocks [begin, end) of a stack.
struct Span {
  int stack, begin, end;
};

/// Of each worker.
using Spans = std::vector<std::vector<Span>>;

/// @param whole  stacks are not cut
/// @returns when the last worker has finished
inline double spread(const std::vector<StackCost>& line, int workers, bool whole, Spans& spans) {
  const auto fits = [&](double finish) {
    spans.assign(static_cast<std::size_t>(workers), {});
    std::size_t worker = 0;
    double left = finish;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const StackCost& cost = line[i];
      for (int done = 0; done < cost.blocks;) {
        const int room = cost.fitting(done, left), rest = cost.blocks - done;
        const int blocks = room >= rest ? rest : whole ? 0 : std::max(room, 0);
        if (blocks > 0) {
          spans[worker].push_back({static_cast<int>(i), done, done + blocks});
          left -= cost.of(done, done + blocks);
          done += blocks;
        }
        if (blocks == rest) continue;
        if (++worker == spans.size()) return false;
        left = finish;
      }
    }
    return true;
  };
  double low = 0, high = 1;
  while (!fits(high)) high *= 1.5;
  for (int i = 0; i < 30; ++i) {
    const double middle = (low + high) / 2;
    (fits(middle) ? high : low) = middle;
  }
  fits(high);
  return high;
}

}  // namespace espalier::perf
