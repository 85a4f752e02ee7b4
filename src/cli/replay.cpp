// espalier replay: the tree's bookkeeping, and sampled attention, driven by a recorded trace.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/cost_model_file.hpp"
#include "cli/options.hpp"
#include "cli/replay_run.hpp"
#include "cli/stopwatch.hpp"
#include "cli/text.hpp"
#include "cli/trace.hpp"

namespace espalier::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

struct Options {
  std::string file;
  std::int64_t limit = std::int64_t{1} << 40;
  std::string heads = "4,1,32";  // small, so that a large cache fits into memory
  std::string scalar = "f16";
  std::string strategy = name_of(kDefaultStrategy);
  std::string cost_model;
  ReplayOptions replay;
  std::int64_t attend_every = -1;  // -1: one of the two below
  bool json = false;
};

constexpr std::int64_t kAttendEveryRequests = 250;
constexpr std::int64_t kAttendEverySteps = 500;

/// The results of the traces of one task: "sorting128[3]" belongs to "sorting128".
struct TaskResult {
  std::string name;
  std::int64_t traces = 0;
  ThoughtResult sum;
};

bool is_good(const Samples& samples, Scalar scalar, std::int64_t blocks_at_end) {
  return samples.error.good(scalar) && blocks_at_end == 0;
}

// -------------------------------------------------------------------------------------------------------- for people

void print_samples(const Samples& samples, Scalar scalar) {
  if (samples.steps == 0) return;
  const double timed = double(std::max<std::int64_t>(samples.steps - 1, 1)), allowed = samples.error.allowed(scalar);
  std::printf("\nAttention on %s sampled steps, %s rows\n", with_commas(samples.steps).c_str(),
              with_commas(samples.rows).c_str());
  if (samples.steps > 1) {
    print_line("time per step", format("%.2f ms", samples.shared_ms / timed), "planning included");
    print_line("time per step, unshared", format("%.2f ms", samples.sequence_ms / timed),
               format("the same kernel with the sequence strategy: %.1f times as long",
                      samples.sequence_ms / samples.shared_ms));
  }
  print_line("largest error", format("%.1e", samples.error.out),
             format("by norm against the oracle, %s rows; allowed %.1e: %s", with_commas(samples.error.rows).c_str(),
                    allowed, samples.error.out <= allowed ? "good" : "TOO LARGE"));
}

void print_peak(const Sharing& sharing) {
  print_line("stored", with_commas(sharing.peak_stored) + " tokens", with_commas(sharing.peak_blocks) + " blocks");
  print_line("unshared branches would store", with_commas(sharing.peak_unshared) + " tokens",
             with_commas(sharing.peak_unshared_blocks) + " blocks");
  print_line("saved", saved_percent(double(sharing.peak_stored), double(sharing.peak_unshared)),
             with_commas(sharing.peak_unshared_blocks - sharing.peak_blocks) + " blocks");
}

void print_end(std::int64_t blocks_at_end, std::int64_t blocks, double seconds) {
  print_line("blocks in use at the end", with_commas(blocks_at_end),
             "of " + with_commas(blocks) + (blocks_at_end == 0 ? ": good" : ": LEAKED"));
  std::printf("\n%.1f s\n", seconds);
}

void print_thoughts(const std::vector<TaskResult>& tasks, std::int64_t block_tokens) {
  std::printf(
      "Trees of thoughts, one token per growing thought and step; blocks of %lld tokens\n\n"
      "  %-12s %7s %9s %9s   %12s %12s %8s   %s\n",
      static_cast<long long>(block_tokens), "task", "traces", "thoughts", "steps", "peak stored", "unshared", "saved",
      "saved on average");
  for (const TaskResult& task : tasks) {
    const Sharing& sharing = task.sum.sharing;
    std::printf("  %-12s %7lld %9s %9s   %12s %12s %8s   %s\n", task.name.c_str(), static_cast<long long>(task.traces),
                with_commas(task.sum.thoughts).c_str(), with_commas(sharing.moments).c_str(),
                with_commas(sharing.peak_stored).c_str(), with_commas(sharing.peak_unshared).c_str(),
                saved_percent(double(sharing.peak_stored), double(sharing.peak_unshared)).c_str(),
                saved_percent(sharing.stored_sum, sharing.unshared_sum).c_str());
  }
}

// ------------------------------------------------------------------------------------------------------ for machines

