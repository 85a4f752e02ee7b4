// Stand-alone driver of the fused CUDA kernels: no Kokkos, the plan made on the host. It regenerates named workloads,
// lays K and V in shuffled blocks, several layers with their own K and V so that L2 is as cold as in a model, checks
// every output against a reference kernel in the same run, and times a captured graph of all layers.
//
//   attend_driver [--workload NAME... --heads QUERY,KV,HEAD_DIM] [--dtype bf16|f16] [--block-tokens N] [--layers N]
//                 [--repeat N] [--csv FILE] [--validate CASES [--seed N] [--head-dim N]]
//
// Without --workload: the published table, or those of its rows that --only names by letters. What the planner takes into
// account may be changed: --workers N, --short TOKENS, --block, --small-block, --half-block, --tile, --merge (us), --memory (GB/s).
// Exit code 1 where a result is wrong.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "perf/gpu/device_problem.hpp"

namespace {

using namespace espalier;
using namespace espalier::perf;
using gpu::sm90::FusedParams;

// ------------------------------------------------------------------------------------------------------- timing

/// Median microseconds of one layer of a captured graph.
template <class Enqueue>
double time_graph(int layers, int repeat, cudaStream_t stream, Enqueue enqueue) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  for (int layer = 0; layer < layers; ++layer) check(enqueue(layer), "launch");
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < repeat + 3; ++i) {
    check(cudaEventRecord(begin, stream), "record");
    check(cudaGraphLaunch(exec, stream), "graph launch");
    check(cudaEventRecord(end, stream), "record");
    check(cudaStreamSynchronize(stream), "run");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "time");
    if (i >= 3) times.push_back(ms * 1000.0f / static_cast<float>(layers));
  }
  check(cudaEventDestroy(begin), "event");
  check(cudaEventDestroy(end), "event");
  check(cudaGraphExecDestroy(exec), "graph");
  check(cudaGraphDestroy(graph), "graph");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct Options {
  std::vector<std::string> workloads;
  std::string csv, dtype = "bf16", only;
  Heads heads = {32, 8, 128};
  int block_tokens = 0, head_dim = 0, layers = 4, repeat = 25, validate = 0, seed = 1;
  bool parts = true;
  perf::PlannerConfig planner;
};

struct Target {
  const char* name;
  Heads heads;
  double peer, study, goal;
};

const Target kTargets[] = {
    {"layers:1,1024/2048,32", {16, 1, 128}, 117.4, 44.2, 39.5},
    {"layers:1,16,64/1024,256,32", {16, 1, 128}, 14.1, 11.7, 10.5},
    {"layers:1,10/4096,416", {32, 8, 128}, 31.3, 0, 18.6},
    {"layers:1,1024/2048,32", {32, 8, 128}, 193.9, 92.9, 80.0},
    {"layers:1,16,64/1024,256,32", {32, 8, 128}, 32.2, 21.6, 17.4},
    {"layers:1,20/4000,200", {32, 8, 128}, 29.7, 21.2, 18.2},
    {"layers:1,256/2048,64", {32, 8, 128}, 72.5, 38.8, 29.9},
    {"layers:1,256/256,32", {32, 8, 128}, 35.0, 0, 18.8},
    {"layers:1,256/6000,16", {32, 8, 128}, 136.1, 53.4, 49.2},
    {"layers:1,4,16,512/1024,256,128,32", {32, 8, 128}, 89.1, 0, 32.1},
    {"layers:1,4,16,64,256,1024/256,32,256,64,32,256", {32, 8, 128}, 392.1, 324, 304.7},
    {"layers:1,64/20000,16", {32, 8, 128}, 99.2, 47.7, 42.6},
    {"layers:1,8,16,32,64,256,1024/256,128,64,32,32,32,32", {32, 8, 128}, 134.2, 0, 61.0},
    {"layers:1,8,512/32,2048,256", {32, 8, 128}, 244.5, 0, 170.0},
    {"layers:2,8,16,256/256,256,32,32", {32, 8, 128}, 41.4, 0, 21.9},
    {"layers:256/1024", {32, 8, 128}, 266.1, 0, 258.1},
    {"layers:8,16,32,256/512,512,256,32", {32, 8, 128}, 65.1, 0, 41.2},
    {"layers:1,16,64/1024,256,32", {32, 32, 128}, 49.8, 38.8, 36.9},
    {"layers:1,64/20000,32", {32, 32, 128}, 149.2, 98.3, 93.4},
    {"layers:1,1024/2048,32", {64, 8, 128}, 333.8, 159.8, 137.0},
};

