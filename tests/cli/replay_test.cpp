#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include "tool.hpp"

namespace espalier::test {
namespace {

using nlohmann::json;

std::string request(int timestamp, int input, int output, const std::string& ids) {
  return "{\"timestamp\": " + std::to_string(timestamp) + ", \"input_length\": " + std::to_string(input) +
         ", \"output_length\": " + std::to_string(output) + ", \"hash_ids\": [" + ids + "]}\n";
}

/// A trace of one task with one tree.
std::string thoughts(const std::string& list) { return "{\"about\": \"\", \"traces\": {\"task\": [[" + list + "]]}}"; }

// ---------------------------------------------------------------------------------------------------- small traces

TEST_CASE("chat requests share the longest prefix that is alive") {
  const Folder folder;
  const std::string file = folder.write("chat.jsonl", request(0, 1300, 10, "1, 2, 3") +      // nothing to share
                                                          request(5, 1100, 20, "1, 2, 4") +  // 1,024 tokens
                                                          request(5, 1400, 0, "1, 2, 3") +   // all 1,300 of the first
                                                          request(9, 512, 1, "7") +          // nothing
                                                          request(9, 0, 3, ""));             // nothing at all
  const Outcome outcome =
      run_tool({"replay", file, "--attend-every", "1", "--cache-tokens", "8192", "--dtype", "f32", "--json"});
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  const json report = parse_json(outcome.out);
  CHECK(report.at("good") == true);
  CHECK(report.at("kind") == "chat");
  CHECK(report.at("requests") == 5);
  CHECK(report.at("input_tokens") == 1300 + 1100 + 1400 + 512);
  CHECK(report.at("found_tokens") == 1024 + 1300);
  CHECK(report.at("sharing").at("peak_branches") == 5);
  CHECK(report.at("sharing").at("peak_unshared_tokens") == 1310 + 1120 + 1400 + 513 + 3);
  CHECK(report.at("sharing").at("peak_stored_tokens") == 1310 + 96 + 100 + 513 + 3);
  CHECK(report.at("attention").at("steps") == 5);
  CHECK(report.at("attention").at("checked_rows") == 9);
  CHECK(report.at("blocks_in_use_at_end") == 0);
}

TEST_CASE("chat requests leave when they are too many or too large") {
  const Folder folder;
  const std::string file = folder.write("chat.jsonl", request(0, 512, 0, "1") + request(1, 512, 0, "2") +
                                                          request(2, 512, 0, "3") + request(3, 512, 0, "1"));
  const auto replay = [&](const std::vector<std::string>& options) {
    std::vector<std::string> arguments{"replay", file, "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return parse_json(run_tool(arguments).out);
  };
  CHECK(replay({"--live", "4"}).at("found_tokens") == 512);
  CHECK(replay({"--live", "2"}).at("found_tokens") == 0);
  CHECK(replay({"--live", "2"}).at("sharing").at("peak_branches") == 2);
  const json small = replay({"--cache-tokens", "1152"});
  CHECK(small.at("early_prunes") == 2);
  CHECK(small.at("good") == true);
  expects_refusal(run_tool({"replay", file, "--cache-tokens", "256"}), {"request 1", "512 tokens", "--cache-tokens"});
}

TEST_CASE("trees of thoughts grow, fork and are pruned as recorded") {
  const Folder folder;
  const std::string file = folder.write(
      "tot.json",
      thoughts(
          "[0, -1, 50, -49, 0], [1, 0, 4, 1, 4], [2, 0, 6, 1, 6], [3, 1, 0, 5, 4], [4, 3, 2, 5, 6], [5, 3, 3, 8, 10]"));
  const Outcome outcome =
      run_tool({"replay", file, "--attend-every", "1", "--dtype", "f32", "--block-tokens", "4", "--json"});
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  const json report = parse_json(outcome.out);
  CHECK(report.at("good") == true);
  CHECK(report.at("kind") == "thoughts");
  const json trace = report.at("traces").at(0);
  CHECK(trace.at("name") == "task[0]");
  CHECK(trace.at("thoughts") == 6);
  CHECK(trace.at("steps") == 6 + 3);  // steps 1 to 6 and 8 to 10; in step 7 nothing grows
  // In step 6, thoughts 2 and 4 have 6 and 2 tokens, and 3 waits for its other child.
  CHECK(trace.at("sharing").at("peak_unshared_tokens") == 56 + 56 + 54);
  CHECK(trace.at("sharing").at("peak_stored_tokens") == 50 + 4 + 6 + 2);
  CHECK(trace.at("sharing").at("peak_branches") == 3);
  CHECK(trace.at("blocks_in_use_at_end") == 0);
}

// --------------------------------------------------------------------------------------------------------- real data

TEST_CASE("a part of the recorded chat ends with an empty pool") {
  const std::string file = data_file("conversation_trace.jsonl");
  const Outcome outcome =
      run_tool({"replay", file, "--limit", "300", "--cache-tokens", "1000000", "--attend-every", "150", "--json"});
  CAPTURE(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  const json report = parse_json(outcome.out);
  CHECK(report.at("requests") == 300);
  CHECK(report.at("found_tokens") > 0);
  CHECK(report.at("blocks_in_use_at_end") == 0);
  CHECK(report.at("good") == true);
}

TEST_CASE("some of the recorded trees of thoughts end with an empty pool") {
  const std::string file = data_file("tree_of_thoughts.json");
  const Outcome outcome = run_tool({"replay", file, "--limit", "30", "--attend-every", "2000"});
  CAPTURE(outcome.err);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out.find("docmerge") != std::string::npos);
  CHECK(outcome.out.find("after each of the 30 traces") != std::string::npos);
}

// --------------------------------------------------------------------------------------------------------- bad input

void refuses(const std::string& name, const std::string& content, std::initializer_list<std::string> words) {
  CAPTURE(content);
  const Folder folder;
  expects_refusal(run_tool({"replay", folder.write(name, content)}), words);
  CHECK(folder.files() == std::vector<std::string>{name});
}

TEST_CASE("a trace that is no readable file is refused") {
  const Folder folder;
  expects_refusal(run_tool({"replay", folder.path("absent")}), {"absent", "cannot be opened"});
  expects_refusal(run_tool({"replay", folder.path("")}), {"directory"});
  refuses("trace.json", "", {"trace.json", "empty"});
  refuses("trace.json", "hello", {"trace.json", "hash_ids", "traces"});
  refuses("trace.json", "{}", {"no \"traces\""});
  refuses("trace.jsonl", "{}", {"line 1", "no \"timestamp\""});
}

TEST_CASE("chat requests that are wrong are refused with their line") {
  const std::string good = request(5, 600, 1, "1, 2");
  refuses("t.jsonl", good + "{\"timestamp\": 5\n", {"t.jsonl", "line 2", "column"});
  refuses("t.jsonl", good + "\n" + request(4, 1, 1, "1"), {"line 3", "timestamp is 4", "at least 5"});
  refuses("t.jsonl", good + request(5, 600, 1, "1"), {"line 2", "hash_ids has 1 entries", "expected 2"});
  refuses("t.jsonl", good + request(5, 600, 1, "1, -2"), {"line 2", "hash_ids[1] is -2"});
  refuses("t.jsonl", good + request(5, 600, 1, "1, 2.5"), {"hash_ids[1] is 2.5"});
  refuses("t.jsonl", good + request(5, -600, 1, ""), {"input_length is -600"});
  refuses("t.jsonl", good + request(5, 0, -1, ""), {"output_length is -1"});
  refuses("t.jsonl", request(5, 600, 1, "1, 99999999999999999999"), {"hash_ids[1]"});
  refuses("t.jsonl", "{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": 1}\n",
          {"hash_ids", "array"});
  refuses("t.jsonl", "{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1], \"user\": 1}\n",
          {"unknown key \"user\""});
}

TEST_CASE("trees of thoughts that are wrong are refused with the place") {
  const std::string prompt = "[0, -1, 3, -2, 0]";
  refuses("t.json", "{\"traces\": {\"a\": [[" + prompt + "]]", {"t.json", "line 1"});
  refuses("t.json", "{\"traces\": []}", {"traces", "expected an object"});
  refuses("t.json", "{\"traces\": {}}", {"holds no trace"});
  refuses("t.json", "{\"traces\": {\"a\": [[]]}}", {"traces.a[0]", "at least 1"});
  refuses("t.json", thoughts("[0, -1, 3]"), {"traces.task[0][0]", "3 entries"});
  refuses("t.json", thoughts(prompt + ", [2, 0, 1, 1, 1]"), {"traces.task[0][1][0] is 2", "ids count up"});
  refuses("t.json", thoughts(prompt + ", [1, 1, 1, 1, 1]"), {"[1][1] is 1", "a thought above"});
  refuses("t.json", thoughts(prompt + ", [1, 0, -1, 1, 1]"), {"[1][2] is -1"});
  refuses("t.json", thoughts(prompt + ", [1, 0, 5, 1, 4]"), {"has 5 tokens", "expected 4"});
  refuses("t.json", thoughts(prompt + ", [1, 0, 1, 0, 0]"), {"begins at step 0", "after 0"});
  refuses("t.json", thoughts(prompt + ", [1, 0, 4, 1, 4], [2, 1, 1, 4, 4]"), {"[2] begins at step 4", "after 4"});
  refuses("t.json", thoughts("[0, -1, 3, 1, 3]"), {"ends at step 3", "expected 0"});
  refuses("t.json", thoughts(prompt + ", [1, 0, 1, 1, 4294967296]"), {"[1][4] is 4294967296"});
}

TEST_CASE("options of replay that make no sense are refused") {
  const Folder folder;
  const std::string file = folder.write("t.jsonl", request(0, 1, 1, "1"));
  for (const std::string heads : {"", "4", "4,1", "4,1,", "4,1,64,1", "4,3,64", "0,1,64", "4,0,64", "-4,1,64",
                                  "4,1,64x", "a,b,c", "4,1,99999999999"}) {
    CAPTURE(heads);
    expects_refusal(run_tool({"replay", file, "--heads=" + heads}), {"--heads"});
  }
  expects_refusal(run_tool({"replay", file, "--limit", "0"}), {"--limit"});
  expects_refusal(run_tool({"replay", file, "--live", "0"}), {"--live"});
  expects_refusal(run_tool({"replay", file, "--cache-tokens", "1"}), {"--cache-tokens"});
}

TEST_CASE("a replay that memory cannot hold is refused") {
  std::string ids = "0";
  for (int id = 1; id < 200000; ++id) ids += ", " + std::to_string(id);
  const Folder folder;
  const std::string file = folder.write("t.jsonl", request(0, 200000 * 512, 1, ids));
  expects_refusal(run_tool({"replay", file, "--heads", "1024,1024,1024", "--cache-tokens", "200000000"}),
                  {"the KV cache", "memory", "available"});
}

}  // namespace
}  // namespace espalier::test
