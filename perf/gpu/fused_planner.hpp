#pragma once
// A planner for the fused kernels on the host: the reference of the format in espalier/detail/fused_plan.hpp. It favours
// being read over being fast.
//
// A stack is what up to 128 neighbouring pairs see of one KV head: the nodes above that more pairs see, then the subtrees that
// only they see, those of the first and those of the last 64 pairs by turns. Workers get whole stacks, spans of the line of all
// stacks, or parts of one stack each, whichever is predicted to take less time.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "espalier/detail/fused_plan.hpp"
#include "perf/gpu/spans.hpp"
#include "perf/gpu/workload.hpp"

namespace espalier::perf {

struct PlannerConfig {
  int workers = 132;
  int query_heads = 32, kv_heads = 8, head_dim = 128;
  // Costs in microseconds, from time stamps of every tile on an H200; those of blocks are for head_dim 128.
  double block = 1.64;         ///< 128 pairs x 128 slots on one multiprocessor
  double small_block = 1.05;   ///< at most 64 pairs x 128 slots
  double half_block = 1.2;     ///< 128 slots of which one half of 128 pairs sees nothing
  double tile = 1.8;           ///< of a tile
  double more_segments = 1.2;  ///< more for a tile of several segments
  double merge = 2;            ///< of a merge that has something to do
  double merge_round = 0.75;   ///< more for each further round of partials that a merge has in flight
  double apart = 0.7;          ///< less where half of the multiprocessors, or more, are left to the merge before
  double alike = 1;            ///< less for parts of one stack each: no partial is a small rest
  double memory_rate = 4200;   ///< GB/s
  double worker_rate = 40;     ///< GB/s that one multiprocessor draws at most
  double partial_bytes = 512;  ///< written and read for one partial
  int short_tokens = 40;       ///< nodes with fewer tokens get no stacks of their own
};

struct FusedPlan {
  detail::FusedPlanHeader header = {};
  std::vector<detail::FusedSegment> segments;
  std::vector<detail::FusedTile> tiles;
  std::vector<detail::FusedWorker> worker;
  std::vector<std::int32_t> merge_begin;
  std::vector<detail::MergeEntry> merge_entries;
  std::int32_t partials = 0;
  double predicted = 0;  ///< microseconds
};

class StackPlanner {
 public:
  StackPlanner(const Tree& tree, const PlannerConfig& config)
      : tree_(tree), config_(config), group_(config.query_heads / config.kv_heads) {}

  enum class Way {
    whole,
    cut,        ///< into spans that may begin anywhere
    cut_alike,  ///< each stack into as many parts
  };

  FusedPlan plan(Way way) {
    find_stacks(false);
    if (way != Way::cut && alternates()) {
      plan_ = {};
      stacks_.clear();
      find_stacks(true);
    }
    balance(way);
    emit_tiles();
    mark_direct();
    emit_merge_lists();
    return std::move(plan_);
  }

 private:
  static constexpr int kHalfPairs = detail::kTilePairs / 2;
  static constexpr int kPartialsInFlight = 8;
  static constexpr int kFewBlocks = 4;  ///< that both halves see: none of fewer come before early halves

  /// Rows with the same stacks.
  struct Rows {
    int begin, end;
    int above;  ///< the lowest node that sees them and is big; -1: none
  };
  struct Stack {
    int segment_begin, segment_end;
    int slots;
    int half_begin, half_end;  ///< blocks of which one half of the pairs sees nothing
    int kv_head, pair_begin, pairs;
  };

  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  static int tiles_of(int pairs) { return (pairs + detail::kTilePairs - 1) / detail::kTilePairs; }
  static int blocks_of(int slots) { return (slots + detail::kTileSlots - 1) / detail::kTileSlots; }
  [[nodiscard]] int pairs_of(int node) const { return (tree_.row_end[at(node)] - tree_.row_begin[at(node)]) * group_; }
  /// More pairs than a tile holds.
  [[nodiscard]] bool is_big(int node) const { return pairs_of(node) > detail::kTilePairs; }

  // ----------------------------------------------------------------------------------------------------- stacks

