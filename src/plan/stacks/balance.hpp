#pragma once
// Where the workers' spans of the line begin. The line is laid out by cost: equal spans of it are equal work, so that a span's
// place has a closed form. Streams stay whole, or are cut between blocks into spans for all workers or for as many as make
// spans that begin where streams do, if these are alike: whichever is predicted to take less time.

#include "turns.hpp"

namespace espalier::plan::stacks {

/// The line of streams: by stack, KV head, tile of pairs.
struct Line {
  const Context& c;

  KOKKOS_FUNCTION explicit Line(const Context& context) : c(context) {}

  KOKKOS_FUNCTION std::int64_t cost_before(std::int32_t number) const {
    return c.stack[number].before.cost * c.kv_heads;
  }
  KOKKOS_FUNCTION std::int64_t cost() const { return c.totals->all.cost * c.kv_heads; }
  KOKKOS_FUNCTION std::int32_t stream_before(std::int32_t number) const {
    return c.stack[number].before.tiles * c.kv_heads;
  }
  KOKKOS_FUNCTION std::int32_t streams() const { return c.totals->all.tiles * c.kv_heads; }

  /// The place of a cost, as near as one between blocks can be.
  /// @param whole  the nearest begin of a stream
  KOKKOS_FUNCTION Cut at(std::int64_t x, bool whole) const {
    const std::int32_t stacks = c.stacks();
    if (x >= cost()) return {streams(), 0, Kokkos::max(stacks - 1, 0), 0, cost()};
    const std::int32_t number = last_where(0, stacks, [&](std::int32_t n) { return cost_before(n) <= x; });
    const Stack& s = c.stack[number];
    const StreamCost stream_cost(c, s);
    const std::int64_t in_stack = x - cost_before(number), each = stream_cost.all();
    auto stream = std::int32_t(in_stack / each);
    const std::int64_t in_stream = in_stack - stream * each;
    std::int32_t block =
        whole ? (2 * in_stream < each ? 0 : stream_cost.blocks) : stream_cost.block_at(in_stream - stream_cost.fixed);
    if (block >= stream_cost.blocks) {
      ++stream;
      block = 0;
    }
    const std::int64_t inside = block > 0 ? stream_cost.fixed + stream_cost.until(block) : 0;
    return {stream_before(number) + stream, block, number, block > 0 ? pairs_of(c, s, stream % s.tiles) : 0,
            cost_before(number) + stream * each + inside};
  }

  /// Pairs of a stack's tile.
  KOKKOS_FUNCTION static std::int32_t pairs_of(const Context& c, const Stack& s, std::int32_t tile) {
    const std::int64_t left = std::int64_t(s.row_end - s.row_begin) * c.group - std::int64_t(tile) * detail::kTilePairs;
    return std::int32_t(Kokkos::min<std::int64_t>(left, detail::kTilePairs));
  }
  KOKKOS_FUNCTION static std::int32_t pieces(const Cut& begin, const Cut& end) {
    return begin == end ? 0 : end.stream - begin.stream + (end.block > 0 ? 1 : 0);
  }
};

/// One way to cut the line.
struct Way {
  std::int32_t workers;  ///< that have spans, which take the same time
  bool whole;            ///< streams stay whole
  std::int32_t parts;    ///< of each stream, if streams are alike; 0: spans may begin anywhere

  KOKKOS_FUNCTION Way(const Line& line, std::int32_t number)
      : workers(line.c.workers), whole(number == kWhole), parts(0) {
    const std::int32_t streams = line.streams();
    if (number != kCutAlike || streams == 0 || 2 * streams > workers) return;
    parts = workers / streams;
    const StreamCost first(line.c, line.c.stack[0]);
    if (first.full == first.half && first.blocks > 0)  // as few as leave the longest one as long
      parts = div_up(first.blocks, div_up(first.blocks, parts));
    workers = parts * streams;
  }

  /// Where a worker's span begins. Whose does inside a stream has the cost of a tile more than its part of the line.
  [[nodiscard]] KOKKOS_FUNCTION Cut begin_of(const Line& line, std::int32_t worker) const {
    worker = Kokkos::min(worker, workers);
    const std::int64_t more = line.c.costs.tile, all = line.cost() + more * begins_inside(workers);
    const std::int64_t share = all / workers, rest = all - share * workers;
    return line.at(share * worker + Kokkos::min<std::int64_t>(rest, worker) - more * begins_inside(worker), whole);
  }

