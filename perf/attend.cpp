// Attention over named workloads: attend/WORKLOAD/heads:QUERY,KV,DIM/TYPE/STRATEGY. Blocks of 16 tokens lie in random
// order; K and V are cold, as they are in a model, whose layers take turns. bytes_per_second counts each token once,
// however often it is read. Each run compares its result with the oracle.
//
//   read/WORKLOAD/...  a plain read of the same K and V by the same threads

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>
#include <numeric>
#include <string>

#include "espalier/espalier.hpp"
#include "perf/attention_data.hpp"

namespace {

using espalier::AttendOptions;
using espalier::KvCache;
using espalier::Plan;
using espalier::PlanConfig;
using espalier::PlanReport;
using espalier::PlanStrategy;
using espalier::ScalarElement;
using espalier::perf::Exec;

constexpr int kBlockTokens = 16;

/// Layers of paged K and V, and the plan of one step.
template <ScalarElement Element>
struct AttendSetup {
  using Memory = Exec::memory_space;
  using Rows = Kokkos::View<Element***, Kokkos::LayoutRight, Memory>;
  using Blocks = Kokkos::View<Element****, Kokkos::LayoutRight, Memory>;

  Exec exec;
  espalier::perf::AttentionData<Element> data;
  espalier::TreeSnapshot snapshot;
  std::vector<KvCache<Blocks>> layers;
  Rows q, out;
  Kokkos::View<float**, Kokkos::LayoutRight, Memory> lse;

  explicit AttendSetup(const std::string& workload)
      : data(workload), snapshot(espalier::make_snapshot(data.tree.nodes, data.tree.rows, kBlockTokens)) {
    const std::vector<std::int64_t> slots = espalier::slots_in_node_order(data.tree.nodes, kBlockTokens);
    const std::size_t blocks = std::size_t(*std::max_element(slots.begin(), slots.end())) / kBlockTokens + 1;
    const std::vector<std::int32_t> places = shuffled(blocks);
    for (espalier::BlockId& block : snapshot.block_table) block = espalier::BlockId{places[std::size_t(block)]};

    const espalier::HeadShape heads = data.heads;
    const auto paged = [&](const std::vector<float>& values) {
      const std::size_t size = std::size_t(heads.kv_heads) * std::size_t(heads.head_dim);
      std::vector<float> in_blocks(blocks * kBlockTokens * size);
      for (std::size_t token = 0; token < slots.size(); ++token) {
        const auto slot = std::size_t(slots[token]);
        const std::size_t target = std::size_t(places[slot / kBlockTokens]) * kBlockTokens + slot % kBlockTokens;
        std::copy_n(&values[token * size], size, &in_blocks[target * size]);
      }
      Blocks view("espalier::perf::kv", blocks, kBlockTokens, heads.kv_heads, heads.head_dim);
      espalier::perf::upload(view, in_blocks);
      return view;
    };
    layers.push_back({paged(data.k), paged(data.v)});
    const int count = espalier::perf::cold_layers(2 * layers[0].k.size() * sizeof(Element));
    for (int layer = 1; layer < count; ++layer)
      layers.push_back({espalier::perf::copy_of(layers[0].k), espalier::perf::copy_of(layers[0].v)});

    q = Rows("espalier::perf::q", data.tree.rows.size(), heads.query_heads, heads.head_dim);
    out = Rows("espalier::perf::out", data.tree.rows.size(), heads.query_heads, heads.head_dim);
    lse = decltype(lse)("espalier::perf::lse", data.tree.rows.size(), heads.query_heads);
    espalier::perf::upload(q, data.q);
  }

  [[nodiscard]] Plan<Exec> plan(PlanStrategy strategy) const {
    PlanConfig config;
    config.heads = data.heads;
    config.scalar = espalier::kScalarOf<Element>;
    config.strategy = strategy;
    config.capacity = Plan<Exec>::required_capacity(snapshot, config);
    return {exec, config};
  }

