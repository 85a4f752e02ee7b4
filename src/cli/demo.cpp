// espalier demo: a tree of thoughts grows, forks and is pruned; every step appends K and V, plans and attends.

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
#include "cli/decode_session.hpp"
#include "cli/options.hpp"
#include "cli/random.hpp"
#include "cli/text.hpp"
#include "cli/tree_drawing.hpp"
#include "espalier/branch_controller.hpp"

namespace espalier::cli {
namespace {

struct Options {
  int steps = 160;
  std::uint64_t seed = 1;
  int prompt = 1024;
  int levels = 5;
  int keep = 3;
  int expand = 4;
  int block_tokens = 16;
  std::string scalar = "f32";
  bool json = false;
};

constexpr HeadShape kHeads{32, 8, 128};  // Llama-3-8B
constexpr int kModelLayers = 32;
constexpr int kCompareEvery = 4;  // steps from one comparison with unshared attention to the next
constexpr int kLineEvery = 8;     // steps from one line of the table to the next

/// A branch and how many tokens of its thought are still to come.
struct Thought {
  BranchId branch;
  int missing;
};

struct Step {
  int number, level;
  std::int64_t rows, branches, nodes, stored, unshared;
  double plan_ms, attend_ms;
  double sequence_ms = -1;  ///< < 0: not compared
  double error = -1;        ///< < 0: not checked
};

nlohmann::ordered_json to_json(const Step& step) {
  nlohmann::ordered_json json = {{"step", step.number},
                                 {"level", step.level},
                                 {"rows", step.rows},
                                 {"branches", step.branches},
                                 {"nodes", step.nodes},
                                 {"stored_tokens", step.stored},
                                 {"unshared_tokens", step.unshared},
                                 {"plan_ms", step.plan_ms},
                                 {"attend_ms", step.attend_ms}};
  if (step.sequence_ms >= 0) json["sequence_ms"] = step.sequence_ms;
  if (step.error >= 0 || std::isnan(step.error)) json["error"] = step.error;
  return json;
}

/// What the run came to.
struct Summary {
  Step peak{};             ///< the step with the most unshared tokens
  double shared_ms = 0;    ///< sum over compared steps
  double sequence_ms = 0;  ///< of the same steps
  int compared = 0;
  StepError error;
  int checked = 0;
  PoolStats pool{};  ///< after the last branch was pruned

  void include(const Step& step) {
    if (step.unshared >= peak.unshared) peak = step;
    if (step.sequence_ms < 0) return;
    shared_ms += step.plan_ms + step.attend_ms;
    sequence_ms += step.sequence_ms;
    ++compared;
  }
};

template <ScalarElement Element>
class Demo {
 public:
  explicit Demo(const Options& options)
      : options_(options),
        random_(options.seed),
        session_(typename DecodeSession<Element>::Exec(), kHeads, blocks_for(options), options.block_tokens,
                 options.seed),
        controller_(make_tree_of_thoughts({options.keep, options.expand, options.levels})) {}

  int run() {
    if (!options_.json) print_opening();
    const BranchId prompt = session_.root();
    session_.begin_run(prompt, 0);
    session_.append(std::span(&prompt, 1), options_.prompt);
    for (int level = 1; level <= options_.levels; ++level) grow_level(level);
    choose(options_.levels + 1);
    for (const BranchId answer : session_.tree().branches()) session_.prune(answer);
    summary_.pool = session_.pool_stats();
    const bool good = summary_.error.good(kScalarOf<Element>) && summary_.pool.used == 0;
    if (options_.json)
      print_json(good);
    else
      print_summary();
    return good ? 0 : 1;
  }

 private:
  static std::int64_t blocks_for(const Options& options) {
    const std::int64_t thoughts = std::int64_t(options.levels) * options.keep * options.expand;
    const std::int64_t tokens = options.prompt + thoughts * (options.steps / options.levels + 1);
    return tokens / options.block_tokens + thoughts + 2;  // each thought may leave a block half filled
  }

  /// Scores all branches, keeps the best, and forks them; every live branch begins a thought of its own.
  void choose(int level) {
    std::vector<BranchScore> scores;
    for (const BranchId branch : session_.tree().branches()) scores.push_back({branch, random_.uniform()});
    const std::int64_t before = session_.tree().stored_tokens();
    const BranchDecision decision = controller_->decide(scores);
    session_.apply(decision);
    const std::vector<BranchId> live = session_.tree().branches();
    thoughts_.clear();
    const int longest = options_.steps * level / options_.levels - options_.steps * (level - 1) / options_.levels;
    for (const BranchId branch : live) {
      session_.begin_run(branch, mix(options_.seed, ++runs_));
      const int shortest = (longest + 1) / 2;
      thoughts_.push_back({branch, shortest + int(random_.below(std::uint64_t(longest - shortest) + 1))});
    }
    if (!thoughts_.empty()) thoughts_[random_.below(thoughts_.size())].missing = longest;
    if (!options_.json) print_choice(level, scores.size(), live.size(), before - session_.tree().stored_tokens());
  }

