#include "espalier/branch_controller.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "espalier/error.hpp"

namespace espalier {
namespace {

using detail::expects;

void expects_at_least_one(std::int32_t value, const char* controller, const char* what) {
  expects(value >= 1, ErrorCode::invalid_argument, controller, ": ", what, " is ", value, ", expected at least 1");
}

/// The branches from the best to the worst.
std::vector<BranchScore> ranked(std::span<const BranchScore> branches, const char* controller) {
  for (std::size_t i = 0; i < branches.size(); ++i) {
    expects(!std::isnan(branches[i].score), ErrorCode::invalid_argument, controller, ": the score of entry ", i,
            " is NaN");
  }
  std::vector<BranchScore> ranking(branches.begin(), branches.end());
  std::stable_sort(ranking.begin(), ranking.end(),
                   [](const BranchScore& a, const BranchScore& b) { return a.score > b.score; });
  return ranking;
}

/// Cuts the ranking behind its best `keep` branches and has the others pruned.
void keep_best(std::vector<BranchScore>& ranking, std::size_t keep, BranchDecision& decision) {
  const std::size_t kept = std::min(keep, ranking.size());
  for (std::size_t i = kept; i < ranking.size(); ++i) decision.prunes.push_back(ranking[i].branch);
  ranking.resize(kept);
}

class BeamSearch final : public BranchController {
 public:
  explicit BeamSearch(BeamSearchConfig config) : width_(std::size_t(config.width)) {}

  BranchDecision decide(std::span<const BranchScore> branches) override {
    std::vector<BranchScore> survivors = ranked(branches, "beam search");
    BranchDecision decision;
    keep_best(survivors, (width_ + 1) / 2, decision);
    const std::size_t places = width_ - survivors.size();
    std::erase_if(survivors, [](const BranchScore& branch) { return branch.finished; });
    for (std::size_t i = 0; i < survivors.size(); ++i) {
      // The places are dealt out one by one, from the best survivor on.
      const std::size_t count = places / survivors.size() + (i < places % survivors.size() ? 1 : 0);
      if (count > 0) decision.forks.push_back({survivors[i].branch, std::int32_t(count)});
    }
    return decision;
  }

 private:
  std::size_t width_;
};

class TreeOfThoughts final : public BranchController {
 public:
  explicit TreeOfThoughts(TreeOfThoughtsConfig config) : config_(config) {}

  BranchDecision decide(std::span<const BranchScore> branches) override {
    std::vector<BranchScore> survivors = ranked(branches, "tree of thoughts");
    BranchDecision decision;
    if (survivors.empty()) return decision;
    const bool at_end = level_ == config_.depth;
    keep_best(survivors, at_end ? 1 : std::size_t(config_.keep), decision);
    if (at_end) return decision;
    for (const BranchScore& survivor : survivors) {
      if (!survivor.finished && config_.expand > 1) decision.forks.push_back({survivor.branch, config_.expand - 1});
    }
    ++level_;
    return decision;
  }

 private:
  TreeOfThoughtsConfig config_;
  std::int32_t level_ = 0;
};

class BestOfN final : public BranchController {
 public:
  explicit BestOfN(BestOfNConfig config) : samples_(config.samples) {}

  BranchDecision decide(std::span<const BranchScore> branches) override {
    std::vector<BranchScore> ranking = ranked(branches, "best of N");
    BranchDecision decision;
    if (ranking.empty()) return decision;
    if (!forked_) {
      forked_ = true;
      for (const BranchScore& branch : branches) {
        if (!branch.finished && samples_ > 1) decision.forks.push_back({branch.branch, samples_ - 1});
      }
      return decision;
    }
    const auto best_finished =
        std::find_if(ranking.begin(), ranking.end(), [](const BranchScore& branch) { return branch.finished; });
    if (best_finished != ranking.end()) keep_best(ranking, std::size_t(best_finished - ranking.begin()) + 1, decision);
    return decision;
  }

 private:
  std::int32_t samples_;
  bool forked_ = false;
};

class SpeculativeAccept final : public BranchController {
 public:
  explicit SpeculativeAccept(SpeculativeConfig config) : drafts_(config.drafts) {}

  BranchDecision decide(std::span<const BranchScore> branches) override {
    std::vector<BranchScore> accepted = ranked(branches, "speculative accept");
    BranchDecision decision;
    keep_best(accepted, 1, decision);
    for (const BranchScore& branch : accepted) {
      if (!branch.finished) decision.forks.push_back({branch.branch, drafts_});
    }
    return decision;
  }

 private:
  std::int32_t drafts_;
};

}  // namespace

std::unique_ptr<BranchController> make_beam_search(BeamSearchConfig config) {
  expects_at_least_one(config.width, "make_beam_search", "width");
  return std::make_unique<BeamSearch>(config);
}

std::unique_ptr<BranchController> make_tree_of_thoughts(TreeOfThoughtsConfig config) {
  expects_at_least_one(config.keep, "make_tree_of_thoughts", "keep");
  expects_at_least_one(config.expand, "make_tree_of_thoughts", "expand");
  expects_at_least_one(config.depth, "make_tree_of_thoughts", "depth");
  return std::make_unique<TreeOfThoughts>(config);
}

std::unique_ptr<BranchController> make_best_of_n(BestOfNConfig config) {
  expects_at_least_one(config.samples, "make_best_of_n", "samples");
  return std::make_unique<BestOfN>(config);
}

std::unique_ptr<BranchController> make_speculative_accept(SpeculativeConfig config) {
  expects_at_least_one(config.drafts, "make_speculative_accept", "drafts");
  return std::make_unique<SpeculativeAccept>(config);
}

}  // namespace espalier