OrderedJson to_json(const Sharing& sharing) {
  return {{"peak_branches", sharing.peak_branches},
          {"peak_stored_tokens", sharing.peak_stored},
          {"peak_unshared_tokens", sharing.peak_unshared},
          {"peak_blocks", sharing.peak_blocks},
          {"peak_unshared_blocks", sharing.peak_unshared_blocks},
          {"mean_stored_tokens", sharing.stored_sum / double(std::max<std::int64_t>(sharing.moments, 1))},
          {"mean_unshared_tokens", sharing.unshared_sum / double(std::max<std::int64_t>(sharing.moments, 1))}};
}

OrderedJson to_json(const Samples& samples, Scalar scalar) {
  OrderedJson json = {{"steps", samples.steps}, {"rows", samples.rows}};
  if (samples.steps > 1) {
    json["step_ms"] = samples.shared_ms / double(samples.steps - 1);
    json["sequence_step_ms"] = samples.sequence_ms / double(samples.steps - 1);
  }
  json["checked_rows"] = samples.error.rows;
  json["largest_error"] = samples.error.out;
  json["largest_lse_error"] = samples.error.lse;
  json["allowed_error"] = samples.error.allowed(scalar);
  return json;
}

// ------------------------------------------------------------------------------------------------------------- both

template <ScalarElement Element>
int replay_chat(const Options& options, const std::vector<ChatRequest>& requests) {
  const Stopwatch watch;
  const ChatResult result = ChatReplay<Element>(options.replay, requests).run();
  const Scalar scalar = kScalarOf<Element>;
  const bool good = is_good(result.samples, scalar, result.pool.used);
  if (options.json) {
    const OrderedJson report = {{"kind", "chat"},
                                {"requests", requests.size()},
                                {"input_tokens", result.input_tokens},
                                {"found_tokens", result.found_tokens},
                                {"output_tokens", result.output_tokens},
                                {"early_prunes", result.early_prunes},
                                {"sharing", to_json(result.sharing)},
                                {"attention", to_json(result.samples, scalar)},
                                {"blocks_in_use_at_end", result.pool.used},
                                {"seconds", watch.elapsed_ms() / 1000},
                                {"good", good}};
    std::cout << report.dump(2) << "\n";
    return good ? 0 : 1;
  }
  std::printf("%s chat requests; up to %d of them live in a cache of %s tokens, in blocks of %d\n\n",
              with_commas(std::int64_t(requests.size())).c_str(), options.replay.live,
              with_commas(options.replay.cache_tokens).c_str(), options.replay.block_tokens);
  print_line("input", with_commas(result.input_tokens) + " tokens");
  print_line("found in the cache", with_commas(result.found_tokens) + " tokens",
             format("%.1f %% of the input is neither computed nor stored again",
                    100 * double(result.found_tokens) / double(std::max<std::int64_t>(result.input_tokens, 1))));
  print_line("output", with_commas(result.output_tokens) + " tokens");
  print_line("requests that left early", with_commas(result.early_prunes), "because the cache was full");
  std::printf("\nWhen unshared branches would store the most (%d live)\n", result.sharing.peak_branches);
  print_peak(result.sharing);
  print_line("saved on average", saved_percent(result.sharing.stored_sum, result.sharing.unshared_sum));
  print_samples(result.samples, scalar);
  print_end(result.pool.used, result.pool.used + result.pool.free, watch.elapsed_ms() / 1000);
  return good ? 0 : 1;
}

