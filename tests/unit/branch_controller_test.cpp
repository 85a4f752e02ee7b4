#include "espalier/branch_controller.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "espalier/error.hpp"

namespace espalier {
namespace {

using Forks = std::vector<std::pair<int, int>>;  // (branch index, count)
using Prunes = std::vector<int>;

/// Branches 0, 1, 2, ... with these scores; `finished` names some of them.
std::vector<BranchScore> scored(const std::vector<double>& scores, const std::vector<int>& finished = {}) {
  std::vector<BranchScore> branches;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const bool has_finished = std::find(finished.begin(), finished.end(), int(i)) != finished.end();
    branches.push_back({{std::int32_t(i), 0}, scores[i], has_finished});
  }
  return branches;
}

struct Decision {
  Forks forks;
  Prunes prunes;
  friend bool operator==(const Decision&, const Decision&) = default;
};

Decision decide(BranchController& controller, const std::vector<BranchScore>& branches) {
  const BranchDecision decision = controller.decide(branches);
  Decision plain;
  for (const BranchFork& fork : decision.forks) {
    CHECK(fork.at_token == kBranchEnd);
    plain.forks.emplace_back(fork.branch.index, fork.count);
  }
  for (const BranchId branch : decision.prunes) plain.prunes.push_back(branch.index);
  std::sort(plain.prunes.begin(), plain.prunes.end());
  return plain;
}

template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    return error.what();
  }
  return "nothing was thrown";
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("beam search keeps the better half and forks it to the full width", "[branch_controller]") {
  const auto beam = make_beam_search({4});
  REQUIRE(decide(*beam, scored({0})) == Decision{{{0, 3}}, {}});
  REQUIRE(decide(*beam, scored({-3, -1, -4, -2})) == Decision{{{1, 1}, {3, 1}}, {0, 2}});
  REQUIRE(decide(*beam, scored({-3, -1})) == Decision{{{1, 1}, {0, 1}}, {}});
}

TEST_CASE("a beam of odd width rounds its better half up, and the best are forked first", "[branch_controller]") {
  const auto beam = make_beam_search({5});
  REQUIRE(decide(*beam, scored({1, 2, 3, 4, 5})) == Decision{{{4, 1}, {3, 1}}, {0, 1}});
  REQUIRE(decide(*beam, scored({1, 2})) == Decision{{{1, 2}, {0, 1}}, {}});
  REQUIRE(decide(*beam, scored({1, 2, 3, 4, 5, 6, 7})) == Decision{{{6, 1}, {5, 1}}, {0, 1, 2, 3}});
}

TEST_CASE("a beam of width one is greedy", "[branch_controller]") {
  const auto beam = make_beam_search({1});
  REQUIRE(decide(*beam, scored({0})) == Decision{});
  REQUIRE(decide(*beam, scored({0, 1})) == Decision{{}, {0}});
}

TEST_CASE("finished beams compete for their places but are not forked", "[branch_controller]") {
  const auto beam = make_beam_search({4});
  REQUIRE(decide(*beam, scored({4, 3, 2, 1}, {0})) == Decision{{{1, 2}}, {2, 3}});
  REQUIRE(decide(*beam, scored({4, 3, 2, 1}, {3})) == Decision{{{0, 1}, {1, 1}}, {2, 3}});
  REQUIRE(decide(*beam, scored({4, 3, 2, 1}, {0, 1})) == Decision{{}, {2, 3}});
  REQUIRE(decide(*beam, scored({4, 3}, {0, 1})) == Decision{});
}

TEST_CASE("of equal scores the first is better", "[branch_controller]") {
  REQUIRE(decide(*make_beam_search({4}), scored({7, 7, 7, 7})) == Decision{{{0, 1}, {1, 1}}, {2, 3}});
  REQUIRE(decide(*make_speculative_accept({2}), scored({1, 5, 5})) == Decision{{{1, 2}}, {0, 2}});
}

TEST_CASE("tree of thoughts keeps and expands on every level and ends with the best thought", "[branch_controller]") {
  const auto search = make_tree_of_thoughts({2, 3, 2});
  REQUIRE(decide(*search, scored({0})) == Decision{{{0, 2}}, {}});
  REQUIRE(decide(*search, scored({1, 3, 2})) == Decision{{{1, 2}, {2, 2}}, {0}});
  REQUIRE(decide(*search, scored({1, 3, 2, 9, 5, 4})) == Decision{{}, {0, 1, 2, 4, 5}});
  REQUIRE(decide(*search, scored({1})) == Decision{});
}

TEST_CASE("finished thoughts compete but are not expanded", "[branch_controller]") {
  const auto search = make_tree_of_thoughts({2, 2, 5});
  (void)decide(*search, scored({0}));
  REQUIRE(decide(*search, scored({1, 2, 3}, {2})) == Decision{{{1, 1}}, {0}});
  REQUIRE(decide(*search, scored({1, 2}, {0, 1})) == Decision{});
}

TEST_CASE("thoughts that are not expanded are only chosen from", "[branch_controller]") {
  const auto search = make_tree_of_thoughts({3, 1, 4});
  REQUIRE(decide(*search, scored({1, 2, 3, 4})) == Decision{{}, {0}});
}

