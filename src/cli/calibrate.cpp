// espalier calibrate: measures the constants of the cost model.
//
// A measurement is one attention over a forest of equal trees: `roots` nodes of `tokens` tokens, each read by so many rows
// that a tile has `lanes` lanes, with K and V that no cache holds. All workers are busy with equal tiles, so that the
// time, times the workers that run together, is the cost of all tiles. Short and long tiles of few and many lanes tell
// tile_us, lane_us, reading and products apart; trees whose nodes are cut in two add partials. Least squares over the
// relative errors gives the constants (cost_model_fit.hpp).

#include <CLI/CLI.hpp>
#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cli/commands.hpp"
#include "cli/cost_model_file.hpp"
#include "cli/cost_model_fit.hpp"
#include "cli/device.hpp"
#include "cli/input_error.hpp"
#include "cli/layer.hpp"
#include "cli/options.hpp"
#include "cli/plan_contents.hpp"
#include "cli/random.hpp"
#include "cli/staged_file.hpp"
#include "cli/stopwatch.hpp"
#include "cli/text.hpp"
#include "espalier/attention.hpp"
#include "espalier/tree_arrays.hpp"

namespace espalier::cli {
namespace {

using Exec = Kokkos::DefaultExecutionSpace;

constexpr int kBlockTokens = 16;
constexpr std::int64_t kMostLanes = 256;  // of a tile

struct Options {
  std::string out;
  std::string heads = "32,8,128";
  std::string scalar = name_of(PlanConfig{}.scalar);
  bool quick = false;
  bool json = false;
};

/// How much is measured.
struct Effort {
  std::int64_t cache_bytes;  ///< more than caches hold, so that K and V are cold each time
  double attention_us;       ///< about how long one attention takes
  int repetitions;
  std::vector<std::int64_t> node_tokens;
  std::vector<std::int64_t> rows;  ///< of a node
};

Effort effort_of(bool quick) {
  constexpr std::int64_t kMegabyte = 1 << 20;
  if (quick) return {256 * kMegabyte, 3000, 3, {32, 128, 1024}, {1, 2, 8, 64}};
  return {1024 * kMegabyte, 15000, 7, {32, 64, 256, 1024, 4096}, {1, 2, 3, 4, 5, 8, 9, 16, 18, 32, 48, 64}};
}

/// One measurement.
struct Forest {
  std::int32_t roots;
  std::int32_t tokens;  ///< of each node
  std::int32_t rows;    ///< of each node
  bool cut;             ///< nodes are cut in two tiles, whose results are merged
};

/// How many of a plan's workers run together: as many as threads on a CPU, all on a GPU.
std::int64_t workers_together(const Exec& exec, const PlanConfig& config) {
  constexpr bool kOnHost = bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, Exec::memory_space>::accessible);
  return kOnHost ? exec.concurrency() : config.workers;
}

/// Writes numbers from -1 to 1 to all elements.
template <ScalarElement Element>
void fill(const Exec& exec, Element* data, std::int64_t count) {
  Kokkos::parallel_for(
      "espalier::cli::fill", Kokkos::RangePolicy<Exec>(exec, 0, count), KOKKOS_LAMBDA(std::int64_t i) {
        const std::uint32_t bits = std::uint32_t(i) * 2654435761u;
        data[i] = from_float<Element>(float(bits >> 8) * 0x1p-23f - 1.0f);
      });
}

template <ScalarElement Element>
class Bench {
 public:
  /// @param together  workers that run at a time
  /// @param given     about what tiles cost
  Bench(const HeadShape& heads, const Effort& effort, std::int64_t together, const CostModel& given)
      : heads_(heads), effort_(effort), together_(together), given_(given) {
    const std::int64_t block_bytes = std::int64_t(kBlockTokens * kv_bytes_per_token(heads, kScalarOf<Element>));
    const std::int64_t longest = effort.node_tokens.back() / kBlockTokens;
    blocks_ = std::int32_t(std::max(effort.cache_bytes / block_bytes, longest));
    Layer<Element>::expects_room(heads, blocks_, kBlockTokens);
    const auto blocks_view = [&](const std::string& label) {
      BlocksView view(Kokkos::view_alloc(exec_, Kokkos::WithoutInitializing, label), blocks_, kBlockTokens,
                      heads.kv_heads, heads.head_dim);
      fill(exec_, view.data(), std::int64_t(view.size()));
      return view;
    };
    cache_ = {blocks_view("espalier::cli::k"), blocks_view("espalier::cli::v")};
    // Blocks in random order, as they lie in an engine's cache.
    place_.resize(std::size_t(blocks_));
    std::iota(place_.begin(), place_.end(), 0);
    Random random(1);
    for (std::size_t i = place_.size(); i > 1; --i) std::swap(place_[i - 1], place_[random.below(i)]);
  }

