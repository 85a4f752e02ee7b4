#pragma once
// Where the workers' spans of the line begin. The line is laid out by cost: equal spans of it are equal work, so that a span's
// place has a closed form. Streams stay whole, or are cut between blocks into spans for all workers or for as many as make
// spans that begin where streams do, if these are alike: whichever is predicted to take less time.

#include "turns.hpp"

namespace espalier::plan::stacks {

/// The line of streams: by stack, KV head, tile of pairs.
struct Line {
  const Context& c;
  std::int32_t stacks;

  KOKKOS_FUNCTION explicit Line(const Context& context) : c(context), stacks(context.stacks()) {}

  KOKKOS_FUNCTION std::int64_t cost_before(std::int32_t number) const {
    return c.stack[number].before.cost * c.kv_heads;
  }
  KOKKOS_FUNCTION std::int64_t cost() const { return cost_before(stacks); }
  KOKKOS_FUNCTION std::int32_t stream_before(std::int32_t number) const {
    return c.stack[number].before.tiles * c.kv_heads;
  }
  KOKKOS_FUNCTION std::int32_t streams() const { return stream_before(stacks); }
  KOKKOS_FUNCTION std::int32_t stack_of(std::int32_t stream) const {
    return last_where(0, stacks, [&](std::int32_t number) { return stream_before(number) <= stream; });
  }

  struct Place {
    Cut cut;
    std::int64_t cost;   ///< of the line in front of it
    std::int32_t pairs;  ///< of the stream, where the place is inside it
  };
  /// @param whole  the nearest begin of a stream
  KOKKOS_FUNCTION Place at(std::int64_t x, bool whole) const {
    if (x >= cost()) return {{streams(), 0}, cost(), 0};
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
    return {{stream_before(number) + stream, block},
            cost_before(number) + stream * each + inside,
            block > 0 ? pairs_of(c, s, stream % s.tiles) : 0};
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
  enum Number : std::int32_t { kWhole, kCut, kCutAlike, kCount };

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
  [[nodiscard]] KOKKOS_FUNCTION Line::Place begin_of(const Line& line, std::int32_t worker) const {
    worker = Kokkos::min(worker, workers);
    const std::int64_t more = line.c.costs.tile, all = line.cost() + more * begins_inside(workers);
    const std::int64_t share = all / workers, rest = all - share * workers;
    return line.at(share * worker + rest * worker / workers - more * begins_inside(worker), whole);
  }

 private:
  /// Workers in front of one whose spans begin inside a stream, if all do that may.
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t begins_inside(std::int32_t worker) const {
    if (whole || worker == 0) return 0;
    return parts == 0 ? worker - 1 : worker - 1 - (worker - 1) / parts;
  }
};

inline constexpr std::int64_t kNanosecond = std::int64_t(kCostsPerMicrosecond) / 1000;  ///< less is no difference

/// What each worker's span takes, each way; and the nodes that turns begin in.
struct CostSpans {
  static constexpr const char* kLabel = "espalier::StackPlan::cost_spans";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    return Way::kCount * c.workers + c.totals->stacks * Turns::kOfStack;
  }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) {
    return Way::kCount * c.workers + c.tree.rows * Turns::kOfStack;
  }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    if (i >= Way::kCount * c.workers) return Turns::find(c, i - Way::kCount * c.workers);
    const Line line(c);
    const std::int32_t number = i / c.workers, worker = i % c.workers;
    const Way way(line, number);
    const Line::Place begin = way.begin_of(line, worker), end = way.begin_of(line, worker + 1);
    Cut* const cuts = c.ways + number * (c.workers + 1);
    cuts[worker] = begin.cut;
    if (worker + 1 == c.workers) cuts[c.workers] = end.cut;
    Spans& spans = c.totals->spans[number];
    if (worker == 0) spans.alike = way.parts > 1 ? 1 : 0;
    const std::int64_t time = end.cost - begin.cost + (begin.cut.block > 0 ? c.costs.tile : 0);
    Kokkos::atomic_max(&spans.longest, std::uint32_t(Kokkos::min<std::int64_t>(time / kNanosecond, UINT32_MAX)));
    if (end.pairs > 0) Kokkos::atomic_add(&spans.partials, std::uint32_t(2 * end.pairs));
  }

  KOKKOS_FUNCTION static std::int64_t predicted(const Context& c, std::int32_t number) {
    const Totals& totals = *c.totals;
    const std::int64_t partials = totals.all.pairs * c.kv_heads + totals.spans[number].partials;
    return Kokkos::max(totals.spans[number].longest * kNanosecond, memory_cost(c)) + partials * c.costs.partial +
           (partials > 0 ? c.costs.merge : 0) - totals.spans[number].alike * c.costs.alike;
  }

  /// The way that is predicted to take the least time.
  KOKKOS_FUNCTION static std::int32_t best(const Context& c) {
    std::int32_t best = 0;
    for (std::int32_t number = 1; number < Way::kCount; ++number)
      if (predicted(c, number) < predicted(c, best)) best = number;
    return best;
  }
};

/// Where the spans begin, the best way; numbers the tiles, and says whether all fits.
struct CutLine {
  static constexpr const char* kLabel = "espalier::StackPlan::cut_line";
  static constexpr const char* kMeasureLabel = "espalier::StackPlan::measure_spans";
  using Sum = Count;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.workers; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers; }

  KOKKOS_FUNCTION static Count measure(const Context& c, std::int32_t worker) {
    const std::int32_t best = CostSpans::best(c);
    const Cut* const cuts = c.ways + best * (c.workers + 1);
    if (worker == 0) c.totals->way = best;
    const Cut begin = cuts[worker], end = cuts[worker + 1];
    c.cut[worker] = begin;
    if (worker + 1 == c.workers) c.cut[c.workers] = end;
    return {Line::pieces(begin, end)};
  }
  KOKKOS_FUNCTION static Count value(const Context& c, std::int32_t worker) {
    return {Line::pieces(c.cut[worker], c.cut[worker + 1])};
  }
  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t worker, const Count&, const Count& before) {
    c.tile_before[worker] = before.count;
  }
  KOKKOS_FUNCTION static void total(const Context& c, const Count& sum) {
    c.tile_before[c.workers] = sum.count;
    Totals& totals = *c.totals;
    totals.tiles = sum.count;
    totals.need_segments = totals.all.segments;
    totals.need_tiles = sum.count;
    totals.need_partials = totals.all.pairs * c.kv_heads;
    if (totals.spans[totals.way].partials > 0) totals.need_partials += std::int64_t(2) * c.workers * detail::kTilePairs;
    totals.fits = totals.need_segments <= c.segment_capacity && totals.need_tiles <= c.tile_capacity &&
                          totals.need_partials <= c.partial_capacity
                      ? 1
                      : 0;
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
    run.template each<CostSpans>();
    run.template scan<CutLine>();
  }
};

}  // namespace espalier::plan::stacks
