#include "cli/demo_report.hpp"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/input_error.hpp"
#include "cli/text.hpp"
#include "cli/tree_drawing.hpp"

namespace espalier::cli {
namespace {

constexpr int kLineEvery = 8;  // steps from one line of the table to the next

nlohmann::ordered_json to_json(const DemoStep& step) {
  nlohmann::ordered_json json = {{"step", step.number},
                                 {"level", step.level},
                                 {"rows", step.rows},
                                 {"branches", step.branches},
                                 {"nodes", step.nodes},
                                 {"stored_tokens", step.stored_tokens},
                                 {"unshared_tokens", step.unshared_tokens},
                                 {"plan_ms", step.shared.plan_ms},
                                 {"attend_ms", step.shared.attend_ms}};
  if (step.sequence.total_ms() > 0) json["sequence_ms"] = step.sequence.total_ms();
  if (step.error.rows > 0) json["error"] = step.error.out;
  return json;
}

std::string saved(const DemoStep& step) {
  return saved_percent(double(step.stored_tokens), double(step.unshared_tokens));
}

}  // namespace

void DemoReport::add(const DemoStep& step) {
  steps_.push_back(step);
  if (options_.json || (step.error.rows == 0 && step.number % kLineEvery != 0)) return;
  const std::string sequence = step.sequence.total_ms() > 0 ? format("%.2f", step.sequence.total_ms()) : "";
  const std::string error = step.error.rows > 0 ? format("%.1e", step.error.out) : "";
  std::printf("  %4d %9s %6s %8s %9s  %6s  %7.2f %9s  %8s\n", step.number, with_commas(step.branches).c_str(),
              with_commas(step.nodes).c_str(), with_commas(step.stored_tokens).c_str(),
              with_commas(step.unshared_tokens).c_str(), saved(step).c_str(), step.shared.total_ms(), sequence.c_str(),
              error.c_str());
  std::fflush(stdout);
}

void DemoReport::print_opening() const {
  if (options_.json) return;
  std::printf(
      "A tree of thoughts, decoded with its KV shared\n\n"
      "One attention layer of Llama-3-8B (%d query heads, %d KV heads, head_dim %d) in %s, on random K, V and q.\n"
      "The prompt has %s tokens. On each of %d levels the best %d thoughts live on, and each is forked into %d "
      "(scores\n"
      "are random, seed %llu). Every step appends one token's K and V to each growing branch, plans, and attends.\n\n"
      "  stored    tokens in the cache, each once       shared    ms to plan and attend, KV read once for all "
      "branches\n"
      "  unshared  tokens if no branch shared any       sequence  ms of the same kernel, branch by branch\n"
      "  saved     1 - stored / unshared                error     of the result, against double precision\n",
      kDemoHeads.query_heads, kDemoHeads.kv_heads, kDemoHeads.head_dim, name_of(options_.scalar),
      with_commas(options_.prompt).c_str(), options_.levels, options_.keep, options_.expand,
      static_cast<unsigned long long>(options_.seed));
}

void DemoReport::print_choice(int level, std::size_t candidates, std::size_t live, std::int64_t freed_tokens) const {
  if (options_.json) return;
  const std::string freed = with_commas(freed_tokens);
  if (level > options_.levels) {
    std::printf("The best of %zu thoughts is the answer. Pruning the others frees %s tokens.\n\n", candidates,
                freed.c_str());
    return;
  }
  if (level == 1)
    std::printf("\nLevel 1: the prompt is forked into %zu thoughts; no KV is copied.\n", live);
  else
    std::printf(
        "Level %d: the best %d of %zu thoughts are forked into %zu; no KV is copied. Pruning the others frees %s "
        "tokens.\n",
        level, std::min(options_.keep, int(candidates)), candidates, live, freed.c_str());
  std::printf("\n  step  branches  nodes   stored  unshared   saved   shared  sequence     error\n");
}

void DemoReport::print_tree(const TreeSnapshot& tree) const {
  if (options_.json) return;
  constexpr int kMostLines = 24;
  const char* const legend =
      steps_.back().level == 1 ? "  The tree now; a number is a run of tokens that all branches to its right share:\n\n"
                               : "";
  std::printf("\n%s%s\n", legend, draw_tree(tree, "      ", kMostLines).c_str());
}

bool DemoReport::print_summary(const PoolStats& pool) const {
  const bool good = largest_error().good(options_.scalar) && pool.used == 0;
  if (options_.json)
    print_json(pool, good);
  else
    print_summary_for_people(pool);
  return good;
}

const DemoStep& DemoReport::peak() const { return *std::ranges::max_element(steps_, {}, &DemoStep::unshared_tokens); }

double DemoReport::median_ms(StepTime DemoStep::* time) const {
  std::vector<double> times;
  for (const DemoStep& step : steps_)
    if (step.sequence.total_ms() > 0) times.push_back((step.*time).total_ms());
  std::ranges::sort(times);
  return times[times.size() / 2];
}

StepError DemoReport::largest_error() const {
  StepError error;
  for (const DemoStep& step : steps_) error.include(step.error);
  return error;
}

std::int64_t DemoReport::checked_steps() const {
  return std::ranges::count_if(steps_, [](const DemoStep& step) { return step.error.rows > 0; });
}

void DemoReport::print_summary_for_people(const PoolStats& pool) const {
  const double bytes = kv_bytes_per_token(kDemoHeads, options_.scalar) * kDemoModelLayers;
  const DemoStep& most = peak();
  const auto print_tokens = [&](const char* what, std::int64_t tokens, const char* remark) {
    print_line(what, with_commas(tokens) + " tokens", readable_bytes(double(tokens) * bytes) + remark);
  };
  std::printf("Memory, in step %d\n", most.number);
  print_tokens("stored", most.stored_tokens, format(" in the %d layers of the model", kDemoModelLayers).c_str());
  print_tokens("unshared branches would store", most.unshared_tokens, "");
  print_line("saved", saved(most));

  const double shared = median_ms(&DemoStep::shared), sequence = median_ms(&DemoStep::sequence);
  std::printf("\nTime per step and layer, planning included (medians)\n");
  print_line("shared", format("%.2f ms", shared), format("%s strategy", name_of(options_.strategy)));
  print_line("unshared", format("%.2f ms", sequence),
             format("the same kernel with the sequence strategy: %.1f times as long", sequence / shared));

  const StepError error = largest_error();
  std::printf("\nChecks\n");
  print_line("largest error", format("%.1e", error.out),
             format("against double precision, %s rows of %lld steps; allowed %.1e: %s",
                    with_commas(error.rows).c_str(), static_cast<long long>(checked_steps()),
                    error.allowed(options_.scalar), error.good(options_.scalar) ? "good" : "TOO LARGE"));
  print_line("blocks in use at the end", with_commas(pool.used),
             format("of %s: %s", with_commas(pool.used + pool.free).c_str(), pool.used == 0 ? "good" : "LEAKED"));
}

void DemoReport::print_json(const PoolStats& pool, bool good) const {
  const StepError error = largest_error();
  const DemoStep& most = peak();
  nlohmann::ordered_json report = {
      {"seed", options_.seed},
      {"dtype", name_of(options_.scalar)},
      {"strategy", name_of(options_.strategy)},
      {"heads", {kDemoHeads.query_heads, kDemoHeads.kv_heads, kDemoHeads.head_dim}},
      {"peak",
       {{"step", most.number}, {"stored_tokens", most.stored_tokens}, {"unshared_tokens", most.unshared_tokens}}},
      {"memory_saved_percent", 100 * (1 - double(most.stored_tokens) / double(most.unshared_tokens))},
      {"median_step_ms", median_ms(&DemoStep::shared)},
      {"median_sequence_step_ms", median_ms(&DemoStep::sequence)},
      {"largest_error", error.out},
      {"largest_lse_error", error.lse},
      {"allowed_error", error.allowed(options_.scalar)},
      {"checked_steps", checked_steps()},
      {"blocks_in_use_at_end", pool.used},
      {"good", good},
      {"steps", nlohmann::ordered_json::array()}};
  for (const DemoStep& step : steps_) report["steps"].push_back(to_json(step));
  std::cout << report.dump(2) << "\n";
}

}  // namespace espalier::cli