  void grow_level(int level) {
    choose(level);
    for (int in_level = 0;; ++in_level) {
      std::vector<BranchId> growing;
      for (Thought& thought : thoughts_)
        if (thought.missing-- > 0) growing.push_back(thought.branch);
      if (growing.empty()) break;
      const bool last = std::ranges::none_of(thoughts_, [](const Thought& thought) { return thought.missing > 0; });
      decode(level, growing, in_level == 0 || last);
    }
    if (!options_.json) std::fputs(("\n" + draw_tree(session_.tree().snapshot(), "    ", 24) + "\n").c_str(), stdout);
  }

  /// One token for each of the branches.
  void decode(int level, const std::vector<BranchId>& growing, bool check) {
    session_.append(growing, 1);
    std::vector<BranchRow> rows;
    for (const BranchId branch : growing) rows.push_back({branch});
    session_.begin_step(rows);
    if (steps_.empty())
      for (const PlanStrategy strategy : {PlanStrategy::node, PlanStrategy::sequence})
        session_.attend(strategy);  // warm up
    const KvTree& tree = session_.tree();
    Step step{int(steps_.size()) + 1,
              level,
              std::int64_t(rows.size()),
              std::int64_t(tree.branches().size()),
              tree.nodes(),
              tree.stored_tokens(),
              tree.unshared_tokens(),
              0,
              0};
    if (steps_.size() % kCompareEvery == 0) step.sequence_ms = session_.attend(PlanStrategy::sequence).total_ms();
    const auto time = session_.attend(PlanStrategy::node);
    step.plan_ms = time.plan_ms;
    step.attend_ms = time.attend_ms;
    if (check) {
      const StepError error = session_.check(std::int32_t(rows.size()));
      step.error = error.out;
      summary_.error.include(error);
      ++summary_.checked;
    }
    summary_.include(step);
    steps_.push_back(step);
    if (!options_.json && (check || step.number % kLineEvery == 0)) print_step(step);
  }

  // -- printing

  void print_opening() const {
    std::printf(
        "A tree of thoughts is decoded with its KV shared: one attention layer in the geometry of Llama-3-8B\n"
        "(%d query heads, %d KV heads, head_dim %d), %s, blocks of %d tokens. K, V and scores are random (seed "
        "%llu).\n\n"
        "A prompt of %s tokens, then %d levels: the best %d thoughts live on, and each is forked into %d new ones.\n"
        "Every step gives each growing branch one token: append its K and V, plan, attend. In the table\n"
        "  stored    tokens in the cache             shared    ms to plan and attend, each KV read once for all "
        "branches\n"
        "  unshared  tokens of private copies        sequence  ms of the same kernel, branch by branch\n"
        "  error     of the output against an oracle in double precision\n",
        kHeads.query_heads, kHeads.kv_heads, kHeads.head_dim, name_of(kScalarOf<Element>), options_.block_tokens,
        static_cast<unsigned long long>(options_.seed), with_commas(options_.prompt).c_str(), options_.levels,
        options_.keep, options_.expand);
  }

  void print_choice(int level, std::size_t candidates, std::size_t live, std::int64_t freed) const {
    if (level > options_.levels) {
      std::printf("The best of %zu thoughts is the answer; the others are pruned: %s tokens freed, none copied.\n\n",
                  candidates, with_commas(freed).c_str());
      return;
    }
    const std::string kept =
        candidates == 1 ? "the prompt is"
                        : format("the best %d of %zu are", std::min(options_.keep, int(candidates)), candidates);
    std::printf(
        "\nLevel %d: %s forked into %zu thoughts; %s tokens freed, none copied.\n\n"
        "  step  branches  nodes  stored  unshared   saved   shared  sequence    error\n",
        level, kept.c_str(), live, with_commas(freed).c_str());
  }

  static void print_step(const Step& step) {
    std::printf("  %4d  %8lld  %5lld  %6s  %8s  %6s  %7.2f  %8s  %7s\n", step.number,
                static_cast<long long>(step.branches), static_cast<long long>(step.nodes),
                with_commas(step.stored).c_str(), with_commas(step.unshared).c_str(),
                saved_percent(double(step.stored), double(step.unshared)).c_str(), step.plan_ms + step.attend_ms,
                step.sequence_ms < 0 ? "" : format("%.2f", step.sequence_ms).c_str(),
                step.error < 0 ? "" : format("%.1e", step.error).c_str());
    std::fflush(stdout);
  }

