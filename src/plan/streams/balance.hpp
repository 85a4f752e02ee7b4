#pragma once
// Which workers take wide tiles, and where each worker's spans of the two lines begin. Both lines are laid out by cost: a
// stream costs what its blocks or steps do, and a fixed part. Equal spans of that line are equal work, so that a span's
// place has a closed form; splits of the workers are compared by what even spans would take, and those near the best one
// by the very cuts they would lead to.

#include "packs.hpp"

namespace espalier::plan::streams {

/// The line of wide streams: by node, KV head, gang of row tiles.
struct WideLine {
  const Context& c;
  std::int32_t nodes;
  std::int32_t gang_bits;
  std::int64_t block, fixed;

  KOKKOS_FUNCTION explicit WideLine(const Context& context)
      : c(context),
        nodes(context.totals->nodes.wide),
        gang_bits(context.gang_bits()),
        block(context.costs.wide_block),
        fixed(context.costs.wide_fixed) {}

  KOKKOS_FUNCTION std::int64_t cost_before(std::int32_t number) const {
    const WideNode& node = c.wide[number];
    return c.kv_heads * ((node.tile_blocks_before >> gang_bits) * block + (node.tiles_before >> gang_bits) * fixed);
  }
  KOKKOS_FUNCTION std::int64_t cost() const { return cost_before(nodes); }
  KOKKOS_FUNCTION std::int64_t all_blocks() const {
    return (c.wide[nodes].tile_blocks_before >> gang_bits) * c.kv_heads;
  }
  KOKKOS_FUNCTION std::int32_t stream_before(std::int32_t number) const {
    return (c.wide[number].tiles_before >> gang_bits) * c.kv_heads;
  }
  KOKKOS_FUNCTION std::int32_t chunks(std::int32_t number) const {
    return (c.wide[number + 1].tiles_before - c.wide[number].tiles_before) >> gang_bits;
  }
  /// The wide node of a stream.
  KOKKOS_FUNCTION std::int32_t node_of(std::int32_t stream) const {
    return last_where(0, nodes, [&](std::int32_t number) { return stream_before(number) <= stream; });
  }

  struct Place {
    Cut cut;
    std::int64_t blocks_before;  ///< in the line
    std::int64_t pairs;          ///< of the stream, where the place is inside it
    std::int32_t number;         ///< of the wide node
  };
  /// @param from  a wide node that begins at or before x
  KOKKOS_FUNCTION Place at(std::int64_t x, std::int32_t from) const {
    if (x >= cost()) return {{stream_before(nodes), 0}, all_blocks(), 0, nodes};
    const std::int32_t number = node_at(x, from);
    const WideNode& node = c.wide[number];
    const std::int64_t in_node = x - cost_before(number);
    const std::int64_t stream_cost = node.blocks * block + fixed;
    auto stream = std::int32_t(in_node / stream_cost);
    const std::int64_t in_stream = in_node - stream * stream_cost - fixed;
    auto offset = in_stream <= 0 ? 0 : std::int32_t((in_stream + block / 2) / block);
    if (offset >= node.blocks) {
      ++stream;
      offset = 0;
    }
    std::int64_t pairs = 0;
    if (offset > 0) {
      const std::int64_t gang_pairs = std::int64_t(detail::kWidePairs) << gang_bits;
      const std::int64_t pairs_left =
          c.wide[number + 1].pairs_before - node.pairs_before - stream % chunks(number) * gang_pairs;
      pairs = Kokkos::min(pairs_left, gang_pairs);
    }
    return {{stream_before(number) + stream, offset},
            (node.tile_blocks_before >> gang_bits) * c.kv_heads + std::int64_t(stream) * node.blocks + offset,
            pairs,
            number};
  }

  KOKKOS_FUNCTION static std::int32_t pieces(const Cut& begin, const Cut& end) {
    return begin == end ? 0 : end.stream - begin.stream + (end.offset > 0 ? 1 : 0);
  }

