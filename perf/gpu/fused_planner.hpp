#pragma once
// A planner for the fused kernels on the host: the reference of the format in espalier/detail/fused_plan.hpp. It favours
// being read over being fast.
//
// Streams: a wide stream is one node, one KV head, and up to 128 pairs; a narrow stream is up to 16 neighbouring pairs
// and every token that only they see (small subtrees, packed), plus copies of wide nodes that are too short to be worth
// a wide tile. Workers get spans of the wide line and warps spans of the narrow one, such that all finish together; the
// number of workers that take wide tiles is searched.
//
// Stacks: what up to 128 neighbouring pairs see, for one KV head: the nodes above that more pairs see, then the subtrees that
// only they see, those of the first and those of the last 64 pairs by turns. Workers get spans of the line of all stacks, or
// whole ones. A plan has streams or stacks, whichever is predicted to take less time.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

#include "espalier/detail/fused_plan.hpp"
#include "perf/gpu/workload.hpp"

namespace espalier::perf {

struct PlannerConfig {
  int workers = 132;
  int query_heads = 32, kv_heads = 8, head_dim = 128;
  // Costs in microseconds, from time stamps of every tile on an H200.
  double wide_block = 1.64;       ///< 128 pairs x 128 tokens on one multiprocessor
  double wide_half_block = 1.05;  ///< at most 64 pairs x 128 tokens
  double wide_fixed = 0.7;        ///< of a wide tile
  double wide_chain = 1.2;        ///< more for a wide tile of several segments
  double stack_half_block = 1.2;  ///< 128 slots of a stack that 64 of the pairs do not see
  double narrow_fixed = 2.85;     ///< of a narrow tile, for one of eight warps
  double narrow_step = 0.57;      ///< 16 tokens of it
  double narrow_segment = 0.81;   ///< a segment of it
  double turn = 3;                ///< a worker's turn from wide to narrow
  double narrow_rate = 50;        ///< GB/s that one multiprocessor streams
  double memory_rate = 4200;      ///< GB/s of all of them
  double partial_bytes = 512;     ///< written and read for one partial
  double large_bytes = 120e6;     ///< narrow bytes above which memory is saturated for long
  double queue_share = 0.6;       ///< of the narrow tiles, where narrow bytes are above large_bytes
  int queue_cut = 8;              ///< steps of a piece in the queue, at most
  int queue_tiles = 16;           ///< a worker with fewer tiles gives none to the queue
  int gang = 8;           ///< at most this many row tiles of one node walk its KV together on neighbouring workers
  bool chains = true;     ///< absorb wide nodes into the tiles of their children
  int short_tokens = 40;  ///< wide nodes with fewer tokens are copied into narrow streams
  int gather_tokens = 8;  ///< nodes with fewer tokens are listed token by token
  int least_pack = 16;    ///< steps that neighbouring leaves may be packed to
  int least_cut = 4;      ///< steps that a narrow piece is cut to
  int wide_workers = -1;  ///< -1: searched
  int stacks = -1;        ///< 0: never, 1: always, -1: where they are predicted to take less time
  double merge = 2;       ///< microseconds of a merge that has something to do
};

struct FusedPlan {
  detail::FusedPlanHeader header = {};
  std::vector<detail::FusedSegment> segments;
  std::vector<detail::GatheredToken> gathered;
  std::vector<detail::FusedTile> wide_tiles, narrow_tiles;
  std::vector<detail::FusedWorker> worker;
  std::vector<std::int32_t> merge_begin;
  std::vector<detail::MergeEntry> merge_entries;
  std::int32_t partials = 0;
  int wide_workers = 0;
  double predicted = 0;  ///< microseconds
  bool stacked = false;  ///< all tiles are stacks
};

class FusedPlanner {
 public:
  FusedPlanner(const Tree& tree, const PlannerConfig& config) : tree_(tree), config_(config) {
    group_ = config.query_heads / config.kv_heads;
    config_.gang = std::min(config_.gang, config_.workers);
  }

  FusedPlan plan() {
    const bool possible = group_ <= detail::kWidePairs && config_.stacks != 0;
    if (!possible || config_.stacks < 0) {
      plan_in_streams();
      if (!possible) return std::move(plan_);
    }
    for (const bool whole : {false, true}) {
      FusedPlanner stacked(tree_, config_);
      stacked.plan_in_stacks(whole);
      const bool first = config_.stacks > 0 && !plan_.stacked;
      if (first || stacked.plan_.predicted < plan_.predicted) plan_ = std::move(stacked.plan_);
    }
    return std::move(plan_);
  }

 private:
  /// @param whole  stacks are not cut
  void plan_in_stacks(bool whole) {
    plan_.stacked = true;
    find_stacks(whole);
    balance_stacks(whole);
    emit();
  }