  /// All rows from left to right. Rows of a subtree that is not big stay together. A row with more pairs than a tile holds is
  /// by itself.
  [[nodiscard]] std::vector<Rows> rows_of_stacks() const {
    // The outermost subtree that is not big, in the row where it begins.
    std::vector<int> root_of_row(at(tree_.rows()), -1);
    for (int i = tree_.nodes() - 1; i >= 0; --i) {  // ancestors come last and win
      const int parent = tree_.parent[at(i)];
      if (!is_big(i) && pairs_of(i) > 0 && (parent < 0 || is_big(parent))) root_of_row[at(tree_.row_begin[at(i)])] = i;
    }
    std::vector<Rows> all;
    for (int row = 0; row < tree_.rows();) {
      const int root = root_of_row[at(row)], end = root >= 0 ? tree_.row_end[at(root)] : row + 1;
      const int above = root >= 0 ? tree_.parent[at(root)] : tree_.row_node[at(row)];
      if (!all.empty() && all.back().above == above && (end - all.back().begin) * group_ <= detail::kTilePairs)
        all.back().end = end;
      else
        all.push_back({row, end, above});
      row = end;
    }
    return all;
  }

  /// A node whose pairs fill more tiles in stacks than by themselves by an eighth gets stacks of its own.
  /// @param alternate  every other stack has its halves early
  void find_stacks(bool alternate) {
    const std::vector<Rows> all = rows_of_stacks();
    std::vector<int> tiles_below(at(tree_.nodes()), 0);
    for (const Rows& rows : all) {
      for (int i = rows.above; i >= 0; i = tree_.parent[at(i)])
        tiles_below[at(i)] += tiles_of((rows.end - rows.begin) * group_);
    }
    std::vector<bool> alone(at(tree_.nodes()), false);
    for (int i = 0; i < tree_.nodes(); ++i) {
      const int tokens = tree_.tokens[at(i)];
      if (pairs_of(i) > 0 && !alternate) kv_bytes_ += 4.0 * tokens * config_.head_dim * config_.kv_heads;
      alone[at(i)] = is_big(i) && tokens >= config_.short_tokens && 8 * tiles_below[at(i)] > 9 * tiles_of(pairs_of(i));
      if (!alone[at(i)]) continue;
      const int segment = add_segment(i, 0, tokens), slots = detail::stack_slots(tokens);
      add_stacks({tree_.row_begin[at(i)], tree_.row_end[at(i)], i}, segment, slots, slots, slots);
    }
    int node = 0;
    for (std::size_t i = 0; i < all.size(); ++i) add_stacks(all[i], alone, node, alternate && i % 2 == 1);
  }

  /// Workers that begin with the same kind of block would all be above at the same time, when memory has nothing to do, and then
  /// all wait for memory below. Where halves bring most of the bytes, and these do not take longer than everything, every other
  /// stack has its halves early.
  [[nodiscard]] bool alternates() const {
    double all = 0, half_bytes = 0;
    for (const Stack& s : stacks_) {
      const StackCost cost = cost_of(s);
      all += cost.of(0, cost.blocks);
      half_bytes += 4.0 * detail::kTileSlots * config_.head_dim * (s.half_end - s.half_begin);
    }
    return 2 * half_bytes > kv_bytes_ && transfer(kv_bytes_) * config_.workers < 0.8 * all;
  }

