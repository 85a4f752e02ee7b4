#pragma once
// Which workers take wide tiles, and where each worker's spans of the two lines begin. Both lines are laid out by cost: a
// stream costs what its blocks or steps do, and a fixed part. Equal spans of that line are equal work, so that a span's
// place has a closed form; all splits of the workers are costed at once, with the very cuts they would lead to.

#include "packs.hpp"

namespace espalier::plan::streams {

/// The line of wide streams: by node, KV head, gang of row tiles.
struct WideLine {
  const Context& c;
  std::int32_t nodes;
  std::int32_t gang;
  std::int64_t block, fixed;

  KOKKOS_FUNCTION explicit WideLine(const Context& context)
      : c(context),
        nodes(context.totals->nodes.wide),
        gang(context.gang()),
        block(context.costs.wide_block),
        fixed(context.costs.wide_fixed[context.large()]) {}

  KOKKOS_FUNCTION std::int64_t cost_before(std::int32_t number) const {
    const WideNode& node = c.wide[number];
    return c.kv_heads * (node.tile_blocks_before / gang * block + node.tiles_before / gang * fixed);
  }
  KOKKOS_FUNCTION std::int64_t cost() const { return cost_before(nodes); }
  KOKKOS_FUNCTION std::int32_t stream_before(std::int32_t number) const {
    return c.wide[number].tiles_before / gang * c.kv_heads;
  }
  KOKKOS_FUNCTION std::int32_t chunks(std::int32_t number) const {
    return (c.wide[number + 1].tiles_before - c.wide[number].tiles_before) / gang;
  }
  /// The wide node of a stream.
  KOKKOS_FUNCTION std::int32_t node_of(std::int32_t stream) const {
    return last_where(0, nodes, [&](std::int32_t number) { return stream_before(number) <= stream; });
  }

  struct Place {
    Cut cut;
    std::int64_t blocks_before;  ///< in the line
    std::int64_t pairs;          ///< of the stream, where the place is inside it
  };
  KOKKOS_FUNCTION Place at(std::int64_t x) const {
    const std::int64_t all_blocks = c.wide[nodes].tile_blocks_before / gang * c.kv_heads;
    if (x >= cost()) return {{stream_before(nodes), 0}, all_blocks, 0};
    const std::int32_t number = last_where(0, nodes, [&](std::int32_t n) { return cost_before(n) <= x; });
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
    const std::int64_t gang_pairs = std::int64_t(gang) * detail::kWidePairs;
    const std::int64_t pairs_left =
        c.wide[number + 1].pairs_before - node.pairs_before - stream % chunks(number) * gang_pairs;
    return {{stream_before(number) + stream, offset},
            node.tile_blocks_before / gang * c.kv_heads + std::int64_t(stream) * node.blocks + offset,
            offset > 0 ? Kokkos::min(pairs_left, gang_pairs) : 0};
  }
  /// Where gang `number` of `gangs` begins.
  KOKKOS_FUNCTION Place begin_of(std::int32_t number, std::int32_t gangs) const {
    return at(cost() / gangs * number + cost() % gangs * number / gangs);
  }

  KOKKOS_FUNCTION static std::int32_t pieces(const Cut& begin, const Cut& end) {
    return begin == end ? 0 : end.stream - begin.stream + (end.offset > 0 ? 1 : 0);
  }
};

/// The line of narrow streams: by list and KV head.
struct NarrowLine {
  const Context& c;
  std::int32_t lists;
  std::int64_t step, fixed;

  KOKKOS_FUNCTION explicit NarrowLine(const Context& context)
      : c(context),
        lists(context.totals->packs.lists),
        step(context.costs.step[context.large()]),
        fixed(context.costs.step_fixed[context.large()]) {}

  KOKKOS_FUNCTION std::int64_t cost_before(std::int32_t list) const {
    return c.kv_heads * (c.lists[list].steps_before * step + list * fixed);
  }
  KOKKOS_FUNCTION std::int64_t cost() const { return cost_before(lists); }
  KOKKOS_FUNCTION std::int32_t steps(std::int32_t list) const {
    return c.lists[list + 1].steps_before - c.lists[list].steps_before;
  }

