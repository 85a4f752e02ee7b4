// The kernels of sm_90, run lane by lane on plans of the reference planner and of the library, against the oracle.

#include <algorithm>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <deque>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <thread>
#include <type_traits>

#include "perf/gpu/fused_planner.hpp"
#include "plan/stacks/stack_plan.hpp"
#include "support/problem.hpp"
#include "tests/emulation/cases.hpp"
#include "tests/emulation/cuda/emulated_kernels.hpp"
#include "tests/emulation/params_of.hpp"

namespace espalier::test {
namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;
using plan::StackPlan;

/// Partials are rounded, too.
template <class Element>
constexpr double kUnit = 2 * kWeightUnit<Element>;

struct Choices {
  Setup setup;
  bool by_library = false;                                     ///< whose plan it is; else the reference planner's
  perf::StackPlanner::Way way = perf::StackPlanner::Way::cut;  ///< of that
  int short_tokens = 40;                                       ///< nodes with fewer tokens get no stacks of their own
  EmulatedTiming timing = {};
};

/// The tree as the reference planner takes it.
perf::Tree reference_tree(const TreeSnapshot& snapshot) {
  perf::Tree tree;
  tree.block_tokens = snapshot.block_tokens;
  tree.parent = snapshot.parent;
  tree.tokens = snapshot.tokens;
  tree.first_block = snapshot.first_block;
  tree.first_offset = snapshot.first_offset;
  tree.row_begin = snapshot.row_begin;
  tree.row_end = snapshot.row_end;
  tree.row_node = snapshot.row_node;
  tree.row_visible = snapshot.row_visible;
  tree.row_index = snapshot.row_index;
  for (const BlockId block : snapshot.block_table) tree.block_table.push_back(std::int32_t(block));
  for (std::int32_t node = 0; node < snapshot.nodes(); ++node) {
    std::int32_t end = tree.row_begin[std::size_t(node)];
    while (end < tree.row_end[std::size_t(node)] && tree.row_node[std::size_t(end)] == node) ++end;
    tree.own_row_end.push_back(end);
  }
  return tree;
}

/// A problem on an emulated GPU.
template <class Element>
class EmulatedProblem {
 public:
  /// @param planned  the tree that the plan was made for, some tokens before; nodes and rows are the same
  EmulatedProblem(const Tree& tree, const HeadShape& heads, const Inputs& inputs, const Choices& choices,
                  const Tree& planned)
      : choices_(choices),
        heads_(heads),
        rows_(std::int32_t(tree.rows.size())),
        problem_(exec_, tree, heads, inputs, choices.setup) {
    TreeSnapshot snapshot = problem_.snapshot();
    for (std::size_t entry = 0; entry < snapshot.block_table.size(); ++entry)  // blocks of the problem are shuffled
      snapshot.block_table[entry] = BlockId{problem_.tree().view().block_table[entry]};
    if (choices.by_library)
      plan_by_library(std::move(snapshot), planned, &planned != &tree);
    else
      plan_by_reference(snapshot);
  }
  EmulatedProblem(const Tree& tree, const HeadShape& heads, const Inputs& inputs, const Choices& choices)
      : EmulatedProblem(tree, heads, inputs, choices, tree) {}

  Result attend() {
    if (rows_ > 0) enqueue({});  // the library's attend() launches nothing otherwise
    return result();
  }

  /// @param edit  (params) may change what is asked for
  void enqueue(const std::function<void(espalier::detail::AttendParams&)>& edit) {
    espalier::detail::AttendParams params = params_of(problem_, heads_, choices_.setup);
    if (edit) edit(params);
    emulated_sm90_attend(params, view(), rows_, choices_.timing);
  }

  Result result() { return problem_.result(exec_); }

  void clear() {
    Kokkos::deep_copy(problem_.out(), from_float<Element>(std::numeric_limits<float>::quiet_NaN()));
    Kokkos::deep_copy(problem_.lse(), std::numeric_limits<float>::quiet_NaN());
  }

