// espalier plan: how a tree is cut into tiles, what that costs, and a picture of it.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/cost_model_file.hpp"
#include "cli/input_error.hpp"
#include "cli/options.hpp"
#include "cli/plan_contents.hpp"
#include "cli/plan_picture.hpp"
#include "cli/staged_file.hpp"
#include "cli/text.hpp"
#include "cli/tree_file.hpp"
#include "espalier/error.hpp"

namespace espalier::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr const char* kAllStrategies = "all";

struct Options {
  std::string tree;
  std::string heads = "32,8,128";
  std::string scalar = name_of(PlanConfig{}.scalar);
  std::string strategy = name_of(kDefaultStrategy);
  std::string cost_model;
  int block_tokens = 16;
  int workers = 0;
  std::string svg;
  bool json = false;
};

/// The tree, and one strategy's plan of it or why there is none.
struct Problem {
  std::string tree_name;
  TreeSnapshot tree;
  std::int64_t tokens;
  PlanConfig config;
};

struct Attempt {
  PlanStrategy strategy;
  std::optional<TimedPlan> plan;
  std::string why_not;
};

/// The attempt with the least predicted time.
const Attempt& best_of(const std::vector<Attempt>& attempts) {
  return *std::ranges::min_element(attempts, {}, [](const Attempt& attempt) {
    return attempt.plan ? attempt.plan->contents.report.predicted_us : 1e300;
  });
}

/// K and V that rows read which share nothing.
double unshared_kv_bytes(const PlanContents& contents) {
  const HeadShape& heads = contents.config.heads;
  const double path_tokens = contents.report.flops / (4.0 * heads.query_heads * heads.head_dim);
  return path_tokens * kv_bytes_per_token(heads, contents.config.scalar);
}

/// "4 to 64 rows", "64 rows", "1 row"
template <class Size>
std::string range_text(const std::vector<detail::Tile>& tiles, const Size& size, const std::string& unit) {
  if (tiles.empty()) return "0 " + unit + "s";
  const auto [least, most] = std::ranges::minmax(tiles, {}, size);
  const std::string units = unit + (size(most) == 1 ? "" : "s");
  return (size(least) == size(most) ? "" : with_commas(size(least)) + " to ") + with_commas(size(most)) + " " + units;
}

/// How many times `unit` is in `amount`; once where both are nothing.
double times(double amount, double unit) { return unit > 0 ? amount / unit : 1; }

/// "2.21 GFLOP"
std::string readable_flop(double operations) {
  const char* const units[] = {"", "K", "M", "G", "T", "P", "E"};
  int unit = 0;
  for (; operations >= 1000 && unit < 6; ++unit) operations /= 1000;
  return format(operations < 10 ? "%.2f %sFLOP" : "%.1f %sFLOP", operations, units[unit]);
}

std::int64_t rows_of(const detail::Tile& tile) { return tile.row_end - tile.row_begin; }
std::int64_t tokens_of(const detail::Tile& tile) { return tile.tokens; }

// -------------------------------------------------------------------------------------------------------- for people

void print_heading(const Problem& problem) {
  const HeadShape& heads = problem.config.heads;
  std::printf("%s: %s nodes, %s rows, %s tokens; %d query and %d KV heads of %d, %s\n\n", problem.tree_name.c_str(),
              with_commas(problem.tree.nodes()).c_str(), with_commas(problem.tree.rows()).c_str(),
              with_commas(problem.tokens).c_str(), heads.query_heads, heads.kv_heads, heads.head_dim,
              name_of(problem.config.scalar));
}

void print_plan(const TimedPlan& plan) {
  const auto& [contents, plan_us] = plan;
  const PlanReport& report = contents.report;
  const double unshared = unshared_kv_bytes(contents), computed = contents.computed_flops();
  const auto busiest = std::size_t(contents.busiest_worker());
  print_line("strategy", name_of(contents.config.strategy));
  print_line("tiles", with_commas(report.tiles),
             "of " + range_text(contents.tiles, rows_of, "row") + " and " +
                 range_text(contents.tiles, tokens_of, "token") + "; " + with_commas(contents.masked_tiles()) +
                 " masked");
  print_line("partials", with_commas(report.partials), "one for each row and KV head of a tile");
  print_line("merged", with_commas(report.merged_rows),
             "of the " + with_commas(std::int64_t(report.rows) * contents.config.heads.kv_heads) +
                 " results (row, KV head) come from several partials");
  print_line("KV read", readable_bytes(report.kv_bytes),
             format("%.2f times the tree's %s; unshared rows read %s", times(report.kv_bytes, report.unique_kv_bytes),
                    readable_bytes(report.unique_kv_bytes).c_str(), readable_bytes(unshared).c_str()));
  print_line("arithmetic", readable_flop(report.flops),
             format("%.1f %% more is computed and masked out", 100 * (times(computed, report.flops) - 1)));
  print_line(
      "workers", with_commas(report.workers),
      format("%d at a time; worker %zu has the most to do: %s, the mean is %s", contents.workers_at_a_time(), busiest,
             readable_time(contents.worker_us[busiest]).c_str(), readable_time(contents.mean_worker_us()).c_str()));
  print_line("imbalance", format("%.1f %%", 100 * report.imbalance), "that the predicted time is above an even spread");
  print_line("predicted time", readable_time(report.predicted_us), "of one attention, by the cost model");
  print_line("plan time", readable_time(plan_us), "measured");
}