 private:
  /// Looks near `from` first, unless that is the beginning.
  KOKKOS_FUNCTION std::int32_t node_at(std::int64_t x, std::int32_t from) const {
    std::int32_t stride = from == 0 ? nodes : 1;
    for (; from + stride < nodes && cost_before(from + stride) <= x; stride *= 2) from += stride;
    return last_where(from, Kokkos::min(from + stride, nodes),
                      [&](std::int32_t number) { return cost_before(number) <= x; });
  }
};

/// The line of wide streams, cut into equal spans for a number of gangs: of whole streams, where one node has them all and
/// the busiest gang gets at most a block and a piece's fixed cost more than its share, which cutting may cost it as well.
/// Pieces cost partials, too.
struct WideSpans {
  const WideLine& line;
  std::int64_t share;
  std::int32_t rest, gangs;

  KOKKOS_FUNCTION WideSpans(const WideLine& wide, std::int32_t count)
      : line(wide), share(wide.cost() / count), rest(std::int32_t(wide.cost() - share * count)), gangs(count) {
    if (wide.nodes != 1) return;
    const std::int32_t streams = wide.stream_before(1);
    const std::int64_t whole = wide.cost() / streams * div_up(streams, count);
    if (whole > share + wide.fixed + wide.block) return;
    share = whole;
    rest = 0;
  }

  /// Where a gang begins.
  /// @param from  a wide node that begins at or before that
  KOKKOS_FUNCTION WideLine::Place begin_of(std::int32_t gang, std::int32_t from = 0) const {
    return line.at(share * gang + rest * gang / gangs, from);
  }
};

/// Steps up to which a narrow stream stays whole, or 0. Where nothing is wide and every warp has a stream, the whole machine
/// streams until the end, and cutting would cost partials and balance nothing: 50 of 132 multiprocessors saturate memory, so
/// that it does not matter which of them end early, as long as a fifth of the warps work in the last round.
KOKKOS_INLINE_FUNCTION std::int64_t uncut_steps(const Context& c) {
  const std::int64_t warps = std::int64_t(kWarpsPerWorker) * c.workers;
  const std::int64_t streams = std::int64_t(c.totals->packs.lists) * c.kv_heads;
  if (c.totals->nodes.wide > 0 || c.large() == 0 || streams < warps) return 0;
  const std::int64_t last_round = streams % warps;
  if (last_round > 0 && 5 * last_round < warps && streams < 8 * warps) return 0;
  return c.totals->packs.steps * c.kv_heads / warps;
}

/// The line of narrow streams: by list and KV head.
struct NarrowLine {
  const Context& c;
  std::int32_t lists;
  std::int64_t step, fixed;

  KOKKOS_FUNCTION explicit NarrowLine(const Context& context)
      : c(context), lists(context.totals->packs.lists), step(context.totals->step), fixed(context.costs.step_fixed) {}

  KOKKOS_FUNCTION std::int64_t cost_before(std::int32_t list) const {
    return c.kv_heads * (c.lists[list].steps_before * step + list * fixed);
  }
  KOKKOS_FUNCTION std::int64_t cost() const { return cost_before(lists); }
  KOKKOS_FUNCTION std::int32_t steps(std::int32_t list) const {
    return c.lists[list + 1].steps_before - c.lists[list].steps_before;
  }

  KOKKOS_FUNCTION Cut end() const { return {lists * c.kv_heads, 0}; }
  KOKKOS_FUNCTION Cut at(std::int64_t x) const {
    if (x >= cost()) return end();
    constexpr std::int32_t kGrain = 2;  // a stage holds two steps
    const std::int32_t list = last_where(0, lists, [&](std::int32_t l) { return cost_before(l) <= x; });
    const std::int32_t length = steps(list);
    const std::int64_t in_list = x - cost_before(list);
    const std::int64_t stream_cost = length * step + fixed;
    auto head = std::int32_t(in_list / stream_cost);
    const std::int64_t in_stream = in_list - head * stream_cost - fixed;
    auto offset = in_stream <= 0 ? 0 : std::int32_t((in_stream + step) / (kGrain * step)) * kGrain;
    if (length <= c.totals->uncut) return round_of((list * c.kv_heads + head) + (2 * offset > length ? 1 : 0));
    if (offset > length - kGrain) {
      ++head;
      offset = 0;
    }
    return {list * c.kv_heads + head, offset};
  }

