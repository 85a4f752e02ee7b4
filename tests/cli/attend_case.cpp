#include "attend_case.hpp"

#include <catch2/catch_test_macros.hpp>
#include <random>

namespace espalier::test {
namespace {

Array random_array(const std::string& type, const std::vector<std::int64_t>& shape, std::uint32_t seed) {
  Array array{type, shape, {}};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::size_t elements = 1;
  for (const std::int64_t extent : shape) elements *= std::size_t(extent);
  for (std::size_t i = 0; i < elements; ++i) {
    const float value = normal(random);
    array.values.push_back(type == "<f2" ? to_float(from_float<float16>(value)) : value);
  }
  return array;
}

}  // namespace

std::string json_of(const Tree& tree) {
  std::string nodes, rows;
  for (const NodeSpec& node : tree.nodes)
    nodes += (nodes.empty() ? "" : ", ") + ("{\"parent\": " + std::to_string(node.parent)) +
             ", \"tokens\": " + std::to_string(node.tokens) + "}";
  for (const RowSpec& row : tree.rows)
    rows += (rows.empty() ? "" : ", ") + ("{\"node\": " + std::to_string(row.node)) +
            (row.visible < 0 ? "" : ", \"visible\": " + std::to_string(row.visible)) + "}";
  return "{ \"nodes\": [" + nodes + "],\n  \"rows\": [" + rows + "] }\n";
}

std::string fasttree_of(const Tree& tree) {
  std::vector<int> children(tree.nodes.size(), 0);
  for (const NodeSpec& node : tree.nodes)
    if (node.parent >= 0) ++children[std::size_t(node.parent)];
  std::string text = std::to_string(tree.nodes.size()) + "\n";
  for (std::size_t node = 0; node < tree.nodes.size(); ++node)
    text += std::to_string(tree.nodes[node].parent) + " " + std::to_string(node) + " " +
            std::to_string(tree.nodes[node].tokens) + " " + std::to_string(children[node]) + "\n";
  return text;
}

AttendCase::AttendCase(std::int64_t rows, std::int64_t tokens, const HeadShape& heads, const std::string& type)
    : q_(random_array(type, {rows, heads.query_heads, heads.head_dim}, 1)),
      k_(random_array(type, {tokens, heads.kv_heads, heads.head_dim}, 2)),
      v_(random_array(type, {tokens, heads.kv_heads, heads.head_dim}, 3)) {
  folder_.write("q.npy", npy_of(q_));
  folder_.write("k.npy", npy_of(k_));
  folder_.write("v.npy", npy_of(v_));
}

Outcome AttendCase::run(const std::string& tree, const std::vector<std::string>& further) const {
  std::vector<std::string> arguments{"attend", tree};
  for (const std::string name : {"q", "k", "v", "out", "lse"}) {
    arguments.push_back("--" + name);
    arguments.push_back(folder_.path(name + ".npy"));
  }
  arguments.insert(arguments.end(), further.begin(), further.end());
  return run_tool(arguments);
}

void AttendCase::refuses(const std::string& tree, std::initializer_list<std::string> words,
                         const std::vector<std::string>& further) const {
  CAPTURE(tree);
  const std::vector<std::string> before = folder_.files();
  expects_refusal(run(tree, further), words);
  CHECK(folder_.files() == before);
}

}  // namespace espalier::test