  /// @param node  the first that does not come before the rows; goes on behind them
  /// @param early  halves come behind the first block of what both see, which others read, too: behind none of it every worker
  ///               would begin with a long wait
  void add_stacks(const Rows& rows, const std::vector<bool>& alone, int& node, bool early) {
    const int segment_begin = static_cast<int>(plan_.segments.size());
    std::vector<int> shared;
    for (int i = rows.above; i >= 0; i = tree_.parent[at(i)]) {
      if (!alone[at(i)] && tree_.tokens[at(i)] > 0) shared.insert(shared.begin(), i);
    }
    struct Part {
      int node, first, tokens;
    };
    std::vector<Part> halves[2];
    const int middle = rows.begin * group_ + kHalfPairs;
    for (; node < tree_.nodes() && tree_.row_begin[at(node)] < rows.end; ++node) {
      const int begin = tree_.row_begin[at(node)] * group_, end = tree_.row_end[at(node)] * group_;
      const int tokens = tree_.tokens[at(node)];
      if (is_big(node) || begin == end || tokens == 0) continue;
      if (begin < middle && middle < end)
        shared.push_back(node);
      else
        halves[begin < middle ? 0 : 1].push_back({node, 0, tokens});
    }
    int slots = 0;
    const auto add = [&](int of_node, int first_token, int tokens) {
      add_segment(of_node, first_token, tokens);
      slots += detail::stack_slots(tokens);
    };
    int shared_slots = 0;
    for (int i : shared) shared_slots += detail::stack_slots(tree_.tokens[at(i)]);
    const int before = !early ? shared_slots : shared_slots < kFewBlocks * detail::kTileSlots ? 0 : detail::kTileSlots;
    const auto add_shared = [&](int from, int to) {
      int node_begin = 0;
      for (int i : shared) {
        const int first = std::max(from - node_begin, 0), last = std::min(to - node_begin, tree_.tokens[at(i)]);
        if (first < last) add(i, first, last - first);
        node_begin += detail::stack_slots(tree_.tokens[at(i)]);
      }
    };
    add_shared(0, before);
    const int half_begin = slots;
    std::size_t next[2] = {0, 0};
    for (int half = 0; next[0] < halves[0].size() || next[1] < halves[1].size(); half ^= 1) {
      while (next[half] < halves[half].size()) {  // up to the end of a block
        Part& part = halves[half][next[half]];
        const int tokens = std::min(part.tokens, detail::kTileSlots - slots % detail::kTileSlots);
        add(part.node, part.first, tokens);
        part.first += tokens;
        part.tokens -= tokens;
        if (part.tokens == 0) ++next[half];
        if (slots % detail::kTileSlots == 0) break;
      }
    }
    const int half_end = slots;
    add_shared(before, shared_slots);
    add_stacks(rows, segment_begin, slots, half_begin, half_end);
  }

  /// A stack for each KV head and each 128 pairs, of segments from one on.
  /// @param half_begin  slots [half_begin, half_end) are seen by one half of the pairs
  void add_stacks(const Rows& rows, int segment_begin, int slots, int half_begin, int half_end) {
    if (slots == 0) return;
    const int first_half = blocks_of(half_begin), pair_end = rows.end * group_;
    for (int pair = rows.begin * group_; pair < pair_end; pair += detail::kTilePairs) {
      for (int head = 0; head < config_.kv_heads; ++head) {
        stacks_.push_back({segment_begin, static_cast<int>(plan_.segments.size()), slots, first_half,
                           std::max(first_half, half_end / detail::kTileSlots), head, pair,
                           std::min(pair_end - pair, detail::kTilePairs)});
      }
    }
  }

  int add_segment(int node, int first_token, int tokens) {
    detail::FusedSegment s = {};
    const int place = tree_.first_offset[at(node)] + first_token;
    s.table_begin = tree_.first_block[at(node)] + place / tree_.block_tokens;
    s.first_block = tree_.block_table[at(s.table_begin)];
    s.block_offset = place % tree_.block_tokens;
    s.tokens = tokens;
    s.row_begin = tree_.row_begin[at(node)];
    s.row_end = tree_.row_end[at(node)];
    const bool all_see_it = s.row_begin == tree_.own_row_end[at(node)] ||
                            tree_.row_visible[at(s.row_begin)] >= first_token + tokens;  // own rows see more and more
    s.own_row_end = all_see_it ? s.row_begin : tree_.own_row_end[at(node)];
    s.node_token = first_token;
    plan_.segments.push_back(s);
    return static_cast<int>(plan_.segments.size()) - 1;
  }

  // ---------------------------------------------------------------------------------------------------- balance

  [[nodiscard]] StackCost cost_of(const Stack& s) const {
    const double size = config_.head_dim / 128.0;
    const bool several = s.segment_end > s.segment_begin + 1;
    return {blocks_of(s.slots),
            size * (s.pairs <= kHalfPairs ? config_.small_block : config_.block),
            config_.tile + (several ? config_.more_segments : 0.0),
            s.half_begin,
            s.half_end,
            size * (s.pairs <= kHalfPairs ? config_.small_block : config_.half_block)};
  }

  /// Microseconds.
  [[nodiscard]] double transfer(double bytes) const { return bytes / (config_.memory_rate * 1e3); }