  void plan_in_streams() {
    classify();
    find_wide_streams();
    find_narrow_streams();
    choose_constants();
    balance();
    emit();
  }

  void emit() {
    emit_wide();
    emit_narrow();
    mark_direct();
    emit_merge_lists();
  }

  struct Chain {
    int node;  ///< the lowest of them
    int segment_begin, segment_end;
    int tokens;                ///< of all its segments
    int half_begin, half_end;  ///< blocks of which one half of a tile sees nothing
  };
  struct WideStream {
    int chain, kv_head, pair_begin, pairs;  ///< up to gang_ row tiles, each kWidePairs behind the one before
    int blocks;
  };
  /// A position in a narrow stream that a piece may begin at.
  struct Step {
    int segment, skip;  ///< of a gathered stream: the first entry, 0
    int tokens;
    int pair_lo, pair_hi;  ///< of the stream
  };
  struct NarrowStream {
    int pair_begin, pairs;
    bool gathered;
    int kv_head;
    int step_begin, step_end;
  };
  struct Piece {
    int stream, begin, end;
  };
  using Pieces = std::vector<std::vector<Piece>>;

  static constexpr int kWarps = 8;  ///< of a worker that take narrow tiles

  /// What tokens of one segment take of a wide tile.
  [[nodiscard]] int slots(int tokens) const { return plan_.stacked ? detail::stack_slots(tokens) : tokens; }
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  [[nodiscard]] int pairs_of(int node) const { return (tree_.row_end[at(node)] - tree_.row_begin[at(node)]) * group_; }
  /// Tokens that all rows of the node see.
  [[nodiscard]] int common_tokens(int node) const {
    const int first = tree_.row_begin[at(node)];
    return first < tree_.own_row_end[at(node)] ? std::min(tree_.row_visible[at(first)], tree_.tokens[at(node)])
                                               : tree_.tokens[at(node)];
  }

  // ---------------------------------------------------------------------------------------------- what is what

  enum class Kind { none, narrow, copied, wide };

  /// Nodes with more pairs than a narrow tile holds are wide, or copied into narrow streams if they are too short. A wide
  /// node is absorbed if its children cover all its rows with no more row tiles than its own: then its tokens go in
  /// front of theirs, in the same tiles.
  void classify() {
    kind_.assign(at(tree_.nodes()), Kind::none);
    absorbed_.assign(at(tree_.nodes()), false);
    std::vector<int> child_tiles(at(tree_.nodes()), 0), child_rows(at(tree_.nodes()), 0);
    std::vector<int> child_tokens(at(tree_.nodes()), INT32_MAX);
    const auto many = [&](int i) { return pairs_of(i) > detail::kNarrowPairs; };
    const auto tiles = [&](int i) { return (pairs_of(i) + detail::kWidePairs - 1) / detail::kWidePairs; };
    for (int i = 0; i < tree_.nodes(); ++i) {
      const int parent = tree_.parent[at(i)];
      if (parent < 0 || !many(i)) continue;
      child_tiles[at(parent)] += tiles(i);
      child_rows[at(parent)] += tree_.row_end[at(i)] - tree_.row_begin[at(i)];
      child_tokens[at(parent)] = std::min(child_tokens[at(parent)], tree_.tokens[at(i)]);
    }
    for (int i = 0; i < tree_.nodes(); ++i) {
      if (!many(i)) {
        if (tree_.tokens[at(i)] > 0 && pairs_of(i) > 0) kind_[at(i)] = Kind::narrow;
        continue;
      }
      const int rows = tree_.row_end[at(i)] - tree_.row_begin[at(i)], parent = tree_.parent[at(i)];
      absorbed_[at(i)] = config_.chains && child_rows[at(i)] == rows && child_tiles[at(i)] == tiles(i) &&
                         tree_.tokens[at(i)] + child_tokens[at(i)] >= config_.short_tokens;
      const bool long_enough = tree_.tokens[at(i)] >= config_.short_tokens || (parent >= 0 && absorbed_[at(parent)]);
      if (absorbed_[at(i)])
        kind_[at(i)] = Kind::wide;
      else if (tree_.tokens[at(i)] > 0 || long_enough)
        kind_[at(i)] = long_enough ? Kind::wide : Kind::copied;
    }
  }

  int add_segment(int node, int tokens, int first_token = 0) {
    detail::FusedSegment s = {};
    const int place = tree_.first_offset[at(node)] + first_token;
    s.table_begin = tree_.first_block[at(node)] + place / tree_.block_tokens;
    s.first_block = tree_.block_table[at(s.table_begin)];
    s.block_offset = place % tree_.block_tokens;
    s.tokens = tokens;
    s.row_begin = tree_.row_begin[at(node)];
    s.row_end = tree_.row_end[at(node)];
    s.own_row_end = tree_.own_row_end[at(node)];
    s.node_token = first_token;
    if (common_tokens(node) >= first_token + tokens) s.own_row_end = s.row_begin;
    plan_.segments.push_back(s);
    return static_cast<int>(plan_.segments.size()) - 1;
  }