void print_comparison(const std::vector<Attempt>& attempts) {
  std::printf("    %-15s %10s %8s %11s %10s %10s %10s %11s %10s\n", "strategy", "tiles", "masked", "partials", "merged",
              "KV read", "imbalance", "predicted", "plan time");
  const Attempt& best = best_of(attempts);
  for (const Attempt& attempt : attempts) {
    if (!attempt.plan) {
      std::printf("    %-15s %s\n", name_of(attempt.strategy), attempt.why_not.c_str());
      continue;
    }
    const auto& [contents, plan_us] = *attempt.plan;
    const PlanReport& report = contents.report;
    std::printf("  %s %-15s %10s %8s %11s %10s %10s %8.1f %% %11s %10s\n", &attempt == &best ? "*" : " ",
                name_of(attempt.strategy), with_commas(report.tiles).c_str(),
                with_commas(contents.masked_tiles()).c_str(), with_commas(report.partials).c_str(),
                with_commas(report.merged_rows).c_str(), readable_bytes(report.kv_bytes).c_str(),
                100 * report.imbalance, readable_time(report.predicted_us).c_str(), readable_time(plan_us).c_str());
  }
  if (!best.plan) return;
  const PlanContents& contents = best.plan->contents;
  std::printf("\n  * the least time by the cost model; %s workers. The tree's KV: %s; unshared rows read %s.\n",
              with_commas(contents.report.workers).c_str(), readable_bytes(contents.report.unique_kv_bytes).c_str(),
              readable_bytes(unshared_kv_bytes(contents)).c_str());
}

// ------------------------------------------------------------------------------------------------------ for machines

template <class Size>
OrderedJson range_json(const std::vector<detail::Tile>& tiles, const Size& size) {
  if (tiles.empty()) return {{"least", 0}, {"most", 0}};
  const auto [least, most] = std::ranges::minmax(tiles, {}, size);
  return {{"least", size(least)}, {"most", size(most)}};
}

OrderedJson to_json(const Attempt& attempt) {
  if (!attempt.plan) return {{"strategy", name_of(attempt.strategy)}, {"why_not", attempt.why_not}};
  const auto& [contents, plan_us] = *attempt.plan;
  const PlanReport& report = contents.report;
  const std::int32_t busiest = contents.busiest_worker();
  return {{"strategy", name_of(attempt.strategy)},
          {"segments", report.segments},
          {"tiles", report.tiles},
          {"masked_tiles", contents.masked_tiles()},
          {"rows_per_tile", range_json(contents.tiles, rows_of)},
          {"tokens_per_tile", range_json(contents.tiles, tokens_of)},
          {"partials", report.partials},
          {"merged_rows", report.merged_rows},
          {"workers", report.workers},
          {"busiest_worker", busiest},
          {"busiest_worker_us", contents.worker_us[std::size_t(busiest)]},
          {"mean_worker_us", contents.mean_worker_us()},
          {"imbalance", report.imbalance},
          {"predicted_us", report.predicted_us},
          {"kv_bytes", report.kv_bytes},
          {"unique_kv_bytes", report.unique_kv_bytes},
          {"unshared_kv_bytes", unshared_kv_bytes(contents)},
          {"flops", report.flops},
          {"computed_flops", contents.computed_flops()},
          {"plan_us", plan_us}};
}

