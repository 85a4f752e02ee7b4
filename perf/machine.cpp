// What this machine can do at best, by all threads: the floors that README.md compares with.

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>

#include "backends/portable/lanes.hpp"

namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;
using Vector = espalier::portable::Lanes<espalier::portable::kVectorFloats>;

/// Independent chains of multiply-add in registers, no memory.
void multiply_add_rate(benchmark::State& state) {
  constexpr int kChains = 12, kSteps = 100000;
  const Exec exec;
  const int threads = exec.concurrency();
  const Kokkos::View<float*, Exec> results("espalier::perf::results", std::size_t(threads));
  for ([[maybe_unused]] auto step : state) {
    Kokkos::parallel_for(
        "espalier::perf::multiply_add", Kokkos::RangePolicy<Exec>(exec, 0, threads, Kokkos::ChunkSize(1)),
        KOKKOS_LAMBDA(int thread) {
          Vector chain[kChains];
          for (Vector& value : chain) value = Vector::broadcast(float(thread));
          const Vector factor = Vector::broadcast(0.999f);
          for (int i = 0; i < kSteps; ++i)
            for (Vector& value : chain) value = {value.value * factor.value + factor.value};
          Vector sum = chain[0];
          for (int c = 1; c < kChains; ++c) sum = sum + chain[c];
          float lanes[Vector::kFloats];
          sum.store(lanes);
          results(std::size_t(thread)) = lanes[0];
        });
    exec.fence("espalier::perf::multiply_add");
  }
  const double flops = 2.0 * Vector::kFloats * kChains * kSteps * threads;
  state.counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK(multiply_add_rate)
    ->Name("machine/multiply_add")
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
