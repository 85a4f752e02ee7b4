#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include "tool.hpp"

namespace espalier::test {
namespace {

/// Those of the tool, of which not every build has any.
std::vector<std::string> emulated_kernels() {
  std::vector<std::string> names;
  const auto report = parse_json(run_tool({"info", "--json"}).out);
  for (const auto& kernel : report.at("kernels")) {
    const auto name = kernel.at("name").get<std::string>();
    CHECK(kernel.at("emulated") == name.ends_with("-emulated"));
    if (kernel.at("emulated") == true) names.push_back(name);
  }
  return names;
}

TEST_CASE("validate finds the kernels right, with a table, and no progress where stderr is no terminal") {
  const Outcome outcome = run_tool({"validate", "--quick"});
  CAPTURE(outcome.out, outcome.err);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err.empty());
  for (const char* words : {"kernel", "checked", "portable", "all right"})
    CHECK(outcome.out.find(words) != std::string::npos);
  CHECK(outcome.out.find("NOT") == std::string::npos);
  for (const std::string& name : emulated_kernels())
    CHECK(outcome.out.find("takes minutes; '--kernel " + name + "' checks it") != std::string::npos);
}

TEST_CASE("validate leaves emulated kernels out unless they are asked for, and tells machines so") {
  const auto report = parse_json(run_tool({"validate", "--quick", "--json"}).out);
  const std::vector<std::string> emulated = emulated_kernels();
  CHECK(report.at("left_out") == emulated);
  for (const auto& kernel : report.at("kernels"))
    CHECK(std::ranges::find(emulated, kernel.at("name").get<std::string>()) == emulated.end());
}

TEST_CASE("validate tells machines about the kernels whose names begin as asked for") {
  const Outcome outcome = run_tool({"validate", "--quick", "--kernel", "port", "--seed", "3", "--json"});
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  const auto report = parse_json(outcome.out);
  CHECK(report.at("passed") == true);
  CHECK(report.at("left_out").empty());
  CHECK(report.at("seed") == 3);
  REQUIRE(report.at("kernels").size() == 1);
  const auto& kernel = report.at("kernels")[0];
  CHECK(kernel.at("name") == "portable");
  CHECK(kernel.at("checked") > 100);
  CHECK(kernel.at("unsupported") == 0);
  CHECK(kernel.at("wrong") == 0);
  CHECK(kernel.at("largest_error") > 0);
  CHECK(kernel.at("largest_share_of_allowed") < 1);
}

TEST_CASE("validate refuses a kernel that there is not") {
  expects_refusal(run_tool({"validate", "--kernel", "cuda-sm1"}), {"cuda-sm1", "portable"});
}

}  // namespace
}  // namespace espalier::test