 private:
  /// Where the nearest round of a worker's warps begins: the KV heads of the same tokens, which lie side by side in memory, are
  /// then read at the same time.
  KOKKOS_FUNCTION Cut round_of(std::int32_t stream) const {
    stream = (stream + kWarpsPerWorker / 2) / kWarpsPerWorker * kWarpsPerWorker;
    return {Kokkos::min(stream, lists * c.kv_heads), 0};
  }
};

/// How a worker's share of the narrow line becomes tiles, of which its eight warps take round after round.
struct Rounds {
  /// Of more, the last is rarely full, but warps that are late are helped before it.
  static constexpr std::int32_t kEvenRounds = 4;

  std::int32_t most;  ///< steps of a tile, at most
  std::int64_t time;  ///< of all rounds

  /// The fewest pieces that end by a time, or else those that end first; of streams of average length, one of which the share
  /// begins inside.
  KOKKOS_FUNCTION Rounds(const NarrowLine& line, std::int64_t share, std::int64_t by) : time(INT64_MAX) {
    auto length = std::int32_t(line.c.totals->packs.steps / line.lists);
    std::int32_t sixteenths = 16;  // of a stream, in the share
    const std::int64_t stream = length * line.step + line.fixed;
    if (stream > share)
      length = std::int32_t(Kokkos::max<std::int64_t>((share - line.fixed) / line.step, kLeastCut));
    else
      sixteenths = std::int32_t(Kokkos::min<std::int64_t>(16 * share / stream, 1 << 20));
    most = length;
    for (std::int32_t parts = 1; parts <= kWarpsPerWorker; ++parts) {
      const std::int32_t steps = div_up(length, parts);
      if (parts > 1 && steps < kLeastCut) break;
      std::int32_t slots = div_up(sixteenths * parts, 16) + 1;
      slots = slots > kEvenRounds * kWarpsPerWorker ? slots + kWarpsPerWorker / 2
                                                    : div_up(slots, kWarpsPerWorker) * kWarpsPerWorker;
      const std::int64_t end = slots * (line.fixed + steps * line.step);
      if (end >= time) continue;
      time = end;
      most = steps;
      if (end <= by) break;
    }
    const std::int64_t least = (share / line.step + kMostPieces - 1) / kMostPieces;
    most = std::int32_t(Kokkos::max<std::int64_t>(most, Kokkos::max<std::int64_t>(least, kLeastCut)));
  }
};

inline constexpr std::int64_t kNumbers = 1024;                                          ///< there are no more splits
inline constexpr std::int64_t kNanosecond = std::int64_t(kCostsPerMicrosecond) / 1000;  ///< less is no difference

/// Splits that are considered: every number of gangs near all workers, then every few.
struct Splits {
  std::int32_t most_gangs, every_bits, one_by_one, count;

  KOKKOS_FUNCTION explicit Splits(const Context& c) {
    const std::int32_t gang_bits = c.gang_bits();
    most_gangs = c.workers >> gang_bits;
    every_bits = Kokkos::max(0, 2 - gang_bits);
    one_by_one = 12 >> gang_bits;
    const std::int32_t fewest = Kokkos::max(1, Kokkos::min(std::int32_t(kFewestWide), c.workers) >> gang_bits);
    const std::int32_t rest = most_gangs - one_by_one - fewest;
    count = rest < 0 ? most_gangs - fewest + 1 : one_by_one + 1 + (rest >> every_bits);
    if (c.totals->nodes.wide == 0) count = 0;
    if (count > 0 && c.totals->packs.lists == 0) count = 1;
  }
  KOKKOS_FUNCTION std::int32_t gangs(std::int32_t number) const {
    return number <= one_by_one ? most_gangs - number : most_gangs - one_by_one - ((number - one_by_one) << every_bits);
  }
};

/// When workers would finish that all finish together; `gangs` of them take wide tiles, in `wide_sum` for the gangs.
KOKKOS_INLINE_FUNCTION std::int64_t narrow_finish(const Context& c, std::int32_t gangs, std::int64_t wide_sum) {
  const NarrowLine line(c);
  const std::int64_t cost = line.cost();
  if (cost == 0) return 0;
  const std::int64_t busy = std::int64_t(gangs) << c.gang_bits();
  const std::int64_t free_workers = c.workers - busy;
  const std::int64_t begin = gangs > 0 ? wide_sum / gangs + c.costs.turn : 0;
  if (free_workers > 0) {
    const std::int64_t finish = cost / free_workers + line.fixed;
    if (finish <= begin) return finish;
  }
  return (cost + busy * begin) / c.workers + line.fixed;
}

/// The split that would finish first if wide streams could be cut anywhere for nothing: others are costed near it.
struct BoundSplits {
  static constexpr const char* kLabel = "espalier::StreamPlan::bound_splits";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return Splits(c).count; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t number) {
    const std::int32_t gangs = Splits(c).gangs(number);
    const WideLine line(c);
    const std::int64_t time = Kokkos::max(line.cost() / gangs + line.fixed, narrow_finish(c, gangs, line.cost()));
    Kokkos::atomic_min(&c.totals->bound, time * kNumbers + number);
  }
};

