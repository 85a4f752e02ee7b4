// `espalier plan --svg`: the picture is well-formed XML that shows the plan, and only that.

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "attend_case.hpp"
#include "espalier/plan.hpp"
#include "support/trees.hpp"
#include "tool.hpp"
#include "xml.hpp"

namespace espalier::test {
namespace {

using Json = nlohmann::json;
using Elements = std::vector<XmlElement>;

/// A plan that was drawn: what --json says of it, and the picture.
struct Drawn {
  Json json, plan;
  std::string svg;
  Elements elements;
};

Drawn draw(const Folder& folder, const std::string& tree, const std::vector<std::string>& further) {
  std::vector<std::string> words{"plan", tree, "--json", "--workers", "24", "--svg", folder.path("plan.svg")};
  words.insert(words.end(), further.begin(), further.end());
  const Outcome outcome = run_tool(words);
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  Drawn drawn{parse_json(outcome.out), {}, content_of(folder.path("plan.svg")), {}};
  drawn.plan = drawn.json.at("plans")[0];
  drawn.elements = parse_xml(drawn.svg);
  return drawn;
}

Elements of_class(const Elements& elements, const std::string& word) {
  Elements found;
  std::ranges::copy_if(elements, std::back_inserter(found), [&](const auto& e) { return e.has_class(word); });
  return found;
}

/// The tooltip of each element of a class.
std::vector<std::string> tooltips(const Elements& elements, const std::string& word) {
  std::vector<std::string> texts;
  for (const XmlElement& element : elements)
    if (element.name == "title" && elements[std::size_t(element.parent)].has_class(word)) texts.push_back(element.text);
  return texts;
}

void expects_picture(const Drawn& drawn, int kv_heads) {
  const int tiles = drawn.plan.at("tiles").get<int>() / kv_heads;
  const std::string busiest = "worker " + std::to_string(drawn.plan.at("busiest_worker").get<int>());
  CHECK(drawn.elements[0].name == "svg");
  CHECK(drawn.elements[0].attributes.contains("viewBox"));
  CHECK(int(of_class(drawn.elements, "tile").size()) == tiles);
  CHECK(int(tooltips(drawn.elements, "tile").size()) == tiles);
  CHECK(of_class(drawn.elements, "worker").size() == drawn.plan.at("workers"));
  CHECK(of_class(drawn.elements, "masked").empty() == (drawn.plan.at("masked_tiles") == 0));

  for (const XmlElement& element : drawn.elements) CHECK(element.text.find("-0.0 %") == std::string::npos);

  // The busiest worker has a colour of its own, in the tree and among the workers.
  const Elements marked = of_class(drawn.elements, "busiest");
  for (const XmlElement& element : drawn.elements)
    if (element.has_class("tile") || element.has_class("worker"))
      CHECK((element.attributes.at("fill") == marked.at(0).attributes.at("fill")) == element.has_class("busiest"));
  const std::vector<std::string> words = tooltips(drawn.elements, "busiest");
  CHECK(words.size() == marked.size());
  for (const std::string& text : words) CHECK(text.find(busiest) != std::string::npos);
  for (const std::string& text : tooltips(drawn.elements, "tile"))
    CHECK((text.find(busiest + ";") != std::string::npos) == (std::ranges::count(words, text) > 0));
  CHECK(marked.size() >= (tiles > 0 ? 2u : 1u));
}

TEST_CASE("a picture has each tile of one KV head, each worker, and marks the busiest one") {
  const Folder folder;
  std::uint32_t seed = 800;
  std::vector<std::pair<std::string, std::string>> trees;
  for (int i = 0; i < 4; ++i) {
    Tree tree = random_forest(++seed);
    if (tree.rows.empty()) tree.rows = leaf_rows(tree.nodes);
    trees.emplace_back(folder.write("tree" + std::to_string(i) + ".json", json_of(tree)), "6,2,16");
  }
  for (const char* name : {"star:2048,64,64", "tot:4000,4,10,340,170", "tokens:1000,64", "beam:1024,16,8,64",
                           "eagle:4,600,8,5", "layers:1,4,16,64/512,128,64,32"})
    trees.emplace_back(name, "32,8,128");
  for (const auto& [tree, heads] : trees)
    for (const PlanStrategy strategy : kPlanStrategies) {
      CAPTURE(tree, name_of(strategy));
      const Drawn drawn = draw(folder, tree, {"--heads", heads, "--strategy", name_of(strategy)});
      expects_picture(drawn, drawn.json.at("kv_heads"));
    }
}

TEST_CASE("the title of a picture names tree, heads, strategy and predicted time") {
  const Folder folder;
  const Drawn drawn = draw(folder, "star:512,8,32", {"--strategy", "node_chunk", "--heads", "16,4,64"});
  std::string words;
  for (const XmlElement& element : drawn.elements) words += element.text + "\n";
  for (const char* expected :
       {"star:512,8,32", "node_chunk", "16 query and 4 KV heads of 64", "f32", "predicted",
        "9 nodes, 8 rows, 768 tokens", "24 workers", "KV head", "tokens from the root", "rows", "at a time"})
    CHECK(words.find(expected) != std::string::npos);
}

TEST_CASE("a picture says how many nodes are too small for an outline") {
  const Folder folder;
  CHECK(draw(folder, "layers:1,1000/100,10", {}).svg.find("; 1,000 nodes are too small") != std::string::npos);
  CHECK(draw(folder, "layers:1,4/100,100", {}).svg.find("too small") == std::string::npos);
}

TEST_CASE("names of trees are escaped in a picture, whatever they hold") {
  const Folder folder;
  const std::string content = R"({"nodes": [{"parent": -1, "tokens": 5}]})";
  for (const char* name :
       {"a<b>&\"c.json", "\xc3\xa4\xe2\x82\xac.json", "bytes\xff\xfe.json", "line\nbreak\x01.json"}) {
    CAPTURE(name);
    const Drawn drawn = draw(folder, folder.write(name, content), {});
    CHECK(of_class(drawn.elements, "tile").size() == 1);
  }
}

TEST_CASE("pictures of large trees, deep ones and ones without tokens stay small and well-formed") {
  const Folder folder;
  std::string chain = R"({"nodes": [{"parent": -1, "tokens": 3})", rows = R"("rows": [{"node": 0, "visible": 1})";
  for (int node = 1; node < 3000; ++node) {
    chain += ", {\"parent\": " + std::to_string(node - 1) + ", \"tokens\": 3}";
    if (node % 7 == 0) rows += ", {\"node\": " + std::to_string(node) + ", \"visible\": 2}";
  }
  const std::vector<std::string> trees = {
      "layers:1,10,100,1000,10000,88889/9,8,7,6,5,4", folder.write("chain.json", chain + "], " + rows + "]}"),
      folder.write("empty.json", R"({"nodes": [{"parent": -1, "tokens": 0}]})"), "layers:3000/1"};
  for (const std::string& tree : trees)
    for (const char* strategy : {"automatic", "flatten", "node"}) {
      CAPTURE(tree, strategy);
      const Drawn drawn = draw(folder, tree, {"--heads", "2,1,16", "--strategy", strategy});
      CHECK(drawn.svg.size() < 1500000);
      CHECK(drawn.svg.find("nan") == std::string::npos);
      CHECK(!of_class(drawn.elements, "busiest").empty());
      if (drawn.plan.at("tiles") > 2000) CHECK(drawn.svg.find("worker by worker") != std::string::npos);
    }
}

TEST_CASE("a picture of the same plan has the same bytes") {
  const Folder folder;
  const std::vector<std::string> options = {"--strategy", "flatten"};
  CHECK(draw(folder, "tokens:300,96", options).svg == draw(folder, "tokens:300,96", options).svg);
}

TEST_CASE("a picture is written in full or not at all") {
  const Folder folder;
  const auto refuses = [&](const std::vector<std::string>& words, std::initializer_list<std::string> expected) {
    expects_refusal(run_tool(words), expected);
    CHECK(folder.files().empty());
  };
  const std::string svg = folder.path("plan.svg");
  refuses({"plan", "star:8,2", "--svg", svg}, {"star:8,2"});
  refuses({"plan", "star:8,2,2", "--svg", svg, "--heads", "3,2,8"}, {"--heads"});
  refuses({"plan", "star:8,2,2", "--svg", svg, "--heads", "2,2,300"}, {"head_dim"});
  refuses({"plan", "star:8,2,2", "--svg", svg, "--strategy", "all"}, {"--svg", "all"});
  refuses({"plan", "star:8,2,2", "--svg", folder.path("absent/plan.svg")}, {"absent/plan.svg", "cannot be written"});
  std::filesystem::create_directory(svg);
  expects_refusal(run_tool({"plan", "star:8,2,2", "--svg", svg}), {"plan.svg", "no regular file"});
}

}  // namespace
}  // namespace espalier::test