 private:
  /// Workers in front of one whose spans begin inside a stream, if all do that may.
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t begins_inside(std::int32_t worker) const {
    if (whole || worker == 0) return 0;
    return parts == 0 ? worker - 1 : worker - 1 - (worker - 1) / parts;
  }
};

/// Where spans begin, each way.
struct PlaceSpans {
  static constexpr const char* kLabel = "espalier::StackPlan::place_spans";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return kWays * (c.workers + 1); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    const Line line(c);
    const std::int32_t number = i / (c.workers + 1), worker = i % (c.workers + 1);
    const Way way(line, number);
    c.cuts[i] = way.begin_of(line, worker);
    if (number == kCutAlike && worker == 0) c.totals->alike = way.parts > 1 ? 1 : 0;
  }
};

/// What the spans of each way come to; numbers their pieces.
struct SumSpans {
  static constexpr const char* kLabel = "espalier::StackPlan::sum_spans";
  static constexpr std::int64_t kNanosecond = std::int64_t(kCostsPerMicrosecond) / 1000;  ///< less is no difference
  using Sum = Spans;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return PlaceSpans::items(c); }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return items(c); }

  KOKKOS_FUNCTION static Spans value(const Context& c, std::int32_t i) {
    const std::int32_t number = i / (c.workers + 1), worker = i % (c.workers + 1);
    const Cut begin = c.cuts[i], end = c.cuts[worker < c.workers ? i + 1 : i];
    Spans spans;
    spans.way = number;
    if (worker == c.workers) return spans;
    const std::int64_t time = end.cost - begin.cost + (begin.block > 0 ? c.costs.tile : 0);
    spans.longest = std::uint32_t(Kokkos::min<std::int64_t>(time / kNanosecond, UINT32_MAX));
    spans.partials = std::uint32_t(2 * end.pairs);
    spans.pieces = Line::pieces(begin, end);
    return spans;
  }
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i, const Spans& own, const Spans& before) {
    c.tiles_before[i] = before.way == own.way ? before.pieces : 0;
    if (i % (c.workers + 1) == c.workers) c.totals->spans[own.way] = before;
  }
  KOKKOS_FUNCTION static void total(const Context&, const Spans&) {}
};

/// Which way is best, and whether all of a plan that is cut so fits.
struct ChooseWay {
  static constexpr const char* kLabel = "espalier::StackPlan::choose_way";
  KOKKOS_FUNCTION static std::int32_t items(const Context&) { return 1; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context&) { return 1; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t) {
    Totals& totals = *c.totals;
    std::int32_t best = 0;
    std::int64_t least = 0;
    for (std::int32_t number = 0; number < kWays; ++number) {
      const std::int64_t time =
          predicted(c, totals.spans[number]) - (number == kCutAlike ? totals.alike * c.costs.alike : 0);
      if (number == 0 || time < least) {
        best = number;
        least = time;
      }
    }
    const Spans spans = totals.spans[best];
    totals.way = best;
    totals.tiles = spans.pieces;
    const std::int64_t streams = std::int64_t(totals.all.tiles) * c.kv_heads;
    totals.need_segments = std::int64_t(totals.all.segments) + (totals.all.segments == kTooMany ? 1 : 0);
    totals.need_tiles = streams < kTooMany - c.workers ? spans.pieces : std::int64_t(kTooMany) + 1;
    totals.need_partials = totals.all.pairs * c.kv_heads;
    if (spans.partials > 0) totals.need_partials += std::int64_t(2) * c.workers * detail::kTilePairs;
    totals.fits = totals.need_segments <= c.segment_capacity && totals.need_tiles <= c.tile_capacity &&
                          totals.need_partials <= c.partial_capacity
                      ? 1
                      : 0;
  }

 private:
  KOKKOS_FUNCTION static std::int64_t predicted(const Context& c, const Spans& spans) {
    const std::int64_t partials = c.totals->all.pairs * c.kv_heads + spans.partials;
    return Kokkos::max(spans.longest * SumSpans::kNanosecond, memory_cost(c)) + partials * c.costs.partial +
           (partials > 0 ? c.costs.merge : 0);
  }
};

/// What orders a plan: what its stacks are, and how their line is cut.
struct CutTree {
  ESPALIER_ANY_RUNNER
  template <class Runner>
  KOKKOS_FUNCTION void operator()(const Runner& run) const {
    run.template each<FindUnits>();
    run.template each<EndStacks>();
    run.template each<MarkStacks>();
    run.template scan<NumberStacks>();
    run.template scan<SumNodes>();
    run.template scan<SumStacks>();
    run.template each<PlaceSpans, FindTurns>();
    run.template scan<SumSpans>();
    run.template each<ChooseWay>();
  }
};

}  // namespace espalier::plan::stacks