  std::vector<CostSample> run() {
    std::vector<Forest> forests;
    for (const std::int64_t tokens : effort_.node_tokens)
      for (const std::int64_t rows : effort_.rows) {
        if (rows > 1 && rows * heads_.group() > kMostLanes) continue;
        forests.push_back(forest_of(tokens, rows, false));
        if (tokens >= 2 * kBlockTokens) forests.push_back(forest_of(tokens, rows, true));
      }
    ProgressBar progress(std::int64_t(forests.size()), "measurements");
    std::vector<CostSample> samples;
    for (const Forest& forest : forests) {
      samples.push_back(measure(forest));
      progress.show(std::int64_t(samples.size()));
    }
    return samples;
  }

 private:
  using BlocksView = Kokkos::View<Element****, Kokkos::LayoutRight, Exec>;
  using RowsView = Kokkos::View<Element***, Kokkos::LayoutRight, Exec>;

  /// As many roots as take about the time that is wanted by the default model, enough for all workers to get some, and
  /// no more than cache and queries have room for.
  [[nodiscard]] Forest forest_of(std::int64_t tokens, std::int64_t rows, bool cut) const {
    constexpr std::int64_t kTilesPerWorker = 8, kMostQueryBytes = 128 << 20;
    const detail::TileCost cost = detail::tile_cost_of(given_, heads_, kScalarOf<Element>);
    const double tile_us = 1e-6 * double(cost.tile(rows * heads_.group(), tokens, 0));
    const std::int64_t by_time = std::llround(effort_.attention_us * double(together_) / (tile_us * heads_.kv_heads));
    const std::int64_t by_workers = (kTilesPerWorker * together_ + heads_.kv_heads - 1) / heads_.kv_heads;
    const std::int64_t row_bytes = std::int64_t(heads_.query_heads) * heads_.head_dim * bytes_of(kScalarOf<Element>);
    const std::int64_t most =
        std::min(blocks_ * std::int64_t(kBlockTokens) / tokens, kMostQueryBytes / row_bytes / rows);
    const std::int64_t roots =
        std::clamp<std::int64_t>(std::max(by_time, by_workers), 1, std::max<std::int64_t>(most, 1));
    return {std::int32_t(roots), std::int32_t(tokens), std::int32_t(rows), cut};
  }

  CostSample measure(const Forest& forest) {
    std::vector<NodeSpec> nodes(std::size_t(forest.roots), NodeSpec{-1, forest.tokens});
    std::vector<RowSpec> rows;
    for (std::int32_t root = 0; root < forest.roots; ++root)
      rows.insert(rows.end(), std::size_t(forest.rows), RowSpec{root});
    TreeSnapshot tree = make_snapshot(nodes, rows, kBlockTokens);
    const std::vector<BlockId> order = tree.block_table;

    PlanConfig config;
    config.heads = heads_;
    config.scalar = kScalarOf<Element>;
    config.strategy = forest.cut ? PlanStrategy::node_chunk : PlanStrategy::node;
    config.cuts.node_chunk = forest.tokens / 2;
    config.capacity = Plan<Exec>::required_capacity(tree, config);
    Plan<Exec> plan(exec_, config);
    TreeArrays<Exec> arrays(exec_, tree);
    const auto row_view = [&](const std::string& label) {
      return RowsView(Kokkos::view_alloc(exec_, Kokkos::WithoutInitializing, label), rows.size(), heads_.query_heads,
                      heads_.head_dim);
    };
    const RowsView q = row_view("espalier::cli::q"), out = row_view("espalier::cli::out");
    fill(exec_, q.data(), std::int64_t(q.size()));
    const Kokkos::View<float**, Kokkos::LayoutRight, Exec> lse("espalier::cli::lse", rows.size(), heads_.query_heads);

    std::vector<double> runs_us;
    for (int run = 0; run <= effort_.repetitions; ++run) {
      // Each run reads on where the last one ended.
      for (std::size_t i = 0; i < order.size(); ++i)
        tree.block_table[i] = BlockId{place_[(next_block_ + std::size_t(order[i])) % place_.size()]};
      next_block_ = (next_block_ + order.size()) % place_.size();
      arrays.upload(exec_, tree);
      plan.update(exec_, arrays);
      exec_.fence("espalier::cli: before a measurement");
      const Stopwatch watch;
      espalier::attend(exec_, plan, q, cache_, out, lse);
      exec_.fence("espalier::cli: the attention is done");
      if (run > 0) runs_us.push_back(1000 * watch.elapsed_ms());  // the first one warms up
    }
    std::ranges::nth_element(runs_us, runs_us.begin() + std::ptrdiff_t(runs_us.size() / 2));
    const PlanContents contents = contents_of(exec_, plan);
    return {kinds_of(contents), runs_us[runs_us.size() / 2] * double(together_)};
  }

  static std::vector<TileKind> kinds_of(const PlanContents& contents) {
    std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::int64_t> counts;
    const std::int64_t group = contents.config.heads.group();
    for (std::size_t t = 0; t < contents.tiles.size(); ++t) {
      const detail::Tile& tile = contents.tiles[t];
      ++counts[{(tile.row_end - tile.row_begin) * group, tile.tokens, contents.merged_rows[t] * group}];
    }
    std::vector<TileKind> kinds(counts.size());
    std::ranges::transform(counts, kinds.begin(), [](const auto& entry) {
      const auto& [kind, tiles] = entry;
      return TileKind{double(tiles), std::get<0>(kind), std::get<1>(kind), std::get<2>(kind)};
    });
    return kinds;
  }

