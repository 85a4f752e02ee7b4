// Every strategy on the same problems, in turn: how long each takes, what the cost model said, and whether `automatic`
// is as fast as the best of the others.
//
// Blocks of 16 tokens lie in random order; layers with their own K and V take turns, so that these come from memory.
// Strategies take turns too, each a few attentions long, until each has had its time; figures are medians of its turns.
// The fastest of six may owe that to luck, so `automatic` and the fastest fixed strategy then take turns once more, those
// two alone: each turn of one is compared with that of the other beside it. Before all that, every strategy's result is
// compared with that of the first.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <sstream>
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
constexpr double kFarBehind = 2;  // a strategy whose first turn took so many times the fastest's has no other

constexpr const char* kUsage = R"(usage: espalier_strategies [OPTION]... PROBLEM...

Every strategy of a plan on the same problems, in turn: medians of the times of an attention, and `automatic` beside the
fastest of the others.

PROBLEM is WORKLOAD/heads:QUERY,KV,DIM/TYPE, star:2048,64,64/heads:32,8,128/bf16 for example; WORKLOAD as in `espalier
plan --help`, TYPE f32, f16 or bf16.

  --seconds S   for each strategy (default 0.3); one that is far behind has a single turn
  --pair S      for each of `automatic` and the fastest of the others, in turns of those two alone (default: --seconds)
  --only NAMES  strategies besides `automatic`, by commas (default: all)
  --csv         one line for each problem and strategy
  --help        this
)";

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

struct Options {
  bool csv = false;
  double seconds = 0.3;
  std::optional<double> pair_seconds;
  std::vector<PlanStrategy> strategies{std::begin(espalier::kPlanStrategies), std::end(espalier::kPlanStrategies)};
};

/// What one strategy did with one problem.
struct Measurement {
  PlanStrategy strategy;
  double ms;       ///< median of an attention
  double plan_us;  ///< median of an update
  PlanReport plan;
};

/// Times of `automatic` over those of the fastest other strategy, of turns side by side.
struct Ratio {
  double lower_quartile, median, upper_quartile;
  PlanStrategy best;
  std::size_t turns;
};

struct Result {
  std::vector<Measurement> measurements;  // `automatic` last
  Ratio ratio;
};