/// The splits that are costed with the very cuts they lead to.
struct Candidates {
  Splits splits;
  std::int32_t first, count;

  KOKKOS_FUNCTION explicit Candidates(const Context& c) : splits(c) {
    const auto bound = std::int32_t(c.totals->bound % kNumbers);
    first = splits.count == 0 ? 0 : Kokkos::max(0, bound - kSplitsBefore);
    count = Kokkos::min(splits.count - first, kSplitsBefore + kSplitsFrom);
  }
};

/// Every gang of every candidate by itself: a place has to be found twice, but on a device with threads enough none waits.
struct CostSplits {
  static constexpr const char* kLabel = "espalier::StreamPlan::cost_splits";

  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    const Candidates candidates(c);
    return candidates.count * candidates.splits.most_gangs;
  }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return (kSplitsBefore + kSplitsFrom) * c.workers; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    const Candidates candidates(c);
    const std::int32_t number = candidates.first + i / candidates.splits.most_gangs;
    const std::int32_t gangs = candidates.splits.gangs(number), gang = i % candidates.splits.most_gangs;
    if (gang >= gangs) return;
    const WideLine line(c);
    const WideSpans spans(line, gangs);
    const WideLine::Place begin = spans.begin_of(gang);
    const WideLine::Place end = spans.begin_of(gang + 1, begin.number);
    const std::int32_t pieces = WideLine::pieces(begin.cut, end.cut);
    if (pieces == 0) return;
    const std::int64_t time = (end.blocks_before - begin.blocks_before) * line.block + pieces * line.fixed;
    Split& split = c.splits[number];
    Kokkos::atomic_max(&split.longest, std::uint32_t(Kokkos::min<std::int64_t>(time / kNanosecond, UINT32_MAX)));
    Kokkos::atomic_add(&split.pieces, pieces);
    if (end.pairs > 0) Kokkos::atomic_add(&split.partials, std::uint32_t(end.pairs));
  }

  /// The gangs' wide times together.
  KOKKOS_FUNCTION static std::int64_t sum(const Context& c, std::int32_t number) {
    const WideLine line(c);
    return line.all_blocks() * line.block + c.splits[number].pieces * line.fixed;
  }
};

