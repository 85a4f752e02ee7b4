#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "espalier/kv_tree.hpp"

namespace espalier {

/// A live branch and what the model thinks of it after a step.
struct BranchScore {
  BranchId branch;
  double score;           ///< higher is better: cumulative log-probability, a verifier's value, ...
  bool finished = false;  ///< the branch has produced its end
};

/// Decides after each step which branches to fork and which to prune.
///
///   auto created = tree.apply(controller->decide(scores));
///
/// Ties are broken by place in the list, so that a run can be repeated.
class BranchController {
 public:
  virtual ~BranchController() = default;

  /// @param branches  every live branch once
  [[nodiscard]] virtual BranchDecision decide(std::span<const BranchScore> branches) = 0;
};

struct BeamSearchConfig {
  std::int32_t width;  ///< live branches after each decision
};

/// Beam search over branches: keeps the better half of `width` and forks each survivor until there are `width` again,
/// better ones first.
[[nodiscard]] std::unique_ptr<BranchController> make_beam_search(BeamSearchConfig config);

struct TreeOfThoughtsConfig {
  std::int32_t keep;    ///< thoughts that survive a level
  std::int32_t expand;  ///< candidates that each survivor is expanded into
  std::int32_t depth;   ///< levels; after the last one the best thought alone is kept
};

/// Tree of thoughts, breadth-first (Yao et al. 2023): each level keeps the best `keep` candidates and expands each.
[[nodiscard]] std::unique_ptr<BranchController> make_tree_of_thoughts(TreeOfThoughtsConfig config);

struct BestOfNConfig {
  std::int32_t samples;  ///< branches forked from each root at the first decision
};

/// Best of N: forks once, lets all samples run, prunes each when a better one has finished, and keeps the best.
[[nodiscard]] std::unique_ptr<BranchController> make_best_of_n(BestOfNConfig config);

struct SpeculativeConfig {
  std::int32_t drafts;  ///< draft branches forked from the accepted one for the next step
};

/// Speculative decoding over draft branches: the best-scored branch is accepted, the others are pruned, and the next
/// drafts are forked from it.
[[nodiscard]] std::unique_ptr<BranchController> make_speculative_accept(SpeculativeConfig config);

}  // namespace espalier
