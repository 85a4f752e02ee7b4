#pragma once
// Recorded runs: which tokens were shared, and when branches came and went. Token counts only.

#include <cstdint>
#include <string>
#include <vector>

namespace espalier::cli {

/// One request of a chat service. Equal ids at equal positions mean that everything up to there is shared.
struct ChatRequest {
  std::int64_t timestamp_ms;
  std::int64_t input_tokens;
  std::int64_t output_tokens;
  std::vector<std::int64_t> block_ids;  ///< one for each kTraceBlockTokens of the input
};

inline constexpr std::int64_t kTraceBlockTokens = 512;

/// A thought: exists from first_step on and grows one token a step up to last_step. A prompt is there before step 1.
struct Thought {
  std::int32_t parent;  ///< an earlier thought of the trace, -1: a prompt
  std::int32_t tokens;
  std::int32_t first_step;
  std::int32_t last_step;
};

struct ThoughtTrace {
  std::string name;  ///< "sorting128[3]"
  std::vector<Thought> thoughts;
};

/// One of the two lists is filled.
struct Trace {
  std::vector<ChatRequest> requests;
  std::vector<ThoughtTrace> thought_traces;
};

/// Reads a `*.jsonl` of chat requests or a JSON file of tree-of-thoughts traces.
/// @param limit  requests or traces to read at most
/// @throws InputError naming the file, the place in it, and what was expected there
[[nodiscard]] Trace read_trace(const std::string& file, std::int64_t limit);

}  // namespace espalier::cli
