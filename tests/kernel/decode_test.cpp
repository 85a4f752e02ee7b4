// Decode steps without the host: the tree grows on the device, the plan with it, new tokens are appended and attended.
// On a GPU the steps are replays of one captured graph.

#include <algorithm>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#include "espalier/espalier.hpp"
#include "support/captured.hpp"
#include "support/errors.hpp"
#include "support/problem.hpp"
#include "support/spaces_and_elements.hpp"

namespace espalier::test {
namespace {

constexpr int kBlockTokens = 4;
constexpr std::int32_t kSteps = 11;  // leaves go on into other blocks

constexpr std::int32_t kShortPrompt = 37;
constexpr std::int32_t kLongPrompt = 300;  // the fused kernels cut it

/// A prompt and branches of different lengths, some of them below a fork; every leaf has a row, in another order.
Tree tree_after(std::int32_t steps, std::int32_t prompt) {
  Tree tree{"decode", {{-1, prompt}, {0, 5}, {0, 3}, {1, 1}, {1, 8}, {2, 2}, {0, 4}, {-1, 9}, {7, 1}}, {}};
  for (const std::int32_t leaf : {8, 3, 6, 4, 5}) {
    tree.nodes[std::size_t(leaf)].tokens += steps;
    tree.rows.push_back({leaf, -1});
  }
  return tree;
}

/// The snapshot of the tree before the first step, with the blocks of the last one.
TreeSnapshot snapshot_with_room(std::int32_t prompt) {
  const TreeSnapshot before = snapshot_of(tree_after(0, prompt), kBlockTokens);
  TreeSnapshot snapshot = snapshot_of(tree_after(kSteps, prompt), kBlockTokens);
  snapshot.tokens = before.tokens;
  snapshot.row_visible = before.row_visible;
  return snapshot;
}

/// K and V of one token of a node, whichever step it came with: [kv_heads, head_dim]
std::vector<float> token_vector(std::int32_t node, std::int32_t token, std::size_t size, std::uint32_t seed) {
  std::mt19937 random(seed + 1000 * std::uint32_t(node) + std::uint32_t(token));
  std::normal_distribution<float> normal;
  std::vector<float> vector(size);
  for (float& value : vector) value = to_float(from_float<float16>(normal(random)));
  return vector;
}

/// K or V of all tokens of a tree in node order.
std::vector<float> vectors_of(const Tree& tree, std::size_t size, std::uint32_t seed) {
  std::vector<float> all;
  for (std::size_t node = 0; node < tree.nodes.size(); ++node)
    for (std::int32_t token = 0; token < tree.nodes[node].tokens; ++token) {
      const std::vector<float> vector = token_vector(std::int32_t(node), token, size, seed);
      all.insert(all.end(), vector.begin(), vector.end());
    }
  return all;
}

template <class View>
void set(const View& view, const std::vector<float>& values) {
  const auto host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < values.size(); ++i) host.data()[i] = from_float<typename View::value_type>(values[i]);
  Kokkos::deep_copy(view, host);
}

template <class View>
std::vector<float> get(const View& view) {
  const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
  std::vector<float> values;
  for (std::size_t i = 0; i < host.size(); ++i) values.push_back(to_float(host.data()[i]));
  return values;
}

template <class Exec, class Element>
void check_steps(PlanStrategy strategy, Kernel kernel, std::int32_t prompt) {
  using Memory = typename Exec::memory_space;
  using Rows = Kokkos::View<Element***, Kokkos::LayoutRight, Memory>;
  using Blocks = Kokkos::View<Element****, Kokkos::LayoutRight, Memory>;
  INFO(name_of(strategy) << ", " << name_of(kScalarOf<Element>) << ", a prompt of " << prompt << " tokens");
  const HeadShape heads{8, 2, 64};
  const std::size_t token_size = 2 * 64;
  const Exec exec = capturing_instance<Exec>();
  const TreeSnapshot snapshot = snapshot_with_room(prompt);
  const Tree last = tree_after(kSteps, prompt);
  const std::size_t rows = last.rows.size();
  TreeArrays<Exec> tree(exec, snapshot);
  PlanConfig config;
  config.heads = heads;
  config.scalar = kScalarOf<Element>;
  config.strategy = strategy;
  config.kernel = kernel;
  config.capacity = Plan<Exec>::required_capacity(snapshot, config, exec);
  Plan<Exec> plan(exec, config);
  INFO("kernel " << plan.kernel().name);

  // What is not written yet is NaN.
  const std::size_t blocks = snapshot.block_table.size();
  const KvCache cache{Blocks("k", blocks, kBlockTokens, 2, 64), Blocks("v", blocks, kBlockTokens, 2, 64)};
  const auto fill = [&](const Blocks& view, std::uint32_t seed) {
    std::vector<float> values(view.size(), std::numeric_limits<float>::quiet_NaN());
    const std::vector<std::int64_t> slots = slots_in_node_order(last.nodes, kBlockTokens);
    const std::vector<NodeSpec> first = tree_after(0, prompt).nodes;
    std::size_t slot = 0;
    for (std::size_t node = 0; node < last.nodes.size(); ++node)
      for (std::int32_t token = 0; token < last.nodes[node].tokens; ++token, ++slot) {
        if (token >= first[node].tokens) continue;
        const std::vector<float> vector = token_vector(std::int32_t(node), token, token_size, seed);
        std::copy(vector.begin(), vector.end(), values.begin() + std::ptrdiff_t(std::size_t(slots[slot]) * token_size));
      }
    set(view, values);
  };
  fill(cache.k, 1);
  fill(cache.v, 2);
  const Rows q("q", rows, 8, 64), out("out", rows, 8, 64), k_new("k_new", rows, 2, 64), v_new("v_new", rows, 2, 64);
  const Kokkos::View<float**, Kokkos::LayoutRight, Memory> lse("lse", rows, 8);
  const Kokkos::View<std::int64_t*, Memory> slots("slots", rows);
  const Inputs queries = random_inputs<float16>(last, heads, 5);
  set(q, queries.q);

  // Whatever is done only once is done here, by a step that has no room: it grows nothing and appends nothing.
  TreeSnapshot full = snapshot;
  full.block_table.resize(1);
  full.first_block.assign(full.first_block.size(), 1);
  TreeArrays<Exec> warm(exec, full);
  warm.grow(exec, slots);
  for (const float slot : get(slots)) CHECK(slot == -1);
  append(exec, slots, k_new, v_new, cache);
  plan.update(exec, tree);
  plan.grow(exec, tree);
  attend(exec, plan, q, cache, out, lse);
  exec.fence();

  const Captured<Exec> step(exec, [&] {
    tree.grow(exec, slots);
    plan.grow(exec, tree);
    append(exec, slots, k_new, v_new, cache);
    attend(exec, plan, q, cache, out, lse);
  });
  for (std::int32_t done = 1; done <= kSteps; ++done) {
    const Tree now = tree_after(done, prompt);
    std::vector<float> k, v;
    for (const RowSpec& row : now.rows)
      for (const auto& [vectors, seed] : {std::pair{&k, 1u}, std::pair{&v, 2u}}) {
        const std::int32_t token = now.nodes[std::size_t(row.node)].tokens - 1;
        const std::vector<float> vector = token_vector(row.node, token, token_size, seed);
        vectors->insert(vectors->end(), vector.begin(), vector.end());
      }
    set(k_new, k);
    set(v_new, v);
    step.run(exec);
    exec.fence();
    Inputs inputs{queries.q, vectors_of(now, token_size, 1), vectors_of(now, token_size, 2)};
    for (std::vector<float>* values : {&inputs.q, &inputs.k, &inputs.v})
      for (float& value : *values) value = to_float(from_float<Element>(value));
    CHECK(disagreement(get(out), get(lse), oracle_of(now, heads, inputs), heads, kScalarOf<Element>,
                       tolerance_of(now, heads, inputs, {}, fused_weight_unit<Exec, Element>())) == "");
  }
  // The blocks are full where a node's last step filled one.
  static_cast<void>(plan.report(exec));
}

TEMPLATE_LIST_TEST_CASE("captured steps of grow, append and attend follow the tree as it grows", "[decode]",
                        SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  for (const PlanStrategy strategy : kPlanStrategies)
    check_steps<Exec, Element>(strategy, Kernel::automatic, kShortPrompt);
  check_steps<Exec, Element>(PlanStrategy::automatic, Kernel::portable, kLongPrompt);
}

TEMPLATE_LIST_TEST_CASE("captured steps of a fused kernel follow the tree as it grows", "[decode]", SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const std::vector<KernelInfo> kernels = available_kernels();
  const bool has_fused = std::any_of(kernels.begin(), kernels.end(), [](const KernelInfo& kernel) {
    return kernel.name != "portable" && kernel.backend == Exec::name() && kernel.available && !kernel.emulated;
  });
  if (!has_fused || kScalarOf<Element> == Scalar::f32) SKIP("no fused kernel runs here on " << Exec::name());
  for (const std::int32_t prompt : {kShortPrompt, kLongPrompt})
    check_steps<Exec, Element>(PlanStrategy::automatic, Kernel::fused, prompt);
}

TEMPLATE_LIST_TEST_CASE("a row that cannot grow stays as it is and gets no slot", "[decode]", ExecutionSpaces) {
  const TestType exec;
  // Row 0 is above children, rows 1 and 2 share a leaf, row 3 sees a part of its leaf, row 4 has room for one token.
  const Tree tree{"", {{-1, 4}, {0, 2}, {0, 2}, {0, 3}}, {{0, -1}, {1, -1}, {1, -1}, {2, 1}, {3, -1}}};
  TreeArrays<TestType> arrays(exec, snapshot_of(tree, kBlockTokens));
  const Kokkos::View<std::int64_t*, typename TestType::memory_space> slots("slots", 5);
  arrays.grow(exec, slots);
  exec.fence();
  CHECK(to_vector(slots) == std::vector<std::int64_t>{-1, -1, -1, -1, 15});
  arrays.grow(exec, slots);
  exec.fence();
  CHECK(to_vector(slots) == std::vector<std::int64_t>(5, -1));
  const Kokkos::View<std::int64_t*, typename TestType::memory_space> few("few", 4);
  CHECK(wrong_error(ErrorCode::invalid_argument, "TreeArrays::grow: slots has 4 entries, expected 5, one for each row",
                    [&] { arrays.grow(exec, few); }) == "");
}

}  // namespace
}  // namespace espalier::test
