#include "cli/tree_file.hpp"

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string_view>

#include "cli/input_error.hpp"
#include "cli/json_input.hpp"

namespace espalier::cli {
namespace {

constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

// -------------------------------------------------------------------------------------------------------------- JSON

TreeInput parse_json_tree(const std::string& name, const std::string& text) {
  const Json document = parse_json(name, text);
  const JsonPlace root{document, name + ":"};
  expects_object(root, {"nodes"}, {"rows"});
  TreeInput tree;
  const JsonPlace nodes = root.at("nodes");
  expects_array(nodes, 1);
  for (std::size_t i = 0; i < nodes.value.size(); ++i) {
    const JsonPlace node = nodes.at(i);
    expects_object(node, {"parent", "tokens"});
    const std::int64_t parent =
        integer_at(node.at("parent"), -1, std::int64_t(i) - 1, ": -1 (a root) or a node above this one");
    tree.nodes.push_back({std::int32_t(parent), std::int32_t(integer_at(node.at("tokens"), 0, kInt32Max))});
  }
  if (!root.has("rows")) {
    add_leaf_rows(tree);
    return tree;
  }
  const JsonPlace rows = root.at("rows");
  expects_array(rows, 1);
  for (std::size_t i = 0; i < rows.value.size(); ++i) {
    const JsonPlace row = rows.at(i);
    expects_object(row, {"node"}, {"visible"});
    const std::int64_t node = integer_at(row.at("node"), 0, std::int64_t(tree.nodes.size()) - 1, ", a node");
    const std::int32_t tokens = tree.nodes[std::size_t(node)].tokens;
    const std::int64_t visible =
        row.has("visible") ? integer_at(row.at("visible"), 0, tokens, ", tokens of its node") : tokens;
    tree.rows.push_back({std::int32_t(node), std::int32_t(visible)});
  }
  return tree;
}

// ---------------------------------------------------------------------------------------------------- FastTree's text

/// The words of a line.
std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  constexpr std::string_view kSpace = " \t\r";
  for (std::size_t begin = line.find_first_not_of(kSpace); begin != std::string_view::npos;) {
    const std::size_t end = line.find_first_of(kSpace, begin);
    words.push_back(line.substr(begin, end - begin));
    begin = line.find_first_not_of(kSpace, end);
  }
  return words;
}

/// Reads lines of integers and says where they are wrong.
class LineReader {
 public:
  LineReader(std::string name, std::string_view text) : name_(std::move(name)), rest_(text) {}

  /// The integers of the next line.
  std::vector<std::int64_t> integers(std::size_t count, const std::string& expected) {
    ++line_;
    if (rest_.empty()) fail("the file ends here", expected);
    const std::size_t end = rest_.find('\n');
    const std::vector<std::string_view> words = words_of(rest_.substr(0, end));
    rest_ = end == std::string_view::npos ? std::string_view{} : rest_.substr(end + 1);
    if (words.size() != count) fail("has " + std::to_string(words.size()) + " words", expected);
    std::vector<std::int64_t> values(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto [last, error] = std::from_chars(words[i].data(), words[i].data() + words[i].size(), values[i]);
      if (error != std::errc{} || last != words[i].data() + words[i].size())
        fail("'" + std::string(words[i].substr(0, 40)) + "' is no integer of 64 bits", expected);
    }
    return values;
  }

  void expects_end(std::size_t nodes) {
    ++line_;
    if (rest_.find_first_not_of(" \t\r\n") != std::string_view::npos)
      fail("there is more text", "the end after " + std::to_string(nodes) + " nodes");
  }

  [[noreturn]] void fail(const std::string& found, const std::string& expected) const {
    bad_input(name_, ": line ", line_, ": ", found, ", expected ", expected);
  }

  [[nodiscard]] std::size_t remaining() const { return rest_.size(); }

 private:
  std::string name_;
  std::string_view rest_;
  std::int64_t line_ = 0;
};

TreeInput parse_fasttree(const std::string& name, const std::string& text) {
  LineReader lines(name, text);
  const std::int64_t count = lines.integers(1, "the number of nodes alone")[0];
  if (count < 1 || count > kInt32Max)
    lines.fail("the number of nodes is " + std::to_string(count), "1 to " + std::to_string(kInt32Max));
  TreeInput tree;
  std::vector<std::int64_t> announced, children;
  const std::string expected = "'parent id tokens children', the line of node ";
  for (std::int64_t node = 0; node < count; ++node) {
    const std::vector<std::int64_t> line = lines.integers(4, expected + std::to_string(node));
    const std::int64_t parent = line[0], tokens = line[2];
    if (line[1] != node)
      lines.fail("the id is " + std::to_string(line[1]), std::to_string(node) + ": ids count up from 0");
    if (parent < -1 || parent >= node)
      lines.fail("the parent is " + std::to_string(parent), "-1 (a root) or a node above this one");
    if (tokens < 0 || tokens > kInt32Max)
      lines.fail("the number of tokens is " + std::to_string(tokens), "0 to " + std::to_string(kInt32Max));
    tree.nodes.push_back({std::int32_t(parent), std::int32_t(tokens)});
    announced.push_back(line[3]);
    children.push_back(0);
    if (parent >= 0) ++children[std::size_t(parent)];
  }
  lines.expects_end(tree.nodes.size());
  for (std::size_t node = 0; node < announced.size(); ++node)
    if (announced[node] != children[node])
      bad_input(name, ": line ", node + 2, ": node ", node, " announces ", announced[node], " children, ",
                children[node], " nodes name it as their parent");
  add_leaf_rows(tree);
  return tree;
}

}  // namespace

TreeInput read_tree(const std::string& file_or_workload) {
  std::error_code ignored;
  if (names_workload(file_or_workload) && !std::filesystem::exists(file_or_workload, ignored))
    return make_workload(file_or_workload);
  const std::string text = read_file(file_or_workload);
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos)
    bad_input(file_or_workload, ": is empty, expected a tree: JSON ({\"nodes\": ...}) or FastTree's text");
  const bool is_json = text[begin] == '{' || text[begin] == '[' || text[begin] == '"' || text[begin] == '\xef';
  const bool is_number = text[begin] == '-' || (text[begin] >= '0' && text[begin] <= '9');
  if (!is_json && !is_number)
    bad_input(file_or_workload,
              ": line 1, column 1: expected a tree: JSON ({\"nodes\": ...}) or FastTree's text (a count)");
  TreeInput tree = is_json ? parse_json_tree(file_or_workload, text) : parse_fasttree(file_or_workload, text);
  if (tree.tokens() > kInt32Max)
    bad_input(file_or_workload, ": the nodes have ", tree.tokens(), " tokens together, expected at most ", kInt32Max);
  return tree;
}

std::string describe_trees() {
  return "A tree file:\n"
         "  { \"nodes\": [ {\"parent\": -1, \"tokens\": 128}, {\"parent\": 0, \"tokens\": 64}, {\"parent\": 0, "
         "\"tokens\": 70} ],\n"
         "    \"rows\":  [ {\"node\": 1}, {\"node\": 2, \"visible\": 3} ] }\n"
         "Without \"rows\": one row per leaf in node order. Without \"visible\": all of the row's own node.\n\n"
         "Workloads instead of a file:\n" +
         describe_workloads();
}

}  // namespace espalier::cli
