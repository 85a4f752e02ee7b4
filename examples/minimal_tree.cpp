#include <cmath>
#include <cstdio>
#include <espalier/espalier.hpp>

int main(int argc, char** argv) {
  using namespace espalier;
  using Exec = Kokkos::DefaultHostExecutionSpace;
  const Kokkos::ScopeGuard kokkos(argc, argv);
  const Exec exec;

  BlockPool<Exec> pool(exec, {.blocks = 64, .block_tokens = 16});  // 64 blocks of 16 KV slots
  KvTree tree(exec, pool);
  const BranchId trunk = tree.root(100);  // a prompt of 100 tokens,
  tree.fork(trunk, 2);                    // three branches that share it,
  tree.append(tree.branches(), 10);       // and 10 tokens of its own for each

  const TreeSnapshot snapshot = tree.snapshot();
  const TreeArrays<Exec> arrays(exec, snapshot);
  PlanConfig config{.heads = {.query_heads = 8, .kv_heads = 2, .head_dim = 64}};
  config.capacity = Plan<Exec>::required_capacity(snapshot, config);
  Plan<Exec> plan(exec, config);
  plan.update(exec, arrays);  // once for each step, for all layers

  Kokkos::View<float****, Kokkos::LayoutRight, Exec> k("k", 64, 16, 2, 64), v("v", 64, 16, 2, 64);
  Kokkos::View<float***, Kokkos::LayoutRight, Exec> q("q", 3, 8, 64), out("out", 3, 8, 64);
  const Kokkos::View<float**, Kokkos::LayoutRight, Exec> lse("lse", 3, 8);
  attend(exec, plan, q, KvCache{k, v}, out, lse);  // each row attends over its own root-to-leaf path
  exec.fence();

  std::printf("stored %lld tokens instead of %lld; exp(lse) of row 0 counts its %.0f tokens\n",
              static_cast<long long>(tree.stored_tokens()), static_cast<long long>(tree.unshared_tokens()),
              std::exp(double(lse(0, 0))));
}
