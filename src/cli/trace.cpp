#include "cli/trace.hpp"

#include <limits>
#include <string_view>

#include "cli/input_error.hpp"
#include "cli/json_input.hpp"

namespace espalier::cli {
namespace {

constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();

// -------------------------------------------------------------------------------------------------------------- chat

ChatRequest parse_request(const std::string& name, std::string_view line) {
  const Json document = parse_json(name, std::string(line));
  const JsonPlace json{document, name + ":"};
  expects_object(json, {"timestamp", "input_length", "output_length", "hash_ids"});
  ChatRequest request{integer_at(json.at("timestamp"), 0, kInt64Max),
                      integer_at(json.at("input_length"), 0, kInt32Max),
                      integer_at(json.at("output_length"), 0, kInt32Max),
                      {}};
  const JsonPlace ids = json.at("hash_ids");
  expects_array(ids);
  const std::int64_t blocks = (request.input_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
  if (std::int64_t(ids.value.size()) != blocks)
    bad_input(ids.place, " has ", ids.value.size(), " entries, expected ", blocks, ": one for each ", kTraceBlockTokens,
              " of the ", request.input_tokens, " input tokens");
  for (std::size_t i = 0; i < ids.value.size(); ++i) request.block_ids.push_back(integer_at(ids.at(i), 0, kInt64Max));
  return request;
}

std::vector<ChatRequest> parse_requests(const std::string& file, std::string_view text, std::int64_t limit) {
  std::vector<ChatRequest> requests;
  for (std::int64_t line = 1; !text.empty() && std::int64_t(requests.size()) < limit; ++line) {
    const std::size_t end = text.find('\n');
    const std::string_view content = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    if (content.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string name = file + ": request in line " + std::to_string(line);
    requests.push_back(parse_request(name, content));
    if (requests.size() > 1 && requests.back().timestamp_ms < requests[requests.size() - 2].timestamp_ms)
      bad_input(name, ": timestamp is ", requests.back().timestamp_ms, ", expected at least ",
                requests[requests.size() - 2].timestamp_ms, ", that of the request before it");
  }
  return requests;
}

// -------------------------------------------------------------------------------------------------- tree of thoughts

Thought parse_thought(const JsonPlace& json, const std::vector<Thought>& earlier) {
  expects_array(json);
  if (json.value.size() != 5)
    bad_input(json.place, " has ", json.value.size(), " entries, expected [id, parent, tokens, first_step, last_step]");
  const auto id = std::int64_t(earlier.size());
  (void)integer_at(json.at(std::size_t{0}), id, id, ": ids count up from 0");
  const std::int64_t parent = integer_at(json.at(1), -1, id - 1, ": -1 (a prompt) or a thought above this one");
  const std::int64_t tokens = integer_at(json.at(2), 0, kInt32Max);
  const std::int64_t first = integer_at(json.at(3), -kInt32Max, kInt32Max);
  const std::int64_t last = integer_at(json.at(4), -kInt32Max, kInt32Max);
  if (last - first + 1 != tokens)
    bad_input(json.place, " has ", tokens, " tokens, expected ", last - first + 1, ": one for each of its steps ",
              first, " to ", last);
  if (parent < 0 && last != 0) bad_input(json.place, ": the prompt ends at step ", last, ", expected 0");
  if (parent >= 0 && first <= earlier[std::size_t(parent)].last_step)
    bad_input(json.place, " begins at step ", first, ", expected a step after ", earlier[std::size_t(parent)].last_step,
              ", the last one of its parent");
  return {std::int32_t(parent), std::int32_t(tokens), std::int32_t(first), std::int32_t(last)};
}

std::vector<ThoughtTrace> parse_thought_traces(const std::string& file, const std::string& text, std::int64_t limit) {
  const Json document = parse_json(file, text);
  const JsonPlace root{document, file + ":"};
  expects_object(root, {"traces"}, {"about"});
  const JsonPlace tasks = root.at("traces");
  if (!tasks.value.is_object()) bad_input(tasks.place, ": expected an object of tasks, each a list of traces");
  std::vector<ThoughtTrace> traces;
  for (const auto& [task, list] : tasks.value.items()) {
    const JsonPlace task_traces = tasks.at(task);
    expects_array(task_traces);
    for (std::size_t i = 0; i < list.size() && std::int64_t(traces.size()) < limit; ++i) {
      const JsonPlace json = task_traces.at(i);
      expects_array(json, 1);
      ThoughtTrace trace{task + "[" + std::to_string(i) + "]", {}};
      for (std::size_t id = 0; id < json.value.size(); ++id)
        trace.thoughts.push_back(parse_thought(json.at(id), trace.thoughts));
      traces.push_back(std::move(trace));
    }
  }
  return traces;
}

}  // namespace

Trace read_trace(const std::string& file, std::int64_t limit) {
  const std::string text = read_file(file);
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos || text[begin] != '{')
    bad_input(file, begin == std::string::npos ? ": is empty" : ": does not begin with '{'",
              ", expected chat requests, one JSON object a line with \"hash_ids\", or JSON with \"traces\"");
  Trace trace;
  if (text.substr(begin, text.find('\n', begin) - begin).find("\"hash_ids\"") != std::string::npos ||
      file.ends_with(".jsonl"))
    trace.requests = parse_requests(file, text, limit);
  else
    trace.thought_traces = parse_thought_traces(file, text, limit);
  if (trace.requests.empty() && trace.thought_traces.empty()) bad_input(file, ": holds no trace");
  return trace;
}

}  // namespace espalier::cli
