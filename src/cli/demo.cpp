// espalier demo: a tree of thoughts grows, forks and is pruned; every step appends K and V, plans and attends.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/cost_model_file.hpp"
#include "cli/decode_session.hpp"
#include "cli/demo_report.hpp"
#include "cli/options.hpp"
#include "cli/random.hpp"
#include "espalier/branch_controller.hpp"

namespace espalier::cli {
namespace {

constexpr int kCompareEvery = 4;  // steps from one comparison with unshared attention to the next

/// A branch and how many tokens of its thought are still to come.
struct Thought {
  BranchId branch;
  int missing;
};

template <ScalarElement Element>
class Demo {
 public:
  explicit Demo(const DemoOptions& options)
      : options_(options),
        report_(options),
        random_(options.seed),
        session_(typename DecodeSession<Element>::Exec(), kDemoHeads, blocks_for(options), options.block_tokens,
                 options.seed, options.cost_model),
        controller_(make_tree_of_thoughts({options.keep, options.expand, options.levels})) {}

  int run() {
    report_.print_opening();
    const BranchId prompt = session_.root();
    session_.begin_run(prompt, 0);
    session_.append(std::span(&prompt, 1), options_.prompt);
    for (int level = 1; level <= options_.levels; ++level) {
      choose(level);
      begin_thoughts(level);
      grow(level);
    }
    choose(options_.levels + 1);
    for (const BranchId answer : session_.tree().branches()) session_.prune(answer);
    return report_.print_summary(session_.pool_stats()) ? 0 : 1;
  }

 private:
  static std::int64_t blocks_for(const DemoOptions& options) {
    const std::int64_t thoughts = std::int64_t(options.levels) * options.keep * options.expand;
    const std::int64_t tokens = options.prompt + thoughts * (options.steps / options.levels + 1);
    return tokens / options.block_tokens + thoughts + 2;  // each thought may leave a block half filled
  }

  /// Scores all branches; the controller decides which live on and are forked.
  void choose(int level) {
    std::vector<BranchScore> scores;
    for (const BranchId branch : session_.tree().branches()) scores.push_back({branch, random_.uniform()});
    const std::int64_t before = session_.tree().stored_tokens();
    session_.apply(controller_->decide(scores));
    report_.print_choice(level, scores.size(), session_.tree().branches().size(),
                         before - session_.tree().stored_tokens());
  }

  /// Every live branch begins a thought; the longest takes all steps of the level.
  void begin_thoughts(int level) {
    const int longest = options_.steps * level / options_.levels - options_.steps * (level - 1) / options_.levels;
    const int shortest = (longest + 1) / 2;
    thoughts_.clear();
    for (const BranchId branch : session_.tree().branches()) {
      session_.begin_run(branch, mix(options_.seed, ++runs_));
      thoughts_.push_back({branch, shortest + int(random_.below(std::uint64_t(longest - shortest) + 1))});
    }
    thoughts_[random_.below(thoughts_.size())].missing = longest;
  }

  void grow(int level) {
    for (bool first = true;; first = false) {
      std::vector<BranchId> growing;
      for (Thought& thought : thoughts_)
        if (thought.missing-- > 0) growing.push_back(thought.branch);
      if (growing.empty()) break;
      const bool last = std::ranges::none_of(thoughts_, [](const Thought& thought) { return thought.missing > 0; });
      decode(level, growing, first || last);
    }
    report_.print_tree(session_.tree().snapshot());
  }

  /// One token for each of the branches.
  void decode(int level, const std::vector<BranchId>& growing, bool check) {
    session_.append(growing, 1);
    std::vector<BranchRow> rows;
    rows.reserve(growing.size());
    for (const BranchId branch : growing) rows.push_back({branch});
    session_.begin_step(rows);
    const KvTree& tree = session_.tree();
    DemoStep step{++steps_,
                  level,
                  std::int64_t(rows.size()),
                  std::int64_t(tree.branches().size()),
                  tree.nodes(),
                  tree.stored_tokens(),
                  tree.unshared_tokens()};
    if (steps_ == 1)
      for (const PlanStrategy strategy : {options_.strategy, PlanStrategy::sequence})
        session_.attend(strategy);  // warm up
    if (steps_ % kCompareEvery == 1) step.sequence = session_.attend(PlanStrategy::sequence);
    step.shared = session_.attend(options_.strategy);
    if (check) step.error = session_.check(std::int32_t(rows.size()));
    report_.add(step);
  }

  DemoOptions options_;
  DemoReport report_;
  Random random_;
  DecodeSession<Element> session_;
  std::unique_ptr<BranchController> controller_;
  std::uint64_t runs_ = 0;
  std::vector<Thought> thoughts_;
  int steps_ = 0;
};

}  // namespace

Command add_demo(CLI::App& app) {
  struct Options {
    DemoOptions demo;
    std::string scalar = name_of(DemoOptions{}.scalar);
    std::string strategy = name_of(DemoOptions{}.strategy);
    std::string cost_model;
  };
  const auto options = std::make_shared<Options>();
  const auto add = [&app](const char* name, int& value, int least, int most, const char* meaning) {
    app.add_option(name, value, meaning)->check(CLI::Range(least, most))->capture_default_str();
  };
  add("--steps", options->demo.steps, 1, 100000, "Decode steps, over all levels");
  app.add_option("--seed", options->demo.seed, "Of the random K, V, q and scores")->capture_default_str();
  add("--prompt", options->demo.prompt, 1, 1 << 20, "Tokens of the prompt");
  add("--levels", options->demo.levels, 1, 100, "Levels of the tree of thoughts");
  add("--keep", options->demo.keep, 1, 100, "Thoughts that survive a level");
  add("--expand", options->demo.expand, 1, 100, "New thoughts for each survivor");
  add("--block-tokens", options->demo.block_tokens, 1, 256, "Tokens of a cache block");
  app.add_option("--dtype", options->scalar, "Element type of the cache")
      ->check(CLI::IsMember(scalar_names()))
      ->capture_default_str();
  app.add_option("--strategy", options->strategy, "How shared attention cuts the tree into tiles")
      ->check(CLI::IsMember(strategy_names()))
      ->capture_default_str();
  add_cost_model_option(app, options->cost_model);
  app.add_flag("--json", options->demo.json, "Print every step and the summary for machines");
  app.footer("Exit code 1: an error beyond its limit, or blocks still in use at the end.");
  return [options] {
    DemoOptions& demo = options->demo;
    demo.levels = std::min(demo.levels, demo.steps);
    demo.scalar = scalar_named(options->scalar);
    demo.strategy = strategy_named(options->strategy);
    demo.cost_model = cost_model_of(options->cost_model);
    return with_element(demo.scalar, [&]<class Element>() { return Demo<Element>(demo).run(); });
  };
}

}  // namespace espalier::cli
