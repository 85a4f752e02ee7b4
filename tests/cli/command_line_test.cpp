// What every subcommand has in common: help, JSON, exit codes.

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include "tool.hpp"

namespace espalier::test {
namespace {

const std::vector<std::string> kSubcommands = {"attend", "calibrate", "demo", "info", "plan", "replay"};

TEST_CASE("the tool's help lists every subcommand and the exit codes") {
  const Outcome outcome = run_tool({"--help"});
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err.empty());
  for (const std::string& name : kSubcommands) CHECK(outcome.out.find("\n  " + name + " ") != std::string::npos);
  CHECK(outcome.out.find("Exit code") != std::string::npos);
}

TEST_CASE("every subcommand has help that names its --json") {
  for (const std::string& name : kSubcommands) {
    CAPTURE(name);
    const Outcome outcome = run_tool({name, "--help"});
    CHECK(outcome.exit_code == 0);
    CHECK(outcome.err.empty());
    CHECK(outcome.out.find("--json") != std::string::npos);
  }
}

TEST_CASE("no line of a help text is longer than 132 columns") {
  for (const std::string& name : kSubcommands) {
    const std::string text = run_tool({name, "--help"}).out;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = text.find('\n', begin);
      CAPTURE(text.substr(begin, end - begin));
      CHECK(end - begin <= 132);
      begin = end + 1;
    }
  }
}

TEST_CASE("the tool tells its version") {
  const Outcome outcome = run_tool({"--version"});
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out.find('.') != std::string::npos);
}

TEST_CASE("wrong options are told in one line that points to the help") {
  expects_refusal(run_tool({}), {"subcommand", "'espalier --help'"});
  expects_refusal(run_tool({"prune"}),
                  {"'prune'", "info, demo, replay, attend, plan, validate, calibrate", "'espalier --help'"});
  expects_refusal(run_tool({"--fast"}), {"'--fast'", "'espalier --help'"});
  expects_refusal(run_tool({"info", "--fast"}), {"--fast", "'espalier info --help'"});
  expects_refusal(run_tool({"demo", "--steps"}), {"--steps", "'espalier demo --help'"});
  expects_refusal(run_tool({"demo", "--steps", "0"}), {"--steps", "0"});
  expects_refusal(run_tool({"demo", "--steps", "many"}), {"--steps", "many"});
  expects_refusal(run_tool({"demo", "--steps", "99999999999999999999"}), {"--steps"});
  expects_refusal(run_tool({"demo", "--dtype", "f64"}), {"--dtype", "f64", "bf16"});
  expects_refusal(run_tool({"attend"}), {"'espalier attend --help'", "required"});
  expects_refusal(run_tool({"attend", "star:1,1,1", "--q", "q.npy"}), {"required"});
  expects_refusal(run_tool({"replay"}), {"'espalier replay --help'"});
  expects_refusal(run_tool({"replay", "a\nb", "c"}), {"c"});
}

TEST_CASE("info names the version, the backends of Kokkos and the kernels") {
  const Outcome outcome = run_tool({"info"});
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err.empty());
  for (const char* word : {"espalier", "Kokkos", "device", "portable", "runs here"})
    CHECK(outcome.out.find(word) != std::string::npos);
}

TEST_CASE("info prints JSON") {
  const auto report = parse_json(run_tool({"info", "--json"}).out);
  CHECK(report.at("version").is_string());
  CHECK(report.at("kokkos").at("version").is_string());
  CHECK(!report.at("kokkos").at("backends").empty());
  CHECK(report.at("concurrency").get<int>() >= 1);
  bool portable_runs = false;
  for (const auto& kernel : report.at("kernels")) {
    portable_runs |= kernel.at("name") == "portable" && kernel.at("available") == true;
    CHECK(kernel.at("available") != kernel.contains("why_not"));
  }
  CHECK(portable_runs);
}

}  // namespace
}  // namespace espalier::test
