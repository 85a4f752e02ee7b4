#pragma once
// A finished plan on the host, and what has to hold for it whatever cut it came from: checked without attention.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "espalier/plan.hpp"
#include "espalier/tree_arrays.hpp"

namespace espalier::test {

/// The tiles of all KV heads; a merge list for each (row, KV head).
struct PlanArrays {
  PlanReport report;
  std::int32_t kv_heads;
  std::vector<espalier::detail::Segment> segments;
  std::vector<espalier::detail::Tile> tiles;
  std::vector<std::int32_t> worker_begin;
  std::vector<std::int32_t> merge_begin;
  std::vector<std::int32_t> merge_partials;
};

/// Waits for the instance.
template <class Exec>
PlanArrays plan_arrays(const Exec& exec, const Plan<Exec>& plan) {
  const auto download = [&]<class T>(const T* data, std::int64_t count) {
    std::vector<T> host(std::size_t(count), T{});
    Kokkos::View<const T*, typename Exec::memory_space, Kokkos::MemoryTraits<Kokkos::Unmanaged>> source(data,
                                                                                                        host.size());
    Kokkos::View<T*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>> target(host.data(), host.size());
    Kokkos::deep_copy(exec, target, source);
    exec.fence("test::plan_arrays");
    return host;
  };
  const espalier::detail::PlanView view = plan.view();
  PlanArrays arrays;
  arrays.report = plan.report(exec);
  arrays.kv_heads = plan.config().heads.kv_heads;
  arrays.segments = download(view.segments, arrays.report.segments);
  arrays.worker_begin = download(view.worker_begin, view.workers + 1);
  const espalier::detail::PlanSizes sizes = download(view.sizes, 1)[0];
  for (const espalier::detail::Tile& tile : download(view.tiles, sizes.tiles))
    for (std::int32_t kv_head = 0; kv_head < arrays.kv_heads; ++kv_head) {
      arrays.tiles.push_back(tile);
      arrays.tiles.back().kv_head = std::int16_t(kv_head);
      arrays.tiles.back().partial_begin += kv_head * sizes.partials;
    }
  const auto begin = download(view.merge_begin, std::int64_t(view.rows) + 1);
  const auto partials = download(view.merge_partials, sizes.partials);
  arrays.merge_begin = {0};
  for (std::int32_t row = 0; row < view.rows; ++row)
    for (std::int32_t kv_head = 0; kv_head < arrays.kv_heads; ++kv_head) {
      for (std::int32_t i = begin[std::size_t(row)]; i < begin[std::size_t(row) + 1]; ++i)
        arrays.merge_partials.push_back(partials[std::size_t(i)] + kv_head * sizes.partials);
      arrays.merge_begin.push_back(std::int32_t(arrays.merge_partials.size()));
    }
  return arrays;
}

/// The same plan, bit by bit.
inline bool same_plan(const PlanArrays& a, const PlanArrays& b) {
  const auto same = []<class T>(const std::vector<T>& x, const std::vector<T>& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
  };
  return same(a.segments, b.segments) && same(a.tiles, b.tiles) && same(a.worker_begin, b.worker_begin) &&
         same(a.merge_begin, b.merge_begin) && same(a.merge_partials, b.merge_partials);
}

enum class EmptyPartials : std::uint8_t { allowed, wrong };

/// Reads a plan as a kernel would, and collects what is wrong with it.
class PlanCheck {
 public:
  PlanCheck(const PlanArrays& plan, const TreeSnapshot& snapshot, EmptyPartials empty_partials)
      : plan_(plan), tree_(snapshot), empty_partials_(empty_partials), line_begin_{0} {
    for (const std::int32_t tokens : tree_.tokens) line_begin_.push_back(line_begin_.back() + tokens);
    const std::size_t lists = std::size_t(tree_.rows()) * std::size_t(plan_.kv_heads);
    reads_.assign(lists, std::vector<std::uint8_t>(std::size_t(line_begin_.back()), 0));
    partials_.resize(lists);
  }

  std::string run() {
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t) check_tile(t);
    check_partials();
    for (std::size_t list = 0; list < reads_.size(); ++list) check_list(list);
    const std::vector<std::int32_t>& begin = plan_.worker_begin;
    expect(begin.front() == 0 && std::size_t(begin.back()) == plan_.tiles.size() &&
               std::is_sorted(begin.begin(), begin.end()),
           "the workers' lists are not the tiles");
    if (found_ > kShown) wrong_ << "and " << found_ - kShown << " more";
    return wrong_.str();
  }

 private:
  using Tile = espalier::detail::Tile;
  using Segment = espalier::detail::Segment;
  static constexpr int kShown = 5;

  template <class Array>
  static auto& at(Array& array, std::int64_t i) {
    return array[std::size_t(i)];
  }

  template <class... Parts>
  void expect(bool holds, const Parts&... parts) {
    if (!holds && ++found_ <= kShown) (wrong_ << ... << parts) << "; ";
  }

  [[nodiscard]] bool sees(std::int32_t row, std::int32_t node, std::int32_t token) const {
    const std::int32_t own = at(tree_.row_node, row);
    if (own == node) return token < at(tree_.row_visible, row);
    return node < own && own < at(tree_.subtree_end, node);
  }

  [[nodiscard]] std::size_t list_of(std::int32_t row, std::int32_t kv_head) const {
    return std::size_t(row) * std::size_t(plan_.kv_heads) + std::size_t(kv_head);
  }