  /// One stream for each wide node that is not absorbed: the absorbed nodes above it, then itself.
  void find_wide_streams() {
    gang_ = config_.gang;
    std::vector<int> chain;
    for (int i = 0; i < tree_.nodes(); ++i) {
      if (kind_[at(i)] != Kind::wide || absorbed_[at(i)]) continue;
      chain.assign(1, i);
      for (int above = tree_.parent[at(i)]; above >= 0 && absorbed_[at(above)]; above = tree_.parent[at(above)])
        chain.push_back(above);
      const int segment_begin = static_cast<int>(plan_.segments.size());
      int tokens = 0;
      for (auto node = chain.rbegin(); node != chain.rend(); ++node) {
        if (tree_.tokens[at(*node)] > 0) add_segment(*node, tree_.tokens[at(*node)]);
        tokens += tree_.tokens[at(*node)];
      }
      chains_.push_back({i, segment_begin, static_cast<int>(plan_.segments.size()), tokens, 0, 0});
      const int tiles = (pairs_of(i) + detail::kWidePairs - 1) / detail::kWidePairs;
      while (tiles % gang_ != 0) gang_ /= 2;
    }
    for (int c = 0; c < static_cast<int>(chains_.size()); ++c) {
      const int i = chains_[at(c)].node;
      const int pairs = pairs_of(i), blocks = (chains_[at(c)].tokens + 127) / 128;
      for (int head = 0; head < config_.kv_heads; ++head) {
        for (int pair = 0; pair < pairs; pair += gang_ * detail::kWidePairs) {
          wide_.push_back({c, head, tree_.row_begin[at(i)] * group_ + pair,
                           std::min(pairs - pair, gang_ * detail::kWidePairs), blocks});
        }
      }
    }
  }

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
    gang_ = 1;
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

  void balance_stacks(bool whole) {
    const std::vector<Cost> line = costs_of(wide_);
    std::vector<int> order(at(config_.workers));
    std::iota(order.begin(), order.end(), 0);
    const std::vector<double> idle(at(config_.workers), 0.0);
    const double finish = wide_.empty() ? 0.0 : spread(line, idle, order, 1, 1, whole ? INT32_MAX : 0, balance_.wide);
    balance_.wide_workers = config_.workers;
    double partials = 0;
    for (const auto& list : balance_.wide) {
      for (const Piece& p : list) {
        if (p.end - p.begin < wide_[at(p.stream)].blocks) partials += wide_[at(p.stream)].pairs;
      }
    }
    const double memory = bytes_ / (config_.memory_rate * 1e3);
    plan_.predicted = std::max(finish, memory) + partials * config_.partial_bytes / (config_.memory_rate * 1e3) +
                      (partials > 0 ? config_.merge : 0.0);
    plan_.wide_workers = config_.workers;
  }

