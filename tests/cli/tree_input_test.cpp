// Trees that are wrong: each is refused in one line that says where, and nothing is written.

#include <catch2/catch_test_macros.hpp>
#include <filesystem>

#include "attend_case.hpp"

namespace espalier::test {
namespace {

/// Files for a tree of one row and three tokens, so that only the tree can be wrong.
class TreeCase {
 public:
  void refuses_json(const std::string& content, std::initializer_list<std::string> words) const {
    CAPTURE(content);
    files_.refuses(files_.folder().write("tree.json", content), words);
  }

  void refuses_text(const std::string& content, std::initializer_list<std::string> words) const {
    CAPTURE(content);
    files_.refuses(files_.folder().write("tree.txt", content), words);
  }

  [[nodiscard]] const AttendCase& files() const { return files_; }

 private:
  AttendCase files_{1, 3, {1, 1, 16}};
};

TEST_CASE("a tree that is no readable file is refused") {
  const TreeCase tree;
  tree.files().refuses(tree.files().folder().path("absent.json"), {"absent.json", "cannot be opened"});
  tree.files().refuses(tree.files().folder().path("absent\nfolder/tree.json"), {"cannot be opened"});
  tree.files().refuses("", {"cannot be opened"});
  std::filesystem::create_directory(tree.files().folder().path("tree.d"));
  tree.files().refuses(tree.files().folder().path("tree.d"), {"tree.d", "directory"});
  tree.refuses_json("", {"tree.json", "empty"});
  tree.refuses_json(" \n\n ", {"empty"});
  tree.refuses_json("nodes", {"line 1, column 1", "JSON", "FastTree"});
  tree.refuses_json(std::string("\0\0\0\0", 4), {"tree.json"});
}

TEST_CASE("malformed JSON is refused with line and column") {
  const TreeCase tree;
  tree.refuses_json("{", {"tree.json", "line 1, column 2"});
  tree.refuses_json("{ \"nodes\": [\n  {\"parent\": -1, \"tokens\": 3},\n  ] }", {"line 3, column 3"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3} ] } x", {"line 1, column 46"});
  tree.refuses_json("{ \"nodes\": [ {'parent': -1, \"tokens\": 3} ] }", {"line 1, column 15"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 03} ] }", {"line 1"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": NaN} ] }", {"line 1"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": \"\xff\"} ] }", {"line 1"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3, \"tokens\": 4} ] }", {"\"tokens\"", "twice"});
  tree.refuses_json(std::string(100000, '['), {"line 1"});
}

TEST_CASE("JSON of another form is refused with the place") {
  const TreeCase tree;
  tree.refuses_json("[]", {"tree.json", "expected an object"});
  tree.refuses_json("\"nodes\"", {"expected an object"});
  tree.refuses_json("{}", {"has no \"nodes\""});
  tree.refuses_json("{ \"nodes\": {} }", {"nodes", "expected an array"});
  tree.refuses_json("{ \"nodes\": [] }", {"nodes", "at least 1"});
  tree.refuses_json("{ \"nodes\": [ 3 ] }", {"nodes[0]", "expected an object"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1} ] }", {"nodes[0]", "has no \"tokens\""});
  tree.refuses_json("{ \"nodes\": [ {\"tokens\": 3} ] }", {"nodes[0]", "has no \"parent\""});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3, \"lenght\": 3} ] }",
                    {"nodes[0]", "unknown key \"lenght\"", "\"parent\", \"tokens\""});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3} ], \"row\": [] }", {"unknown key \"row\""});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3} ], \"rows\": [] }", {"rows", "at least 1"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3} ], \"rows\": [ {} ] }",
                    {"rows[0]", "has no \"node\""});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3} ], \"rows\": [ {\"node\": 0, \"tokens\": 1} ] }",
                    {"rows[0]", "unknown key"});
}

TEST_CASE("numbers that make no sense are refused with the place and the range") {
  const TreeCase tree;
  const auto tokens = [&](const std::string& number, std::initializer_list<std::string> words) {
    tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": " + number + "} ] }", words);
  };
  const std::string range = "expected an integer from 0 to 2147483647";
  tokens("-1", {"nodes[0].tokens is -1", range});
  tokens("1.5", {"nodes[0].tokens is 1.5", range});
  tokens("3.0", {range});
  tokens("1e3", {range});
  tokens("2147483648", {"is 2147483648", range});
  tokens("9223372036854775808", {range});
  tokens("18446744073709551616", {range});
  tokens("1e999", {"tree.json"});
  tokens("true", {"is true", range});
  tokens("null", {"is null", range});
  tokens("\"3\"", {"is \"3\"", range});
  tokens("[3]", {range});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 2147483647}, {\"parent\": -1, \"tokens\": 1} ] }",
                    {"2147483648 tokens", "at most 2147483647"});
}

