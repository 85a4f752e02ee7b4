// A pool's operations on lists of blocks. items_per_second counts blocks acquired, retained or released.

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "espalier/block_pool.hpp"

namespace {

using Exec = Kokkos::DefaultExecutionSpace;
using Pool = espalier::BlockPool<Exec>;

/// A pool with twice the blocks of the list, half of them in use, so that lists lie somewhere in the middle.
struct Setup {
  Exec exec;
  std::int32_t blocks;
  Pool pool;
  Kokkos::View<espalier::BlockId*, Exec::memory_space> ids;

  explicit Setup(const benchmark::State& state)
      : blocks(std::int32_t(state.range(0))),
        pool(exec, {2 * blocks, 16}),
        ids("espalier::perf::ids", std::size_t(blocks)) {
    pool.acquire(exec, ids);
  }

  void finish(benchmark::State& state) const {
    state.SetItemsProcessed(state.iterations() * 2 * blocks);
    if (pool.stats(exec).error.fault != espalier::PoolFault::none) state.SkipWithError("the pool reports an error");
  }
};

void acquire_release(benchmark::State& state) {
  Setup setup(state);
  const Kokkos::View<espalier::BlockId*, Exec::memory_space> taken("espalier::perf::taken", std::size_t(setup.blocks));
  for ([[maybe_unused]] auto step : state) {
    setup.pool.acquire(setup.exec, taken);
    setup.pool.release(setup.exec, taken);
    setup.exec.fence();
  }
  setup.finish(state);
}

void retain_release(benchmark::State& state) {
  Setup setup(state);
  for ([[maybe_unused]] auto step : state) {
    setup.pool.retain(setup.exec, setup.ids);
    setup.pool.release(setup.exec, setup.ids);
    setup.exec.fence();
  }
  setup.finish(state);
}

/// One block in every entry: all threads meet in one place.
void retain_release_same(benchmark::State& state) {
  Setup setup(state);
  Kokkos::deep_copy(setup.ids, espalier::BlockId{0});
  for ([[maybe_unused]] auto step : state) {
    setup.pool.retain(setup.exec, setup.ids);
    setup.pool.release(setup.exec, setup.ids);
    setup.exec.fence();
  }
  setup.finish(state);
}

void list_lengths(benchmark::internal::Benchmark* run) {
  run->ArgName("blocks")->Arg(10)->Arg(1'000)->Arg(4'096)->Arg(4'097)->Arg(100'000)->UseRealTime();
}

BENCHMARK(acquire_release)->Name("pool/acquire_release")->Apply(list_lengths);
BENCHMARK(retain_release)->Name("pool/retain_release")->Apply(list_lengths);
BENCHMARK(retain_release_same)->Name("pool/retain_release_same")->Apply(list_lengths);

}  // namespace