template <class T>
bool measure(const Options& options, const std::string& name, const Heads& heads, const Target* target, FILE* csv,
             double& log_sum, int& count) {
  const perf::Workload workload = perf::make_workload(name);
  int block_tokens = options.block_tokens;
  if (block_tokens == 0) {
    block_tokens = 32;
    for (const perf::NodeSpec& node : workload.nodes) {
      if (node.tokens % 32 == 16) block_tokens = 16;
    }
  }
  const perf::Tree tree = perf::make_tree(workload, {block_tokens});
  Settings settings;
  settings.heads = heads;
  settings.layers = options.layers;
  settings.scalar = options.dtype == "f16" ? ScalarType::f16 : ScalarType::bf16;
  Problem<T> problem(tree, settings);
  perf::PlannerConfig config = options.planner;
  config.query_heads = heads.query;
  config.kv_heads = heads.kv;
  config.head_dim = heads.dim;
  const auto begin = std::chrono::steady_clock::now();
  const perf::FusedPlan plan = perf::plan_fused(tree, config);
  const double plan_us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
  const DevicePlan device_plan(tree, plan, heads.dim);
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  const auto params = [&](int layer) {
    return FusedParams{problem.params(layer), device_plan.view(), tree.rows(), true};
  };
  const double total =
      time_graph(options.layers, options.repeat, stream, [&](int l) { return gpu::sm90::attend(params(l), stream); });
  Error error;
  for (int layer : {0, options.layers - 1}) {
    const Error e = problem.compare(layer);
    error.norm = std::max(error.norm, e.norm);
    error.lse = std::max(error.lse, e.lse);
    error.wrong_place |= e.wrong_place;
  }
  double kernel = 0, merge = 0;
  if (options.parts) {
    kernel = time_graph(options.layers, options.repeat, stream,
                        [&](int l) { return gpu::sm90::attend_main(params(l), stream); });
    merge = time_graph(options.layers, options.repeat, stream,
                       [&](int l) { return gpu::sm90::attend_merge(params(l), stream); });
  }
  check(cudaStreamDestroy(stream), "stream");
  double tokens = 0, flops = 0;
  for (int i = 0; i < tree.nodes(); ++i) {
    const auto node = static_cast<std::size_t>(i);
    tokens += tree.tokens[node];
    flops += 4.0 * heads.dim * heads.query * tree.tokens[node] * (tree.row_end[node] - tree.row_begin[node]);
  }
  const double bytes = tokens * heads.kv * heads.dim * 4;
  const double floor = std::max(bytes / 4.6e6, flops / 790e6) + 3.5;
  const bool good = !error.wrong_place && error.norm < 4e-3 && error.lse < 2e-2;
  std::printf("%-50s %3d/%-2d %3d %7.1f us (main %6.1f merge %5.1f) %5.0f GB/s %4.0f TF floor %6.1f x%4.2f",
              name.c_str(), heads.query, heads.kv, block_tokens, total, kernel, merge, bytes / total * 1e-3,
              flops / total * 1e-6, floor, total / floor);
  if (target)
    std::printf(" peer %6.1f study %6.1f goal %6.1f%s", target->peer, target->study, target->goal,
                total <= target->goal ? " ok  " : "     ");
  std::printf(" err %.1e lse %.0e%s tiles %zu partials %d predicted %.1f plan %.0f us\n", error.norm, error.lse,
              good ? "" : " WRONG", plan.tiles.size(), plan.partials, plan.predicted, plan_us);
  std::fflush(stdout);
  if (csv) {
    std::fprintf(csv, "\"%s\",%d,%d,%d,%s,%d,%.2f,%.2f,%.2f,%.0f,%.2f,%.2e\n", name.c_str(), heads.query, heads.kv,
                 heads.dim, options.dtype.c_str(), block_tokens, kernel, merge, total, plan_us, floor, error.norm);
  }
  log_sum += std::log(total / floor);
  ++count;
  return good;
}