void print_json(const Problem& problem, const std::vector<Attempt>& attempts) {
  const HeadShape& heads = problem.config.heads;
  OrderedJson json = {{"tree", problem.tree_name},
                      {"nodes", problem.tree.nodes()},
                      {"rows", problem.tree.rows()},
                      {"tokens", problem.tokens},
                      {"query_heads", heads.query_heads},
                      {"kv_heads", heads.kv_heads},
                      {"head_dim", heads.head_dim},
                      {"dtype", name_of(problem.config.scalar)},
                      {"block_tokens", problem.tree.block_tokens},
                      {"cost_model", cost_model_json(problem.config.cost_model.value_or(kCpuCostModel))},
                      {"plans", OrderedJson::array()}};
  for (const Attempt& attempt : attempts) json["plans"].push_back(to_json(attempt));
  if (best_of(attempts).plan) json["best"] = name_of(best_of(attempts).strategy);
  std::cout << json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) << "\n";
}

// ------------------------------------------------------------------------------------------------------------- both

/// Workers and cost model as plans of this device have them.
PlanConfig with_defaults(PlanConfig config) {
  using Exec = Kokkos::DefaultExecutionSpace;
  const Plan<Exec> plan(Exec(), config);
  config.workers = plan.config().workers;
  config.cost_model = plan.config().cost_model;
  return config;
}

Problem problem_of(const Options& options) {
  PlanConfig config;
  config.heads = heads_of(options.heads);
  config.scalar = scalar_named(options.scalar);
  config.workers = options.workers;
  config.cost_model = cost_model_of(options.cost_model);
  config = with_defaults(config);
  const TreeInput tree = read_tree(options.tree);
  return {options.tree, make_snapshot(tree.nodes, tree.rows, options.block_tokens), tree.tokens(), config};
}

TimedPlan plan_with(const Problem& problem, PlanStrategy strategy) {
  PlanConfig config = problem.config;
  config.strategy = strategy;
  return make_timed_plan(problem.tree, config);
}

/// Every strategy. One whose plan is too large is not tried further.
std::vector<Attempt> plan_with_all(const Problem& problem) {
  std::vector<Attempt> attempts;
  for (const PlanStrategy strategy : kPlanStrategies) {
    attempts.push_back({strategy, {}, {}});
    try {
      attempts.back().plan = plan_with(problem, strategy);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::capacity_exceeded) throw;
      attempts.back().why_not = error.what();
    } catch (const std::bad_alloc&) {
      attempts.back().why_not = "there is not enough memory for this plan";
    }
  }
  return attempts;
}

int plan_tree(const Options& options) {
  const bool all = options.strategy == kAllStrategies;
  if (all && !options.svg.empty()) bad_input("--svg: draws one plan, expected one --strategy instead of 'all'");
  const Problem problem = problem_of(options);
  std::optional<StagedFile> svg_file;
  if (!options.svg.empty()) svg_file.emplace(options.svg);
  std::vector<Attempt> attempts;
  if (all) {
    attempts = plan_with_all(problem);
  } else {
    const PlanStrategy strategy = strategy_named(options.strategy);
    attempts.push_back({strategy, plan_with(problem, strategy), {}});
  }
  if (const std::optional<TimedPlan>& plan = attempts[0].plan; svg_file && plan) {
    svg_file->stream() << draw_plan(problem.tree_name, problem.tree, plan->contents);
    svg_file->commit();
  }
  if (options.json) {
    print_json(problem, attempts);
  } else {
    print_heading(problem);
    if (all)
      print_comparison(attempts);
    else if (const std::optional<TimedPlan>& plan = attempts[0].plan)
      print_plan(*plan);
  }
  return 0;
}

}  // namespace

Command add_plan(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  std::vector<std::string> strategies = strategy_names();
  strategies.emplace_back(kAllStrategies);
  app.add_option("TREE", options->tree, "A tree: JSON, FastTree's text, or a workload (below)")->required();
  app.add_option("--heads", options->heads, "QUERY_HEADS,KV_HEADS,HEAD_DIM of the layer")->capture_default_str();
  app.add_option("--strategy", options->strategy, "How the tree is cut into tiles; all: compare the strategies")
      ->check(CLI::IsMember(strategies))
      ->capture_default_str();
  app.add_option("--dtype", options->scalar, "Element type of K and V")
      ->check(CLI::IsMember(scalar_names()))
      ->capture_default_str();
  app.add_option("--block-tokens", options->block_tokens, "Tokens of a cache block")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--workers", options->workers, "Workers that share the tiles; default: chosen for the device")
      ->check(CLI::Range(1, 1 << 20));
  add_cost_model_option(app, options->cost_model);
  app.add_option("--svg", options->svg, "Written: a picture of the tree and how it is cut")->type_name("FILE.svg");
  app.add_flag("--json", options->json, "Print the plan for machines");
  app.footer(describe_trees());
  return [options] { return plan_tree(*options); };
}

}  // namespace espalier::cli
