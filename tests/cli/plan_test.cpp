// `espalier plan`: the tool's words and JSON are those of a plan made here.

#include <algorithm>
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include "attend_case.hpp"
#include "support/execution_spaces.hpp"
#include "support/plan_arrays.hpp"
#include "support/trees.hpp"
#include "tool.hpp"

namespace espalier::test {
namespace {

using Json = nlohmann::json;
using Exec = Kokkos::DefaultExecutionSpace;

constexpr int kWorkers = 48;
// A thread of a CPU runs 16 workers one after another, a GPU runs all together.
constexpr bool kOnHost = bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, Exec::memory_space>::accessible);
constexpr int kWorkersAtATime = kOnHost ? kWorkers / 16 : kWorkers;

PlanArrays plan_here(const Tree& tree, const HeadShape& heads, Scalar scalar, PlanStrategy strategy) {
  const Exec exec;
  const TreeSnapshot snapshot = snapshot_of(tree, 16);
  PlanConfig config;
  config.heads = heads;
  config.scalar = scalar;
  config.strategy = strategy;
  config.workers = kWorkers;
  config.capacity = Plan<Exec>::required_capacity(snapshot, config);
  Plan<Exec> plan(exec, config);
  const TreeArrays<Exec> arrays(exec, snapshot);
  plan.update(exec, arrays);
  return plan_arrays(exec, plan);
}

void expects_plan(const Json& json, const PlanArrays& plan, const Tree& tree, const HeadShape& heads, Scalar scalar) {
  const PlanReport& report = plan.report;
  CHECK(json.at("segments") == report.segments);
  CHECK(json.at("tiles") == report.tiles);
  CHECK(json.at("partials") == report.partials);
  CHECK(json.at("merged_rows") == report.merged_rows);
  CHECK(json.at("workers") == report.workers);
  CHECK(json.at("imbalance") == report.imbalance);
  CHECK(json.at("predicted_us") == report.predicted_us);
  CHECK(json.at("kv_bytes") == report.kv_bytes);
  CHECK(json.at("unique_kv_bytes") == report.unique_kv_bytes);
  CHECK(json.at("flops") == report.flops);
  CHECK(json.at("plan_us") > 0);

  std::int64_t masked = 0, least_rows = 1 << 30, most_tokens = 0, path_tokens = 0;
  double pairs = 0;
  for (const auto& tile : plan.tiles) {
    masked += tile.masked;
    least_rows = std::min<std::int64_t>(least_rows, tile.row_end - tile.row_begin);
    most_tokens = std::max<std::int64_t>(most_tokens, tile.tokens);
    pairs += double(tile.row_end - tile.row_begin) * tile.tokens;
  }
  for (const RowSpec& row : tree.rows) path_tokens += tree.path_tokens(row);
  CHECK(json.at("masked_tiles") == masked);
  CHECK(json.at("computed_flops") == 4.0 * heads.group() * heads.head_dim * pairs);
  CHECK(json.at("unshared_kv_bytes") == 2.0 * heads.kv_heads * heads.head_dim * bytes_of(scalar) * double(path_tokens));
  if (plan.tiles.empty()) return;
  CHECK(json.at("rows_per_tile").at("least") == least_rows);
  CHECK(json.at("tokens_per_tile").at("most") == most_tokens);
  const double busiest = json.at("busiest_worker_us"), mean = json.at("mean_worker_us");
  const double even = mean * kWorkers / kWorkersAtATime;
  CHECK(report.imbalance == Catch::Approx(report.predicted_us / even - 1).margin(1e-9));
  CHECK(report.predicted_us >= std::max(even, busiest) * (1 - 1e-9));
  CHECK(report.predicted_us <= (even + busiest * (kWorkersAtATime - 1) / kWorkersAtATime) * (1 + 1e-9));
  CHECK(json.at("busiest_worker") < kWorkers);
}

TEST_CASE("plan prints what a plan reports, for every strategy, type and random forests") {
  const Folder folder;
  std::uint32_t seed = 700;
  for (const HeadShape& heads : {HeadShape{32, 8, 128}, HeadShape{6, 6, 16}, HeadShape{7, 1, 80}}) {
    Tree tree = random_forest(++seed);
    if (tree.rows.empty()) tree.rows = leaf_rows(tree.nodes);
    const Scalar scalar = seed % 2 == 0 ? Scalar::f32 : Scalar::bf16;
    const std::string file = folder.write("tree.json", json_of(tree));
    const std::string heads_text =
        std::to_string(heads.query_heads) + "," + std::to_string(heads.kv_heads) + "," + std::to_string(heads.head_dim);
    const std::vector<std::string> arguments = {
        "plan",   file,        "--heads", heads_text, "--dtype", name_of(scalar), "--workers", std::to_string(kWorkers),
        "--json", "--strategy"};
    const auto run = [&](const std::string& strategy) {
      std::vector<std::string> words = arguments;
      words.push_back(strategy);
      const Outcome outcome = run_tool(words);
      CAPTURE(outcome.err);
      REQUIRE(outcome.exit_code == 0);
      return parse_json(outcome.out);
    };
    Json all = run("all");
    CHECK(all.at("plans").size() == std::size(kPlanStrategies));
    std::string best;
    double least_us = 1e300;
    for (std::size_t i = 0; i < std::size(kPlanStrategies); ++i) {
      const PlanStrategy strategy = kPlanStrategies[i];
      CAPTURE(seed, name_of(strategy));
      const PlanArrays here = plan_here(tree, heads, scalar, strategy);
      Json alone = run(name_of(strategy));
      CHECK(alone.at("nodes") == tree.nodes.size());
      CHECK(alone.at("rows") == tree.rows.size());
      CHECK(alone.at("tokens") == tree.tokens());
      CHECK(alone.at("kv_heads") == heads.kv_heads);
      CHECK(alone.at("dtype") == name_of(scalar));
      CHECK(alone.at("best") == name_of(strategy));
      REQUIRE(alone.at("plans").size() == 1);
      for (Json* json : {&alone.at("plans")[0], &all.at("plans")[i]}) {
        CHECK(json->at("strategy") == name_of(strategy));
        expects_plan(*json, here, tree, heads, scalar);
      }
      if (here.report.predicted_us < least_us) {
        least_us = here.report.predicted_us;
        best = name_of(strategy);
      }
    }
    CHECK(all.at("best") == best);
  }
}

TEST_CASE("plan prints a table, and a line for each strategy with the best one marked") {
  const Outcome one = run_tool({"plan", "star:2048,64,64", "--workers", "32", "--strategy", "node"});
  CHECK(one.exit_code == 0);
  CHECK(one.err.empty());
  for (const char* words : {"65 nodes, 64 rows, 6,144 tokens", "node", "48 MiB", "1.00 times", "1.0 GiB",
                            "predicted time", "imbalance", "plan time", "2.21 GFLOP", "at a time"})
    CHECK(one.out.find(words) != std::string::npos);
  const Outcome all = run_tool({"plan", "star:2048,64,64", "--workers", "32", "--strategy", "all"});
  CHECK(all.exit_code == 0);
  int marked = 0;
  for (const PlanStrategy strategy : kPlanStrategies) {
    CHECK(all.out.find(" " + std::string(name_of(strategy)) + " ") != std::string::npos);
    marked += all.out.find("\n  * " + std::string(name_of(strategy)) + " ") != std::string::npos ? 1 : 0;
  }
  CHECK(marked == 1);
}

TEST_CASE("plan takes trees of 100,000 nodes, and rows that see nothing") {
  const Outcome large =
      run_tool({"plan", "layers:1,10,100,1000,10000,88889/9,8,7,6,5,4", "--heads", "2,1,16", "--json"});
  REQUIRE(large.exit_code == 0);
  CHECK(parse_json(large.out).at("nodes") == 100000);
  const Folder folder;
  const std::string file = folder.write("tree.json", R"({"nodes": [{"parent": -1, "tokens": 0}]})");
  const Outcome empty = run_tool({"plan", file, "--strategy", "all"});
  CHECK(empty.exit_code == 0);
  CHECK(empty.out.find("nan") == std::string::npos);
  CHECK(run_tool({"plan", file}).out.find("nan") == std::string::npos);
}

TEST_CASE("plan refuses what is wrong in one line") {
  const auto refuses = [](std::vector<std::string> words, std::initializer_list<std::string> expected) {
    words.insert(words.begin(), "plan");
    expects_refusal(run_tool(words), expected);
  };
  refuses({}, {"TREE", "'espalier plan --help'"});
  refuses({"star:8,2"}, {"star:8,2", "2 fields"});
  refuses({"absent.json"}, {"absent.json", "cannot be opened"});
  refuses({"star:8,2,2", "--heads", "8,3,64"}, {"--heads", "8,3,64", "multiple"});
  refuses({"star:8,2,2", "--heads", "8,2,300"}, {"head_dim", "300", "256"});
  refuses({"star:8,2,2", "--strategy", "tree"}, {"--strategy", "tree", "fasttree"});
  refuses({"star:8,2,2", "--dtype", "f8"}, {"--dtype", "f8"});
  refuses({"star:8,2,2", "--workers", "0"}, {"--workers", "0"});
  refuses({"star:8,2,2", "--block-tokens", "257"}, {"--block-tokens", "257"});
}

}  // namespace
}  // namespace espalier::test
