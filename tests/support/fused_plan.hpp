#pragma once
// A plan of the fused kernels on the host, what has to hold for it, and a kernel in double precision that reads it as the
// fused ones do.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "espalier/detail/fused_plan.hpp"
#include "espalier/tree_arrays.hpp"
#include "support/oracle.hpp"
#include "support/problem.hpp"

namespace espalier::test {

struct FusedPlanArrays {
  espalier::detail::FusedPlanHeader header;
  std::vector<espalier::detail::FusedSegment> segments;
  std::vector<espalier::detail::FusedTile> tiles;
  std::vector<espalier::detail::FusedWorker> worker;
  std::vector<std::int32_t> merge_begin;
  std::vector<espalier::detail::MergeEntry> merge_entries;
  std::vector<std::int32_t> row_visible;

  friend bool operator==(const FusedPlanArrays& a, const FusedPlanArrays& b) {
    const auto same = []<class T>(const std::vector<T>& x, const std::vector<T>& y) {
      return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
    };
    return std::memcmp(&a.header, &b.header, sizeof a.header) == 0 && same(a.segments, b.segments) &&
           same(a.tiles, b.tiles) && same(a.worker, b.worker) && same(a.merge_begin, b.merge_begin) &&
           same(a.merge_entries, b.merge_entries);
  }
};

/// Waits for the instance.
template <class Exec>
FusedPlanArrays fused_plan_arrays(const Exec& exec, const espalier::detail::FusedPlanView& view,
                                  const HeadShape& heads) {
  const auto download = [&]<class T>(const T* data, std::int64_t count) {
    std::vector<T> host(std::size_t(count), T{});
    Kokkos::View<const T*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>> source(data,
                                                                                                        host.size());
    Kokkos::View<T*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(host.data(), host.size());
    Kokkos::deep_copy(exec, target, source);
    exec.fence("test::fused_plan_arrays");
    return host;
  };
  FusedPlanArrays a;
  a.header = download(view.header, 1)[0];
  a.worker = download(view.worker, view.workers);
  std::int32_t tiles = 0, segments = 0;
  for (const auto& worker : a.worker) tiles = std::max(tiles, worker.tile_end);
  a.tiles = download(view.tiles, tiles);
  for (const auto& tile : a.tiles) segments = std::max(segments, tile.segment_end);
  a.segments = download(view.segments, segments);
  const std::int64_t blocks = (std::int64_t(a.header.rows) * heads.group() + 15) / 16;
  a.merge_begin = download(view.merge_begin, blocks * heads.kv_heads + 1);
  a.merge_entries = download(view.merge_entries, a.merge_begin.back());
  a.row_visible = download(view.row_visible, a.header.rows);
  return a;
}

/// Reads a plan as the kernels do.
class FusedPlanReader {
 public:
  using Tile = espalier::detail::FusedTile;

  FusedPlanReader(const FusedPlanArrays& plan, const TreeSnapshot& tree, const HeadShape& heads)
      : plan_(plan), tree_(tree), group_(heads.group()) {}

  /// Calls visit(pair, slot of the KV pool) for each pair and token of the tile that the pair sees; found(problem) where
  /// something in the tile is wrong.
  template <class Visit, class Found>
  void read(const Tile& tile, const Visit& visit, const Found& found) const {
    if (tile.slots < 1) found("it has no slots");
    if (tile.segment_begin < 0 || tile.segment_begin >= tile.segment_end) return found("its segments are out of range");
    if (tile.skip % espalier::detail::kStackSlots != 0) found("its skip is no multiple of 16");
    std::int32_t left = tile.slots;
    for (std::int32_t s = tile.segment_begin; s < tile.segment_end; ++s) {
      const auto& segment = plan_.segments[std::size_t(s)];
      const std::int32_t skip = s == tile.segment_begin ? tile.skip : 0;
      const std::int32_t slots = std::min(espalier::detail::stack_slots(segment.tokens) - skip, left);
      if (slots <= 0) found("it has a segment of which it reads nothing");
      if (segment.first_block != block_at(segment.table_begin)) found("a segment's first block is wrong");
      const std::int32_t lo = std::max(tile.pair_begin, segment.row_begin * group_);
      const std::int32_t hi = std::min(tile.pair_begin + tile.pairs, segment.row_end * group_);
      if (lo >= hi) found("none of its pairs sees a segment of it");
      for (std::int32_t t = skip; t < std::min(segment.tokens, skip + slots); ++t) {
        const std::int32_t place = segment.block_offset + t;
        const std::int32_t slot = block_at(segment.table_begin + place / tree_.block_tokens) * tree_.block_tokens +
                                  place % tree_.block_tokens;
        for (std::int32_t pair = lo; pair < hi; ++pair) {
          const std::int32_t row = pair / group_;
          if (row >= segment.own_row_end || segment.node_token + t < plan_.row_visible[std::size_t(row)])
            visit(pair, slot);
        }
      }
      left -= slots;
    }
    if (left != 0) found("its segments have fewer slots than it");
  }