  void balance(Way way) {
    std::vector<StackCost> line;
    double all = 0;
    for (const Stack& s : stacks_) {
      line.push_back(cost_of(s));
      all += line.back().of(0, line.back().blocks) - line.back().tile;
    }
    // Where memory takes longer than the matrix units do, a block takes its worker's share of the memory.
    const bool waits = transfer(kv_bytes_) * config_.workers > all;
    const auto shared_by = [&](int workers) {
      std::vector<StackCost> costs = line;
      const double bytes = 4.0 * detail::kTileSlots * config_.head_dim;
      const double share = waits ? std::max(transfer(bytes) * workers, bytes / (config_.worker_rate * 1e3)) : 0.0;
      for (StackCost& cost : costs) {
        cost.block = std::max(cost.block, share);
        cost.half_block = std::max(cost.half_block, share);
      }
      return costs;
    };
    const int stacks = static_cast<int>(line.size());
    if (way != Way::cut_alike || stacks == 0 || 2 * stacks > config_.workers) {
      const double finish = spread(shared_by(config_.workers), config_.workers, way == Way::whole, spans_);
      plan_.predicted = predicted(spans_, finish);
      return;
    }
    // Fewer parts bring fewer partials, and leave multiprocessors to the merge before.
    plan_.predicted = HUGE_VAL;
    for (int parts = config_.workers / stacks; parts >= 2; --parts) {
      Spans spans;
      const double finish = cut_alike(shared_by(parts * stacks), parts, spans);
      const double all_in_all = predicted(spans, finish) - config_.alike;
      if (all_in_all >= plan_.predicted) continue;
      plan_.predicted = all_in_all;
      spans_ = std::move(spans);
    }
  }

  /// @returns when the last worker has finished
  double cut_alike(const std::vector<StackCost>& line, int parts, Spans& spans) const {
    double finish = 0;
    for (std::size_t i = 0; i < line.size(); ++i) {
      Spans of_stack;
      finish = std::max(finish, spread({line[i]}, parts, false, of_stack));
      for (auto& part : of_stack) {
        for (Span& span : part) span.stack = static_cast<int>(i);
        spans.push_back(std::move(part));
      }
    }
    return finish;
  }

  static int used(const Spans& spans) {
    return static_cast<int>(std::count_if(spans.begin(), spans.end(), [](const auto& list) { return !list.empty(); }));
  }

  /// With the merge: of tiles that hold parts of stacks, since whole ones are mostly direct.
  [[nodiscard]] double predicted(const Spans& spans, double finish) const {
    double partials = 0;
    std::vector<int> parts_of(stacks_.size(), 0);
    for (const auto& list : spans) {
      for (const Span& span : list) {
        const Stack& s = stacks_[at(span.stack)];
        ++parts_of[at(span.stack)];
        if (span.end - span.begin < blocks_of(s.slots)) partials += s.pairs;
      }
    }
    const double main = std::max(finish, transfer(kv_bytes_));
    if (partials == 0) return main;
    const int most = *std::max_element(parts_of.begin(), parts_of.end());
    const int further_rounds = (most - 1) / kPartialsInFlight;
    const double idle = static_cast<double>(config_.workers - used(spans)) / config_.workers;
    return main + transfer(partials * config_.partial_bytes) + config_.merge + config_.merge_round * further_rounds -
           config_.apart * std::min(2 * idle, 1.0);
  }

  // ------------------------------------------------------------------------------------------------------ tiles

  void emit_tiles() {
    plan_.header.rows = tree_.rows();
    // Blocks without tiles would keep the merge before from multiprocessors.
    spans_.erase(std::remove_if(spans_.begin(), spans_.end(), [](const auto& list) { return list.empty(); }),
                 spans_.end());
    if (spans_.empty()) spans_.emplace_back();
    for (const auto& list : spans_) {
      const int begin = static_cast<int>(plan_.tiles.size());
      for (const Span& span : list) emit_tile(stacks_[at(span.stack)], span);
      plan_.worker.push_back({begin, static_cast<int>(plan_.tiles.size())});
    }
  }

