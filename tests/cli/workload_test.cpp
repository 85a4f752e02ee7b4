// Workload names: each is the tree that its description says, shown by equal results for that tree written out as JSON.

#include <catch2/catch_test_macros.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "attend_case.hpp"

namespace espalier::test {
namespace {

constexpr HeadShape kHeads{2, 1, 16};

/// Checks that the name and the tree give the same bits.
void expects_same(const std::string& name, Tree tree) {
  CAPTURE(name);
  if (tree.rows.empty()) tree.rows = leaf_rows(tree.nodes);
  const AttendCase files(std::int64_t(tree.rows.size()), tree.tokens(), kHeads);
  const Outcome by_name = files.run(name);
  CAPTURE(by_name.err);
  REQUIRE(by_name.exit_code == 0);
  const Array out = files.out();
  REQUIRE(files.run(files.folder().write("tree.json", json_of(tree))).exit_code == 0);
  CHECK(files.out().values == out.values);
}

TEST_CASE("layers: spreads the nodes of a level evenly below the level above") {
  expects_same("layers:1,2,5/7,3,2", {"", {{-1, 7}, {0, 3}, {0, 3}, {1, 2}, {1, 2}, {1, 2}, {2, 2}, {2, 2}}, {}});
  expects_same("layers:3/4", {"", {{-1, 4}, {-1, 4}, {-1, 4}}, {}});
  expects_same("layers:3,2/4,1", {"", {{-1, 4}, {-1, 4}, {-1, 4}, {0, 1}, {1, 1}}, {}});
}

TEST_CASE("star: is a prompt with branches") {
  expects_same("star:9,3,2", {"", {{-1, 9}, {0, 2}, {0, 2}, {0, 2}}, {}});
}

TEST_CASE("beam: keeps the nodes of live beams") {
  expects_same("beam:9,4,1,3", {"", {{-1, 9}, {0, 3}, {0, 3}, {0, 3}, {0, 3}}, {}});
  expects_same("beam:9,4,2,3", {"", {{-1, 9}, {0, 3}, {0, 3}, {1, 3}, {1, 3}, {2, 3}, {2, 3}}, {}});
  expects_same("beam:9,4,4,3", {"", {{-1, 9}, {0, 3}, {1, 3}, {2, 3}, {2, 3}, {3, 3}, {3, 3}, {4, 3}, {4, 3}}, {}});
  expects_same("beam:9,1,3,2", {"", {{-1, 9}, {0, 2}, {1, 2}, {2, 2}}, {}});
}

TEST_CASE("tot: is a prompt, a chain of survivors, and leaves") {
  expects_same("tot:9,2,3,4,5", {"", {{-1, 9}, {0, 4}, {1, 4}, {2, 5}, {2, 5}, {2, 5}}, {}});
}

TEST_CASE("eagle: is a forest of prompts with draft branches") {
  expects_same("eagle:2,7,2,3", {"", {{-1, 7}, {0, 3}, {0, 3}, {-1, 7}, {3, 3}, {3, 3}}, {}});
}

/// A context, the last committed token, and the drafts of published shapes; all but the context are rows.
void add_token_tree(Tree& tree, int context, const std::vector<std::vector<int>>& paths) {
  const auto first = std::int32_t(tree.nodes.size());
  tree.nodes.push_back({-1, context});
  std::map<std::vector<int>, std::int32_t> node_of{{{}, first + 1}};
  tree.nodes.push_back({first, 1});
  for (const std::vector<int>& path : paths) {
    tree.nodes.push_back({node_of.at({path.begin(), path.end() - 1}), 1});
    node_of[path] = std::int32_t(tree.nodes.size()) - 1;
  }
  for (auto node = first + 1; node < std::int32_t(tree.nodes.size()); ++node) tree.rows.push_back({node});
}

TEST_CASE("tokens: is Medusa's published token tree") {
  const auto shapes = parse_json(content_of(data_file("medusa_trees.json"))).at("shapes");
  for (const auto& [size, paths] : shapes.items()) {
    Tree tree;
    add_token_tree(tree, 21, paths.get<std::vector<std::vector<int>>>());
    expects_same("tokens:21," + size, tree);
  }
  Tree twice;
  for (int copy = 0; copy < 2; ++copy) add_token_tree(twice, 5, shapes.at("64").get<std::vector<std::vector<int>>>());
  expects_same("tokens:5,64,2", twice);
}

TEST_CASE("a workload with wrong fields is refused") {
  const AttendCase files(1, 1, kHeads);
  const std::string field = "expected an integer from 1 to 2147483647";
  files.refuses("star:10,2", {"star:10,2", "2 fields", "star:P,B,T"});
  files.refuses("star:10,2,3,4", {"4 fields"});
  files.refuses("star:", {"field 1", field});
  files.refuses("star:10,,3", {"field 2", field});
  files.refuses("star:10,2,3,", {"field 4", field});
  files.refuses("star:10,x,3", {"field 2", "'x'", field});
  files.refuses("star:10,-2,3", {"field 2", "'-2'", field});
  files.refuses("star:10,0,3", {"field 2", "'0'", field});
  files.refuses("star:10,2.5,3", {"field 2", "'2.5'", field});
  files.refuses("star:10, 2,3", {"field 2", field});
  files.refuses("star:10,2147483648,3", {"field 2", field});
  files.refuses("star:99999999999999999999,2,3", {"field 1", field});
  files.refuses("star:2147483647,1,1", {"more than 2147483647 tokens"});
  files.refuses("star:1,2147483647,1", {"nodes"});
  files.refuses("eagle:2147483647,1,2147483647,1", {"nodes"});
  files.refuses("layers:1,2", {"expected layers:"});
  files.refuses("layers:1,2/3/4", {"expected layers:"});
  files.refuses("layers:1,2/3", {"2 level sizes and 1 lengths"});
  files.refuses("beam:1,2,3", {"beam:P,W,D,T"});
  files.refuses("tot:1,2,3,4", {"tot:P,L,W,S,C"});
  files.refuses("tokens:100,63", {"63", "32, 64, 96, 128 or 256"});
  files.refuses("tokens:100", {"tokens:P,N[,COPIES]"});
  files.refuses("bush:1,2", {"bush:1,2", "no such file or workload", "star:"});
}

}  // namespace
}  // namespace espalier::test
