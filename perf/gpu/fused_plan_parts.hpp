#pragma once
// What planners of streams and of stacks share: a line of wide tiles, costs, spans for workers, and merge lists.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
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

class FusedPlanParts {
 protected:
  FusedPlanParts(const Tree& tree, const PlannerConfig& config) : tree_(tree), config_(config) {
    group_ = config.query_heads / config.kv_heads;
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
  struct Piece {
    int stream, begin, end;
  };
  using Pieces = std::vector<std::vector<Piece>>;

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

  // ---------------------------------------------------------------------------------------------------- balance

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
  [[nodiscard]] std::vector<Cost> wide_costs() const {
    std::vector<Cost> line;
    for (const WideStream& s : wide_) line.push_back(cost_of(s));
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

  // ------------------------------------------------------------------------------------------------------ tiles

  void emit_wide() {
    plan_.header.rows = tree_.rows();
    plan_.worker.assign(at(config_.workers), {});
    for (int w = 0; w < config_.workers; ++w) {
      plan_.worker[at(w)].wide_begin = static_cast<int>(plan_.wide_tiles.size());
      if (!wide_.empty() && w / gang_ < plan_.wide_workers / gang_) {
        for (const Piece& piece : wide_pieces_[at(w / gang_)])
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
  int group_ = 1, gang_ = 1;
  std::vector<Chain> chains_;
  std::vector<WideStream> wide_;
  Pieces wide_pieces_;  ///< of each gang
  std::vector<int> partials_of_;
  FusedPlan plan_;
};

}  // namespace espalier::perf