  void emit_tile(const Stack& stack, const Span& span) {
    const auto slots_of = [&](int segment) { return detail::stack_slots(plan_.segments[at(segment)].tokens); };
    detail::FusedTile tile = {};
    tile.segment_begin = stack.segment_begin;
    tile.skip = span.begin * detail::kTileSlots;
    tile.slots = std::min(stack.slots, span.end * detail::kTileSlots) - tile.skip;
    while (tile.skip >= slots_of(tile.segment_begin)) tile.skip -= slots_of(tile.segment_begin++);
    tile.segment_end = tile.segment_begin;
    int row_begin = INT32_MAX, row_end = 0;  // those that see any of it
    for (int covered = -tile.skip; covered < tile.slots; ++tile.segment_end) {
      const detail::FusedSegment& segment = plan_.segments[at(tile.segment_end)];
      covered += slots_of(tile.segment_end);
      row_begin = std::min(row_begin, segment.row_begin);
      row_end = std::max(row_end, segment.row_end);
    }
    tile.pair_begin = std::max(stack.pair_begin, row_begin * group_);
    const int pair_end = std::min(stack.pair_begin + stack.pairs, row_end * group_);
    tile.pairs = static_cast<std::uint16_t>(pair_end - tile.pair_begin);
    tile.kv_head = static_cast<std::uint16_t>(stack.kv_head);
    tile.partial_begin = plan_.partials;
    plan_.partials += tile.pairs;
    plan_.tiles.push_back(tile);
  }

  // ------------------------------------------------------------------------------------------------------ merge

  [[nodiscard]] std::size_t result(int pair, int head) const { return at(pair) * at(config_.kv_heads) + at(head); }

  void mark_direct() {
    partials_of_.assign(at(tree_.rows()) * at(group_) * at(config_.kv_heads), 0);
    for (const detail::FusedTile& tile : plan_.tiles) {
      for (int i = 0; i < tile.pairs; ++i) ++partials_of_[result(tile.pair_begin + i, tile.kv_head)];
    }
    for (detail::FusedTile& tile : plan_.tiles) {
      bool alone = true;
      for (int i = 0; i < tile.pairs; ++i)
        alone = alone && partials_of_[result(tile.pair_begin + i, tile.kv_head)] == 1;
      if (alone) tile.flags |= detail::kTileDirect;
    }
  }

  void emit_merge_lists() {
    const int pairs = tree_.rows() * group_, blocks = (pairs + detail::kMergePairs - 1) / detail::kMergePairs;
    std::vector<std::vector<detail::MergeEntry>> lists(at(blocks) * at(config_.kv_heads));
    const auto add = [&](int pair_begin, int pair_end, int head, int partial) {
      for (int b = pair_begin / detail::kMergePairs; b * detail::kMergePairs < pair_end; ++b) {
        const int base = b * detail::kMergePairs;
        lists[at(b) * at(config_.kv_heads) + at(head)].push_back(
            {partial == detail::kNoPartial ? partial : partial + base - pair_begin,
             static_cast<std::uint16_t>(std::max(pair_begin - base, 0)),
             static_cast<std::uint16_t>(std::min(pair_end - base, detail::kMergePairs))});
      }
    };
    for (const detail::FusedTile& tile : plan_.tiles) {
      if (tile.flags & detail::kTileDirect) continue;
      add(tile.pair_begin, tile.pair_begin + tile.pairs, tile.kv_head, tile.partial_begin);
    }
    for (int pair = 0; pair < pairs; ++pair) {
      for (int head = 0; head < config_.kv_heads; ++head) {
        if (partials_of_[result(pair, head)] == 0) add(pair, pair + 1, head, detail::kNoPartial);
      }
    }
    plan_.merge_begin.assign(1, 0);
    for (const auto& list : lists) {
      plan_.merge_entries.insert(plan_.merge_entries.end(), list.begin(), list.end());
      plan_.merge_begin.push_back(static_cast<int>(plan_.merge_entries.size()));
    }
  }

  const Tree& tree_;
  PlannerConfig config_;
  int group_;
  std::vector<Stack> stacks_;
  double kv_bytes_ = 0;
  Spans spans_;
  std::vector<int> partials_of_;  ///< of each pair and KV head
  FusedPlan plan_;
};

inline FusedPlan plan_fused(const Tree& tree, const PlannerConfig& config) {
  using Way = StackPlanner::Way;
  FusedPlan best = StackPlanner(tree, config).plan(Way::whole);
  for (const Way way : {Way::cut_alike, Way::cut}) {
    FusedPlan other = StackPlanner(tree, config).plan(way);
    if (other.predicted < best.predicted) best = std::move(other);
  }
  return best;
}

}  // namespace espalier::perf
