// Every strategy on the same problems, in turn: how long each takes, what the cost model said, and whether `automatic`
// is as fast as the best of the others.
//
//   espalier_strategies [--csv] [--seconds S] PROBLEM...
//
// A PROBLEM is WORKLOAD/heads:QUERY,KV,DIM/TYPE, as in espalier_perf. Blocks of 16 tokens lie in random order; layers
// with their own K and V take turns, so that these come from memory. Strategies take turns too, each a few attentions
// long, until each has had S seconds; figures are medians of its turns. Before that, every strategy's result is compared
// with that of the first.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/random.hpp"
#include "cli/workload.hpp"
#include "espalier/espalier.hpp"

namespace {

using espalier::HeadShape;
using espalier::Plan;
using espalier::PlanReport;
using espalier::PlanStrategy;
using espalier::Scalar;
using espalier::ScalarElement;
using Exec = Kokkos::DefaultExecutionSpace;

constexpr int kBlockTokens = 16;
constexpr std::size_t kColdBytes = std::size_t(1) << 30;  // of all layers: more than a cache holds
constexpr int kFewestTurns = 3;

struct Problem {
  std::string name;
  std::string workload;
  HeadShape heads;
  Scalar scalar;
};

Problem parse(const std::string& name) {
  const std::size_t heads_at = name.find("/heads:");
  const std::size_t type_at = name.rfind('/');
  HeadShape heads{};
  if (heads_at == std::string::npos || type_at == heads_at ||
      std::sscanf(name.c_str() + heads_at, "/heads:%d,%d,%d/", &heads.query_heads, &heads.kv_heads, &heads.head_dim) !=
          3)
    throw std::invalid_argument("'" + name + "' is not of the form WORKLOAD/heads:QUERY,KV,DIM/TYPE");
  const std::string type = name.substr(type_at + 1);
  for (const Scalar scalar : {Scalar::f32, Scalar::f16, Scalar::bf16})
    if (type == espalier::name_of(scalar)) return {name, name.substr(0, heads_at), heads, scalar};
  throw std::invalid_argument("'" + name + "': the type is '" + type + "', expected f32, f16 or bf16");
}

/// What one strategy did with one problem.
struct Measurement {
  PlanStrategy strategy;
  double ms;       ///< median of an attention
  double plan_us;  ///< median of an update
  PlanReport plan;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Seconds that body takes.
template <class Body>
double seconds_of(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// One tree, queries, and layers of paged K and V, all random.
template <ScalarElement Element>
struct Layers {
  using Memory = Exec::memory_space;
  using Rows = Kokkos::View<Element***, Kokkos::LayoutRight, Memory>;
  using Blocks = Kokkos::View<Element****, Kokkos::LayoutRight, Memory>;

  Exec exec;
  espalier::TreeSnapshot snapshot;
  std::vector<espalier::KvCache<Blocks>> caches;
  Rows q, out;
  Kokkos::View<float**, Kokkos::LayoutRight, Memory> lse;

  explicit Layers(const Problem& problem) {
    const espalier::cli::TreeInput tree = espalier::cli::make_workload(problem.workload);
    snapshot = espalier::make_snapshot(tree.nodes, tree.rows, kBlockTokens);
    const std::size_t blocks = shuffle_blocks();
    const HeadShape& heads = problem.heads;
    const auto paged = [&](std::uint64_t seed) {
      Blocks view(Kokkos::view_alloc(Kokkos::WithoutInitializing, "espalier::perf::kv"), blocks, kBlockTokens,
                  heads.kv_heads, heads.head_dim);
      randomise(view.data(), view.size(), seed);
      return view;
    };
    const std::size_t bytes =
        2 * blocks * kBlockTokens * std::size_t(heads.kv_heads) * std::size_t(heads.head_dim) * sizeof(Element);
    const std::size_t count = std::clamp<std::size_t>((kColdBytes + bytes - 1) / bytes, 1, 256);
    for (std::size_t layer = 0; layer < count; ++layer) caches.push_back({paged(2 * layer), paged(2 * layer + 1)});
    q = Rows("espalier::perf::q", tree.rows.size(), heads.query_heads, heads.head_dim);
    out = Rows("espalier::perf::out", tree.rows.size(), heads.query_heads, heads.head_dim);
    lse = decltype(lse)("espalier::perf::lse", tree.rows.size(), heads.query_heads);
    randomise(q.data(), q.size(), 2 * count);
  }

  void attend(const Plan<Exec>& plan, std::size_t layer) const {
    espalier::attend(exec, plan, q, caches[layer % caches.size()], out, lse);
    exec.fence("espalier::perf::attend");
  }

  [[nodiscard]] std::vector<float> result_of(const Plan<Exec>& plan) const {
    Kokkos::deep_copy(out, Element{});
    attend(plan, 0);
    const auto host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, out);
    std::vector<float> values(host.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = espalier::to_float(host.data()[i]);
    return values;
  }

 private:
  /// @return how many blocks there are
  std::size_t shuffle_blocks() {
    const auto highest = std::max_element(snapshot.block_table.begin(), snapshot.block_table.end());
    std::vector<std::int32_t> places(highest == snapshot.block_table.end() ? 1 : std::size_t(*highest) + 1);
    std::iota(places.begin(), places.end(), 0);
    espalier::cli::Random random(1);
    for (std::size_t i = places.size(); i > 1; --i) std::swap(places[i - 1], places[random.below(i)]);
    for (espalier::BlockId& block : snapshot.block_table) block = espalier::BlockId{places[std::size_t(block)]};
    return places.size();
  }

  void randomise(Element* values, std::size_t count, std::uint64_t seed) const {
    constexpr std::size_t kRun = 4096;
    Kokkos::parallel_for(
        "espalier::perf::randomise", Kokkos::RangePolicy<Exec>(exec, 0, (count + kRun - 1) / kRun),
        KOKKOS_LAMBDA(std::size_t run) {
          espalier::cli::Random random(espalier::cli::mix(seed, run));
          for (std::size_t i = run * kRun; i < count && i < (run + 1) * kRun; ++i)
            values[i] = espalier::from_float<Element>(random.normal());
        });
  }
};

double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(difference / norm);
}

/// @throws std::runtime_error if two strategies disagree
template <ScalarElement Element>
std::vector<Measurement> measure(const Problem& problem, double seconds) {
  const Layers<Element> layers(problem);
  const espalier::TreeArrays<Exec> arrays(layers.exec, layers.snapshot);
  struct Run {
    Measurement measurement{};
    Plan<Exec> plan;
    std::vector<double> turns{};  // seconds of an attention
    double spent = 0;
  };
  std::vector<Run> runs;
  std::vector<float> first_result;
  for (const PlanStrategy strategy : espalier::kPlanStrategies) {
    espalier::PlanConfig config;
    config.heads = problem.heads;
    config.scalar = problem.scalar;
    config.strategy = strategy;
    config.capacity = Plan<Exec>::required_capacity(layers.snapshot, config);
    Run run{.plan = Plan<Exec>(layers.exec, config)};
    std::vector<double> updates;
    for (int i = 0; i < 5; ++i)
      updates.push_back(seconds_of([&] {
        run.plan.update(layers.exec, arrays);
        layers.exec.fence("espalier::perf::update");
      }));
    run.measurement = {strategy, 0, 1e6 * median(updates), run.plan.report(layers.exec)};
    const std::vector<float> result = layers.result_of(run.plan);
    if (first_result.empty()) first_result = result;
    const double allowed = problem.scalar == Scalar::f32 ? 1e-5 : problem.scalar == Scalar::f16 ? 0x1p-10 : 0x1p-7;
    if (!(relative_difference(result, first_result) <= allowed))
      throw std::runtime_error(problem.name + ": " + name_of(strategy) + " and " + name_of(PlanStrategy::sequence) +
                               " disagree");
    runs.push_back(std::move(run));
  }
  std::size_t layer = 0;
  for (bool any = true; any;) {
    any = false;
    for (Run& run : runs) {
      if (run.turns.size() >= kFewestTurns && run.spent >= seconds) continue;
      any = true;
      constexpr double kTurn = 0.02;
      const double once = run.turns.empty() ? kTurn : run.turns[0];
      const int attentions = std::max(1, int(kTurn / once));
      // A short one first, so that the plan's own arrays are in the caches, as they are in a model.
      if (attentions > 1) layers.attend(run.plan, layer++);
      const double turn = seconds_of([&] {
        for (int i = 0; i < attentions; ++i) layers.attend(run.plan, layer++);
      });
      run.turns.push_back(turn / attentions);
      run.spent += turn;
    }
  }
  std::vector<Measurement> measurements;
  for (Run& run : runs) {
    run.measurement.ms = 1e3 * median(run.turns);
    measurements.push_back(run.measurement);
  }
  return measurements;
}

std::vector<Measurement> measure(const Problem& problem, double seconds) {
  switch (problem.scalar) {
    case Scalar::f32: return measure<float>(problem, seconds);
    case Scalar::f16: return measure<espalier::float16>(problem, seconds);
    case Scalar::bf16: return measure<espalier::bfloat16>(problem, seconds);
  }
  return {};
}

void print_csv(const Problem& problem, const std::vector<Measurement>& measurements) {
  for (const Measurement& m : measurements)
    std::printf("\"%s\",%s,%.4f,%.4f,%.4f,%.1f,%d,%d,%.3f\n", problem.name.c_str(), name_of(m.strategy), m.ms,
                m.plan.predicted_us * 1e-3, m.plan.imbalance, m.plan_us, m.plan.tiles, m.plan.partials,
                m.plan.kv_bytes / m.plan.unique_kv_bytes);
}

void print_row(const Problem& problem, const std::vector<Measurement>& measurements) {
  const Measurement& automatic = measurements.back();
  const auto faster = [](const Measurement& a, const Measurement& b) { return a.ms < b.ms; };
  const Measurement& best = *std::min_element(measurements.begin(), measurements.end() - 1, faster);
  std::printf("| `%s` |", problem.name.c_str());
  for (const Measurement& m : measurements) std::printf(" %.3g |", m.ms);
  std::printf(" %.2f (`%s`) | %.3g | %.1f %% | %.0f |\n", automatic.ms / best.ms, name_of(best.strategy),
              automatic.plan.predicted_us * 1e-3, 100 * automatic.plan.imbalance, automatic.plan_us);
}

void print_header(bool csv) {
  if (csv) {
    std::printf("problem,strategy,ms,predicted_ms,imbalance,plan_us,tiles,partials,reads\n");
    return;
  }
  std::printf("| problem |");
  for (const PlanStrategy strategy : espalier::kPlanStrategies) std::printf(" `%s` ms |", name_of(strategy));
  std::printf(" `automatic` / best | predicted ms | imbalance | plan us |\n|---|");
  for (int column = 0; column < int(std::size(espalier::kPlanStrategies)) + 4; ++column) std::printf("---|");
  std::printf("\n");
}

int run(const std::vector<std::string>& arguments) {
  bool csv = false;
  double seconds = 1;
  std::vector<Problem> problems;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--csv")
      csv = true;
    else if (arguments[i] == "--seconds" && i + 1 < arguments.size())
      seconds = std::stod(arguments[++i]);
    else
      problems.push_back(parse(arguments[i]));
  }
  print_header(csv);
  for (const Problem& problem : problems) {
    (csv ? print_csv : print_row)(problem, measure(problem, seconds));
    std::fflush(stdout);
  }
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char* argv[]) try {
  const Kokkos::ScopeGuard kokkos(Kokkos::InitializationSettings().set_disable_warnings(true));
  return run({argv + 1, argv + argc});
} catch (const std::exception& error) {
  std::fprintf(stderr, "espalier_strategies: %s\n", error.what());
  return 2;
}