 private:
  [[nodiscard]] std::int32_t block_at(std::int32_t entry) const {
    return std::int32_t(tree_.block_table.at(std::size_t(entry)));
  }

  const FusedPlanArrays& plan_;
  const TreeSnapshot& tree_;
  std::int32_t group_;
};

/// Checks that every (pair, KV head, token of the pair's path) is in exactly one tile, and that tiles, workers, partials
/// and merge lists follow the rules of espalier/detail/fused_plan.hpp.
class FusedPlanCheck {
 public:
  FusedPlanCheck(const FusedPlanArrays& plan, const TreeSnapshot& snapshot, const HeadShape& heads,
                 std::int64_t partial_capacity)
      : plan_(plan), tree_(snapshot), heads_(heads), line_begin_{0} {
    for (const std::int32_t tokens : tree_.tokens) line_begin_.push_back(line_begin_.back() + tokens);
    for (std::int32_t node = 0; node < tree_.nodes(); ++node)
      for (std::int32_t token = 0; token < tree_.tokens[std::size_t(node)]; ++token) {
        const std::int32_t place = tree_.first_offset[std::size_t(node)] + token;
        const auto entry = std::size_t(tree_.first_block[std::size_t(node)] + place / tree_.block_tokens);
        token_of_[std::int32_t(tree_.block_table[entry]) * tree_.block_tokens + place % tree_.block_tokens] =
            line_begin_[std::size_t(node)] + token;
      }
    const std::size_t results = std::size_t(tree_.rows()) * std::size_t(heads.query_heads);
    reads_.assign(results, std::vector<std::uint8_t>(std::size_t(line_begin_.back()), 0));
    tiles_of_.resize(results);
    written_.assign(std::size_t(partial_capacity), 0);
  }

  std::string run() {
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t) check_tile(plan_.tiles[t], t);
    check_workers();
    check_coverage();
    check_merge();
    if (found_ > kShown) wrong_ << "and " << found_ - kShown << " more";
    return wrong_.str();
  }

  /// Tiles that are not direct although none of their pairs has another partial.
  [[nodiscard]] int lonely() const {
    int count = 0;
    for (const Tile& tile : plan_.tiles) {
      bool alone = (tile.flags & espalier::detail::kTileDirect) == 0;
      for (std::int32_t p = 0; p < tile.pairs; ++p)
        alone = alone && tiles_of_[result(tile.pair_begin + p, tile.kv_head)].size() == 1;
      count += alone ? 1 : 0;
    }
    return count;
  }

 private:
  using Tile = espalier::detail::FusedTile;
  static constexpr int kShown = 5;

  template <class... Parts>
  void expect(bool holds, const Parts&... parts) {
    if (!holds && ++found_ <= kShown) (wrong_ << ... << parts) << "; ";
  }
  [[nodiscard]] std::size_t result(std::int64_t pair, std::int32_t kv_head) const {
    return std::size_t(pair) * std::size_t(heads_.kv_heads) + std::size_t(kv_head);
  }

  void check_tile(const Tile& tile, std::size_t number) {
    const bool in_range = tile.pair_begin >= 0 && tile.pairs >= 1 && tile.pairs <= 128 &&
                          tile.pair_begin + tile.pairs <= tree_.rows() * heads_.group() &&
                          tile.kv_head < heads_.kv_heads;
    expect(in_range, "tile ", number, " is out of range");
    if (!in_range) return;
    const bool direct = (tile.flags & espalier::detail::kTileDirect) != 0;
    for (std::int32_t p = 0; p < tile.pairs; ++p) {
      const std::int64_t partial = std::int64_t(tile.partial_begin) + p;
      tiles_of_[result(tile.pair_begin + p, tile.kv_head)].push_back(direct ? kDirect : partial);
      if (direct) continue;
      const bool exists = partial >= 0 && partial < std::int64_t(written_.size());
      expect(exists && written_[std::size_t(partial)]++ == 0, "tile ", number, " writes partial ", partial,
             ", which another tile has or no one");
    }
    FusedPlanReader(plan_, tree_, heads_)
        .read(
            tile,
            [&](std::int32_t pair, std::int32_t slot) {
              const auto token = token_of_.find(slot);
              expect(token != token_of_.end(), "tile ", number, " reads slot ", slot, ", which has no token");
              if (token != token_of_.end()) ++reads_[result(pair, tile.kv_head)][std::size_t(token->second)];
            },
            [&](const char* problem) { expect(false, "tile ", number, ": ", problem); });
  }