 private:
  void plan_by_library(TreeSnapshot snapshot, const Tree& planned, bool grows) {
    const Setup& setup = choices_.setup;
    const TreeSnapshot lengths = snapshot_of(planned, setup.block_tokens, setup.tree_layout);
    REQUIRE(lengths.row_index == snapshot.row_index);
    snapshot.tokens = lengths.tokens;
    snapshot.row_visible = lengths.row_visible;
    PlanConfig config = problem_.plan().config();
    config.workers = setup.workers;
    config.capacity = StackPlan<Exec>::required_capacity(snapshot, config, exec_);
    stacks_.emplace(exec_, config);
    arrays_.emplace(exec_, snapshot);
    stacks_->update(exec_, arrays_->view());
    if (grows) stacks_->grow(exec_, problem_.tree().view());
    exec_.fence();
  }

  void plan_by_reference(const TreeSnapshot& snapshot) {
    tree_ = reference_tree(snapshot);
    perf::PlannerConfig config;
    config.workers = std::max(choices_.setup.workers, 1);
    config.query_heads = heads_.query_heads;
    config.kv_heads = heads_.kv_heads;
    config.head_dim = heads_.head_dim;
    config.short_tokens = choices_.short_tokens;
    plan_ = perf::StackPlanner(tree_, config).plan(choices_.way);
    constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();
    partial_out_.assign(std::size_t(plan_.partials) * std::size_t(heads_.head_dim), from_float<Element>(kUnwritten));
    partial_lse_.assign(std::size_t(plan_.partials), kUnwritten);
  }

  espalier::detail::FusedPlanView view() {
    if (choices_.by_library) return stacks_->view();
    return {.workers = std::int32_t(plan_.worker.size()),
            .max_rows = rows_,
            .merges = plan_.merge_entries.empty() ? 0 : 1,
            .header = &plan_.header,
            .segments = plan_.segments.data(),
            .tiles = plan_.tiles.data(),
            .worker = plan_.worker.data(),
            .merge_begin = plan_.merge_begin.data(),
            .merge_entries = plan_.merge_entries.data(),
            .row_visible = tree_.row_visible.data(),
            .row_index = tree_.row_index.data(),
            .block_table = tree_.block_table.data(),
            .partial_out = partial_out_.data(),
            .partial_lse = partial_lse_.data()};
  }

  Exec exec_;
  Choices choices_;
  HeadShape heads_;
  std::int32_t rows_;
  Problem<Exec, Element> problem_;
  std::optional<TreeArrays<Exec>> arrays_;  // read by the library's plan
  std::optional<StackPlan<Exec>> stacks_;
  perf::Tree tree_;  // of the reference planner, as all below
  perf::FusedPlan plan_;
  std::vector<Element> partial_out_;
  std::vector<float> partial_lse_;
};

/// Attends on an emulated GPU and compares with the oracle.
template <class Element>
void check(const Tree& tree, const HeadShape& heads, const Inputs& inputs, const Choices& choices,
           const Tree& planned) {
  const Setup& setup = choices.setup;
  INFO(description_of<Element>(tree, heads, setup)
       << "; library " << choices.by_library << "; way " << int(choices.way) << "; short " << choices.short_tokens
       << "; run ahead " << choices.timing.run_ahead_seed << "; late " << choices.timing.arrives_late);
  const Result result = EmulatedProblem<Element>(tree, heads, inputs, choices, planned).attend();
  CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, inputs, setup.options), heads, kScalarOf<Element>,
                     tolerance_of(tree, heads, inputs, setup.options, kUnit<Element>)) == "");
}

template <class Element>
void check(const Tree& tree, const HeadShape& heads, const Inputs& inputs, const Choices& choices) {
  check<Element>(tree, heads, inputs, choices, tree);
}

constexpr int kBlockTokens[] = {16, 32, 1, 128, 64, 3, 256, 17, 48};

/// The choices of a turn: each of them in every combination with its neighbours, sooner or later.
Choices choices_of(std::size_t turn) {
  Choices choices;
  Setup& setup = choices.setup;
  setup.block_tokens = kBlockTokens[turn % std::size(kBlockTokens)];
  setup.cache_layout = turn / 2 % 2 == 0 ? CacheLayout::tokens_first : CacheLayout::heads_first;
  setup.tree_layout = turn / 3 % 2 == 0 ? TreeLayout::aligned : TreeLayout::contiguous;
  setup.options.scale = turn % 3 == 1 ? 0.11f : turn % 11 == 5 ? -0.1f : 0.0f;
  setup.options.soft_cap = turn % 4 == 2 ? 1.5f : 0.0f;
  setup.workers = turn % 5 == 3 ? 1 : 1 + int(turn % 4);
  setup.wants_lse = turn % 7 != 0;
  choices.by_library = turn % 3 == turn / 3 % 3;
  using Way = perf::StackPlanner::Way;
  choices.way = turn % 5 < 3 ? Way::cut : turn / 5 % 2 == 0 ? Way::whole : Way::cut_alike;
  if (choices.way == Way::cut_alike) setup.workers = 12;  // it takes two for each stack
  choices.short_tokens = turn % 2 == 0 ? 40 : 1;
  choices.timing = {turn % 3 == 2 ? std::uint32_t(turn + 1) : 0, turn / 2 % 2 == 1};
  return choices;
}