/// The split that is predicted to finish first.
struct ChooseSplit {
  static constexpr const char* kLabel = "espalier::StreamPlan::choose_split";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return Candidates(c).count; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context&) { return kSplitsBefore + kSplitsFrom; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    const Candidates candidates(c);
    const std::int32_t number = candidates.first + i;
    const Split& split = c.splits[number];
    const std::int32_t gangs = candidates.splits.gangs(number);
    const std::int64_t longest = split.longest * kNanosecond;
    std::int64_t time = Kokkos::max(longest, narrow_finish(c, gangs, CostSplits::sum(c, number)));
    time = Kokkos::max(time, memory_finish(c, gangs << c.gang_bits(), longest + c.costs.turn));
    time = Kokkos::max(time, rounds_finish(c, gangs << c.gang_bits(), CostSplits::sum(c, number) / gangs, time));
    time += longest / 50 + split.partials * c.costs.partial;
    Kokkos::atomic_min(&c.totals->best, time / kNanosecond * kNumbers + number);
  }

  /// The number of the best one.
  KOKKOS_FUNCTION static std::int32_t best(const Context& c) { return std::int32_t(c.totals->best % kNumbers); }
  /// What is predicted of it.
  KOKKOS_FUNCTION static std::int64_t time(const Context& c) { return c.totals->best / kNumbers * kNanosecond; }

 private:
  /// When the last round of narrow tiles ends, of workers that have nothing else, and of the others where these have some, too.
  KOKKOS_FUNCTION static std::int64_t rounds_finish(const Context& c, std::int64_t busy, std::int64_t wide,
                                                    std::int64_t by) {
    const NarrowLine line(c);
    if (line.lists == 0 || c.large() != 0) return 0;  // a queue evens rounds out
    const std::int64_t cost = line.cost(), begin = wide + c.costs.turn, free_workers = c.workers - busy;
    if (free_workers > 0 && cost / free_workers <= begin) return Rounds(line, cost / free_workers, by).time;
    const std::int64_t share = (cost - free_workers * begin) / c.workers;
    const std::int64_t late = begin + Rounds(line, share, by - begin).time;
    if (free_workers == 0) return late;
    return Kokkos::max(late, Rounds(line, share + begin, by).time);
  }

  /// When the narrow bytes have arrived: before `begin`, only workers without wide tiles ask for them.
  KOKKOS_FUNCTION static std::int64_t memory_finish(const Context& c, std::int64_t busy, std::int64_t begin) {
    const std::int64_t steps = c.totals->packs.steps * c.kv_heads;
    const auto step_of = [&](std::int64_t workers) {
      return Kokkos::max(c.costs.stream_step / workers, c.costs.memory_step);
    };
    const std::int64_t done = c.workers > busy ? begin / step_of(c.workers - busy) : 0;
    if (steps <= done) return done > 0 ? steps * step_of(c.workers - busy) : 0;
    return begin + (steps - done) * step_of(c.workers);
  }
};

/// Where the gangs begin.
struct CutWide {
  static constexpr const char* kLabel = "espalier::StreamPlan::cut_wide";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.workers + 1; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers + 1; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t gang) {
    const bool has_wide = c.totals->nodes.wide > 0;
    const std::int32_t best = has_wide ? ChooseSplit::best(c) : 0;
    const std::int32_t gangs = has_wide ? Splits(c).gangs(best) : 0;
    if (gang == c.workers) {  // has the least to do: no gang begins here
      c.totals->gangs = gangs;
      c.totals->finish = narrow_finish(c, gangs, has_wide ? CostSplits::sum(c, best) : 0);
      std::int32_t room_bits = 0;
      while (c.totals->finish >> room_bits >= kRoom) ++room_bits;
      c.totals->room_bits = room_bits;
      c.totals->uncut = uncut_steps(c);
      c.totals->wide_share = has_wide ? WideSpans(WideLine(c), gangs).share : 1;
    }
    if (gang > gangs) return;
    const WideLine line(c);
    const WideLine::Place begin = has_wide ? WideSpans(line, gangs).begin_of(gang) : WideLine::Place{};
    c.wide_cut[gang] = begin.cut;
    c.wide_blocks[gang] = begin.blocks_before;
  }

  /// What the wide pieces of a gang cost.
  KOKKOS_FUNCTION static std::int64_t time_of(const Context& c, std::int32_t gang) {
    const WideLine line(c);
    return (c.wide_blocks[gang + 1] - c.wide_blocks[gang]) * line.block +
           WideLine::pieces(c.wide_cut[gang], c.wide_cut[gang + 1]) * line.fixed;
  }
};

/// Spans of the narrow line go to the workers without wide tiles first.
KOKKOS_INLINE_FUNCTION std::int32_t worker_of_span(const Context& c, std::int32_t span, std::int32_t busy) {
  const std::int32_t free_workers = c.workers - busy;
  return span < free_workers ? busy + span : span - free_workers;
}