  /// Narrow streams cover rows from left to right; `units` are row intervals that must stay together.
  void find_narrow_streams() {
    std::vector<int> root_of_row(at(tree_.rows()), -1);  // outermost narrow node, in the row where it begins
    std::vector<bool> inside(at(tree_.rows()), false), copied(at(tree_.rows()), false);
    std::int64_t steps = 0;
    for (int i = 0; i < tree_.nodes(); ++i) {
      const int begin = tree_.row_begin[at(i)], end = tree_.row_end[at(i)];
      if (kind_[at(i)] == Kind::narrow) {
        steps += (tree_.tokens[at(i)] + 15) / 16;
        if (!inside[at(begin)]) {
          root_of_row[at(begin)] = end;
          for (int r = begin; r < end; ++r) inside[at(r)] = true;
        } else if (root_of_row[at(begin)] >= 0 && root_of_row[at(begin)] < end) {
          root_of_row[at(begin)] = end;
        }
      } else if (kind_[at(i)] == Kind::copied) {
        for (int r = begin; r < end; ++r) copied[at(r)] = true;
      }
    }
    // Packing must leave enough streams for all workers.
    const double per_worker = static_cast<double>(steps) * config_.kv_heads / config_.workers;
    pack_steps_ = std::clamp(static_cast<int>(std::ceil(per_worker / 16.0)), config_.least_pack, 48);
    struct Unit {
      int row_begin, row_end;
    };
    std::vector<Unit> units;
    for (int r = 0; r < tree_.rows();) {
      if (root_of_row[at(r)] >= 0) {
        units.push_back({r, root_of_row[at(r)]});
        r = root_of_row[at(r)];
      } else {
        if (copied[at(r)]) units.push_back({r, r + 1});
        ++r;
      }
    }
    std::vector<int> narrow_nodes, copied_nodes;
    for (int i = 0; i < tree_.nodes(); ++i) {
      if (kind_[at(i)] == Kind::narrow) narrow_nodes.push_back(i);
      if (kind_[at(i)] == Kind::copied) copied_nodes.push_back(i);
    }
    std::size_t node = 0;
    const auto unit_steps = [&](const Unit& unit) {
      int count = 0;
      for (std::size_t n = node; n < narrow_nodes.size() && tree_.row_begin[at(narrow_nodes[n])] < unit.row_end; ++n) {
        if (tree_.row_begin[at(narrow_nodes[n])] >= unit.row_begin)
          count += (tree_.tokens[at(narrow_nodes[n])] + 15) / 16;
      }
      return count;
    };
    for (std::size_t u = 0; u < units.size();) {
      const int row_begin = units[u].row_begin;
      int row_end = units[u].row_end, packed = unit_steps(units[u]);
      for (++u; u < units.size(); ++u) {
        if (units[u].row_begin != row_end || (units[u].row_end - row_begin) * group_ > detail::kNarrowPairs) break;
        const int more = unit_steps(units[u]);
        if (packed > 0 && packed + more > pack_steps_) break;
        packed += more;
        row_end = units[u].row_end;
      }
      std::vector<int> members;
      for (int i : copied_nodes) {
        if (tree_.row_begin[at(i)] < row_end && tree_.row_end[at(i)] > row_begin) members.push_back(i);
      }
      while (node < narrow_nodes.size() && tree_.row_begin[at(narrow_nodes[node])] < row_end) {
        members.push_back(narrow_nodes[node++]);
      }
      const int pair_end = row_end * group_;
      for (int pair = row_begin * group_; pair < pair_end; pair += detail::kNarrowPairs) {
        add_narrow_stream(pair, std::min(pair + detail::kNarrowPairs, pair_end), members);
      }
    }
  }

  void add_narrow_stream(int pair_begin, int pair_end, const std::vector<int>& members) {
    const int step_begin = static_cast<int>(steps_.size());
    std::vector<detail::GatheredToken> gathered;
    for (int i : members) {
      const int common = common_tokens(i), tokens = tree_.tokens[at(i)];
      const bool listed = common < config_.gather_tokens;
      const int lo = std::max(tree_.row_begin[at(i)] * group_, pair_begin) - pair_begin;
      const int hi = std::min(tree_.row_end[at(i)] * group_, pair_end) - pair_begin;
      if (!listed) {
        const int segment = add_segment(i, common);
        for (int t = 0; t < common; t += 16) steps_.push_back({segment, t, std::min(16, common - t), lo, hi});
      }
      for (int t = listed ? 0 : common; t < tokens; ++t) {
        int row = tree_.row_begin[at(i)];
        while (row < tree_.own_row_end[at(i)] && tree_.row_visible[at(row)] <= t) ++row;
        const int first = std::max(row * group_, pair_begin) - pair_begin;
        if (first >= hi) continue;
        const int place = tree_.first_offset[at(i)] + t;
        const int block = tree_.block_table[at(tree_.first_block[at(i)] + place / tree_.block_tokens)];
        gathered.push_back({block * tree_.block_tokens + place % tree_.block_tokens, static_cast<std::int16_t>(first),
                            static_cast<std::int16_t>(hi)});
      }
    }
    const auto add = [&](int begin, bool is_gathered) {
      const int end = static_cast<int>(steps_.size());
      if (begin == end) return;
      for (int head = 0; head < config_.kv_heads; ++head) {
        narrow_.push_back({pair_begin, pair_end - pair_begin, is_gathered, head, begin, end});
      }
    };
    add(step_begin, false);
    const int gathered_begin = static_cast<int>(steps_.size());
    for (std::size_t t = 0; t < gathered.size(); t += 16) {
      const std::size_t count = std::min<std::size_t>(16, gathered.size() - t);
      Step step = {static_cast<int>(plan_.gathered.size() + t), 0, static_cast<int>(count), 16, 0};
      for (std::size_t i = t; i < t + count; ++i) {
        step.pair_lo = std::min<int>(step.pair_lo, gathered[i].pair_lo);
        step.pair_hi = std::max<int>(step.pair_hi, gathered[i].pair_hi);
      }
      steps_.push_back(step);
    }
    plan_.gathered.insert(plan_.gathered.end(), gathered.begin(), gathered.end());
    add(gathered_begin, true);
  }

