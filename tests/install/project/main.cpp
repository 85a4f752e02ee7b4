// What a project outside espalier does with it: two branches share a prompt and attend over their paths.

#include <cmath>
#include <cstdio>
#include <espalier/espalier.hpp>

namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;
using Vectors = Kokkos::View<float***, Kokkos::LayoutRight, Exec::memory_space>;
using Cache = Kokkos::View<float****, Kokkos::LayoutRight, Exec::memory_space>;

constexpr espalier::HeadShape kHeads{.query_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr int kBlocks = 16;
constexpr int kBlockTokens = 8;

/// With all keys zero and all values one, every result is one and the lse is the log of the path's length.
int count_wrong_rows() {
  const Exec exec;
  espalier::BlockPool<Exec> pool(exec, {.blocks = kBlocks, .block_tokens = kBlockTokens});
  espalier::KvTree tree(exec, pool);
  const auto trunk = tree.root(20);
  const auto twig = tree.fork(trunk, 1).front();
  tree.append(trunk, 5);
  tree.append(twig, 9);

  const auto snapshot = tree.snapshot();
  const espalier::TreeArrays<Exec> arrays(exec, snapshot);
  espalier::PlanConfig config{.heads = kHeads};
  config.capacity = espalier::Plan<Exec>::required_capacity(snapshot, config);
  espalier::Plan<Exec> plan(exec, config);
  plan.update(exec, arrays);

  const Vectors q("q", 2, kHeads.query_heads, kHeads.head_dim);
  const Cache k("k", kBlocks, kBlockTokens, kHeads.kv_heads, kHeads.head_dim);
  const Cache v("v", kBlocks, kBlockTokens, kHeads.kv_heads, kHeads.head_dim);
  const Vectors out("out", 2, kHeads.query_heads, kHeads.head_dim);
  const Kokkos::View<float**, Kokkos::LayoutRight, Exec::memory_space> lse("lse", 2, kHeads.query_heads);
  Kokkos::deep_copy(exec, v, 1.0f);
  espalier::attend(exec, plan, q, espalier::KvCache{k, v}, out, lse);
  exec.fence();

  int wrong = 0;
  const auto branches = tree.branches();
  for (int row = 0; row < 2; ++row) {
    const auto length = static_cast<float>(tree.tokens(branches[row]));
    const bool right = std::abs(out(row, 3, 31) - 1.0f) < 1e-5f && std::abs(lse(row, 3) - std::log(length)) < 1e-5f;
    std::printf("row %d: %g tokens, out %g, lse %g: %s\n", row, length, out(row, 3, 31), lse(row, 3),
                right ? "right" : "wrong");
    wrong += right ? 0 : 1;
  }
  return wrong;
}

}  // namespace

int main(int argc, char* argv[]) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  std::printf("espalier %s\n", espalier::version().data());
  return count_wrong_rows();
}