/// How much narrow work each worker has room for, and how many wide pieces come before each gang's.
struct SumWorkers {
  static constexpr const char* kLabel = "espalier::StreamPlan::sum_workers";
  static constexpr const char* kMeasureLabel = "espalier::StreamPlan::measure_workers";
  using Sum = WorkerSums;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.workers; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers; }

  KOKKOS_FUNCTION static WorkerSums measure(const Context& c, std::int32_t span) {
    const WorkerSums sums = sums_of(c, span);
    c.worker_sums[span] = sums;
    return sums;
  }
  KOKKOS_FUNCTION static WorkerSums value(const Context& c, std::int32_t span) { return c.worker_sums[span]; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t span, const WorkerSums&, const WorkerSums& before) {
    c.worker_sums[span] = before;
  }
  KOKKOS_FUNCTION static void total(const Context& c, const WorkerSums& sums) {
    c.worker_sums[c.workers] = sums;
    c.totals->workers = sums;
  }

 private:
  KOKKOS_FUNCTION static WorkerSums sums_of(const Context& c, std::int32_t span) {
    const std::int32_t gangs = c.totals->gangs, gang_bits = c.gang_bits(), busy = gangs << gang_bits;
    WorkerSums sums;
    if (span < gangs) sums.wide_pieces = WideLine::pieces(c.wide_cut[span], c.wide_cut[span + 1]);
    const std::int64_t finish = c.totals->finish;
    if (finish == 0) return sums;
    const std::int32_t worker = worker_of_span(c, span, busy);
    std::int64_t begin = c.costs.step_fixed;  // of the piece that the span begins in
    if (worker < busy) {
      const std::int64_t wide = CutWide::time_of(c, worker >> gang_bits);
      if (wide > 0) begin += wide + c.costs.turn;
    }
    sums.room = begin < finish ? std::int32_t((finish - begin) >> c.totals->room_bits) : 0;
    return sums;
  }
};

/// Where the spans of the narrow line begin. The last span is the queue's.
struct CutNarrow {
  static constexpr const char* kLabel = "espalier::StreamPlan::cut_narrow";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.workers + 2; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers + 2; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t span) {
    const NarrowLine line(c);
    const std::int64_t own = own_cost(c, line);
    c.narrow_cut[span] = place(c, line, own, span);
    c.narrow_most[span] = span < c.workers ? most_of_worker(c, line, own, span) : most_of_queue(c);
  }

 private:
  /// What is not the queue's.
  KOKKOS_FUNCTION static std::int64_t own_cost(const Context& c, const NarrowLine& line) {
    const std::int64_t all = line.cost();
    const bool queued = c.large() != 0 && c.totals->uncut == 0;
    return queued ? all - all / 1000 * c.costs.queue_permille : all;
  }
  /// Of floating-point numbers, which a GPU divides faster; products and quotients are rounded alike everywhere.
  KOKKOS_FUNCTION static std::int64_t share_of(const Context& c, std::int64_t own, std::int32_t room) {
    return std::int64_t(double(own) * room / c.totals->workers.room);
  }

  KOKKOS_FUNCTION static Cut place(const Context& c, const NarrowLine& line, std::int64_t own, std::int32_t span) {
    if (span > c.workers || line.lists == 0) return line.end();
    if (span == 0) return {};
    if (span == c.workers || c.totals->workers.room == 0) return line.at(own);
    return line.at(share_of(c, own, c.worker_sums[span].room));
  }

  /// Tiles need not end before the wide ones do and memory lets them. In front of a queue there are about two for each warp:
  /// whole long streams took longer there.
  KOKKOS_FUNCTION static std::int32_t most_of_worker(const Context& c, const NarrowLine& line, std::int64_t own,
                                                     std::int32_t span) {
    const std::int32_t room = c.worker_sums[span + 1].room - c.worker_sums[span].room;
    if (line.lists == 0 || room == 0) return kLeastCut;
    const std::int64_t share = share_of(c, own, room);
    if (c.large() != 0) {
      const std::int64_t steps = share / line.step;
      const std::int64_t most = Kokkos::max<std::int64_t>(steps / kMostPieces + 1, kMostBeforeQueue);
      return std::int32_t(Kokkos::clamp<std::int64_t>(steps / kPiecesPerWorker + 1, kLeastBeforeQueue, most));
    }
    const std::int64_t busy = c.totals->finish - (std::int64_t(room) << c.totals->room_bits);
    const std::int64_t memory = c.totals->packs.steps * c.kv_heads * c.costs.memory_step;
    const std::int64_t end = c.totals->nodes.wide > 0 ? ChooseSplit::time(c) : memory;
    return Rounds(line, share, end - busy).most;
  }

  KOKKOS_FUNCTION static std::int32_t most_of_queue(const Context& c) {
    const std::int64_t steps = c.totals->packs.steps * c.kv_heads / c.workers;
    return std::int32_t(Kokkos::max<std::int64_t>(div_up(steps, std::int64_t(kMostPieces)), kMostQueued));
  }
};

}  // namespace espalier::plan::streams