/// The value that a fraction of the others lie below.
double quantile(std::vector<double> values, double fraction) {
  const auto place = values.begin() + std::ptrdiff_t(double(values.size()) * fraction);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

double median(const std::vector<double>& values) { return quantile(values, 0.5); }

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
  std::optional<espalier::TreeArrays<Exec>> arrays;
  std::vector<espalier::KvCache<Blocks>> caches;
  Rows q, out;
  Kokkos::View<float**, Kokkos::LayoutRight, Memory> lse;

  explicit Layers(const Problem& problem) {
    const espalier::cli::TreeInput tree = espalier::cli::make_workload(problem.workload);
    snapshot = espalier::make_snapshot(tree.nodes, tree.rows, kBlockTokens);
    const std::size_t blocks = shuffle_blocks();
    arrays.emplace(exec, snapshot);
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

/// A strategy's plan and the turns that it has had.
struct Run {
  Measurement measurement{};
  Plan<Exec> plan;
  std::vector<double> turns{};  // seconds of an attention
  double spent = 0;
};

/// A few attentions, each over the next layer.
template <ScalarElement Element>
void take_turn(const Layers<Element>& layers, Run& run, std::size_t& layer) {
  constexpr double kTurn = 0.02;
  const int attentions = std::max(1, run.turns.empty() ? 1 : int(kTurn / run.turns[0]));
  // A short one first, so that the plan's own arrays are in the caches, as they are in a model.
  if (attentions > 1) layers.attend(run.plan, layer++);
  const double turn = seconds_of([&] {
    for (int i = 0; i < attentions; ++i) layers.attend(run.plan, layer++);
  });
  run.turns.push_back(turn / attentions);
  run.spent += turn;
}

/// @throws std::runtime_error if two strategies disagree
template <ScalarElement Element>
std::vector<Run> plan_all(const Problem& problem, const Layers<Element>& layers, const Options& options) {
  std::vector<Run> runs;
  std::vector<float> first_result;
  for (const PlanStrategy strategy : options.strategies) {
    espalier::PlanConfig config;
    config.heads = problem.heads;
    config.scalar = problem.scalar;
    config.strategy = strategy;
    config.capacity = Plan<Exec>::required_capacity(layers.snapshot, config);
    Run run{.plan = Plan<Exec>(layers.exec, config)};
    std::vector<double> updates;
    for (int i = 0; i < 5; ++i)
      updates.push_back(seconds_of([&] {
        run.plan.update(layers.exec, *layers.arrays);
        layers.exec.fence("espalier::perf::update");
      }));
    run.measurement = {strategy, 0, 1e6 * median(updates), run.plan.report(layers.exec)};
    const std::vector<float> result = layers.result_of(run.plan);
    if (first_result.empty()) first_result = result;
    const double allowed = problem.scalar == Scalar::f32 ? 1e-5 : problem.scalar == Scalar::f16 ? 0x1p-10 : 0x1p-7;
    if (!(relative_difference(result, first_result) <= allowed))
      throw std::runtime_error(problem.name + ": " + name_of(strategy) + " and " + name_of(options.strategies[0]) +
                               " disagree");
    runs.push_back(std::move(run));
  }
  return runs;
}

template <ScalarElement Element>
Result measure(const Problem& problem, const Options& options) {
  const Layers<Element> layers(problem);
  std::vector<Run> runs = plan_all(problem, layers, options);
  std::size_t layer = 0;
  for (Run& run : runs) take_turn(layers, run, layer);
  const auto faster = [](const Run& a, const Run& b) { return a.turns[0] < b.turns[0]; };
  const double far_behind = kFarBehind * std::min_element(runs.begin(), runs.end(), faster)->turns[0];
  for (bool any = true; any;) {
    any = false;
    for (Run& run : runs) {
      if (run.turns[0] > far_behind || (run.turns.size() >= kFewestTurns && run.spent >= options.seconds)) continue;
      any = true;
      take_turn(layers, run, layer);
    }
  }
  Result result{};
  for (Run& run : runs) {
    run.measurement.ms = 1e3 * median(run.turns);
    result.measurements.push_back(run.measurement);
  }
  Run& automatic = runs.back();
  Run& best = *std::min_element(runs.begin(), runs.end() - 1,
                                [](const Run& a, const Run& b) { return a.measurement.ms < b.measurement.ms; });
  std::vector<double> ratios;
  const double enough = automatic.spent + options.pair_seconds.value_or(options.seconds);
  while (ratios.size() < kFewestTurns || automatic.spent < enough) {
    const bool automatic_first = ratios.size() % 2 == 0;  // whoever comes second finds other things in the caches
    take_turn(layers, automatic_first ? automatic : best, layer);
    take_turn(layers, automatic_first ? best : automatic, layer);
    ratios.push_back(automatic.turns.back() / best.turns.back());
  }
  result.ratio = {quantile(ratios, 0.25), median(ratios), quantile(ratios, 0.75), best.measurement.strategy,
                  ratios.size()};
  return result;
}

Result measure(const Problem& problem, const Options& options) {
  switch (problem.scalar) {
    case Scalar::f32: return measure<float>(problem, options);
    case Scalar::f16: return measure<espalier::float16>(problem, options);
    case Scalar::bf16: return measure<espalier::bfloat16>(problem, options);
  }
  return {};
}

void print_csv(const Problem& problem, const Result& result) {
  for (const Measurement& m : result.measurements) {
    std::printf("\"%s\",%s,%.4f,%.4f,%.4f,%.1f,%d,%d,%.3f,", problem.name.c_str(), name_of(m.strategy), m.ms,
                m.plan.predicted_us * 1e-3, m.plan.imbalance, m.plan_us, m.plan.tiles, m.plan.partials,
                m.plan.kv_bytes / m.plan.unique_kv_bytes);
    if (m.strategy == result.ratio.best)
      std::printf("%.4f,%.4f,%.4f,%zu", result.ratio.median, result.ratio.lower_quartile, result.ratio.upper_quartile,
                  result.ratio.turns);
    else
      std::printf(",,,");
    std::printf("\n");
  }
}

void print_row(const Problem& problem, const Result& result) {
  const Measurement& automatic = result.measurements.back();
  const Ratio& ratio = result.ratio;
  std::printf("| `%s` |", problem.name.c_str());
  for (const Measurement& m : result.measurements) std::printf(" %.3g |", m.ms);
  std::printf(" %.3f (%.3f .. %.3f; `%s`) | %.3g | %.1f %% | %.0f |\n", ratio.median, ratio.lower_quartile,
              ratio.upper_quartile, name_of(ratio.best), automatic.plan.predicted_us * 1e-3,
              100 * automatic.plan.imbalance, automatic.plan_us);
}

void print_header(const Options& options) {
  if (options.csv) {
    std::printf(
        "problem,strategy,ms,predicted_ms,imbalance,plan_us,tiles,partials,reads,automatic_over_it,lower_quartile,"
        "upper_quartile,turns\n");
    return;
  }
  std::printf("| problem |");
  for (const PlanStrategy strategy : options.strategies) std::printf(" `%s` ms |", name_of(strategy));
  std::printf(" `automatic` / best | predicted ms | imbalance | plan us |\n|---|");
  for (std::size_t column = 0; column < options.strategies.size() + 4; ++column) std::printf("---|");
  std::printf("\n");
}

/// The named strategies, then `automatic`.
std::vector<PlanStrategy> strategies_named(const std::string& names) {
  std::vector<PlanStrategy> strategies;
  std::stringstream list(names);
  for (std::string name; std::getline(list, name, ',');) {
    const auto strategy = espalier::strategy_from_name(name);
    if (!strategy || *strategy == PlanStrategy::automatic)
      throw std::invalid_argument("--only: '" + name + "' is no strategy that `automatic` can be compared with");
    strategies.push_back(*strategy);
  }
  if (strategies.empty()) throw std::invalid_argument("--only: expected at least one strategy");
  strategies.push_back(PlanStrategy::automatic);
  return strategies;
}

double seconds_from(const std::string& text, const std::string& option) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || *end != '\0' || !(seconds >= 0 && seconds < 1e6))
    throw std::invalid_argument(option + ": '" + text + "' is no number of seconds");
  return seconds;
}