TEST_CASE("best of N forks once and prunes what a finished branch has beaten", "[branch_controller]") {
  const auto sampling = make_best_of_n({4});
  REQUIRE(decide(*sampling, scored({0})) == Decision{{{0, 3}}, {}});
  REQUIRE(decide(*sampling, scored({-1, -2, -3, -4})) == Decision{});
  REQUIRE(decide(*sampling, scored({-1, -2, -3, -4}, {1})) == Decision{{}, {2, 3}});
  REQUIRE(decide(*sampling, scored({-5, -2}, {1})) == Decision{{}, {0}});
  REQUIRE(decide(*sampling, scored({-2}, {0})) == Decision{});
}

TEST_CASE("best of N keeps the best of all that have finished", "[branch_controller]") {
  const auto sampling = make_best_of_n({3});
  (void)decide(*sampling, scored({0}));
  REQUIRE(decide(*sampling, scored({-3, -1, -2}, {0, 1, 2})) == Decision{{}, {0, 2}});
}

TEST_CASE("best of one never forks", "[branch_controller]") {
  REQUIRE(decide(*make_best_of_n({1}), scored({0})) == Decision{});
}

TEST_CASE("speculative decoding goes on from the accepted branch", "[branch_controller]") {
  const auto speculative = make_speculative_accept({3});
  REQUIRE(decide(*speculative, scored({0})) == Decision{{{0, 3}}, {}});
  REQUIRE(decide(*speculative, scored({0, 2, 5, 1})) == Decision{{{2, 3}}, {0, 1, 3}});
  REQUIRE(decide(*speculative, scored({0, 0, 0, 0})) == Decision{{{0, 3}}, {1, 2, 3}});  // every draft failed
  REQUIRE(decide(*speculative, scored({0, 2, 5, 1}, {2})) == Decision{{}, {0, 1, 3}});
}

TEST_CASE("infinite scores are scores, NaN is none", "[branch_controller]") {
  REQUIRE(decide(*make_beam_search({2}), scored({-kInfinity, 0, kInfinity})) == Decision{{{2, 1}}, {0, 1}});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [&](std::unique_ptr<BranchController> controller) {
    return refusal([&] { (void)controller->decide(scored({0, nan})); });
  };
  REQUIRE(refused(make_beam_search({2})) == "beam search: the score of entry 1 is NaN");
  REQUIRE(refused(make_tree_of_thoughts({2, 2, 2})) == "tree of thoughts: the score of entry 1 is NaN");
  REQUIRE(refused(make_best_of_n({2})) == "best of N: the score of entry 1 is NaN");
  REQUIRE(refused(make_speculative_accept({2})) == "speculative accept: the score of entry 1 is NaN");
}

TEST_CASE("a refused or empty decision does not move a search on", "[branch_controller]") {
  const auto search = make_tree_of_thoughts({1, 2, 1});
  REQUIRE_THROWS_AS(search->decide(scored({std::numeric_limits<double>::quiet_NaN()})), Error);
  REQUIRE(decide(*search, {}) == Decision{});
  REQUIRE(decide(*search, scored({0})) == Decision{{{0, 1}}, {}});
  const auto sampling = make_best_of_n({2});
  REQUIRE(decide(*sampling, {}) == Decision{});
  REQUIRE(decide(*sampling, scored({0})) == Decision{{{0, 1}}, {}});
}

TEST_CASE("a controller that could keep nothing is refused", "[branch_controller]") {
  REQUIRE(refusal([] { (void)make_beam_search({0}); }) == "make_beam_search: width is 0, expected at least 1");
  REQUIRE(refusal([] { (void)make_tree_of_thoughts({0, 1, 1}); }) ==
          "make_tree_of_thoughts: keep is 0, expected at least 1");
  REQUIRE(refusal([] { (void)make_tree_of_thoughts({1, -1, 1}); }) ==
          "make_tree_of_thoughts: expand is -1, expected at least 1");
  REQUIRE(refusal([] { (void)make_tree_of_thoughts({1, 1, 0}); }) ==
          "make_tree_of_thoughts: depth is 0, expected at least 1");
  REQUIRE(refusal([] { (void)make_best_of_n({0}); }) == "make_best_of_n: samples is 0, expected at least 1");
  REQUIRE(refusal([] { (void)make_speculative_accept({0}); }) ==
          "make_speculative_accept: drafts is 0, expected at least 1");
}

TEST_CASE("a decode loop of controller and tree ends with one branch and an idle pool", "[branch_controller]") {
  const KvTree::Exec exec;
  KvTree::Pool pool(exec, {200, 4});
  {
    KvTree tree(exec, pool);
    (void)tree.root(10);
    const auto search = make_tree_of_thoughts({2, 4, 3});
    std::uint64_t noise = 1;
    for (int level = 0; level <= 3; ++level) {
      std::vector<BranchScore> scores;
      for (const BranchId branch : tree.branches()) {
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        scores.push_back({branch, double(noise >> 40)});
      }
      const auto created = tree.apply(search->decide(scores));
      REQUIRE(created.size() == (level == 3 ? 0u : level == 0 ? 3u : 6u));
      tree.append(tree.branches(), 7);
    }
    REQUIRE(tree.branches().size() == 1);
    REQUIRE(tree.stored_tokens() == 10 + 4 * 7);
  }
  REQUIRE(pool.stats(exec).free == 200);
}

}  // namespace espalier