  // --------------------------------------------------------------------------------------------------- balance

  void choose_constants() {
    double bytes = 0;
    for (const NarrowStream& s : narrow_) bytes += (s.step_end - s.step_begin) * step_bytes();
    narrow_bytes_ = bytes;
    const bool large = bytes > config_.large_bytes;
    uncut_steps_ = uncut_steps();
    if (!large || uncut_steps_ > 0) config_.queue_share = 0;
  }

  /// Steps up to which a narrow stream stays whole. Where nothing is wide and every warp has a stream, the whole machine
  /// streams until the end, and cutting would cost partials and balance nothing: 50 of 132 multiprocessors saturate memory,
  /// so that it does not matter which of them end early, as long as a fifth of the warps work in the last round.
  [[nodiscard]] int uncut_steps() const {
    const std::int64_t warps = std::int64_t{kWarps} * config_.workers, streams = std::ssize(narrow_);
    if (!wide_.empty() || narrow_bytes_ <= config_.large_bytes || streams < warps) return 0;
    const std::int64_t last_round = streams % warps;
    if (last_round > 0 && 5 * last_round < warps && streams < 8 * warps) return 0;
    std::int64_t steps = 0;
    for (const NarrowStream& s : narrow_) steps += s.step_end - s.step_begin;
    return static_cast<int>(steps / warps);
  }

  [[nodiscard]] double step_bytes() const { return 16.0 * config_.head_dim * 4; }

  /// A stream on its line, in microseconds.
  struct Cost {
    int length;  ///< blocks or steps
    double unit, fixed;
    int half_begin = 0, half_end = 0;  ///< these cost `half`
    double half = 0;

    [[nodiscard]] double until(int end) const {
      const int halves = std::clamp(end, half_begin, half_end) - half_begin;
      return (end - halves) * unit + halves * half;
    }
    [[nodiscard]] double of(int begin, int end) const { return until(end) - until(begin) + fixed; }
    /// Blocks or steps from one on that a time suffices for.
    [[nodiscard]] int fitting(int begin, double time) const {
      const double until_then = until(begin) + time - fixed + 1e-9;
      const auto count = [&](double rest, double each) {
        return static_cast<int>(std::min(std::floor(rest / each), 1e8));
      };
      if (until_then < until(half_begin)) return count(until_then, unit) - begin;
      if (until_then < until(half_end)) return half_begin + count(until_then - until(half_begin), half) - begin;
      return half_end + count(until_then - until(half_end), unit) - begin;
    }
  };
  [[nodiscard]] Cost cost_of(const WideStream& s) const {
    const Chain& chain = chains_[at(s.chain)];
    const double block = s.pairs <= detail::kWidePairs / 2 ? config_.wide_half_block : config_.wide_block;
    const bool several = chain.segment_end > chain.segment_begin + 1;
    const double size = config_.head_dim / 128.0;
    return {s.blocks,         block * size,   config_.wide_fixed + (several ? config_.wide_chain : 0.0),
            chain.half_begin, chain.half_end, config_.stack_half_block * size};
  }
  /// For one warp.
  [[nodiscard]] Cost cost_of(const NarrowStream& s) const {
    int segments = 1;
    for (int i = s.step_begin + 1; i < s.step_end; ++i)
      segments += steps_[at(i)].segment != steps_[at(i - 1)].segment ? 1 : 0;
    const int length = s.step_end - s.step_begin;
    const double step = config_.narrow_step + config_.narrow_segment * segments / length;
    return {length, step * config_.head_dim / 128, config_.narrow_fixed};
  }
  template <class Stream>
  [[nodiscard]] std::vector<Cost> costs_of(const std::vector<Stream>& streams) const {
    std::vector<Cost> line;
    for (const Stream& s : streams) line.push_back(cost_of(s));
    return line;
  }

  /// Gives taker order[k] the next pieces of the line until its time is full. What is no longer than `uncut` stays whole.
  /// @returns the earliest common finish
  static double spread(const std::vector<Cost>& line, const std::vector<double>& busy, const std::vector<int>& order,
                       int least, int grain, int uncut, Pieces& pieces) {
    const auto fits = [&](double finish, Pieces* out) {
      if (out) out->assign(busy.size(), {});
      std::size_t k = 0;
      double left = finish - busy[at(order[0])];
      for (std::size_t i = 0; i < line.size(); ++i) {
        const Cost& cost = line[i];
        int done = 0;
        while (done < cost.length) {
          const int rest = cost.length - done;
          const int room = cost.fitting(done, left);
          const int part = room / grain * grain;
          if (room >= rest) {
            if (out) (*out)[at(order[k])].push_back({static_cast<int>(i), done, cost.length});
            left -= cost.of(done, cost.length);
            done = cost.length;
          } else if (part >= least && rest - part >= least && cost.length > uncut) {
            if (out) (*out)[at(order[k])].push_back({static_cast<int>(i), done, done + part});
            done += part;
            left = -1;
          } else {
            if (++k >= order.size()) return false;
            left = finish - busy[at(order[k])];
          }
        }
      }
      return true;
    };
    double low = 0, high = 1;
    while (!fits(high, nullptr)) high *= 1.5;
    for (int i = 0; i < 30; ++i) {
      const double middle = (low + high) / 2;
      if (fits(middle, nullptr))
        high = middle;
      else
        low = middle;
    }
    fits(high, &pieces);
    return high;
  }