/// Every tree with every head shape; the other choices take turns.
template <class Element>
void check_trees(const std::vector<Tree>& trees, const std::vector<HeadShape>& head_shapes) {
  std::size_t turn = std::is_same_v<Element, float16> ? 4 : 0;
  for (const Tree& tree : trees)
    for (const HeadShape& heads : head_shapes) {
      check<Element>(tree, heads, random_inputs<Element>(tree, heads, std::uint32_t(turn)), choices_of(turn));
      ++turn;
    }
}

/// Long and short nodes, empty ones, several roots, rows inside nodes and limited rows.
Tree random_tree(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto up_to = [&](std::int32_t most) { return std::int32_t(random() % std::uint32_t(most + 1)); };
  Tree tree{"random tree, seed " + std::to_string(seed), {}, {}};
  const std::int32_t nodes = 1 + up_to(20), style = up_to(3);
  for (std::int32_t i = 0; i < nodes; ++i) {
    const std::int32_t parent = i == 0 || up_to(9) == 0 ? -1 : std::max(0, i - 1 - up_to(style == 0 ? 2 : i - 1));
    const std::int32_t length = up_to(9);
    tree.nodes.push_back({parent, length == 0 ? 0 : length < 4 ? 1 + up_to(3) : length < 8 ? up_to(60) : up_to(200)});
  }
  const std::int32_t rows = 1 + up_to(style == 2 ? 60 : 20);
  for (std::int32_t i = 0; i < rows; ++i) {
    const std::int32_t node = up_to(nodes - 1);
    tree.rows.push_back({node, up_to(2) == 0 ? up_to(tree.nodes[std::size_t(node)].tokens) : -1});
  }
  return tree;
}

std::vector<Tree> random_trees(std::uint32_t first_seed, std::uint32_t count) {
  std::vector<Tree> trees;
  for (std::uint32_t seed = first_seed; seed < first_seed + count; ++seed)
    trees.push_back(seed % 3 == 0 ? random_forest(seed) : random_tree(seed));
  return trees;
}

