#pragma once
// Stacks: what up to 128 neighbouring pairs see, for one KV head: the nodes above that more pairs see, then the subtrees that
// only they see, those of the first and those of the last 64 pairs by turns. Workers get spans of the line of all stacks, or
// whole ones.

#include "perf/gpu/fused_plan_parts.hpp"

namespace espalier::perf {

class StackPlanner : FusedPlanParts {
 public:
  /// @param config  at most kWidePairs query heads share a KV head
  StackPlanner(const Tree& tree, const PlannerConfig& config) : FusedPlanParts(tree, config) { plan_.stacked = true; }

  /// @param whole  stacks are not cut
  FusedPlan plan(bool whole) {
    find_stacks(whole);
    balance(whole);
    emit_wide();
    mark_direct();
    emit_merge_lists();
    return std::move(plan_);
  }

 private:
  struct Stack {
    int row_begin, row_end;
    int above;  ///< the lowest node that sees them and has more than kWidePairs pairs; -1: none
  };
  [[nodiscard]] bool is_big(int node) const { return pairs_of(node) > detail::kWidePairs; }

  /// All rows from left to right. Rows of a small subtree stay together.
  [[nodiscard]] std::vector<Stack> rows_of_stacks() const {
    std::vector<int> root_of_row(at(tree_.rows()), -1);  // outermost small subtree, in the row where it begins
    for (int i = tree_.nodes() - 1; i >= 0; --i) {       // ancestors come last and win
      const int parent = tree_.parent[at(i)];
      if (!is_big(i) && pairs_of(i) > 0 && (parent < 0 || is_big(parent))) root_of_row[at(tree_.row_begin[at(i)])] = i;
    }
    std::vector<Stack> stacks;
    for (int r = 0; r < tree_.rows();) {
      const int root = root_of_row[at(r)], end = root >= 0 ? tree_.row_end[at(root)] : r + 1;
      const int above = root >= 0 ? tree_.parent[at(root)] : tree_.row_node[at(r)];
      if (!stacks.empty() && stacks.back().above == above &&
          (end - stacks.back().row_begin) * group_ <= detail::kWidePairs)
        stacks.back().row_end = end;
      else
        stacks.push_back({r, end, above});
      r = end;
    }
    return stacks;
  }

  /// A node whose rows fill more tiles in stacks than by itself by an eighth gets tiles of its own: then it is alone.
  void find_stacks(bool whole) {
    const std::vector<Stack> stacks = rows_of_stacks();
    std::vector<int> stacks_below(at(tree_.nodes()), 0);
    for (const Stack& stack : stacks) {
      for (int i = stack.above; i >= 0; i = tree_.parent[at(i)]) ++stacks_below[at(i)];
    }
    std::vector<bool> alone(at(tree_.nodes()), false);
    for (int i = 0; i < tree_.nodes(); ++i) {
      const int tokens = tree_.tokens[at(i)], tiles = (pairs_of(i) + detail::kWidePairs - 1) / detail::kWidePairs;
      if (pairs_of(i) > 0) bytes_ += tokens * step_bytes() / 16 * config_.kv_heads;
      alone[at(i)] = is_big(i) && tokens >= config_.short_tokens && 8 * stacks_below[at(i)] > 9 * tiles;
      if (!alone[at(i)]) continue;
      const int segment = add_segment(i, tokens);
      add_stack_streams({tree_.row_begin[at(i)], tree_.row_end[at(i)], i}, segment, slots(tokens), 0, 0);
    }
    int node = 0;
    for (std::size_t number = 0; number < stacks.size(); ++number) {
      const double turn = static_cast<double>(number) * 0.6180339887;
      add_stack(stacks[number], alone, node, whole ? turn - std::floor(turn) : 0.0);
    }
    std::stable_sort(wide_.begin(), wide_.end(),
                     [](const WideStream& a, const WideStream& b) { return a.kv_head < b.kv_head; });
  }