  struct Balance {
    Pieces wide, narrow;  ///< wide: by gang
    double time = 1e30;
    int wide_workers = 0;
  };

  [[nodiscard]] Balance try_balance(int wide_workers) const {
    Balance b;
    b.wide_workers = wide_workers;
    std::vector<double> busy(at(config_.workers), 0.0);  // until a worker takes narrow tiles
    double partials = 0, wide_finish = 0, narrow_finish = 0;
    if (!wide_.empty()) {
      const int gangs = wide_workers / gang_;
      const std::vector<Cost> line = costs_of(wide_);
      std::vector<int> order(at(gangs));
      std::iota(order.begin(), order.end(), 0);
      spread(line, std::vector<double>(at(gangs), 0.0), order, 1, 1, 0, b.wide);
      for (int w = 0; w < gangs * gang_; ++w) {
        double time = 0;
        for (const Piece& p : b.wide[at(w / gang_)]) time += line[at(p.stream)].of(p.begin, p.end);
        busy[at(w)] = time > 0 ? time + config_.turn : 0.0;
        wide_finish = std::max(wide_finish, time);
      }
      for (const auto& list : b.wide) {
        for (const Piece& p : list) partials += wide_[at(p.stream)].pairs;
      }
    }
    if (!narrow_.empty()) {
      narrow_finish = spread_narrow(busy, wide_finish, b.narrow);
      for (const auto& list : b.narrow) {
        for (const Piece& p : list) partials += narrow_[at(p.stream)].pairs;
      }
    }
    b.time = std::max(wide_finish, narrow_finish) + 0.02 * wide_finish +
             partials * config_.partial_bytes / (config_.memory_rate * 1e3);
    return b;
  }

  /// Gives every warp a span of the narrow line: the warps of a worker then end together, too. Streams are cut no finer than
  /// makes the narrow tiles end before the wide ones, and before memory lets them: pieces cost partials and begins.
  double spread_narrow(const std::vector<double>& busy, double wide_finish, Pieces& pieces) const {
    const int warps = kWarps * config_.workers;
    std::vector<double> busy_warps(at(warps));
    for (int warp = 0; warp < warps; ++warp) busy_warps[at(warp)] = busy[at(warp / kWarps)];
    std::vector<int> order(at(warps));
    std::iota(order.begin(), order.end(), 0);
    // The last warps of the order get least. Streams that stay whole: the KV heads of the same tokens to the same worker.
    if (uncut_steps_ == 0)
      std::stable_sort(order.begin(), order.end(), [](int a, int b) { return a % kWarps < b % kWarps; });
    const auto begins_earlier = [&](int a, int b) { return busy_warps[at(a)] < busy_warps[at(b)]; };
    std::stable_sort(order.begin(), order.end(), begins_earlier);
    const std::vector<Cost> line = costs_of(narrow_);
    const double memory = memory_finish(busy);
    Pieces spans, coarser;
    double finish = spread(line, busy_warps, order, config_.least_cut, 2, uncut_steps_, spans);
    for (int least : {2 * config_.least_cut, 4 * config_.least_cut, INT32_MAX}) {
      const double time = spread(line, busy_warps, order, least, 2, uncut_steps_, coarser);
      if (time > std::max({finish, wide_finish, memory})) continue;
      finish = std::max(finish, time);
      std::swap(spans, coarser);
    }
    pieces.assign(at(config_.workers), {});
    for (int warp = 0; warp < warps; ++warp) {
      auto& list = pieces[at(warp / kWarps)];
      list.insert(list.end(), spans[at(warp)].begin(), spans[at(warp)].end());
    }
    return std::max(finish, memory);
  }

  /// When the narrow bytes have arrived, given when each worker begins to stream and what memory delivers at most.
  [[nodiscard]] double memory_finish(std::vector<double> begins) const {
    std::sort(begins.begin(), begins.end());
    double time = 0, done = 0;
    std::size_t streaming = 0;
    while (true) {
      while (streaming < begins.size() && begins[streaming] <= time + 1e-9) ++streaming;
      const double rate = std::min(static_cast<double>(streaming) * config_.narrow_rate, config_.memory_rate) * 1e3;
      const double next = streaming < begins.size() ? begins[streaming] : 1e30;
      if (rate > 0 && time + (narrow_bytes_ - done) / rate <= next) return time + (narrow_bytes_ - done) / rate;
      done += rate * (next - time);
      time = next;
    }
  }

