// Writing new K and V into random slots of cold layers: append/TOKENS/heads:QUERY,KV,DIM/TYPE. bytes_per_second counts
// what is written.

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>
#include <string>

#include "espalier/attention.hpp"
#include "perf/attention_data.hpp"

namespace {

using espalier::KvCache;
using espalier::ScalarElement;
using espalier::perf::Exec;

constexpr std::int64_t kBlocks = 512;
constexpr std::int64_t kBlockTokens = 16;

template <ScalarElement Element>
void append(benchmark::State& state, espalier::HeadShape heads) {
  using Memory = Exec::memory_space;
  using Blocks = Kokkos::View<Element****, Kokkos::LayoutRight, Memory>;
  const Exec exec;
  const std::int64_t tokens = state.range(0);
  const Blocks k("espalier::perf::k", kBlocks, kBlockTokens, heads.kv_heads, heads.head_dim);
  std::vector<KvCache<Blocks>> layers{{k, espalier::perf::copy_of(k)}};
  const int count = espalier::perf::cold_layers(2 * k.size() * sizeof(Element));
  for (int layer = 1; layer < count; ++layer)
    layers.push_back({espalier::perf::copy_of(k), espalier::perf::copy_of(k)});

  // Distinct slots: every sequence goes through the cache by a step that shares no factor with its size.
  const Kokkos::View<std::int64_t*, Memory> slots("espalier::perf::slots", std::size_t(tokens));
  const auto slots_on_host = Kokkos::create_mirror_view(slots);
  for (std::int64_t token = 0; token < tokens; ++token)
    slots_on_host(std::size_t(token)) = token * 5003 % (kBlocks * kBlockTokens);
  Kokkos::deep_copy(slots, slots_on_host);
  const Kokkos::View<Element***, Kokkos::LayoutRight, Memory> fresh("espalier::perf::new", std::size_t(tokens),
                                                                    heads.kv_heads, heads.head_dim);
  espalier::perf::upload(fresh, std::vector<float>(fresh.size(), 1.0f));

  std::size_t layer = 0;
  for ([[maybe_unused]] auto step : state) {
    espalier::append(exec, slots, fresh, fresh, layers[layer]);
    exec.fence("espalier::perf::append");
    layer = (layer + 1) % layers.size();
  }
  state.SetBytesProcessed(state.iterations() * 2 * std::int64_t(fresh.size() * sizeof(Element)));
  state.SetItemsProcessed(state.iterations() * tokens);
  double sum = 0;
  for (const float value : espalier::perf::download(layers[0].v)) sum += double(value);
  if (sum != double(fresh.size())) state.SkipWithError("the cache does not hold what was appended");
}

template <ScalarElement Element>
void register_type(espalier::HeadShape heads) {
  const std::string name =
      "append/" + espalier::perf::name_of(heads) + "/" + espalier::name_of(espalier::kScalarOf<Element>);
  benchmark::RegisterBenchmark(name, [=](benchmark::State& state) { append<Element>(state, heads); })
      ->ArgName("tokens")
      ->Arg(1)
      ->Arg(64)
      ->Arg(4096)
      ->MeasureProcessCPUTime()
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

[[maybe_unused]] const bool registered = [] {
  register_type<float>({32, 8, 128});
  register_type<espalier::float16>({32, 8, 128});
  register_type<espalier::bfloat16>({32, 8, 128});
  return true;
}();

}  // namespace
