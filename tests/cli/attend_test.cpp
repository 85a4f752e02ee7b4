// `espalier attend` on good input: its results are the oracle's, whatever the way to describe the tree or to compute.

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "attend_case.hpp"
#include "support/oracle.hpp"
#include "support/problem.hpp"
#include "support/sanitized.hpp"
#include "support/tolerance.hpp"
#include "support/trees.hpp"

namespace espalier::test {
namespace {

void round_to(Scalar scalar, std::vector<float>& values) {
  for (float& value : values) {
    if (scalar == Scalar::f16) value = to_float(from_float<float16>(value));
    if (scalar == Scalar::bf16) value = to_float(from_float<bfloat16>(value));
  }
}

/// Compares what a run has written with the oracle over inputs that are rounded as the tool rounds them.
void expects_truth(const AttendCase& files, const Tree& tree, const HeadShape& heads, Scalar scalar,
                   const AttendOptions& options = {}) {
  Inputs inputs{files.q().values, files.k().values, files.v().values};
  for (std::vector<float>* values : {&inputs.q, &inputs.k, &inputs.v}) round_to(scalar, *values);
  const Array out = files.out(), lse = files.lse();
  CHECK(out.shape == files.q().shape);
  CHECK(out.type == files.q().type);
  CHECK(lse.shape == std::vector<std::int64_t>{files.q().shape[0], files.q().shape[1]});
  CHECK(lse.type == "<f4");
  CHECK(disagreement(out.values, lse.values, oracle_of(tree, heads, inputs, options), heads, scalar,
                     tolerance_of(tree, heads, inputs, options)) == "");
}

AttendCase case_of(const Tree& tree, const HeadShape& heads, const std::string& type = "<f4") {
  return {std::int64_t(tree.rows.size()), tree.tokens(), heads, type};
}

TEST_CASE("attend agrees with the oracle on random forests, for every type and strategy") {
  const std::vector<HeadShape> shapes = {{4, 2, 16}, {6, 1, 64}, {8, 8, 32}, {5, 1, 80}, {32, 8, 128}};
  std::uint32_t seed = 100;
  for (const HeadShape& heads : shapes) {
    Tree tree = random_forest(++seed);
    if (tree.rows.empty()) tree.rows = leaf_rows(tree.nodes);
    const AttendCase files = case_of(tree, heads);
    const std::string file = files.folder().write("tree.json", json_of(tree));
    for (const Scalar scalar : {Scalar::f32, Scalar::f16, Scalar::bf16}) {
      if (!takes_case(scalar, seed)) continue;
      for (const PlanStrategy strategy : kPlanStrategies) {
        CAPTURE(seed, heads.query_heads, heads.kv_heads, heads.head_dim, name_of(scalar), name_of(strategy));
        const Outcome outcome = files.run(file, {"--dtype", name_of(scalar), "--strategy", name_of(strategy)});
        CAPTURE(outcome.err);
        REQUIRE(outcome.exit_code == 0);
        CHECK(outcome.err.empty());
        expects_truth(files, tree, heads, scalar);
      }
    }
  }
}

TEST_CASE("attend agrees with the oracle for rows at inner nodes, visible, empty nodes and several roots") {
  const HeadShape heads{4, 2, 32};
  const Tree tree{"",
                  {{-1, 20}, {0, 0}, {1, 5}, {1, 9}, {-1, 0}, {4, 3}, {-1, 33}, {0, 1}},
                  {{5}, {0}, {0, 0}, {0, 7}, {3, 4}, {2}, {6, 33}, {4}, {7, 0}, {1}}};
  const AttendCase files = case_of(tree, heads);
  const std::string file = files.folder().write("tree.json", json_of(tree));
  for (const int block_tokens : {1, 3, 16, 256}) {
    CAPTURE(block_tokens);
    const Outcome outcome = files.run(file, {"--block-tokens", std::to_string(block_tokens)});
    CAPTURE(outcome.err);
    REQUIRE(outcome.exit_code == 0);
    expects_truth(files, tree, heads, Scalar::f32);
  }
}

TEST_CASE("attend applies scale and soft cap") {
  const HeadShape heads{4, 1, 64};
  const Tree tree{"", {{-1, 50}, {0, 7}, {0, 9}}, {{1}, {2}}};
  const AttendCase files = case_of(tree, heads);
  const std::string file = files.folder().write("tree.json", json_of(tree));
  AttendOptions options;
  options.scale = 0.25f;
  options.soft_cap = 1.5f;
  REQUIRE(files.run(file, {"--scale", "0.25", "--soft-cap", "1.5"}).exit_code == 0);
  expects_truth(files, tree, heads, Scalar::f32, options);
}

TEST_CASE("the kernel named oracle is the oracle") {
  const HeadShape heads{2, 1, 16};
  const Tree tree{"", {{-1, 9}, {0, 2}, {0, 3}}, {{1}, {2, 1}}};
  const AttendCase files = case_of(tree, heads);
  REQUIRE(files.run(files.folder().write("tree.json", json_of(tree)), {"--kernel", "oracle"}).exit_code == 0);
  const oracle::Result truth =
      oracle::attend(tree.nodes, tree.rows, heads, files.q().values, files.k().values, files.v().values);
  CHECK(files.out().values == std::vector<float>(truth.out.begin(), truth.out.end()));
  CHECK(files.lse().values == std::vector<float>(truth.lse.begin(), truth.lse.end()));
}

TEST_CASE("f2 arrays are read, computed in f16 and written as f2") {
  const HeadShape heads{4, 2, 32};
  const Tree tree{"", {{-1, 30}, {0, 4}, {0, 5}}, {{1}, {2}}};
  const AttendCase files = case_of(tree, heads, "<f2");
  const Outcome outcome = files.run(files.folder().write("tree.json", json_of(tree)), {"--json"});
  REQUIRE(outcome.exit_code == 0);
  CHECK(parse_json(outcome.out).at("dtype") == "f16");
  expects_truth(files, tree, heads, Scalar::f16);
}

TEST_CASE("FastTree's text and JSON without rows mean one row per leaf in node order") {
  const HeadShape heads{2, 2, 16};
  Tree tree{"", {{-1, 10}, {0, 3}, {-1, 4}, {1, 0}, {1, 6}, {0, 2}}, {}};
  tree.rows = leaf_rows(tree.nodes);
  const AttendCase files = case_of(tree, heads);
  REQUIRE(files.run(files.folder().write("tree.txt", fasttree_of(tree))).exit_code == 0);
  expects_truth(files, tree, heads, Scalar::f32);
  const Array from_text = files.out();
  std::string json = json_of(tree);
  json = json.substr(0, json.find(",\n")) + "}";
  REQUIRE(files.run(files.folder().write("tree.json", json)).exit_code == 0);
  CHECK(files.out().values == from_text.values);
}

TEST_CASE("the same input gives the same bits") {
  const HeadShape heads{8, 2, 64};
  const Tree tree = random_forest(7);
  const AttendCase files = case_of(tree, heads);
  const std::string file = files.folder().write("tree.json", json_of(tree));
  REQUIRE(files.run(file).exit_code == 0);
  const Array first = files.out();
  REQUIRE(files.run(file).exit_code == 0);
  CHECK(files.out().values == first.values);
}

TEST_CASE("attend reports what it did, in words and in JSON") {
  const AttendCase files(2, 8 + 2 * 3, {4, 2, 16});
  const Outcome words = files.run("star:8,2,3");
  CHECK(words.exit_code == 0);
  CHECK(words.out.find("2 rows over 14 tokens in 3 nodes") != std::string::npos);
  const auto report = parse_json(files.run("star:8,2,3", {"--json"}).out);
  CHECK(report.at("rows") == 2);
  CHECK(report.at("tokens") == 14);
  CHECK(report.at("nodes") == 3);
  CHECK(report.at("query_heads") == 4);
  CHECK(report.at("out") == files.folder().path("out.npy"));
}

TEST_CASE("attend replaces an output that is there, and needs no lse") {
  const AttendCase files(2, 8 + 2 * 3, {4, 2, 16});
  files.folder().write("out.npy", "old");
  REQUIRE(run_tool({"attend", "star:8,2,3", "--q", files.folder().path("q.npy"), "--k", files.folder().path("k.npy"),
                    "--v", files.folder().path("v.npy"), "--out", files.folder().path("out.npy")})
              .exit_code == 0);
  CHECK(files.folder().files() == std::vector<std::string>{"k.npy", "out.npy", "q.npy", "v.npy"});
  CHECK(files.out().shape == files.q().shape);
}

}  // namespace
}  // namespace espalier::test