  void balance() {
    if (wide_.empty()) {
      balance_ = try_balance(0);
    } else if (narrow_.empty()) {
      balance_ = try_balance(config_.workers / gang_ * gang_);
    } else if (config_.wide_workers >= 0) {
      balance_ = try_balance(config_.wide_workers);
    } else {
      for (int w = std::min(std::max(8, gang_), config_.workers / gang_ * gang_); w <= config_.workers;
           w += w < 120 ? 4 : std::max(1, std::min(gang_, 2))) {
        Balance b = try_balance(w);
        if (b.time < balance_.time - 1e-6) balance_ = std::move(b);
      }
    }
    plan_.wide_workers = balance_.wide_workers;
    plan_.predicted = balance_.time;
  }

  // ------------------------------------------------------------------------------------------------------ tiles

  void emit_wide() {
    plan_.worker.assign(at(config_.workers), {});
    for (int w = 0; w < config_.workers; ++w) {
      plan_.worker[at(w)].wide_begin = static_cast<int>(plan_.wide_tiles.size());
      if (!wide_.empty() && w / gang_ < balance_.wide_workers / gang_) {
        for (const Piece& piece : balance_.wide[at(w / gang_)])
          emit_wide_tile(wide_[at(piece.stream)], piece, w % gang_);
      }
      plan_.worker[at(w)].wide_end = static_cast<int>(plan_.wide_tiles.size());
    }
  }

  void emit_wide_tile(const WideStream& s, const Piece& piece, int member) {
    const Chain& chain = chains_[at(s.chain)];
    detail::FusedTile tile = {};
    const int first = piece.begin * 128, end = std::min(chain.tokens, piece.end * 128);
    tile.segment_begin = chain.segment_begin;
    tile.skip = first;
    const auto slots_of = [&](int segment) { return slots(plan_.segments[at(segment)].tokens); };
    while (tile.skip >= slots_of(tile.segment_begin)) tile.skip -= slots_of(tile.segment_begin++);
    tile.tokens = end - first;
    tile.segment_end = tile.segment_begin + 1;
    int covered = slots_of(tile.segment_begin) - tile.skip;
    while (covered < tile.tokens) covered += slots_of(tile.segment_end++);
    tile.pair_begin = s.pair_begin + member * detail::kWidePairs;
    int pair_end = std::min(s.pair_begin + s.pairs, tile.pair_begin + detail::kWidePairs);
    if (pair_end <= tile.pair_begin) return;
    int low = INT32_MAX, high = 0;  // the pairs that see any of it
    for (int i = tile.segment_begin; i < tile.segment_end; ++i) {
      const detail::FusedSegment& segment = plan_.segments[at(i)];
      low = std::min(low, segment.row_begin * group_);
      high = std::max(high, segment.row_end * group_);
    }
    tile.pair_begin = std::max(tile.pair_begin, low);
    pair_end = std::min(pair_end, high);
    tile.pairs = static_cast<std::uint16_t>(pair_end - tile.pair_begin);
    tile.kv_head = static_cast<std::uint16_t>(s.kv_head);
    tile.partial_begin = plan_.partials;
    plan_.partials += tile.pairs;
    const int first_row = tile.pair_begin / group_;
    const detail::FusedSegment& last = plan_.segments[at(tile.segment_end - 1)];
    const int seen = last.tokens - (covered - tile.tokens);  // tokens of the last segment up to the tile's end
    if (!plan_.stacked && first_row < last.own_row_end && tree_.row_visible[at(first_row)] < seen)
      tile.flags |= detail::kTileLimited;
    plan_.wide_tiles.push_back(tile);
  }

  void emit_narrow() {
    std::vector<Piece> queue;
    // Equal lengths: the KV heads of the same tokens together, since they lie side by side in memory.
    const auto longer = [&](const Piece& a, const Piece& b) {
      const auto key = [&](const Piece& p) {
        return std::tuple(p.begin - p.end, p.stream / config_.kv_heads, p.begin, p.stream);
      };
      return key(a) < key(b);
    };
    for (int w = 0; w < config_.workers; ++w) {
      std::vector<Piece> own;
      if (!narrow_.empty()) own = balance_.narrow[at(w)];
      std::stable_sort(own.begin(), own.end(), longer);
      if (config_.queue_share > 0 && std::ssize(own) >= config_.queue_tiles) move_to_queue(own, queue);
      plan_.worker[at(w)].narrow_begin = static_cast<int>(plan_.narrow_tiles.size());
      for (const Piece& p : own) emit_narrow_tile(p);
      plan_.worker[at(w)].narrow_end = static_cast<int>(plan_.narrow_tiles.size());
    }
    std::stable_sort(queue.begin(), queue.end(), longer);
    plan_.header.queue_begin = static_cast<int>(plan_.narrow_tiles.size());
    for (const Piece& p : queue) emit_narrow_tile(p);
    plan_.header.queue_end = static_cast<int>(plan_.narrow_tiles.size());
    plan_.header.rows = tree_.rows();
  }