  void check_workers() {
    std::vector<int> taken(plan_.tiles.size(), 0);
    for (const auto& worker : plan_.worker)
      for (std::int32_t t = worker.tile_begin; t < worker.tile_end; ++t) ++taken[std::size_t(t)];
    expect(std::ranges::all_of(taken, [](int n) { return n == 1; }), "the workers' lists are not the tiles");
    expect(plan_.header.rows == tree_.rows(), "the header's rows are ", plan_.header.rows);
  }

  [[nodiscard]] bool sees(std::int32_t row, std::int32_t node, std::int32_t token) const {
    const std::int32_t own = tree_.row_node[std::size_t(row)];
    if (own == node) return token < tree_.row_visible[std::size_t(row)];
    return node < own && own < tree_.subtree_end[std::size_t(node)];
  }

  void check_coverage() {
    empty_.assign(std::size_t(tree_.rows()), true);
    for (std::int32_t row = 0; row < tree_.rows(); ++row)
      for (std::int32_t node = 0; node < tree_.nodes(); ++node)
        for (std::int32_t token = 0; token < tree_.tokens[std::size_t(node)]; ++token) {
          const int wanted = sees(row, node, token) ? 1 : 0;
          if (wanted != 0) empty_[std::size_t(row)] = false;
          for (std::int64_t pair = std::int64_t(row) * heads_.group(); pair < std::int64_t(row + 1) * heads_.group();
               ++pair)
            for (std::int32_t head = 0; head < heads_.kv_heads; ++head) {
              const int count = reads_[result(pair, head)][std::size_t(line_begin_[std::size_t(node)] + token)];
              if (count != wanted)
                expect(false, "row ", row, ", pair ", pair, ", KV head ", head, " reads token ", token, " of node ",
                       node, " ", count, " times");
            }
        }
  }

  void check_merge() {
    const std::int64_t pairs = std::int64_t(tree_.rows()) * heads_.group();
    for (std::size_t list = 0; list + 1 < plan_.merge_begin.size(); ++list) {
      const std::int64_t base = std::int64_t(list) / heads_.kv_heads * 16;
      const auto head = std::int32_t(list % std::size_t(heads_.kv_heads));
      std::vector<std::vector<std::int64_t>> entries(16);
      std::vector<bool> empty(16, false);
      for (std::int32_t e = plan_.merge_begin[list]; e < plan_.merge_begin[list + 1]; ++e) {
        const auto& entry = plan_.merge_entries[std::size_t(e)];
        expect(entry.pair_lo <= entry.pair_hi && base + entry.pair_hi <= std::max(pairs, base), "merge list ", list,
               " has an entry out of range");
        for (std::size_t p = entry.pair_lo; p < std::min<std::size_t>(entry.pair_hi, 16); ++p) {
          if (entry.partial == espalier::detail::kNoPartial)
            empty[p] = true;
          else
            entries[p].push_back(std::int64_t(entry.partial) + std::int64_t(p));
        }
      }
      for (std::int64_t p = 0; p < std::min<std::int64_t>(16, pairs - base); ++p) {
        std::vector<std::int64_t>& tiles = tiles_of_[result(base + p, head)];
        if (std::ranges::count(tiles, kDirect) > 0) {
          expect(tiles.size() == 1, "pair ", base + p, " has a direct tile and another one");
          expect(entries[std::size_t(p)].empty(), "pair ", base + p, " has a direct tile and is merged");
          continue;
        }
        std::ranges::sort(tiles);
        std::ranges::sort(entries[std::size_t(p)]);
        expect(entries[std::size_t(p)] == tiles, "merge list ", list, " has not the partials of pair ", base + p);
        expect(empty[std::size_t(p)] == empty_[std::size_t((base + p) / heads_.group())], "merge list ", list,
               ", pair ", base + p, ": an entry without partial belongs to pairs with an empty path");
      }
    }
  }

  static constexpr std::int64_t kDirect = -1;

  const FusedPlanArrays& plan_;
  const TreeSnapshot& tree_;
  const HeadShape& heads_;
  std::vector<std::int32_t> line_begin_;             // place of each node's first token in the line
  std::map<std::int32_t, std::int32_t> token_of_;    // slot -> token of the line
  std::vector<std::vector<std::uint8_t>> reads_;     // [pair, KV head][token of the line]  how often it is read
  std::vector<std::vector<std::int64_t>> tiles_of_;  // [pair, KV head]  partials
  std::vector<std::uint8_t> written_;
  std::vector<bool> empty_;  // [rows]
  std::ostringstream wrong_;
  int found_ = 0;
};