  KOKKOS_FUNCTION Cut at(std::int64_t x) const {
    if (x >= cost()) return {lists * c.kv_heads, 0};
    constexpr std::int32_t kGrain = 2;  // a stage holds two steps
    const std::int32_t list = last_where(0, lists, [&](std::int32_t l) { return cost_before(l) <= x; });
    const std::int32_t length = steps(list);
    const std::int64_t in_list = x - cost_before(list);
    const std::int64_t stream_cost = length * step + fixed;
    auto head = std::int32_t(in_list / stream_cost);
    const std::int64_t in_stream = in_list - head * stream_cost - fixed;
    auto offset = in_stream <= 0 ? 0 : std::int32_t((in_stream + step) / (kGrain * step)) * kGrain;
    if (offset > length - kGrain) {
      ++head;
      offset = 0;
    }
    return {list * c.kv_heads + head, offset};
  }

  KOKKOS_FUNCTION std::int64_t steps_before(const Cut& cut) const {
    const std::int32_t list = cut.stream / c.kv_heads;
    const std::int32_t length = list < lists ? steps(list) : 0;
    return std::int64_t(c.kv_heads) * c.lists[list].steps_before +
           std::int64_t(cut.stream - list * c.kv_heads) * length + cut.offset;
  }
};

/// Splits that are costed: every number of gangs near all workers, then every few.
struct Splits {
  std::int32_t most_gangs, every, one_by_one, count;

  KOKKOS_FUNCTION explicit Splits(const Context& c) {
    const std::int32_t gang = c.gang();
    most_gangs = c.workers / gang;
    every = Kokkos::max(1, 4 / gang);
    one_by_one = 12 / gang;
    const std::int32_t fewest = Kokkos::max(1, Kokkos::min(std::int32_t(kFewestWide), c.workers) / gang);
    const std::int32_t rest = most_gangs - one_by_one - fewest;
    count = rest < 0 ? most_gangs - fewest + 1 : one_by_one + 1 + rest / every;
    if (c.totals->nodes.wide == 0) count = 0;
    if (count > 0 && c.totals->packs.lists == 0) count = 1;
  }
  KOKKOS_FUNCTION std::int32_t gangs(std::int32_t number) const {
    return number <= one_by_one ? most_gangs - number : most_gangs - one_by_one - every * (number - one_by_one);
  }
};

/// What the chosen split is.
struct Chosen {
  std::int32_t gangs = 0;
  std::int64_t wide_sum = 0;
  KOKKOS_FUNCTION explicit Chosen(const Context& c) {
    if (c.totals->nodes.wide == 0) return;
    const auto number = std::int32_t(c.totals->best & 1023);
    gangs = Splits(c).gangs(number);
    wide_sum = c.splits[number].sum;
  }
};

/// When workers would finish that all finish together; `gangs` of them take wide tiles, in `wide_sum` for the gangs.
KOKKOS_INLINE_FUNCTION std::int64_t narrow_finish(const Context& c, std::int32_t gangs, std::int64_t wide_sum) {
  const NarrowLine line(c);
  const std::int64_t cost = line.cost();
  if (cost == 0) return 0;
  const std::int64_t busy = std::int64_t(gangs) * c.gang();
  const std::int64_t free_workers = c.workers - busy;
  const std::int64_t begin = gangs > 0 ? wide_sum / gangs + c.costs.turn[c.large()] : 0;
  if (free_workers > 0) {
    const std::int64_t finish = cost / free_workers + line.fixed;
    if (finish <= begin) return finish;
  }
  return (cost + busy * begin) / c.workers + line.fixed;
}

/// Gang g of every split.
struct CostSplits {
  static constexpr const char* kLabel = "espalier::StreamPlan::cost_splits";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) {
    const Splits splits(c);
    return splits.count * splits.most_gangs;
  }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers * c.workers; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t i) {
    const Splits splits(c);
    const std::int32_t number = i / splits.most_gangs;
    const std::int32_t gang = i - number * splits.most_gangs;
    const std::int32_t gangs = splits.gangs(number);
    if (gang >= gangs) return;
    const WideLine line(c);
    const WideLine::Place begin = line.begin_of(gang, gangs);
    const WideLine::Place end = line.begin_of(gang + 1, gangs);
    const std::int64_t time =
        (end.blocks_before - begin.blocks_before) * line.block + WideLine::pieces(begin.cut, end.cut) * line.fixed;
    Split& split = c.splits[number];
    Kokkos::atomic_max(&split.longest, time);
    Kokkos::atomic_add(&split.sum, time);
    if (!(begin.cut == end.cut)) Kokkos::atomic_add(&split.partials, end.pairs);
  }
};