template <ScalarElement Element>
int replay_thoughts(const Options& options, const std::vector<ThoughtTrace>& traces) {
  const Stopwatch watch;
  ThoughtReplay<Element> replay(options.replay, traces);
  const std::vector<ThoughtResult> results = replay.run();
  const PoolStats pool = replay.pool_stats();
  std::vector<TaskResult> tasks;
  std::int64_t blocks_at_end = pool.used;
  for (const ThoughtResult& result : results) {
    const std::string task = result.name.substr(0, result.name.find('['));
    if (tasks.empty() || tasks.back().name != task) tasks.push_back({task, 0, {}});
    ++tasks.back().traces;
    tasks.back().sum.thoughts += result.thoughts;
    tasks.back().sum.sharing.include(result.sharing);
    blocks_at_end = std::max(blocks_at_end, result.blocks_at_end);
  }
  const Scalar scalar = kScalarOf<Element>;
  const bool good = is_good(replay.samples(), scalar, blocks_at_end);
  if (options.json) {
    OrderedJson report = {{"kind", "thoughts"}, {"traces", OrderedJson::array()}};
    for (const ThoughtResult& result : results)
      report["traces"].push_back({{"name", result.name},
                                  {"thoughts", result.thoughts},
                                  {"steps", result.sharing.moments},
                                  {"sharing", to_json(result.sharing)},
                                  {"blocks_in_use_at_end", result.blocks_at_end}});
    report["attention"] = to_json(replay.samples(), scalar);
    report["blocks_in_use_at_end"] = blocks_at_end;
    report["seconds"] = watch.elapsed_ms() / 1000;
    report["good"] = good;
    std::cout << report.dump(2) << "\n";
    return good ? 0 : 1;
  }
  print_thoughts(tasks, options.replay.block_tokens);
  print_samples(replay.samples(), scalar);
  std::printf("\nPool, after each of the %s traces\n", with_commas(std::int64_t(results.size())).c_str());
  print_line("largest use", with_commas(pool.peak), "blocks");
  print_end(blocks_at_end, pool.used + pool.free, watch.elapsed_ms() / 1000);
  return good ? 0 : 1;
}

int replay(Options options) {
  options.replay.heads = heads_of(options.heads);
  options.replay.strategy = strategy_named(options.strategy);
  options.replay.cost_model = cost_model_of(options.cost_model);
  const Trace trace = read_trace(options.file, options.limit);
  const bool is_chat = !trace.requests.empty();
  options.replay.attend_every = options.attend_every >= 0 ? options.attend_every
                                : is_chat                 ? kAttendEveryRequests
                                                          : kAttendEverySteps;
  return with_element(scalar_named(options.scalar), [&]<class Element>() {
    return is_chat ? replay_chat<Element>(options, trace.requests)
                   : replay_thoughts<Element>(options, trace.thought_traces);
  });
}

}  // namespace

Command add_replay(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("FILE", options->file, "A trace: chat requests (*.jsonl), or trees of thoughts (JSON)")->required();
  app.add_option("--limit", options->limit, "Requests or traces to replay, from the first on")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  app.add_option("--heads", options->heads, "QUERY_HEADS,KV_HEADS,HEAD_DIM of the layer")->capture_default_str();
  app.add_option("--dtype", options->scalar, "Element type of the cache")
      ->check(CLI::IsMember(scalar_names()))
      ->capture_default_str();
  app.add_option("--strategy", options->strategy, "How shared attention cuts the tree into tiles")
      ->check(CLI::IsMember(strategy_names()))
      ->capture_default_str();
  add_cost_model_option(app, options->cost_model);
  app.add_option("--block-tokens", options->replay.block_tokens, "Tokens of a cache block")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--attend-every", options->attend_every,
                 "Requests or steps from one sampled attention to the next, 0: none; default " +
                     std::to_string(kAttendEveryRequests) + " requests or " + std::to_string(kAttendEverySteps) +
                     " steps")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  app.add_option("--live", options->replay.live, "Chat requests that stay in the cache")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--cache-tokens", options->replay.cache_tokens, "Tokens that the cache of chat requests holds")
      ->check(CLI::Range(std::int64_t{256}, std::int64_t{1} << 31))
      ->capture_default_str();
  app.add_option("--seed", options->replay.seed, "Of the random K, V and q")->capture_default_str();
  app.add_flag("--json", options->json, "Print the result for machines");
  app.footer(
      "Chat requests: lines with timestamp, input_length, output_length and hash_ids, one id per 512 tokens of input. "
      "In\n"
      "order of arrival, each request forks off the live one that shares the most leading ids, stores the rest of its\n"
      "input, then its output. The --live most recent requests stay; where the pool lacks room, the oldest leave "
      "early.\n"
      "A sampled step has one row per live request.\n\n"
      "Trees of thoughts: {\"traces\": {TASK: [[[id, parent, tokens, first_step, last_step], ...], ...]}}. A thought "
      "is forked\n"
      "off its parent at first_step and grows by a token a step. A parent is pruned when its last child has begun, a\n"
      "thought without children when it has ended. A sampled step has one row per growing thought.\n\n"
      "Two rows of each sampled step are checked against the oracle. Exit code 1: an error beyond its limit, or blocks "
      "in\n"
      "use at the end.");
  return [options] { return replay(*options); };
}

}  // namespace espalier::cli
