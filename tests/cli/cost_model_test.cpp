// The constants of the cost model: found from times, written by `espalier calibrate`, read by --cost-model.

#include "espalier/cost_model.hpp"

#include <algorithm>
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "attend_case.hpp"
#include "cli/cost_model_fit.hpp"
#include "tool.hpp"

namespace espalier::test {
namespace {

using Json = nlohmann::json;
using Catch::Approx;

const std::string kGood = R"({"tile_us": 1.5, "lane_us": 0.25, "partial_us": 0.125, "read_gbs": 8, "math_gflops": 100,
                              "lane_step": 8, "overlaps": true, "panel_lanes": 32})";

/// Samples whose times are those of a model, each times 1 + a deviation that depends on its number.
std::vector<cli::CostSample> samples_of(const CostModel& model, const HeadShape& heads, Scalar scalar,
                                        double deviation) {
  const espalier::detail::TileCost cost = espalier::detail::tile_cost_of(model, heads, scalar);
  std::vector<cli::CostSample> samples;
  for (const std::int64_t tokens : {32, 128, 1024, 4096})
    for (const std::int64_t lanes : {1, 2, 3, 5, 8, 12, 20, 36, 64, 100, 256})
      for (const std::int64_t merged : {std::int64_t{0}, lanes}) {
        const double us = 1e-6 * 100 * double(cost.tile(lanes, tokens, merged));
        const double sign = samples.size() % 3 == 0 ? 1 : samples.size() % 3 == 1 ? -1 : 0;
        samples.push_back({{{40, lanes, tokens, merged}, {60, lanes, tokens, merged}}, us * (1 + sign * deviation)});
      }
  return samples;
}

TEST_CASE("the fit finds the constants that times were made with", "[calibrate]") {
  for (const HeadShape& heads : {HeadShape{8, 8, 128}, HeadShape{4, 4, 64}})
    for (const Scalar scalar : {Scalar::f32, Scalar::bf16})
      for (const CostModel& truth :
           {CostModel{2.0, 0.2, 0.1, 6.0, 150.0, 4, false}, CostModel{0.5, 0.05, 0.02, 36.0, 900.0, 16, true},
            CostModel{3.0, 0.4, 0.0, 10.0, 50.0, 1, false}, CostModel{1.0, 0.1, 0.1, 9.0, 145.0, 4, false, 32}}) {
        CAPTURE(heads.head_dim, name_of(scalar), truth.tile_us);
        const cli::CostFit fit = cli::fit_cost_model(samples_of(truth, heads, scalar, 0), heads, scalar, kCpuCostModel);
        CHECK(fit.model.tile_us == Approx(truth.tile_us).epsilon(0.01));
        CHECK(fit.model.lane_us == Approx(truth.lane_us).epsilon(0.01));
        CHECK(fit.model.partial_us == Approx(truth.partial_us).epsilon(0.01).margin(1e-4));
        CHECK(fit.model.read_gbs == Approx(truth.read_gbs).epsilon(0.01));
        CHECK(fit.model.math_gflops == Approx(truth.math_gflops).epsilon(0.01));
        CHECK(fit.model.lane_step == truth.lane_step);
        CHECK(fit.model.overlaps == truth.overlaps);
        CHECK(std::max(fit.model.panel_lanes, fit.model.lane_step) == std::max(truth.panel_lanes, truth.lane_step));
        CHECK(fit.error < 1e-3);
      }
}

TEST_CASE("the fit's error is that of its model, and no constant is negative", "[calibrate]") {
  const HeadShape heads{8, 8, 128};
  const CostModel truth{0.0, 0.2, 0.0, 6.0, 150.0, 4, false};
  const auto samples = samples_of(truth, heads, Scalar::f32, 0.1);
  const cli::CostFit fit = cli::fit_cost_model(samples, heads, Scalar::f32, kCpuCostModel);
  CHECK(std::min({fit.model.tile_us, fit.model.lane_us, fit.model.partial_us}) >= 0);
  CHECK(fit.model.read_gbs == Approx(truth.read_gbs).epsilon(0.15));
  const cli::CostFit again = cli::compare(fit.model, samples, heads, Scalar::f32);
  CHECK(again.error == fit.error);
  CHECK(again.largest_error == fit.largest_error);
  CHECK(fit.error <= cli::compare(truth, samples, heads, Scalar::f32).error * 1.001);
  CHECK(fit.error > 0.05);
  CHECK(fit.largest_error >= fit.error);
}

TEST_CASE("samples that cannot tell constants apart still give a model that a plan takes", "[calibrate]") {
  const HeadShape heads{4, 4, 64};
  const std::vector<cli::CostSample> samples = {{{{10, 4, 64, 0}}, 100.0}, {{{20, 4, 64, 0}}, 200.0}};
  const cli::CostFit fit = cli::fit_cost_model(samples, heads, Scalar::f32, kCpuCostModel);
  CHECK(fit.error < 1e-3);
  CHECK_NOTHROW(espalier::detail::tile_cost_of(fit.model, heads, Scalar::f32));
}