// --------------------------------------------------------------------------------------------------- validation

template <class T>
bool validate_case(std::uint32_t seed, int head_dim, bool verbose) {
  std::mt19937 random(seed);
  const auto pick = [&](std::initializer_list<int> values) { return *(values.begin() + random() % values.size()); };
  const perf::Workload workload =
      random() % 8 == 0
          ? perf::make_workload("chain:" + std::to_string(random() % 700) + "," + std::to_string(1 + random() % 300))
          : perf::random_workload(random);
  perf::Layout layout;
  layout.block_tokens = pick({16, 32, 64, 128, 32, 16, 1, 3, 17, 48, 100, 256});
  layout.contiguous = random() % 4 == 0;
  const perf::Tree tree = perf::make_tree(workload, layout);
  Settings settings;
  const int group = pick({1, 4, 8, 4, 2, 16, 3, 7, 32, 12, 150}), kv = pick({1, 2, 4, 8});
  const int dim = head_dim > 0 ? head_dim : pick({128, 64, 96, 192, 256});
  settings.heads = {group * kv, kv, dim};
  settings.layers = 1;
  settings.scalar = std::is_same_v<T, __half> ? ScalarType::f16 : ScalarType::bf16;
  settings.scale = random() % 8 == 0 ? -0.05f : random() % 4 == 0 ? 0.3f : 0.0f;
  settings.soft_cap = random() % 4 == 0 ? 5.0f : 0.0f;
  settings.head_major = random() % 3 == 0;
  settings.finite_cache = random() % 2 == 0;
  Problem<T> problem(tree, settings);
  perf::PlannerConfig config;
  config.query_heads = settings.heads.query;
  config.kv_heads = kv;
  config.head_dim = dim;
  config.workers = pick({132, 132, 7, 40});
  config.short_tokens = pick({16, 1, 200});
  const perf::FusedPlan plan = perf::plan_fused(tree, config);
  const DevicePlan device_plan(tree, plan, dim);
  const FusedParams params = {problem.params(0), device_plan.view(), tree.rows(), true};
  Error error;
  for (int run = 0; run < 2; ++run) {
    problem.clear_outputs();
    check(gpu::sm90::attend(params, nullptr), "launch");
    check(cudaDeviceSynchronize(), "run");
    error = problem.compare(0);
  }
  const double limit = std::is_same_v<T, __half> ? 1e-3 : 6e-3;
  const bool good = !error.wrong_place && error.norm < limit && error.lse < 2e-2;
  if (!good || verbose) {
    std::printf(
        "%s seed %u: nodes %d rows %d heads %d/%d/%d block_tokens %d%s%s scale %g cap %g workers %d tiles %zu: "
        "error %.2e largest %.2e lse %.1e%s\n",
        good ? "ok" : "WRONG", seed, tree.nodes(), tree.rows(), settings.heads.query, kv, dim, tree.block_tokens,
        layout.contiguous ? " contiguous" : "", settings.finite_cache ? "" : " nan", settings.scale, settings.soft_cap,
        config.workers, plan.tiles.size(), error.norm, error.largest, error.lse,
        error.wrong_place ? " inf or nan out of place" : "");
    std::fflush(stdout);
  }
  return good;
}