/// Attention from a plan, in double precision.
inline oracle::Result attend_by_plan(const FusedPlanArrays& plan, const TreeSnapshot& snapshot, const Tree& tree,
                                     const HeadShape& heads, const Inputs& inputs, TreeLayout layout) {
  const auto slots = slots_in_node_order(tree.nodes, snapshot.block_tokens, layout);
  std::map<std::int64_t, std::size_t> token_of;
  for (std::size_t token = 0; token < slots.size(); ++token) token_of[slots[token]] = token;
  const auto head_dim = std::size_t(heads.head_dim);
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  struct State {
    double peak = kNone, weight = 0;
    std::vector<double> out;
  };
  const auto add = [&](State& state, double score, double weight, const auto& value) {
    state.out.resize(head_dim, 0);
    const double peak = std::max(state.peak, score);
    const double old = state.peak == kNone ? 0 : std::exp(state.peak - peak), fresh = weight * std::exp(score - peak);
    for (std::size_t d = 0; d < head_dim; ++d) state.out[d] = state.out[d] * old + fresh * value(d);
    state.weight = state.weight * old + fresh;
    state.peak = peak;
  };
  const std::size_t rows = snapshot.row_node.size(), query_heads = std::size_t(heads.query_heads);
  oracle::Result result{std::vector<double>(rows * query_heads * head_dim, std::nan("")),
                        std::vector<double>(rows * query_heads, std::nan(""))};
  const auto place_of = [&](std::int64_t pair, std::int32_t kv_head) {
    const auto row = std::size_t(snapshot.row_index[std::size_t(pair / heads.group())]);
    return row * query_heads + std::size_t(kv_head * heads.group() + pair % heads.group());
  };
  const auto store = [&](std::size_t place, const State& state) {
    for (std::size_t d = 0; d < head_dim; ++d)
      result.out[place * head_dim + d] = state.weight > 0 ? state.out[d] / state.weight : 0;
    result.lse[place] = state.weight > 0 ? state.peak + std::log(state.weight) : kNone;
  };
  std::map<std::int64_t, State> partials;
  const FusedPlanReader reader(plan, snapshot, heads);
  for (const auto& tile : plan.tiles) {
    std::vector<State> states(tile.pairs);
    reader.read(
        tile,
        [&](std::int32_t pair, std::int32_t slot) {
          const std::size_t key = (token_of.at(slot) * std::size_t(heads.kv_heads) + tile.kv_head) * head_dim;
          const std::size_t query = place_of(pair, tile.kv_head) * head_dim;
          double score = 0;
          for (std::size_t d = 0; d < head_dim; ++d) score += double(inputs.q[query + d]) * double(inputs.k[key + d]);
          add(states[std::size_t(pair - tile.pair_begin)], score / std::sqrt(double(head_dim)), 1,
              [&](std::size_t d) { return double(inputs.v[key + d]); });
        },
        [](const char*) {});
    for (std::int32_t p = 0; p < tile.pairs; ++p) {
      if ((tile.flags & espalier::detail::kTileDirect) != 0)
        store(place_of(tile.pair_begin + p, tile.kv_head), states[std::size_t(p)]);
      else
        partials[std::int64_t(tile.partial_begin) + p] = states[std::size_t(p)];
    }
  }
  for (std::size_t list = 0; list + 1 < plan.merge_begin.size(); ++list) {
    const auto kv_head = std::int32_t(list % std::size_t(heads.kv_heads));
    std::map<std::int64_t, State> merged;
    for (std::int32_t e = plan.merge_begin[list]; e < plan.merge_begin[list + 1]; ++e) {
      const auto& entry = plan.merge_entries[std::size_t(e)];
      for (std::int64_t p = entry.pair_lo; p < entry.pair_hi; ++p) {
        State& state = merged[std::int64_t(list) / heads.kv_heads * 16 + p];
        if (entry.partial == espalier::detail::kNoPartial) continue;
        const State& partial = partials.at(std::int64_t(entry.partial) + p);
        if (partial.weight > 0)
          add(state, partial.peak + std::log(partial.weight), 1,
              [&](std::size_t d) { return partial.out[d] / partial.weight; });
      }
    }
    for (const auto& [pair, state] : merged) store(place_of(pair, kv_head), state);
  }
  return result;
}

}  // namespace espalier::test