TEST_CASE("plan, attend, demo and replay read --cost-model", "[calibrate]") {
  const AttendCase files(2, 8 + 2 * 3, {4, 2, 16});
  const std::string model = files.folder().write("model.json", kGood);
  const Outcome plan = run_tool({"plan", "star:512,8,32", "--cost-model", model, "--json", "--workers", "16"});
  REQUIRE(plan.exit_code == 0);
  const Json json = parse_json(plan.out);
  const Json good = parse_json(kGood);
  for (const auto& [name, value] : good.items()) CHECK(json.at("cost_model").at(name) == value);
  const Outcome by_default = run_tool({"plan", "star:512,8,32", "--json", "--workers", "16"});
  CHECK(json.at("plans")[0].at("predicted_us") != parse_json(by_default.out).at("plans")[0].at("predicted_us"));

  CHECK(files.run("star:8,2,3", {"--cost-model", model}).exit_code == 0);
  CHECK(run_tool({"demo", "--steps", "2", "--prompt", "20", "--cost-model", model}).exit_code == 0);
  const std::string trace = files.folder().write(
      "trace.jsonl", R"({"timestamp": 0, "input_length": 20, "output_length": 4, "hash_ids": [1]})");
  const Outcome replay = run_tool({"replay", trace, "--attend-every", "1", "--cost-model", model});
  CAPTURE(replay.err);
  CHECK(replay.exit_code == 0);
}

TEST_CASE("wrong files with cost models are refused", "[calibrate]") {
  const Folder folder;
  bool by_demo = false;  // subcommands take turns: they read the file in the same way
  const auto refuses = [&](const std::string& content, std::initializer_list<std::string> words) {
    CAPTURE(content, by_demo);
    const std::string file = folder.write("model.json", content);
    const Outcome outcome = by_demo ? run_tool({"demo", "--steps", "2", "--cost-model", file})
                                    : run_tool({"plan", "star:8,2,2", "--cost-model", file});
    expects_refusal(outcome, words);
    CHECK(outcome.err.find("model.json") != std::string::npos);
    by_demo = !by_demo;
  };
  const auto with = [](const std::string& name, const std::string& value) {
    Json json = parse_json(kGood);
    json.erase(name);
    std::string text = json.dump();
    text.back() = ',';
    return value.empty() ? json.dump() : text + "\"" + name + "\": " + value + "}";
  };
  for (const char* name :
       {"tile_us", "lane_us", "partial_us", "read_gbs", "math_gflops", "lane_step", "overlaps", "panel_lanes"}) {
    refuses(with(name, ""), {"has no", name});
    refuses(with(name, "null"), {name, "null", "expected"});
    refuses(with(name, "\"7\""), {name, "\"7\"", "expected"});
    refuses(with(name, "-1"), {name, "-1", "expected"});
    refuses(with(name, "NaN"), {"line 1"});
    refuses(with(name, "1e999"), {"1e999"});
    refuses(with(name, "[1]"), {name, "[1]", "expected"});
  }
  for (const char* name : {"read_gbs", "math_gflops", "lane_step"}) refuses(with(name, "0"), {name, " 0,", "expected"});
  for (const char* name : {"tile_us", "read_gbs", "lane_step"}) refuses(with(name, "1e7"), {name, "expected"});
  refuses(with("lane_step", "4.5"), {"lane_step", "4.5", "integer"});
  refuses(with("overlaps", "1"), {"overlaps", "1", "true or false"});
  refuses(with("bandwidth", "7"), {"unknown key", "bandwidth", "read_gbs"});
  refuses(with("measured", "7"), {"measured", "object"});
  refuses("", {"line 1"});
  refuses("[]", {"expected an object"});
  refuses("{}", {"has no \"tile_us\""});
  expects_refusal(run_tool({"plan", "star:8,2,2", "--cost-model", folder.path("absent.json")}),
                  {"absent.json", "cannot be opened"});
}

TEST_CASE("attend with a wrong cost model writes nothing", "[calibrate]") {
  const AttendCase files(2, 8 + 2 * 3, {4, 2, 16});
  const std::string model = files.folder().write("model.json", "{}");
  expects_refusal(files.run("star:8,2,3", {"--cost-model", model}), {"model.json", "has no"});
  CHECK(std::ranges::count(files.folder().files(), "out.npy") == 0);
}

TEST_CASE("calibrate writes a file that the other subcommands read", "[calibrate]") {
  const Folder folder;
  const std::string file = folder.path("model.json");
  const Outcome outcome =
      run_tool({"calibrate", "--quick", "--heads", "4,2,32", "--dtype", "bf16", "--out", file, "--json"});
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  const Json printed = parse_json(outcome.out);
  CHECK(parse_json(content_of(file)) == printed);
  CHECK(printed.at("read_gbs") > 0);
  CHECK(printed.at("measured").at("heads") == "4,2,32");
  CHECK(printed.at("measured").at("dtype") == "bf16");
  CHECK(printed.at("measured").at("samples") > 10);
  CHECK(printed.at("measured").at("error") <= printed.at("measured").at("default_error"));
  CHECK(folder.files() == std::vector<std::string>{"model.json"});
  CHECK(run_tool({"plan", "star:512,8,32", "--cost-model", file}).exit_code == 0);
}

TEST_CASE("calibrate refuses what is wrong before it measures", "[calibrate]") {
  const Folder folder;
  const std::string file = folder.path("model.json");
  expects_refusal(run_tool({"calibrate", "--out", file, "--heads", "3,2,64"}), {"--heads", "3,2,64"});
  expects_refusal(run_tool({"calibrate", "--out", file, "--heads", "2,2,300"}), {"head_dim", "300"});
  expects_refusal(run_tool({"calibrate", "--out", file, "--dtype", "f8"}), {"--dtype", "f8"});
  expects_refusal(run_tool({"calibrate", "--out", folder.path("absent/model.json")}), {"absent", "cannot be written"});
  CHECK(folder.files().empty());
}

}  // namespace
}  // namespace espalier::test