/// Tiles of one segment and of many, whole stages and parts of them, one and two warpgroups.
std::vector<Tree> trees_of_many_rows() {
  Tree deep{"short levels above 36 leaves", {{-1, 45}}, {}};
  for (int i = 0; i < 2; ++i) deep.nodes.push_back({0, 9 + i});
  for (int i = 0; i < 4; ++i) deep.nodes.push_back({1 + i / 2, 30});
  for (int i = 0; i < 36; ++i) deep.nodes.push_back({3 + i / 9, 20 + i});
  deep.rows = leaf_rows(deep.nodes);
  Tree pages{"whole pages, a few more leaves than two tiles", {{-1, 288}}, {}};
  for (int i = 0; i < 70; ++i) pages.nodes.push_back({0, 32});
  pages.rows = leaf_rows(pages.nodes);
  return {prompt_with_branches(), rows_inside_a_node(), deep, pages};
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on every tree", "[emulation]", float16, bfloat16) {
  check_trees<TestType>(named_trees(), {{1, 1, 64}, {8, 2, 96}, {5, 1, 128}, {8, 1, 192}, {4, 2, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on trees of many rows", "[emulation]", float16,
                   bfloat16) {
  check_trees<TestType>(trees_of_many_rows(),
                        {{4, 1, 64}, {10, 2, 96}, {8, 1, 128}, {16, 1, 128}, {4, 1, 192}, {8, 1, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on random trees", "[emulation]", float16,
                   bfloat16) {
  check_trees<TestType>(random_trees(20, 3), {{1, 1, 64}, {4, 1, 96}, {8, 2, 128}, {17, 1, 192}, {5, 1, 256}});
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle where a row has more pairs than a tile",
                   "[emulation]", float16, bfloat16) {
  const Tree few_rows{
      "four rows, one of which sees less", {{-1, 150}, {0, 40}, {0, 0}, {1, 9}}, {{1}, {1, 11}, {2}, {3}}};
  check_trees<TestType>({few_rows}, {{130, 1, 64}, {300, 2, 96}, {256, 1, 128}, {129, 1, 192}, {150, 1, 256}});
}

/// Hidden, since it takes minutes: run it by its name after a change of the kernels or of the plans that they read.
TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on hundreds of random trees", "[.sweep]", float16,
                   bfloat16) {
  constexpr int kGroups[] = {1, 4, 5, 8, 16, 2, 3, 17, 33, 140}, kHeadDims[] = {64, 96, 128, 192, 256};
  for (std::uint32_t seed = Catch::getSeed(), end = seed + 250; seed != end; ++seed) {  // other ones in each run
    std::mt19937 random(seed);
    const int kv_heads = seed % 4 == 0 ? 2 : 1;
    const HeadShape heads{kv_heads * kGroups[random() % std::size(kGroups)], kv_heads,
                          kHeadDims[seed % std::size(kHeadDims)]};
    const Tree tree = random_trees(seed, 1).front();
    Choices choices = choices_of(random() % 10000);
    for (const bool by_library : {false, true}) {
      choices.by_library = by_library;
      check<TestType>(tree, heads, random_inputs<TestType>(tree, heads, seed), choices);
    }
    const Tree later = with_longer_leaves(tree, seed);
    check<TestType>(later, heads, random_inputs<TestType>(later, heads, seed), choices, tree);
  }
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 agree with the oracle on plans that have grown", "[emulation]", float16,
                   bfloat16) {
  std::size_t turn = 0;
  for (const Tree& tree : {random_tree(3), random_tree(8), trees_of_many_rows()[2]})
    for (const HeadShape& heads : {HeadShape{4, 1, 64}, HeadShape{5, 1, 192}}) {
      const Tree later = with_longer_leaves(tree, std::uint32_t(turn));
      Choices choices = choices_of(turn);
      choices.by_library = true;
      check<TestType>(later, heads, random_inputs<TestType>(later, heads, std::uint32_t(turn)), choices, tree);
      ++turn;
    }
}

TEMPLATE_TEST_CASE("emulated kernels of sm_90 do not overflow on large scores", "[emulation]", float16, bfloat16) {
  const HeadShape heads{4, 1, 64};
  for (const Tree& tree : {random_forest(4), trees_of_many_rows()[2]})
    for (const float magnitude : {1e2f, 1e4f})
      for (const float soft_cap : {0.0f, 30.0f}) {
        Choices choices;
        choices.setup.workers = 2;
        choices.setup.options.soft_cap = soft_cap;
        check<TestType>(tree, heads, random_inputs<TestType>(tree, heads, 4, magnitude), choices);
      }
}

TEMPLATE_TEST_CASE("a NaN in k reaches the rows that see it, and no others, in emulated kernels of sm_90",
                   "[emulation]", float16, bfloat16) {
  for (const int group : {3, 48}) {  // one tile, and several
    const HeadShape heads{2 * group, 2, 64};
    check_nan_in_k<TestType>(heads, [&](const Tree& tree, std::size_t token, const Inputs& inputs) {
      Choices choices = choices_of(token);
      choices.setup.workers = 2;
      check<TestType>(tree, heads, inputs, choices);
    });
  }
}

TEST_CASE("rows keep their weight where every score is far below -1e30, in emulated kernels of sm_90", "[emulation]") {
  // Scores of -2^104 that are all the same: the result is that of scores that are 0.
  const Tree tree{"one node", {{-1, 40}}, {{0}, {0}}};
  for (const int group : {4, 40}) {  // one warpgroup, and two
    const HeadShape heads{group, 1, 64};
    Inputs inputs = random_inputs<bfloat16>(tree, heads, 9);
    std::ranges::fill(inputs.q, 0.0f);
    std::ranges::fill(inputs.k, 0.0f);
    const oracle::Result expected = oracle_of(tree, heads, inputs);
    const Tolerance tolerance = tolerance_of(tree, heads, inputs, {}, kUnit<bfloat16>);
    for (std::size_t i = 0; i < inputs.q.size(); i += 64) inputs.q[i] = -0x1p52f;
    for (std::size_t i = 0; i < inputs.k.size(); i += 64) inputs.k[i] = 0x1p52f;
    for (const float scale : {0.125f, 2.0f}) {  // the second makes hidden and missing scores overflow
      Choices choices;
      choices.setup.options.scale = scale;
      choices.setup.workers = 1;
      Result result = EmulatedProblem<bfloat16>(tree, heads, inputs, choices).attend();
      for (std::size_t i = 0; i < result.lse.size(); ++i) {
        CHECK(std::abs(result.lse[i] / (-0x1p104f * scale) - 1) < 1e-6f);
        result.lse[i] = float(expected.lse[i]);
      }
      INFO("group " << group << ", scale " << scale);
      CHECK(disagreement(result.out, result.lse, expected, heads, Scalar::bf16, tolerance) == "");
    }
  }
}

TEST_CASE("tensor maps are encoded once for the layers of one shape, in emulated kernels of sm_90", "[emulation]") {
  const Tree tree{"siblings", {{-1, 30}, {0, 20}, {0, 12}}, {{1}, {2}}};
  struct Layer {
    HeadShape heads;
    Inputs inputs;
    EmulatedProblem<float16> problem;
  };
  std::deque<Layer> layers;  // all alive, so that no two have the same arrays
  Choices choices;
  choices.setup.workers = 2;
  const auto add = [&](const HeadShape& heads) -> Layer& {
    const Inputs inputs = random_inputs<float16>(tree, heads, std::uint32_t(layers.size()));
    return layers.emplace_back(heads, inputs, EmulatedProblem<float16>(tree, heads, inputs, choices));
  };
  const auto maps_encoded_by = [&](Layer& layer) {
    const int before = emulated_maps_encoded();
    const Result result = layer.problem.attend();
    CHECK(disagreement(result.out, result.lse, oracle_of(tree, layer.heads, layer.inputs), layer.heads, Scalar::f16,
                       tolerance_of(tree, layer.heads, layer.inputs, {}, kUnit<float16>)) == "");
    return emulated_maps_encoded() - before;
  };
  const HeadShape model{4, 1, 64}, other{40, 1, 64};
  CHECK(maps_encoded_by(add(model)) > 0);
  CHECK(maps_encoded_by(add(other)) > 0);
  for (int layer = 0; layer < 2; ++layer) {
    CHECK(maps_encoded_by(add(model)) == 0);
    CHECK(maps_encoded_by(add(other)) == 0);
  }
  CHECK(maps_encoded_by(layers.front()) == 0);
  CHECK(maps_encoded_by(layers.front()) == 0);  // the same arrays again

  for (const int group : {2, 3, 5, 6}) CHECK(maps_encoded_by(add({group, 1, 64})) > 0);
  for (int round = 0; round < 2; ++round) {  // layers that come back, some of which have lost their place
    for (Layer& layer : layers) maps_encoded_by(layer);
  }
}

TEST_CASE("layers that come back are enqueued as graphs, which follow their arguments, in emulated kernels of sm_90",
          "[emulation]") {
  const Tree tree{"siblings", {{-1, 300}, {0, 20}, {0, 12}}, {{1}, {2}}};
  const HeadShape heads{4, 1, 64};
  const Inputs inputs = random_inputs<float16>(tree, heads, 5), other_inputs = random_inputs<float16>(tree, heads, 6);
  Choices choices;
  choices.setup.workers = 3;
  EmulatedProblem<float16> problem(tree, heads, inputs, choices), other(tree, heads, other_inputs, choices);
  const auto expects = [&](EmulatedProblem<float16>& of, const Inputs& given, const AttendOptions& options,
                           bool as_graph) {
    const auto edit = [&](espalier::detail::AttendParams& params) { params.soft_cap = float(options.soft_cap); };
    const int before = emulated_graph_launches();
    of.clear();
    of.enqueue(edit);
    CHECK(emulated_graph_launches() - before == (as_graph ? 1 : 0));
    const Result result = of.result();
    CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, given, options), heads, Scalar::f16,
                       tolerance_of(tree, heads, given, options, kUnit<float16>)) == "");
  };
  AttendOptions plain, capped;
  capped.soft_cap = 2.0f;
  const int graphs = emulated_live_graphs();
  std::thread([&] {
    expects(problem, inputs, plain, false);  // who comes once needs no graph
    expects(problem, inputs, plain, true);
    expects(problem, inputs, plain, true);    // the same again
    expects(problem, inputs, capped, false);  // other kernels
    expects(problem, inputs, plain, true);
    expects(problem, inputs, capped, false);
    expects(problem, inputs, capped, true);
    expects(problem, inputs, capped, true);
    other.attend();
    expects(other, other_inputs, plain, true);
    expects(other, other_inputs, plain, true);
    problem.attend();
    expects(problem, inputs, plain, true);
    // The rows of another problem: q, out and lse are others, K and V are not.
    espalier::detail::AttendParams theirs;
    const auto borrow = [&](espalier::detail::AttendParams& params) { theirs = params; };
    other.enqueue(borrow);
    const auto lend = [&](espalier::detail::AttendParams& params) {
      params.q = theirs.q;
      params.out = theirs.out;
      params.lse = theirs.lse;
    };
    Inputs mixed = inputs;
    mixed.q = other_inputs.q;
    other.clear();
    const int before = emulated_graph_launches();
    problem.enqueue(lend);
    CHECK(emulated_graph_launches() - before == 1);
    const Result result = other.result();
    CHECK(disagreement(result.out, result.lse, oracle_of(tree, heads, mixed), heads, Scalar::f16,
                       tolerance_of(tree, heads, mixed, {}, kUnit<float16>)) == "");
    // In a capture there is no graph within the graph.
    problem.clear();
    run_captured([&] { problem.enqueue({}); }, 2);
    CHECK(emulated_graph_launches() - before == 1);
    const Result captured = problem.result();
    CHECK(disagreement(captured.out, captured.lse, oracle_of(tree, heads, inputs), heads, Scalar::f16,
                       tolerance_of(tree, heads, inputs, {}, kUnit<float16>)) == "");
    CHECK(emulated_live_graphs() >= graphs + 2);
  }).join();
  CHECK(emulated_live_graphs() == graphs);  // a thread takes its graphs with it
}

TEST_CASE("a graph is not taken for that of other heads with the same K, in emulated kernels of sm_90", "[emulation]") {
  const Tree tree{"siblings", {{-1, 300}, {0, 20}, {0, 12}}, {{1}, {2}}};
  const HeadShape few{20, 1, 64}, many{80, 1, 64};  // whose merges are larger
  const Inputs few_inputs = random_inputs<float16>(tree, few, 7);
  Inputs many_inputs = random_inputs<float16>(tree, many, 8);
  many_inputs.k = few_inputs.k;
  many_inputs.v = few_inputs.v;
  Choices choices;
  choices.setup.workers = 3;
  EmulatedProblem<float16> first(tree, few, few_inputs, choices), second(tree, many, many_inputs, choices);
  espalier::detail::AttendParams shared;
  for (int i = 0; i < 3; ++i) first.enqueue([&](espalier::detail::AttendParams& params) { shared = params; });
  for (int i = 0; i < 3; ++i) {
    second.clear();
    second.enqueue([&](espalier::detail::AttendParams& params) {
      params.k = shared.k;
      params.v = shared.v;
    });
    const Result result = second.result();
    CHECK(disagreement(result.out, result.lse, oracle_of(tree, many, many_inputs), many, Scalar::f16,
                       tolerance_of(tree, many, many_inputs, {}, kUnit<float16>)) == "");
  }
}

TEST_CASE("kernels of sm_90 take 16-bit types of five head sizes where everything is aligned", "[emulation]") {
  const auto takes = []<class Element>(Element, int head_dim, CacheLayout layout, int block_tokens) {
    return answer<Element>(emulated_cuda_kernels("").front().why_not_params, head_dim, layout, block_tokens);
  };
  for (const int head_dim : {64, 96, 128, 192, 256}) {
    CHECK(takes(float16{}, head_dim, CacheLayout::tokens_first, 16) == "");
    CHECK(takes(bfloat16{}, head_dim, CacheLayout::heads_first, 256) == "");
    CHECK(takes(float16{}, head_dim, CacheLayout::padded, 16) ==
          "the row stride of q is " + std::to_string(2 * (head_dim + 5) + 5) + ", expected a multiple of 8");
    CHECK(takes(float{}, head_dim, CacheLayout::tokens_first, 16) == "the type is f32, expected f16 or bf16");
  }
  CHECK(takes(float16{}, 80, CacheLayout::tokens_first, 16) == "head_dim is 80, expected 64, 96, 128, 192 or 256");
}

}  // namespace
}  // namespace espalier::test