  /// The shortest of a worker's tiles, in smaller pieces; each of its warps keeps one.
  void move_to_queue(std::vector<Piece>& own, std::vector<Piece>& queue) const {
    double move = 0;
    for (const Piece& p : own) move += config_.queue_share * (p.end - p.begin);
    while (move > 0 && std::ssize(own) > kWarps) {
      const Piece p = own.back();
      const int length = p.end - p.begin, parts = (length + config_.queue_cut - 1) / config_.queue_cut;
      move -= length;
      for (int i = 0; i < parts; ++i) {
        const int begin = p.begin + (length * i / parts & ~1);
        const int end = i + 1 == parts ? p.end : p.begin + (length * (i + 1) / parts & ~1);
        if (begin < end) queue.push_back({p.stream, begin, end});
      }
      own.pop_back();
    }
  }

  void emit_narrow_tile(const Piece& piece) {
    const NarrowStream& s = narrow_[at(piece.stream)];
    const Step& first = steps_[at(s.step_begin + piece.begin)];
    const Step& last = steps_[at(s.step_begin + piece.end - 1)];
    detail::FusedTile tile = {};
    tile.segment_begin = first.segment;
    tile.skip = first.skip;
    tile.segment_end = s.gathered ? last.segment + last.tokens : last.segment + 1;
    int lo = s.pairs, hi = 0;
    for (int i = s.step_begin + piece.begin; i < s.step_begin + piece.end; ++i) {
      tile.tokens += steps_[at(i)].tokens;
      lo = std::min(lo, steps_[at(i)].pair_lo);
      hi = std::max(hi, steps_[at(i)].pair_hi);
    }
    if (s.gathered) lo = 0;  // its tokens count pairs from the stream's first
    tile.pair_begin = s.pair_begin + lo;
    tile.pairs = static_cast<std::uint16_t>(hi - lo);
    tile.kv_head = static_cast<std::uint16_t>(s.kv_head);
    tile.flags = s.gathered ? detail::kTileGathered : 0;
    tile.partial_begin = plan_.partials;
    plan_.partials += tile.pairs;
    plan_.narrow_tiles.push_back(tile);
  }

  // ------------------------------------------------------------------------------------------------------ merge

  [[nodiscard]] std::size_t result(int pair, int head) const { return at(pair) * at(config_.kv_heads) + at(head); }

  void mark_direct() {
    partials_of_.assign(at(tree_.rows()) * at(group_) * at(config_.kv_heads), 0);
    const auto each = [&](auto&& action) {
      for (auto* tiles : {&plan_.wide_tiles, &plan_.narrow_tiles}) {
        for (detail::FusedTile& tile : *tiles) action(tile);
      }
    };
    each([&](const detail::FusedTile& tile) {
      for (int i = 0; i < tile.pairs; ++i) ++partials_of_[result(tile.pair_begin + i, tile.kv_head)];
    });
    each([&](detail::FusedTile& tile) {
      bool alone = true;
      for (int i = 0; i < tile.pairs; ++i)
        alone = alone && partials_of_[result(tile.pair_begin + i, tile.kv_head)] == 1;
      if (alone) tile.flags |= detail::kTileDirect;
    });
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
    for (const auto* tiles : {&plan_.narrow_tiles, &plan_.wide_tiles}) {
      for (const detail::FusedTile& tile : *tiles) {
        if (tile.flags & detail::kTileDirect) continue;
        add(tile.pair_begin, tile.pair_begin + tile.pairs, tile.kv_head, tile.partial_begin);
      }
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
  int group_ = 1, gang_ = 1, pack_steps_ = 3;
  double narrow_bytes_ = 0, bytes_ = 0;
  int uncut_steps_ = 0;
  std::vector<Kind> kind_;
  std::vector<bool> absorbed_;
  std::vector<Chain> chains_;
  std::vector<WideStream> wide_;
  std::vector<NarrowStream> narrow_;
  std::vector<Step> steps_;
  Balance balance_;
  std::vector<int> partials_of_;
  FusedPlan plan_;
};

}  // namespace espalier::perf