/// The split that is predicted to finish first.
struct ChooseSplit {
  static constexpr const char* kLabel = "espalier::StreamPlan::choose_split";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return Splits(c).count; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t number) {
    const Split& split = c.splits[number];
    const std::int32_t gangs = Splits(c).gangs(number);
    std::int64_t time = Kokkos::max(split.longest, narrow_finish(c, gangs, split.sum));
    time = Kokkos::max(time, memory_finish(c, gangs * c.gang(), split.longest));
    time += split.longest / 50 + split.partials * c.costs.partial;
    Kokkos::atomic_min(&c.totals->best, time / 1000 * 1024 + number);
  }

 private:
  /// When the narrow bytes have arrived: before `begin`, only workers without wide tiles ask for them.
  KOKKOS_FUNCTION static std::int64_t memory_finish(const Context& c, std::int64_t busy, std::int64_t begin) {
    const std::int64_t steps = c.totals->packs.steps * c.kv_heads;
    const auto step_of = [&](std::int64_t workers) {
      return Kokkos::max(c.costs.step[c.large()] / workers, c.costs.memory_step);
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
    const Chosen chosen(c);
    if (gang > chosen.gangs) return;
    if (chosen.gangs == 0) {
      c.wide_cut[0] = {0, 0};
      return;
    }
    const WideLine line(c);
    const WideLine::Place begin = line.begin_of(gang, chosen.gangs);
    c.wide_cut[gang] = begin.cut;
    if (gang == chosen.gangs) return;
    const WideLine::Place end = line.begin_of(gang + 1, chosen.gangs);
    c.gang_time[gang] =
        (end.blocks_before - begin.blocks_before) * line.block + WideLine::pieces(begin.cut, end.cut) * line.fixed;
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
  using Sum = WorkerSums;
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.workers; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers; }

  KOKKOS_FUNCTION static WorkerSums value(const Context& c, std::int32_t span) {
    const Chosen chosen(c);
    WorkerSums sums;
    if (span < chosen.gangs) sums.wide_pieces = WideLine::pieces(c.wide_cut[span], c.wide_cut[span + 1]);
    const std::int64_t finish = narrow_finish(c, chosen.gangs, chosen.wide_sum);
    if (finish == 0) return sums;
    const std::int32_t gang = c.gang();
    const std::int32_t worker = worker_of_span(c, span, chosen.gangs * gang);
    const std::int32_t large = c.large();
    std::int64_t begin = c.costs.step_fixed[large];  // of the piece that the span begins in
    if (worker < chosen.gangs * gang && c.gang_time[worker / gang] > 0)
      begin += c.gang_time[worker / gang] + c.costs.turn[large];
    sums.room = begin < finish ? (finish - begin) * kRoom / finish : 0;
    return sums;
  }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t span, const WorkerSums& before) {
    c.worker_sums[span] = before;
  }
  KOKKOS_FUNCTION static void total(const Context& c, const WorkerSums& sums) {
    c.worker_sums[c.workers] = sums;
    c.totals->workers = sums;
  }
};

/// Where the spans of the narrow line begin, and how long their tiles are at most. The last span is the queue's.
struct CutNarrow {
  static constexpr const char* kLabel = "espalier::StreamPlan::cut_narrow";
  KOKKOS_FUNCTION static std::int32_t items(const Context& c) { return c.workers + 2; }
  KOKKOS_FUNCTION static std::int32_t most_items(const Context& c) { return c.workers + 2; }

  KOKKOS_FUNCTION static void run(const Context& c, std::int32_t span) {
    const NarrowLine line(c);
    const Cut begin = cut(c, line, span);
    c.narrow_cut[span] = begin;
    if (span > c.workers) return;
    const std::int64_t steps = span < c.workers ? line.steps_before(cut(c, line, span + 1)) - line.steps_before(begin)
                                                : c.totals->packs.steps * c.kv_heads / c.workers;
    const std::int64_t share = div_up(steps, std::int64_t(kPiecesPerWorker));
    const std::int64_t longest = Kokkos::max(div_up(steps, std::int64_t(kMostPieces)), std::int64_t(kMostCut));
    c.most[span] = std::int32_t(Kokkos::clamp<std::int64_t>(share, kLeastCut, longest));
  }

 private:
  KOKKOS_FUNCTION static Cut cut(const Context& c, const NarrowLine& line, std::int32_t span) {
    const Cut end{line.lists * c.kv_heads, 0};
    const std::int64_t room = c.totals->workers.room;
    if (span > c.workers || line.lists == 0) return end;
    if (span == 0) return {0, 0};
    const std::int64_t all = line.cost();
    const std::int64_t own = c.large() != 0 ? all - all / 1000 * c.costs.queue_permille : all;
    if (span == c.workers || room == 0) return line.at(own);
    const std::int64_t before = c.worker_sums[span].room;
    return line.at(own / room * before + own % room * before / room);
  }
};

}  // namespace espalier::plan::streams