Options parse(int count, char** values) {
  Options o;
  for (int i = 1; i < count; ++i) {
    const std::string key = values[i];
    const auto next = [&]() -> std::string {
      if (i + 1 >= count) {
        std::fprintf(stderr, "attend_driver: %s needs a value\n", key.c_str());
        std::exit(2);
      }
      return values[++i];
    };
    if (key == "--workload")
      o.workloads.push_back(next());
    else if (key == "--heads") {
      const std::string heads = next();
      const std::vector<int> h = perf::workload_detail::numbers(heads);
      if (h.size() != 3) {
        std::fprintf(stderr, "attend_driver: --heads is %s, expected QUERY,KV,DIM\n", heads.c_str());
        std::exit(2);
      }
      o.heads = {h[0], h[1], h[2]};
    } else if (key == "--dtype")
      o.dtype = next();
    else if (key == "--block-tokens")
      o.block_tokens = std::stoi(next());
    else if (key == "--head-dim")
      o.head_dim = std::stoi(next());
    else if (key == "--layers")
      o.layers = std::stoi(next());
    else if (key == "--repeat")
      o.repeat = std::stoi(next());
    else if (key == "--csv")
      o.csv = next();
    else if (key == "--validate")
      o.validate = std::stoi(next());
    else if (key == "--seed")
      o.seed = std::stoi(next());
    else if (key == "--only") {
      o.only = next();
      const std::size_t unknown = o.only.find_first_not_of("abcdefghijklmnopqrst");
      if (unknown != std::string::npos) {
        std::fprintf(stderr, "attend_driver: --only is %s, expected letters a to t, not '%c'\n", o.only.c_str(),
                     o.only[unknown]);
        std::exit(2);
      }
    } else if (key == "--no-parts")
      o.parts = false;
    else if (key == "--workers")
      o.planner.workers = std::stoi(next());
    else if (key == "--short")
      o.planner.short_tokens = std::stoi(next());
    else if (key == "--block")
      o.planner.block = std::stod(next());
    else if (key == "--small-block")
      o.planner.small_block = std::stod(next());
    else if (key == "--half-block")
      o.planner.half_block = std::stod(next());
    else if (key == "--tile")
      o.planner.tile = std::stod(next());
    else if (key == "--merge")
      o.planner.merge = std::stod(next());
    else if (key == "--memory")
      o.planner.memory_rate = std::stod(next());
    else {
      std::fprintf(stderr, "attend_driver: unknown option %s\n", key.c_str());
      std::exit(2);
    }
  }
  return o;
}

template <class T>
bool run(const Options& options) {
  bool good = true;
  if (options.validate > 0) {
    int wrong = 0;
    for (int i = 0; i < options.validate; ++i) {
      if (!validate_case<T>(static_cast<std::uint32_t>(options.seed + i), options.head_dim, options.validate == 1))
        ++wrong;
    }
    std::printf("validate %s: %d cases, %d wrong\n", options.dtype.c_str(), options.validate, wrong);
    return wrong == 0;
  }
  FILE* csv = nullptr;
  if (!options.csv.empty()) {
    csv = std::fopen(options.csv.c_str(), "w");
    if (!csv) {
      std::fprintf(stderr, "attend_driver: cannot write %s\n", options.csv.c_str());
      std::exit(2);
    }
    std::fprintf(csv,
                 "workload,query_heads,kv_heads,head_dim,dtype,block_tokens,kernel_us,merge_us,total_us,plan_us,floor_"
                 "us,error\n");
  }
  double log_sum = 0;
  int count = 0;
  for (const std::string& workload : options.workloads)
    good = measure<T>(options, workload, options.heads, nullptr, csv, log_sum, count) && good;
  if (options.workloads.empty()) {
    char letter = 'a';
    for (const Target& target : kTargets) {
      const bool wanted = options.only.empty() || options.only.find(letter) != std::string::npos;
      ++letter;
      if (wanted) good = measure<T>(options, target.name, target.heads, &target, csv, log_sum, count) && good;
    }
  }
  if (count > 1) std::printf("geometric mean over the floor: %.3f (%d workloads)\n", std::exp(log_sum / count), count);
  if (csv) std::fclose(csv);
  return good;
}

}  // namespace

int main(int count, char** values) {
  const Options options = parse(count, values);
  const bool good = options.dtype == "f16" ? run<__half>(options) : run<__nv_bfloat16>(options);
  return good ? 0 : 1;
}