  void check_tile(std::size_t t) {
    const Tile& tile = plan_.tiles[t];
    const bool in_range = 0 <= tile.segment_begin && tile.segment_begin < tile.segment_end &&
                          std::size_t(tile.segment_end) <= plan_.segments.size() && 0 <= tile.row_begin &&
                          tile.row_begin < tile.row_end && tile.row_end <= tree_.rows() && 0 <= tile.kv_head &&
                          tile.kv_head < plan_.kv_heads && tile.tokens > 0 && tile.skip >= 0;
    expect(in_range, "tile ", t, " is out of range");
    if (!in_range) return;
    TileReads tile_reads{std::vector<char>(std::size_t(tile.row_end - tile.row_begin), 0), false};
    std::int64_t left = tile.tokens;
    for (std::int32_t s = tile.segment_begin; s < tile.segment_end; ++s) {
      const Segment& segment = at(plan_.segments, s);
      const std::int32_t first = s == tile.segment_begin ? tile.skip : 0;
      expect(s != tile.segment_begin || first < segment.tokens, "tile ", t, " begins behind its first segment");
      expect(left > 0, "tile ", t, " ends before its last segment");
      for (std::int32_t i = first; i < segment.tokens && left > 0; ++i, --left) read(t, segment, i, tile_reads);
    }
    expect(left == 0, "tile ", t, " has ", left, " tokens more than its segments");
    for (std::int32_t row = tile.row_begin; row < tile.row_end; ++row) {
      partials_[list_of(row, tile.kv_head)].push_back(tile.partial_begin + row - tile.row_begin);
      expect(empty_partials_ == EmptyPartials::allowed || at(tile_reads.row_reads, row - tile.row_begin) != 0, "tile ",
             t, " has row ", row, ", which sees nothing of it");
    }
    expect(empty_partials_ == EmptyPartials::allowed || tile.masked == 0 || tile_reads.hides, "tile ", t,
           " is masked for nothing");
  }

  struct TileReads {
    std::vector<char> row_reads;
    bool hides;  ///< a token from a row
  };

  void read(std::size_t t, const Segment& segment, std::int32_t i, TileReads& tile_reads) {
    const Tile& tile = plan_.tiles[t];
    const std::int32_t token = segment.node_token + i;
    for (std::int32_t row = tile.row_begin; row < tile.row_end; ++row) {
      const bool shown = tile.masked == 0 || (segment.row_begin <= row && row < segment.row_end &&
                                              (row >= segment.own_row_end || token < at(tree_.row_visible, row)));
      tile_reads.hides = tile_reads.hides || !shown;
      if (!shown) continue;
      expect(sees(row, segment.node, token), "tile ", t, " shows row ", row, " token ", token, " of node ",
             segment.node);
      at(tile_reads.row_reads, row - tile.row_begin) = 1;
      ++at(reads_[list_of(row, tile.kv_head)], at(line_begin_, segment.node) + token);
    }
    const std::int32_t place = at(tree_.first_offset, segment.node) + token;
    const std::int32_t found = segment.block_offset + i;
    expect(segment.table_begin + found / tree_.block_tokens ==
                   at(tree_.first_block, segment.node) + place / tree_.block_tokens &&
               found % tree_.block_tokens == place % tree_.block_tokens,
           "tile ", t, " finds token ", token, " of node ", segment.node, " in a wrong slot");
  }

  /// Every partial has one writer.
  void check_partials() {
    std::vector<std::int32_t> all;
    for (const auto& partials : partials_) all.insert(all.end(), partials.begin(), partials.end());
    std::sort(all.begin(), all.end());
    expect(std::ssize(all) == plan_.report.partials, all.size(), " partials are written of ", plan_.report.partials);
    for (std::size_t i = 0; i < all.size(); ++i)
      if (all[i] != std::int32_t(i)) return expect(false, "partial ", i, " has none or several writers");
  }

  /// What a (row, KV head) reads, and where its partials are.
  void check_list(std::size_t list) {
    const auto row = std::int32_t(list / std::size_t(plan_.kv_heads));
    for (std::int32_t node = 0; node < tree_.nodes(); ++node)
      for (std::int32_t token = 0; token < at(tree_.tokens, node); ++token) {
        const int count = at(reads_[list], at(line_begin_, node) + token);
        if (count != (sees(row, node, token) ? 1 : 0))
          expect(false, "row ", row, " reads token ", token, " of node ", node, " ", count, " times");
      }
    std::sort(partials_[list].begin(), partials_[list].end());
    const auto begin = plan_.merge_partials.begin();
    expect(std::vector<std::int32_t>(begin + plan_.merge_begin[list], begin + plan_.merge_begin[list + 1]) ==
               partials_[list],
           "merge list ", list, " is not the partials of its row");
  }

  const PlanArrays& plan_;
  const TreeSnapshot& tree_;
  EmptyPartials empty_partials_;
  std::vector<std::int32_t> line_begin_;             // place of each node's first token in the line
  std::vector<std::vector<std::uint8_t>> reads_;     // [row, KV head][token of the line]  how often it is read
  std::vector<std::vector<std::int32_t>> partials_;  // [row, KV head]
  std::ostringstream wrong_;
  int found_ = 0;
};

/// Checks that every (row, KV head, token that the row sees) is in exactly one tile, that tiles, workers and merge
/// lists fit together, and, where they would be wrong, that no row of a tile sees nothing of it, and that masked tiles
/// hide something.
/// @param snapshot  of the tree that was planned
/// @return nothing if all is well; else the first few things that are wrong
inline std::string wrong_in_plan(const PlanArrays& plan, const TreeSnapshot& snapshot,
                                 EmptyPartials empty_partials = EmptyPartials::allowed) {
  return PlanCheck(plan, snapshot, empty_partials).run();
}

}  // namespace espalier::test
