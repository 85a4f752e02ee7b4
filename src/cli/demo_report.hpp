#pragma once
// What the demo tells: a table and drawings while it runs, and a summary.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/decode_session.hpp"
#include "espalier/block_pool.hpp"
#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier::cli {

inline constexpr HeadShape kDemoHeads{32, 8, 128};  // Llama-3-8B
inline constexpr int kDemoModelLayers = 32;

struct DemoOptions {
  int steps = 160;
  std::uint64_t seed = 1;
  int prompt = 1024;
  int levels = 5;
  int keep = 3;
  int expand = 4;
  int block_tokens = 16;
  Scalar scalar = Scalar::f32;
  PlanStrategy strategy = kDefaultStrategy;  ///< of shared attention
  std::optional<CostModel> cost_model = {};  ///< none: that of the device
  bool json = false;
};

struct DemoStep {
  int number;
  int level;
  std::int64_t rows, branches, nodes;
  std::int64_t stored_tokens, unshared_tokens;
  StepTime shared{};
  StepTime sequence{};  ///< zeros: not compared
  StepError error{};    ///< no rows: not checked
};

/// Collects the steps and prints them; in JSON mode, everything at the end.
class DemoReport {
 public:
  explicit DemoReport(const DemoOptions& options) : options_(options) {}

  void print_opening() const;

  /// What was decided before a level; after the last one, which thought is the answer.
  void print_choice(int level, std::size_t candidates, std::size_t live, std::int64_t freed_tokens) const;

  void add(const DemoStep& step);
  void print_tree(const TreeSnapshot& tree) const;

  /// @param pool  after the last branch was pruned
  /// @return whether errors and blocks are as they should be
  bool print_summary(const PoolStats& pool) const;

 private:
  /// The step with the most unshared tokens.
  [[nodiscard]] const DemoStep& peak() const;
  /// Of the steps that were compared: median time of a step, in milliseconds.
  [[nodiscard]] double median_ms(StepTime DemoStep::* time) const;
  [[nodiscard]] StepError largest_error() const;
  [[nodiscard]] std::int64_t checked_steps() const;

  void print_summary_for_people(const PoolStats& pool) const;
  void print_json(const PoolStats& pool, bool good) const;

  DemoOptions options_;
  std::vector<DemoStep> steps_;
};

}  // namespace espalier::cli