 private:
  static std::vector<std::int32_t> shuffled(std::size_t blocks) {
    std::vector<std::int32_t> places(blocks);
    std::iota(places.begin(), places.end(), 0);
    espalier::cli::Random random(2);
    for (std::size_t i = blocks; i > 1; --i) std::swap(places[i - 1], places[random.below(i)]);
    return places;
  }
};

template <ScalarElement Element>
void attend(benchmark::State& state, const std::string& workload, PlanStrategy strategy) {
  AttendSetup<Element> setup(workload);
  const espalier::TreeArrays<Exec> arrays(setup.exec, setup.snapshot);
  Plan<Exec> plan = setup.plan(strategy);
  plan.update(setup.exec, arrays);
  std::size_t layer = 0;
  for ([[maybe_unused]] auto step : state) {
    espalier::attend(setup.exec, plan, setup.q, setup.layers[layer], setup.out, setup.lse);
    setup.exec.fence("espalier::perf::attend");
    layer = (layer + 1) % setup.layers.size();
  }
  const PlanReport report = plan.report(setup.exec);
  state.SetBytesProcessed(std::int64_t(report.unique_kv_bytes) * state.iterations());
  state.counters["flops"] = benchmark::Counter(report.flops, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["tiles"] = report.tiles;
  state.counters["reads"] = report.kv_bytes / report.unique_kv_bytes;
  const double error = setup.data.error_of(espalier::perf::download(setup.out));
  state.counters["error"] = error;
  if (!(error <= espalier::perf::allowed_error(espalier::kScalarOf<Element>)))
    state.SkipWithError("the result is not the oracle's");
}

/// Adds up all words of K and V, several runs of memory at a time, so that a thread has many reads under way.
template <ScalarElement Element>
void read(benchmark::State& state, const std::string& workload) {
  AttendSetup<Element> setup(workload);
  constexpr std::size_t kRun = 512, kStreams = 8;  // words; runs that a thread reads together
  const std::size_t words = setup.layers[0].k.size() * sizeof(Element) / sizeof(std::uint64_t);
  const std::size_t pieces = words / (kRun * kStreams);
  if (pieces == 0) return state.SkipWithMessage("too small");
  std::size_t layer = 0;
  for ([[maybe_unused]] auto step : state) {
    const auto& [k, v] = setup.layers[layer];
    for (const auto* view : {&k, &v}) {
      const auto* source = reinterpret_cast<const std::uint64_t*>(view->data());
      std::uint64_t sum = 0;
      Kokkos::parallel_reduce(
          "espalier::perf::read", Kokkos::RangePolicy<Exec>(setup.exec, 0, pieces),
          KOKKOS_LAMBDA(std::size_t piece, std::uint64_t& total) {
            const std::uint64_t* begin = source + piece * kRun * kStreams;
            std::uint64_t sums[kStreams] = {};
            for (std::size_t i = 0; i < kRun; i += 8)
              for (std::size_t stream = 0; stream < kStreams; ++stream)
                for (std::size_t word = 0; word < 8; ++word) sums[stream] += begin[stream * kRun + i + word];
            for (const std::uint64_t part : sums) total += part;
          },
          sum);
      benchmark::DoNotOptimize(sum);
    }
    layer = (layer + 1) % setup.layers.size();
  }
  state.SetBytesProcessed(std::int64_t(2 * pieces * kRun * kStreams * sizeof(std::uint64_t)) * state.iterations());
}

/// Time by the clock on the wall; the CPU column then adds up all threads.
void measure(benchmark::internal::Benchmark* benchmark) {
  benchmark->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);
}

template <ScalarElement Element>
void register_type(const std::string& workload) {
  const std::string problem = workload + "/" + espalier::perf::name_of(espalier::perf::heads_of(workload)) + "/" +
                              espalier::name_of(espalier::kScalarOf<Element>);
  for (const PlanStrategy strategy : espalier::kPlanStrategies)
    measure(benchmark::RegisterBenchmark("attend/" + problem + "/" + name_of(strategy),
                                         [=](benchmark::State& state) { attend<Element>(state, workload, strategy); }));
  measure(benchmark::RegisterBenchmark("read/" + problem,
                                       [=](benchmark::State& state) { read<Element>(state, workload); }));
}

[[maybe_unused]] const bool registered = [] {
  for (const std::string& workload : espalier::perf::kWorkloads) {
    register_type<float>(workload);
    register_type<espalier::float16>(workload);
    register_type<espalier::bfloat16>(workload);
  }
  return true;
}();

}  // namespace