  Exec exec_;
  HeadShape heads_;
  Effort effort_;
  std::int64_t together_;
  CostModel given_;
  std::int32_t blocks_ = 0;
  KvCache<BlocksView> cache_;
  std::vector<std::int32_t> place_;  // [blocks]
  std::size_t next_block_ = 0;
};

/// What was found, and how well the default model would have done.
struct Calibration {
  CostFit fit, with_default;
  std::size_t samples;
};

nlohmann::ordered_json file_content(const Options& options, const Calibration& calibration) {
  nlohmann::ordered_json json = cost_model_json(calibration.fit.model);
  json["measured"] = {{"device", device_name()},
                      {"concurrency", Exec().concurrency()},
                      {"heads", options.heads},
                      {"dtype", options.scalar},
                      {"samples", calibration.samples},
                      {"error", calibration.fit.error},
                      {"largest_error", calibration.fit.largest_error},
                      {"default_error", calibration.with_default.error}};
  return json;
}

void print_for_people(const Options& options, const Calibration& calibration) {
  const CostModel &found = calibration.fit.model, &given = calibration.with_default.model;
  std::printf("%s, %d at a time; heads %s, %s\n\n  %-14s %12s %12s\n", device_name().c_str(), int(Exec().concurrency()),
              options.heads.c_str(), options.scalar.c_str(), "constant", "measured", "default");
  const auto print = [](const char* name, double measured, double by_default, const char* unit) {
    std::printf("  %-14s %12.4g %12.4g   %s\n", name, measured, by_default, unit);
  };
  print("tile_us", found.tile_us, given.tile_us, "us of any tile");
  print("lane_us", found.lane_us, given.lane_us, "us per lane and 128 dimensions");
  print("partial_us", found.partial_us, given.partial_us, "us per lane and 128 dimensions that is merged");
  print("read_gbs", found.read_gbs, given.read_gbs, "GB/s of a worker");
  print("math_gflops", found.math_gflops, given.math_gflops, "GFLOP/s of a worker");
  print("lane_step", found.lane_step, given.lane_step, "lanes at a time");
  print("panel_lanes", found.panel_lanes, given.panel_lanes, "lanes of a full panel");
  std::printf("  %-14s %12s %12s   reading and products\n", "overlaps", found.overlaps ? "yes" : "no",
              given.overlaps ? "yes" : "no");
  std::printf("\n  error          %10.1f %% %10.1f %%   of the times of %zu measurements, root mean square\n",
              100 * calibration.fit.error, 100 * calibration.with_default.error, calibration.samples);
  std::printf("  largest error  %10.1f %% %10.1f %%\n", 100 * calibration.fit.largest_error,
              100 * calibration.with_default.largest_error);
  if (!options.out.empty()) std::printf("\nwrote %s\n", options.out.c_str());
}

int calibrate(const Options& options) {
  const HeadShape heads = heads_of(options.heads);
  const Scalar scalar = scalar_named(options.scalar);
  const PlanConfig defaults = Plan<Exec>(Exec(), {.heads = heads}).config();
  const CostModel given = default_cost_model(Exec(), defaults.workers);
  const std::int64_t together = workers_together(Exec(), defaults);
  std::optional<StagedFile> out_file;
  if (!options.out.empty()) out_file.emplace(options.out);
  const std::vector<CostSample> samples = with_element(
      scalar, [&]<class Element>() { return Bench<Element>(heads, effort_of(options.quick), together, given).run(); });
  const Calibration calibration{fit_cost_model(samples, heads, scalar, given), compare(given, samples, heads, scalar),
                                samples.size()};
  const nlohmann::ordered_json json = file_content(options, calibration);
  if (out_file) {
    out_file->stream() << json.dump(2) << "\n";
    out_file->commit();
  }
  if (options.json)
    std::cout << json.dump(2) << "\n";
  else
    print_for_people(options, calibration);
  return 0;
}

}  // namespace

Command add_calibrate(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("--out", options->out, "Written: the constants, for --cost-model of other subcommands")
      ->type_name("FILE.json");
  app.add_option("--heads", options->heads, "QUERY_HEADS,KV_HEADS,HEAD_DIM of the layer")->capture_default_str();
  app.add_option("--dtype", options->scalar, "Element type of K and V")
      ->check(CLI::IsMember(scalar_names()))
      ->capture_default_str();
  app.add_flag("--quick", options->quick, "A second instead of half a minute, and less exact");
  app.add_flag("--json", options->json, "Print what --out writes");
  app.footer(
      "Attends over forests of equal trees: short and long nodes, few and many rows, nodes in one tile and in two. "
      "The\n"
      "constants are those with the least squares of relative errors. Let nothing else run meanwhile.");
  return [options] { return calibrate(*options); };
}

}  // namespace espalier::cli