  /// @param node  the first that does not come before the stack's rows; goes on behind them
  /// @param turn  share of what is above that comes last. Workers that take whole stacks then reach subtrees at different
  ///              times, so that memory is asked for all the time.
  void add_stack(const Stack& stack, const std::vector<bool>& alone, int& node, double turn) {
    const int segment_begin = static_cast<int>(plan_.segments.size());
    std::vector<int> above;
    int above_slots = 0;
    for (int i = stack.above; i >= 0; i = tree_.parent[at(i)]) {
      if (alone[at(i)] || tree_.tokens[at(i)] == 0) continue;
      above.insert(above.begin(), i);
      above_slots += slots(tree_.tokens[at(i)]);
    }
    const auto add_above = [&](int from, int to) {
      int first = 0;
      for (int i : above) {
        const int begin = std::max(from - first, 0), end = std::min(to - first, tree_.tokens[at(i)]);
        if (begin < end) add_segment(i, end - begin, begin);
        first += slots(tree_.tokens[at(i)]);
      }
    };
    const int cut = static_cast<int>(turn * (above_slots / 128)) * 128;
    add_above(cut, above_slots);
    int place = above_slots - cut;
    struct Part {
      int node, first, tokens;
    };
    std::vector<Part> halves[2];
    const int middle = stack.row_begin * group_ + detail::kWidePairs / 2;
    for (; node < tree_.nodes() && tree_.row_begin[at(node)] < stack.row_end; ++node) {
      const int begin = tree_.row_begin[at(node)] * group_, end = tree_.row_end[at(node)] * group_;
      const int tokens = tree_.tokens[at(node)];
      if (is_big(node) || begin == end || tokens == 0) continue;
      if (begin < middle && middle < end) {
        add_segment(node, tokens);
        place += slots(tokens);
      } else {
        halves[begin < middle ? 0 : 1].push_back({node, 0, tokens});
      }
    }
    const int half_begin = place;
    std::size_t next[2] = {0, 0};
    for (int half = 0; next[0] < halves[0].size() || next[1] < halves[1].size(); half ^= 1) {
      while (next[half] < halves[half].size()) {  // up to the end of a block
        Part& part = halves[half][next[half]];
        const int now = std::min(part.tokens, 128 - place % 128);
        add_segment(part.node, now, part.first);
        part.first += now;
        part.tokens -= now;
        place += slots(now);
        if (part.tokens == 0) ++next[half];
        if (place % 128 == 0) break;
      }
    }
    add_above(0, cut);
    add_stack_streams(stack, segment_begin, place + cut, half_begin, place);
  }

  /// @param half_begin  slots [half_begin, half_end) are seen by one half of the pairs
  void add_stack_streams(const Stack& stack, int segment_begin, int slots, int half_begin, int half_end) {
    if (slots == 0) return;
    const int first_half = (half_begin + 127) / 128;
    chains_.push_back({stack.above, segment_begin, static_cast<int>(plan_.segments.size()), slots, first_half,
                       std::max(first_half, half_end / 128)});
    const int chain = static_cast<int>(chains_.size()) - 1, pair_end = stack.row_end * group_;
    for (int pair = stack.row_begin * group_; pair < pair_end; pair += detail::kWidePairs) {
      for (int head = 0; head < config_.kv_heads; ++head)
        wide_.push_back({chain, head, pair, std::min(pair_end - pair, detail::kWidePairs), (slots + 127) / 128});
    }
  }

  void balance(bool whole) {
    const std::vector<Cost> line = wide_costs();
    std::vector<int> order(at(config_.workers));
    std::iota(order.begin(), order.end(), 0);
    const std::vector<double> idle(at(config_.workers), 0.0);
    const double finish = wide_.empty() ? 0.0 : spread(line, idle, order, 1, 1, whole ? INT32_MAX : 0, wide_pieces_);
    double partials = 0;
    for (const auto& list : wide_pieces_) {
      for (const Piece& p : list) {
        if (p.end - p.begin < wide_[at(p.stream)].blocks) partials += wide_[at(p.stream)].pairs;
      }
    }
    const double memory = bytes_ / (config_.memory_rate * 1e3);
    plan_.predicted = std::max(finish, memory) + partials * config_.partial_bytes / (config_.memory_rate * 1e3) +
                      (partials > 0 ? config_.merge : 0.0);
    plan_.wide_workers = config_.workers;
  }

  double bytes_ = 0;
};

}  // namespace espalier::perf
