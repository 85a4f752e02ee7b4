#include "cli/problem.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "cli/input_error.hpp"
#include "cli/layer.hpp"
#include "cli/random.hpp"
#include "cli/stopwatch.hpp"
#include "espalier/tree_arrays.hpp"
#include "support/oracle.hpp"

namespace espalier::cli {
namespace {

/// The order in which blocks lie in the cache: shuffled, and the same in every run.
std::vector<std::int32_t> shuffled(std::int32_t blocks) {
  std::vector<std::int32_t> order(std::size_t(blocks), 0);
  std::iota(order.begin(), order.end(), 0);
  Random random{std::uint64_t(blocks)};
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

template <ScalarElement Element>
Solution solve_as(const Problem& problem) {
  using Exec = Kokkos::DefaultExecutionSpace;
  const Exec exec;
  const auto& [nodes, rows] = problem.tree;
  const int block_tokens = problem.block_tokens;

  // The contiguous layout lets nodes begin in the middle of a block; one block more than needed stays unused.
  TreeSnapshot snapshot = make_snapshot(nodes, rows, block_tokens, TreeLayout::contiguous);
  std::vector<std::int64_t> slots = slots_in_node_order(nodes, block_tokens, TreeLayout::contiguous);
  const std::int64_t blocks = std::int64_t(slots.size()) / block_tokens + 2;
  Layer<Element>::expects_room(problem.heads, blocks, block_tokens);
  const std::vector<std::int32_t> place = shuffled(std::int32_t(blocks));
  for (BlockId& block : snapshot.block_table) block = BlockId{place[std::size_t(block)]};
  for (std::int64_t& slot : slots)
    slot = std::int64_t(place[std::size_t(slot / block_tokens)]) * block_tokens + slot % block_tokens;

  Layer<Element> layer(exec, problem.heads, std::int32_t(blocks), block_tokens);
  const auto copy = [](std::span<const float> values, std::size_t entry, std::size_t size, Element* to) {
    std::transform(&values[entry * size], &values[entry * size] + size, to, from_float<Element>);
  };
  const std::size_t kv_size = std::size_t(problem.heads.kv_heads) * std::size_t(problem.heads.head_dim);
  const std::size_t q_size = std::size_t(problem.heads.query_heads) * std::size_t(problem.heads.head_dim);
  layer.append(slots, [&](std::size_t token, Element* k, Element* v) {
    copy(problem.k, token, kv_size, k);
    copy(problem.v, token, kv_size, v);
  });
  layer.set_queries(std::int32_t(rows.size()),
                    [&](std::int32_t row, Element* q) { copy(problem.q, std::size_t(row), q_size, q); });

  PlanConfig config;
  config.heads = problem.heads;
  config.scalar = problem.scalar;
  config.strategy = problem.strategy;
  config.cost_model = problem.cost_model;
  config.kernel = problem.kernel;
  config.capacity = Plan<Exec>::required_capacity(snapshot, config);
  const TreeArrays<Exec> tree(exec, snapshot);
  Plan<Exec> plan(exec, config);
  exec.fence();
  Stopwatch watch;
  plan.update(exec, tree);
  (void)plan.report(exec);  // throws where the plan did not fit
  Solution solution;
  solution.plan_ms = watch.restart();
  layer.attend(plan, problem.options);
  exec.fence();
  solution.attend_ms = watch.restart();
  solution.out = layer.out();
  solution.lse = layer.lse();
  return solution;
}

template <ScalarElement Element>
std::size_t round_as(std::span<float> values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = to_float(from_float<Element>(values[i]));
    if (!std::isfinite(values[i])) return i;
  }
  return values.size();
}

}  // namespace

Solution solve(const Problem& problem) {
  return with_element(problem.scalar, [&]<class Element>() { return solve_as<Element>(problem); });
}

Solution solve_by_oracle(const Problem& problem) {
  Stopwatch watch;
  const oracle::Result result =
      oracle::attend(problem.tree.nodes, problem.tree.rows, problem.heads, problem.q, problem.k, problem.v,
                     double(problem.options.scale), double(problem.options.soft_cap));
  Solution solution{{result.out.begin(), result.out.end()}, {result.lse.begin(), result.lse.end()}};
  solution.attend_ms = watch.restart();
  return solution;
}

std::size_t round_to(Scalar scalar, std::span<float> values) {
  return with_element(scalar, [&]<class Element>() { return round_as<Element>(values); });
}

}  // namespace espalier::cli
