#pragma once
// Streams: a wide stream is one node, one KV head, and up to 128 pairs; a narrow stream is up to 16 neighbouring pairs
// and every token that only they see (small subtrees, packed), plus copies of wide nodes that are too short to be worth
// a wide tile. Workers get spans of the wide line and warps spans of the narrow one, such that all finish together; the
// number of workers that take wide tiles is searched.

#include <tuple>

#include "perf/gpu/fused_plan_parts.hpp"

namespace espalier::perf {

class StreamPlanner : FusedPlanParts {
 public:
  StreamPlanner(const Tree& tree, const PlannerConfig& config) : FusedPlanParts(tree, config) {
    config_.gang = std::min(config_.gang, config_.workers);
  }

  FusedPlan plan() {
    classify();
    find_wide_streams();
    find_narrow_streams();
    choose_constants();
    balance();
    emit_wide();
    emit_narrow();
    mark_direct();
    emit_merge_lists();
    return std::move(plan_);
  }

 private:
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
  static constexpr int kWarps = 8;  ///< of a worker that take narrow tiles

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

  /// For one warp.
  [[nodiscard]] Cost cost_of(const NarrowStream& s) const {
    int segments = 1;
    for (int i = s.step_begin + 1; i < s.step_end; ++i)
      segments += steps_[at(i)].segment != steps_[at(i - 1)].segment ? 1 : 0;
    const int length = s.step_end - s.step_begin;
    const double step = config_.narrow_step + config_.narrow_segment * segments / length;
    return {length, step * config_.head_dim / 128, config_.narrow_fixed};
  }
  [[nodiscard]] std::vector<Cost> narrow_costs() const {
    std::vector<Cost> line;
    for (const NarrowStream& s : narrow_) line.push_back(cost_of(s));
    return line;
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
      const std::vector<Cost> line = wide_costs();
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
    const std::vector<Cost> line = narrow_costs();
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
    wide_pieces_ = std::move(balance_.wide);
    plan_.predicted = balance_.time;
  }

  // ------------------------------------------------------------------------------------------------------ tiles

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

  int pack_steps_ = 3;
  double narrow_bytes_ = 0;
  int uncut_steps_ = 0;
  std::vector<Kind> kind_;
  std::vector<bool> absorbed_;
  std::vector<NarrowStream> narrow_;
  std::vector<Step> steps_;
  Balance balance_;
};

}  // namespace espalier::perf
