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
/// Of two equal scores the one that comes first in the list is better, so that a run can be repeated. Infinite scores
/// are legal. A controller remembers how far its search has come: use a new one for each search, and one for each
/// prompt of a batch.
class BranchController {
 public:
  virtual ~BranchController() = default;

  /// @param branches  every live branch of the search once; an empty list decides nothing
  /// @throws Error{invalid_argument} if a score is NaN; the controller stays as it was
  [[nodiscard]] virtual BranchDecision decide(std::span<const BranchScore> branches) = 0;

 protected:
  BranchController() = default;
  BranchController(const BranchController&) = default;
  BranchController& operator=(const BranchController&) = default;
};

/// For make_beam_search().
struct BeamSearchConfig {
  std::int32_t width;  ///< live branches after each decision, at least 1
};

/// Beam search over branches: keeps the best half of `width` (rounded up) and prunes the others, then forks survivors
/// in turn, better ones first, until there are `width` branches again. A first decision with a single branch therefore
/// forks it width - 1 times.
///
/// A finished branch competes for its place like any other but is not forked. Where every survivor has finished, none
/// is added, and later decisions change nothing.
/// @throws Error{invalid_argument} unless width >= 1
[[nodiscard]] std::unique_ptr<BranchController> make_beam_search(BeamSearchConfig config);

/// For make_tree_of_thoughts().
struct TreeOfThoughtsConfig {
  std::int32_t keep;    ///< thoughts that survive a level, at least 1
  std::int32_t expand;  ///< candidates that each survivor is expanded into, at least 1
  std::int32_t depth;   ///< levels of thoughts, at least 1
};

/// Tree of thoughts, breadth-first (Yao et al. 2023). The first `depth` decisions keep the best `keep` branches, prune
/// the others, and expand each survivor into `expand` candidates: the survivor goes on as the first of them. (The first
/// decision, where there is nothing to choose from but the prompt, only expands.) Every decision after these keeps the
/// best branch alone.
///
/// A finished branch competes for its place like any other but is not expanded.
/// @throws Error{invalid_argument} unless keep, expand and depth are at least 1
[[nodiscard]] std::unique_ptr<BranchController> make_tree_of_thoughts(TreeOfThoughtsConfig config);

/// For make_best_of_n().
struct BestOfNConfig {
  std::int32_t samples;  ///< branches that the prompt becomes at the first decision, at least 1
};

/// Best of N. The first decision forks every branch samples - 1 times (those that have not finished). Every later one
/// prunes all branches that are worse than the best finished one, so that the best of all is left when all have
/// finished; until a branch finishes it changes nothing. Scores must not rise as a branch grows (a cumulative
/// log-probability does not), or a branch may be pruned that would have won.
/// @throws Error{invalid_argument} unless samples >= 1
[[nodiscard]] std::unique_ptr<BranchController> make_best_of_n(BestOfNConfig config);

/// For make_speculative_accept().
struct SpeculativeConfig {
  std::int32_t drafts;  ///< draft branches forked from the accepted one for the next step, at least 1
};

/// Speculative decoding over draft branches: accepts the best branch and prunes the others, then forks `drafts` drafts
/// from it, unless it has finished. The accepted branch itself stays as it is beside its drafts: listed first and
/// scored like a draft of which nothing was accepted, it is what remains where every draft fails.
/// @throws Error{invalid_argument} unless drafts >= 1
[[nodiscard]] std::unique_ptr<BranchController> make_speculative_accept(SpeculativeConfig config);

}  // namespace espalier
