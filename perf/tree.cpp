// What a KvTree costs the host between two attentions. Blocks hold 16 tokens.

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <optional>
#include <vector>

#include "espalier/branch_controller.hpp"
#include "espalier/kv_tree.hpp"
#include "espalier/tree_arrays.hpp"

namespace {

using espalier::BranchId;
using espalier::KvTree;

constexpr int kBlockTokens = 16;

/// `branches` branches of `tokens` tokens each below a prompt.
struct Star {
  KvTree::Exec exec;
  KvTree::Pool pool;
  KvTree tree;
  std::vector<BranchId> branches;

  Star(std::int64_t prompt, std::int64_t count, std::int64_t tokens, std::int64_t room)
      : pool(exec, {std::int32_t((prompt + kBlockTokens) / kBlockTokens + count * (tokens + room + 16) / kBlockTokens),
                    kBlockTokens}),
        tree(exec, pool) {
    const BranchId root = tree.root(prompt);
    branches = tree.fork(root, std::int32_t(count));
    tree.prune(root);
    tree.append(branches, tokens);
  }
};

/// One decode step: every branch grows by one token.
void append(benchmark::State& state) {
  constexpr std::int64_t kSteps = 4096;  // between two new trees
  std::optional<Star> star;
  std::int64_t step = kSteps;
  for ([[maybe_unused]] auto run : state) {
    if (step == kSteps) {
      state.PauseTiming();
      star.emplace(state.range(0), state.range(1), 1, kSteps);
      step = 0;
      state.ResumeTiming();
    }
    star->tree.append(star->branches, 1);
    ++step;
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

void last_slots(benchmark::State& state) {
  const Star star(state.range(0), state.range(1), 100, 0);
  for ([[maybe_unused]] auto run : state) benchmark::DoNotOptimize(star.tree.last_slots(star.branches, 1));
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

/// As many forks of one branch as there are branches, and their end.
void fork_prune(benchmark::State& state) {
  Star star(state.range(0), 1, 1, 0);
  for ([[maybe_unused]] auto run : state) {
    const std::vector<BranchId> forks = star.tree.fork(star.branches[0], std::int32_t(state.range(1)));
    star.tree.apply({{}, forks});
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

/// A step of beam search with 32 tokens a beam: decide, apply, append.
void beam_step(benchmark::State& state) {
  constexpr std::int64_t kSteps = 256;
  std::optional<Star> star;
  std::unique_ptr<espalier::BranchController> beam;
  std::int64_t step = kSteps;
  std::uint64_t noise = 1;
  for ([[maybe_unused]] auto run : state) {
    if (step == kSteps) {
      state.PauseTiming();
      star.emplace(state.range(0), state.range(1), 32, kSteps * 32);
      beam = espalier::make_beam_search({std::int32_t(state.range(1))});
      step = 0;
      state.ResumeTiming();
    }
    std::vector<espalier::BranchScore> scores;
    for (const BranchId branch : star->tree.branches()) {
      noise = noise * 6364136223846793005u + 1442695040888963407u;
      scores.push_back({branch, double(noise >> 40)});
    }
    star->tree.apply(beam->decide(scores));
    star->tree.append(star->tree.branches(), 32);
    ++step;
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

void snapshot(benchmark::State& state) {
  const Star star(state.range(0), state.range(1), 100, 0);
  for ([[maybe_unused]] auto run : state) benchmark::DoNotOptimize(star.tree.snapshot());
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

void upload(benchmark::State& state) {
  const Star star(state.range(0), state.range(1), 100, 0);
  const espalier::TreeSnapshot snapshot = star.tree.snapshot();
  const Kokkos::DefaultExecutionSpace exec;
  espalier::TreeArrays<Kokkos::DefaultExecutionSpace> arrays(exec, snapshot);
  for ([[maybe_unused]] auto run : state) {
    arrays.upload(exec, snapshot);
    exec.fence();
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

void sizes(benchmark::internal::Benchmark* run) {
  run->ArgNames({"prompt", "branches"})->Args({4096, 8})->Args({4096, 64})->Args({131072, 64})->Args({4096, 1024});
  run->UseRealTime();
}

BENCHMARK(append)->Name("tree/append")->Apply(sizes);
BENCHMARK(last_slots)->Name("tree/last_slots")->Apply(sizes);
BENCHMARK(fork_prune)->Name("tree/fork_prune")->Apply(sizes);
BENCHMARK(beam_step)->Name("tree/beam_step")->Apply(sizes);
BENCHMARK(snapshot)->Name("tree/snapshot")->Apply(sizes);
BENCHMARK(upload)->Name("tree/upload")->Apply(sizes);

}  // namespace
