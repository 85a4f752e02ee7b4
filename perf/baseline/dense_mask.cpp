// dense_mask/WORKLOAD/heads:QUERY,KV,DIM/f32: the baseline that tree attention replaces, on the same cold layers. See
// dense_mask.hpp. The mask is made beforehand.

#include "perf/baseline/dense_mask.hpp"

#include <benchmark/benchmark.h>

#include <string>

#include "perf/attention_data.hpp"

namespace {

using espalier::perf::DenseMask;

void dense_mask(benchmark::State& state, const std::string& workload) {
  const espalier::perf::AttentionData<float> data(workload);
  const espalier::HeadShape heads = data.heads;
  const DenseMask::Exec exec;
  const DenseMask baseline(data.tree.nodes, data.tree.rows, heads);
  const auto tokens = std::size_t(data.tree.tokens());
  const DenseMask::View<float***> q("espalier::perf::q", data.tree.rows.size(), heads.query_heads, heads.head_dim);
  const DenseMask::View<float***> out("espalier::perf::out", data.tree.rows.size(), heads.query_heads, heads.head_dim);
  std::vector<std::pair<DenseMask::View<float***>, DenseMask::View<float***>>> layers;
  layers.emplace_back(DenseMask::View<float***>("espalier::perf::k", tokens, heads.kv_heads, heads.head_dim),
                      DenseMask::View<float***>("espalier::perf::v", tokens, heads.kv_heads, heads.head_dim));
  espalier::perf::upload(q, data.q);
  espalier::perf::upload(layers[0].first, data.k);
  espalier::perf::upload(layers[0].second, data.v);
  const int count = espalier::perf::cold_layers(data.kv_bytes());
  for (int layer = 1; layer < count; ++layer)
    layers.emplace_back(espalier::perf::copy_of(layers[0].first), espalier::perf::copy_of(layers[0].second));

  std::size_t layer = 0;
  for ([[maybe_unused]] auto step : state) {
    baseline.attend(exec, q, layers[layer].first, layers[layer].second, out);
    exec.fence("espalier::perf::dense_mask");
    layer = (layer + 1) % layers.size();
  }
  state.SetBytesProcessed(std::int64_t(data.kv_bytes()) * state.iterations());
  const double error = data.error_of(espalier::perf::download(out));
  state.counters["error"] = error;
  if (!(error <= espalier::perf::allowed_error(espalier::Scalar::f32)))
    state.SkipWithError("the result is not the oracle's");
}

[[maybe_unused]] const bool registered = [] {
  for (const std::string& workload : espalier::perf::kWorkloads)
    benchmark::RegisterBenchmark(
        "dense_mask/" + workload + "/" + espalier::perf::name_of(espalier::perf::heads_of(workload)) + "/f32",
        [=](benchmark::State& state) { dense_mask(state, workload); })
        ->MeasureProcessCPUTime()
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
