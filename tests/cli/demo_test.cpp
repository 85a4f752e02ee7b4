#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include "tool.hpp"

namespace espalier::test {
namespace {

TEST_CASE("the demo shows the tree and ends with a summary") {
  const Outcome outcome = run_tool({"demo", "--steps", "12", "--levels", "3", "--prompt", "100"});
  CAPTURE(outcome.out, outcome.err);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err.empty());
  for (const char* words : {"100 -+- ", "+- ", "`- ", "Level 1: the prompt is forked into 4 thoughts",
                            "Level 3: the best 3 of 12", "unshared branches would store", "saved", "sequence strategy",
                            "largest error", "blocks in use at the end", "good"}) {
    CAPTURE(words);
    CHECK(outcome.out.find(words) != std::string::npos);
  }
}

TEST_CASE("the demo's results are good in every type, and its bookkeeping adds up") {
  for (const std::string scalar : {"f32", "f16", "bf16"}) {
    CAPTURE(scalar);
    const Outcome outcome = run_tool({"demo", "--steps", "9", "--levels", "3", "--keep", "2", "--expand", "3",
                                      "--prompt", "50", "--dtype", scalar, "--block-tokens", "7", "--json"});
    CAPTURE(outcome.err);
    REQUIRE(outcome.exit_code == 0);
    const auto report = parse_json(outcome.out);
    CHECK(report.at("good") == true);
    CHECK(report.at("blocks_in_use_at_end") == 0);
    CHECK(report.at("dtype") == scalar);
    CHECK(report.at("largest_error") <= report.at("allowed_error"));
    CHECK(report.at("checked_steps") >= 3);
    REQUIRE(report.at("steps").size() == 9);
    CHECK(report.at("steps")[0].at("branches") == 3);
    CHECK(report.at("steps")[0].at("stored_tokens") == 50 + 3);
    CHECK(report.at("steps")[0].at("unshared_tokens") == 3 * 51);
    CHECK(report.at("steps")[8].at("branches") == 6);
    for (const auto& step : report.at("steps")) CHECK(step.at("stored_tokens") <= step.at("unshared_tokens"));
  }
}

TEST_CASE("the demo is the same tree for the same seed") {
  const auto tree = [](const std::string& seed) {
    auto report = parse_json(run_tool({"demo", "--steps", "20", "--prompt", "40", "--seed", seed, "--json"}).out);
    std::vector<int> stored;
    for (const auto& step : report.at("steps")) stored.push_back(step.at("stored_tokens"));
    return stored;
  };
  CHECK(tree("5") == tree("5"));
  CHECK(tree("5") != tree("6"));
}

TEST_CASE("the demo works for a single step and a single branch") {
  CHECK(run_tool({"demo", "--steps", "1", "--prompt", "1"}).exit_code == 0);
  CHECK(run_tool({"demo", "--steps", "3", "--keep", "1", "--expand", "1", "--prompt", "5"}).exit_code == 0);
}

TEST_CASE("a demo that memory cannot hold is refused") {
  expects_refusal(run_tool({"demo", "--steps", "100000", "--levels", "1", "--keep", "100", "--expand", "100"}),
                  {"the KV cache", "memory", "available"});
}

}  // namespace
}  // namespace espalier::test
