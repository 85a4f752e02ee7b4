// A decode loop as an engine has one: a paged cache of several layers, a beam search that forks and prunes, one plan for
// all layers of a step, and what to do when the cache is full. The model is a stand-in: numbers made from a token's id.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <espalier/espalier.hpp>
#include <map>
#include <numeric>

using namespace espalier;
using Exec = Kokkos::DefaultHostExecutionSpace;
using Vectors = Kokkos::View<float***, Kokkos::LayoutRight, Exec>;     // [tokens or rows, heads, head_dim]
using CacheHalf = Kokkos::View<float****, Kokkos::LayoutRight, Exec>;  // [blocks, block_tokens, kv_heads, head_dim]

constexpr HeadShape kHeads{.query_heads = 8, .kv_heads = 2, .head_dim = 64};
constexpr int kLayers = 4;
constexpr int kPromptTokens = 200;
constexpr int kSteps = 48;
constexpr int kStepsBetweenDecisions = 8;
constexpr int kRows = 6;    // beams
constexpr int kNodes = 64;  // more than beams of this width have: a fork adds two at most, and dead ends go away
constexpr PoolConfig kPool{.blocks = 19, .block_tokens = 16};

// What the model would compute: q, k or v of a token in a layer.
void project(const Vectors& out, std::span<const int> tokens, int layer, int which) {
  for (std::size_t i = 0; i < out.extent(0); ++i)
    for (std::size_t h = 0; h < out.extent(1); ++h)
      for (std::size_t d = 0; d < out.extent(2); ++d)
        out(i, h, d) = float(std::sin(double(tokens[i] * 97 + layer * 31 + which * 17) + double(h * 7 + d)));
}

struct Branch {
  int token;  // the last one
  double score;
};

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  const Exec exec;

  BlockPool<Exec> pool(exec, kPool);
  KvTree tree(exec, pool);
  std::vector<KvCache<CacheHalf>> caches;  // one for each layer; all layers use the same slots
  for (int layer = 0; layer < kLayers; ++layer)
    caches.push_back({CacheHalf("k", kPool.blocks, kPool.block_tokens, kHeads.kv_heads, kHeads.head_dim),
                      CacheHalf("v", kPool.blocks, kPool.block_tokens, kHeads.kv_heads, kHeads.head_dim)});

  // Writes K and V of new tokens into their slots, in one layer.
  const auto append_tokens = [&](int layer, std::span<const int> tokens, const std::vector<std::int64_t>& slots) {
    Vectors k("k", tokens.size(), kHeads.kv_heads, kHeads.head_dim), v("v", k.layout());
    project(k, tokens, layer, 1);
    project(v, tokens, layer, 2);
    Kokkos::View<std::int64_t*, Exec> slot_view("slots", slots.size());
    std::copy(slots.begin(), slots.end(), slot_view.data());
    append(exec, slot_view, k, v, caches[layer]);
    exec.fence();  // k and v go away
  };

  // Prefill: the prompt's K and V, once for all branches to come.
  const BranchId trunk = tree.root(kPromptTokens);
  std::vector<int> prompt(kPromptTokens);
  std::iota(prompt.begin(), prompt.end(), 0);
  for (int layer = 0; layer < kLayers; ++layer) append_tokens(layer, prompt, tree.slots(trunk, 0));

  TreeArrays<Exec> arrays(exec, {.nodes = kNodes, .rows = kRows, .blocks = kPool.blocks + kNodes});
  PlanConfig config{.heads = kHeads};
  config.capacity.nodes = kNodes;
  config.capacity.rows = kRows;
  Plan<Exec> plan(exec, config);

  const auto beams = make_beam_search({.width = kRows});
  std::map<std::int32_t, Branch> state{{trunk.index, {prompt.back(), 0.0}}};  // a pruned branch's index is used again
  for (int step = 0; step < kSteps; ++step) {
    if (step % kStepsBetweenDecisions == 0) {
      std::vector<BranchScore> scores;
      for (const BranchId branch : tree.branches()) scores.push_back({branch, state.at(branch.index).score});
      const BranchDecision decision = beams->decide(scores);
      const std::vector<BranchId> created = tree.apply(decision);
      std::size_t next = 0;
      for (const BranchFork& fork : decision.forks)
        for (int i = 0; i < fork.count; ++i, ++next) {
          const Branch& parent = state.at(fork.branch.index);
          state[created[next].index] = {parent.token + i + 1, parent.score};  // a sampler would draw another token
        }
    }

    // Room for one token in every branch; the worst goes where there is none.
    for (bool fits = false; !fits;) {
      try {
        tree.append(tree.branches(), 1);
        fits = true;
      } catch (const Error& error) {
        const std::vector<BranchId> live = tree.branches();
        if (error.code() != ErrorCode::capacity_exceeded || live.size() == 1) throw;
        tree.prune(*std::min_element(live.begin(), live.end(), [&](BranchId a, BranchId b) {
          return state.at(a.index).score < state.at(b.index).score;
        }));
        std::printf("step %2d: pruned the worst branch: %s\n", step, error.what());
      }
    }
    const std::vector<BranchId> live = tree.branches();
    std::vector<int> tokens;
    for (const BranchId branch : live) tokens.push_back(state.at(branch.index).token);

    arrays.upload(exec, tree.snapshot());
    plan.update(exec, arrays);  // once for all layers

    const std::vector<std::int64_t> slots = tree.last_slots(live, 1);
    Vectors q("q", live.size(), kHeads.query_heads, kHeads.head_dim), out("out", q.layout());
    const Kokkos::View<float**, Kokkos::LayoutRight, Exec> lse("lse", live.size(), kHeads.query_heads);
    for (int layer = 0; layer < kLayers; ++layer) {
      append_tokens(layer, tokens, slots);
      project(q, tokens, layer, 0);
      attend(exec, plan, q, caches[layer], out, lse);
    }
    exec.fence();

    for (std::size_t row = 0; row < live.size(); ++row) {  // rows are the live branches, in order of creation
      auto& [token, score] = state.at(live[row].index);
      token = int(std::abs(out(row, 0, 0)) * 1e4) % 1000;
      score += out(row, 0, 1);
    }
    if (step % kStepsBetweenDecisions == kStepsBetweenDecisions - 1)
      std::printf("step %2d: %zu branches, %lld tokens stored instead of %lld\n", step, live.size(),
                  static_cast<long long>(tree.stored_tokens()), static_cast<long long>(tree.unshared_tokens()));
  }
}
