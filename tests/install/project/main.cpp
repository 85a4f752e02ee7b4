// What a project outside espalier does with it, on the CPU and, where Kokkos has one, on the GPU: two branches share a
// prompt and attend over their paths.

#include <cmath>
#include <cstdio>
#include <espalier/espalier.hpp>

namespace {

constexpr espalier::HeadShape kHeads{.query_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr int kBlocks = 16;
constexpr int kBlockTokens = 8;

/// With all keys zero and all values one, every result is one and the lse is the log of the path's length.
template <class Exec>
int count_wrong_rows() {
  using Host = Kokkos::DefaultHostExecutionSpace;
  using Vectors = Kokkos::View<float***, Kokkos::LayoutRight, typename Exec::memory_space>;
  using Cache = Kokkos::View<float****, Kokkos::LayoutRight, typename Exec::memory_space>;

  // The tree and its pool stay on the host; what follows is wherever Exec computes.
  const Host host;
  espalier::BlockPool<Host> pool(host, {.blocks = kBlocks, .block_tokens = kBlockTokens});
  espalier::KvTree tree(host, pool);
  const auto trunk = tree.root(20);
  const auto twig = tree.fork(trunk, 1).front();
  tree.append(trunk, 5);
  tree.append(twig, 9);

  const Exec exec;
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
  const Kokkos::View<float**, Kokkos::LayoutRight, typename Exec::memory_space> lse("lse", 2, kHeads.query_heads);
  Kokkos::deep_copy(exec, v, 1.0f);
  espalier::attend(exec, plan, q, espalier::KvCache{k, v}, out, lse);
  const auto host_out = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, out);  // waits
  const auto host_lse = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, lse);

  int wrong = 0;
  const auto branches = tree.branches();
  for (int row = 0; row < 2; ++row) {
    const auto length = static_cast<float>(tree.tokens(branches[row]));
    const float result = host_out(row, 3, 31), weight = host_lse(row, 3);
    const bool right = std::abs(result - 1.0f) < 1e-5f && std::abs(weight - std::log(length)) < 1e-5f;
    std::printf("%s row %d: %g tokens, out %g, lse %g: %s\n", exec.name(), row, length, result, weight,
                right ? "right" : "wrong");
    wrong += right ? 0 : 1;
  }
  return wrong;
}

/// Kokkos for a GPU ends the program where there is none.
bool has_device() {
  int devices = 1;
#if defined(KOKKOS_ENABLE_CUDA)
  if (cudaGetDeviceCount(&devices) != cudaSuccess) return false;
#elif defined(KOKKOS_ENABLE_HIP)
  if (hipGetDeviceCount(&devices) != hipSuccess) return false;
#endif
  return devices > 0;
}

}  // namespace

int main(int argc, char* argv[]) {
  std::printf("espalier %s\n", espalier::version().data());
  if (!has_device()) {
    std::printf("skipped: compiled and linked, but there is no GPU here to run on\n");
    return 0;
  }
  const Kokkos::ScopeGuard kokkos(argc, argv);
  int wrong = count_wrong_rows<Kokkos::DefaultHostExecutionSpace>();
  if constexpr (!std::is_same_v<Kokkos::DefaultExecutionSpace, Kokkos::DefaultHostExecutionSpace>)
    wrong += count_wrong_rows<Kokkos::DefaultExecutionSpace>();
  return wrong;
}