int run(const std::vector<std::string>& arguments) {
  Options options;
  std::vector<Problem> problems;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw std::invalid_argument(argument + ": expected a value");
      return arguments[++i];
    };
    if (argument == "--csv")
      options.csv = true;
    else if (argument == "--seconds")
      options.seconds = seconds_from(value(), argument);
    else if (argument == "--pair")
      options.pair_seconds = seconds_from(value(), argument);
    else if (argument == "--only")
      options.strategies = strategies_named(value());
    else if (argument.starts_with("-"))
      throw std::invalid_argument("'" + argument + "' is no option; --help lists them");
    else
      problems.push_back(parse(argument));
  }
  if (problems.empty()) throw std::invalid_argument("expected a PROBLEM; --help says what one is");
  print_header(options);
  for (const Problem& problem : problems) {
    (options.csv ? print_csv : print_row)(problem, measure(problem, options));
    std::fflush(stdout);
  }
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char* argv[]) try {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::fputs(kUsage, stdout);
    return EXIT_SUCCESS;
  }
  const Kokkos::ScopeGuard kokkos(Kokkos::InitializationSettings().set_disable_warnings(true));
  return run(arguments);
} catch (const std::exception& error) {
  std::fprintf(stderr, "espalier_strategies: %s\n", error.what());
  return 2;
}