TEST_CASE("cycles and parents behind their children are refused") {
  const TreeCase tree;
  tree.refuses_json("{ \"nodes\": [ {\"parent\": 0, \"tokens\": 3} ] }", {"nodes[0].parent is 0", "a node above"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": -2, \"tokens\": 3} ] }", {"nodes[0].parent is -2"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": 1, \"tokens\": 3}, {\"parent\": -1, \"tokens\": 0} ] }",
                    {"nodes[0].parent is 1"});
  tree.refuses_json(
      "{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3}, {\"parent\": 2, \"tokens\": 0}, {\"parent\": 1, \"tokens\": 0} "
      "] }",
      {"nodes[1].parent is 2", "from -1 to 0"});
  tree.refuses_json("{ \"nodes\": [ {\"parent\": 4294967295, \"tokens\": 3} ] }", {"nodes[0].parent is 4294967295"});
}

TEST_CASE("rows that the tree does not have are refused") {
  const TreeCase tree;
  const auto row = [&](const std::string& content, std::initializer_list<std::string> words) {
    tree.refuses_json("{ \"nodes\": [ {\"parent\": -1, \"tokens\": 3} ], \"rows\": [ " + content + " ] }", words);
  };
  row("{\"node\": 1}", {"rows[0].node is 1", "from 0 to 0"});
  row("{\"node\": -1}", {"rows[0].node is -1"});
  row("{\"node\": 0.5}", {"rows[0].node is 0.5"});
  row("{\"node\": 0}, {\"node\": 0, \"visible\": 4}", {"rows[1].visible is 4", "from 0 to 3"});
  row("{\"node\": 0, \"visible\": -1}", {"rows[0].visible is -1"});
  row("{\"node\": 0, \"visible\": null}", {"rows[0].visible is null"});
}

TEST_CASE("FastTree's text is refused with the line") {
  const TreeCase tree;
  tree.refuses_text("1", {"tree.txt", "line 2", "ends here", "parent id tokens children"});
  tree.refuses_text("1 2\n", {"line 1", "the number of nodes alone"});
  tree.refuses_text("0\n", {"line 1", "the number of nodes is 0"});
  tree.refuses_text("-1\n", {"line 1", "the number of nodes is -1"});
  tree.refuses_text("99999999999999999999\n", {"line 1", "no integer"});
  tree.refuses_text("2147483648\n", {"line 1", "2147483648"});
  tree.refuses_text("1.5\n", {"line 1", "'1.5'"});
  tree.refuses_text("2\n-1 0 3 0\n", {"line 3", "ends here"});
  tree.refuses_text("1\n-1 0 3 0\n0 1 2 0\n", {"line 3", "more text", "the end after 1 nodes"});
  tree.refuses_text("1\n-1 0 3\n", {"line 2", "3 words"});
  tree.refuses_text("1\n-1 0 3 0 0\n", {"line 2", "5 words"});
  tree.refuses_text("1\n\n-1 0 3 0\n", {"line 2", "0 words"});
  tree.refuses_text("1\n-1 0 three 0\n", {"line 2", "'three'"});
  tree.refuses_text("1\n-1 1 3 0\n", {"line 2", "the id is 1", "expected 0"});
  tree.refuses_text("2\n-1 1 3 0\n-1 0 3 0\n", {"line 2", "the id is 1"});
  tree.refuses_text("1\n0 0 3 0\n", {"line 2", "the parent is 0"});
  tree.refuses_text("2\n1 0 3 0\n-1 1 0 1\n", {"line 2", "the parent is 1"});
  tree.refuses_text("1\n-2 0 3 0\n", {"line 2", "the parent is -2"});
  tree.refuses_text("1\n-1 0 -3 0\n", {"line 2", "the number of tokens is -3"});
  tree.refuses_text("1\n-1 0 2147483648 0\n", {"line 2", "2147483648"});
  tree.refuses_text("2\n-1 0 3 2\n0 1 0 0\n", {"line 2", "announces 2 children, 1 nodes"});
}

}  // namespace
}  // namespace espalier::test