  void print_summary() const {
    const double bytes = kv_bytes_per_token(kHeads, kScalarOf<Element>) * kModelLayers;
    const auto row = [&](const char* what, std::int64_t tokens) {
      std::printf("  %-28s %8s tokens   %s in the %d layers of the model\n", what, with_commas(tokens).c_str(),
                  readable_bytes(double(tokens) * bytes).c_str(), kModelLayers);
    };
    std::printf("At its largest, in step %d:\n", summary_.peak.number);
    row("stored", summary_.peak.stored);
    row("unshared branches would store", summary_.peak.unshared);
    std::printf("  %-28s %8s\n\n", "memory saved",
                saved_percent(double(summary_.peak.stored), double(summary_.peak.unshared)).c_str());
    std::printf("  %-28s %8.2f ms       mean of %d steps, planning included\n", "time per step",
                summary_.shared_ms / summary_.compared, summary_.compared);
    std::printf("  %-28s %8.2f ms       the same kernel with the sequence strategy: %.1f times as long\n",
                "time per step, unshared", summary_.sequence_ms / summary_.compared,
                summary_.sequence_ms / summary_.shared_ms);
    const double allowed = summary_.error.allowed(kScalarOf<Element>);
    std::printf("  %-28s %8.1e          by norm, %lld rows of %d checked steps; allowed %.1e: %s\n", "largest error",
                summary_.error.out, static_cast<long long>(summary_.error.rows), summary_.checked, allowed,
                summary_.error.out <= allowed ? "good" : "TOO LARGE");
    std::printf("  %-28s %8d          of %d after the last branch was pruned: %s\n", "blocks in use",
                summary_.pool.used, summary_.pool.used + summary_.pool.free,
                summary_.pool.used == 0 ? "good" : "LEAKED");
  }

  void print_json(bool good) const {
    nlohmann::ordered_json report = {
        {"seed", options_.seed},
        {"dtype", name_of(kScalarOf<Element>)},
        {"heads", {kHeads.query_heads, kHeads.kv_heads, kHeads.head_dim}},
        {"steps", nlohmann::ordered_json::array()},
        {"peak",
         {{"step", summary_.peak.number},
          {"stored_tokens", summary_.peak.stored},
          {"unshared_tokens", summary_.peak.unshared}}},
        {"memory_saved_percent", 100 * (1 - double(summary_.peak.stored) / double(summary_.peak.unshared))},
        {"step_ms", summary_.shared_ms / summary_.compared},
        {"sequence_step_ms", summary_.sequence_ms / summary_.compared},
        {"compared_steps", summary_.compared},
        {"largest_error", summary_.error.out},
        {"largest_lse_error", summary_.error.lse},
        {"allowed_error", summary_.error.allowed(kScalarOf<Element>)},
        {"checked_steps", summary_.checked},
        {"blocks_in_use_at_end", summary_.pool.used},
        {"good", good}};
    for (const Step& step : steps_) report["steps"].push_back(to_json(step));
    std::cout << report.dump(2) << "\n";
  }

  Options options_;
  Random random_;
  DecodeSession<Element> session_;
  std::unique_ptr<BranchController> controller_;
  std::uint64_t runs_ = 0;
  std::vector<Thought> thoughts_;
  std::vector<Step> steps_;
  Summary summary_;
};

}  // namespace

Command add_demo(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  const auto add = [&app](const char* name, int& value, int least, int most, const char* meaning) {
    app.add_option(name, value, meaning)->check(CLI::Range(least, most))->capture_default_str();
  };
  add("--steps", options->steps, 1, 100000, "Decode steps, over all levels");
  app.add_option("--seed", options->seed, "Of the random K, V, q and scores")->capture_default_str();
  add("--prompt", options->prompt, 1, 1 << 20, "Tokens of the prompt");
  add("--levels", options->levels, 1, 100, "Levels of the tree of thoughts");
  add("--keep", options->keep, 1, 100, "Thoughts that survive a level");
  add("--expand", options->expand, 1, 100, "New thoughts for each survivor");
  add("--block-tokens", options->block_tokens, 1, 256, "Tokens of a cache block");
  app.add_option("--dtype", options->scalar, "Element type of the cache")
      ->check(CLI::IsMember(scalar_names()))
      ->capture_default_str();
  app.add_flag("--json", options->json, "Print every step and the summary for machines");
  app.footer("Exit code 1: an error beyond its limit, or blocks still in use at the end.");
  return [options] {
    options->levels = std::min(options->levels, options->steps);
    return with_element(scalar_named(options->scalar), [&]<class Element>() { return Demo<Element>(*options).run(); });
  };
}

}  // namespace espalier::cli
