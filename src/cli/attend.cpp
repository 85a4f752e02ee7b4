// espalier attend: attention over a tree, from and to NumPy arrays.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/commands.hpp"
#include "cli/cost_model_file.hpp"
#include "cli/input_error.hpp"
#include "cli/npy.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"
#include "cli/staged_file.hpp"
#include "cli/tree_file.hpp"

namespace espalier::cli {
namespace {

struct Options {
  std::string tree, q, k, v, out, lse, cost_model;
  std::string kernel = "auto", strategy = name_of(kDefaultStrategy), scalar;
  int block_tokens = 16;
  std::optional<float> scale;
  float soft_cap = 0;
  bool json = false;
};

struct Arrays {
  NpyArray q, k, v;
};

/// Reads q, k and v and checks them against the tree and each other.
Arrays read_arrays(const Options& options, const TreeInput& tree) {
  Arrays arrays{read_npy(options.q, "q", 3, "[rows, query_heads, head_dim]"),
                read_npy(options.k, "k", 3, "[tokens, kv_heads, head_dim]"),
                read_npy(options.v, "v", 3, "[tokens, kv_heads, head_dim]")};
  const auto& [q, k, v] = arrays;
  const auto expects_shape = [](bool holds, const NpyArray& array, const auto&... expected) {
    if (!holds)
      bad_input(array.file, ": ", array.name, " has the shape ", shape_text(array.shape), ", expected ", expected...);
  };
  expects_shape(q.shape[0] == std::int64_t(tree.rows.size()), q, tree.rows.size(), " rows first, those of ",
                options.tree);
  expects_shape(k.shape[0] == tree.tokens(), k, tree.tokens(), " tokens first, those of ", options.tree);
  for (const NpyArray* array : {&q, &k})
    for (const std::size_t d : {1, 2})
      expects_shape(array->shape[d] >= 1 && array->shape[d] <= 1 << 20, *array,
                    "at least one head and one element in each");
  expects_shape(v.shape == k.shape, v, shape_text(k.shape), " as k");
  expects_shape(q.shape[2] == k.shape[2], q, "head_dim ", k.shape[2], " last, that of k");
  expects_shape(q.shape[1] % k.shape[1] == 0, q, "query heads (in the middle) that are a multiple of the ", k.shape[1],
                " KV heads of k");
  return arrays;
}

/// Converts an array to the element type.
void convert(NpyArray& array, Scalar scalar) {
  if (const std::size_t at = round_to(scalar, array.values); at != array.values.size())
    bad_input(array.place_of(at), " is beyond the range of ", name_of(scalar));
}

void print_report(const Options& options, const Problem& problem, const Solution& solution) {
  const auto& [nodes, rows] = problem.tree;
  const HeadShape& heads = problem.heads;
  if (options.json) {
    nlohmann::ordered_json report = {{"tree", options.tree},
                                     {"nodes", nodes.size()},
                                     {"rows", rows.size()},
                                     {"tokens", problem.tree.tokens()},
                                     {"query_heads", heads.query_heads},
                                     {"kv_heads", heads.kv_heads},
                                     {"head_dim", heads.head_dim},
                                     {"dtype", name_of(problem.scalar)},
                                     {"kernel", options.kernel},
                                     {"strategy", options.strategy},
                                     {"block_tokens", problem.block_tokens},
                                     {"plan_ms", solution.plan_ms},
                                     {"attend_ms", solution.attend_ms},
                                     {"out", options.out}};
    if (!options.lse.empty()) report["lse"] = options.lse;
    std::cout << report.dump(2) << "\n";
    return;
  }
  const std::string how =
      options.kernel == "oracle" ? options.kernel : options.kernel + " kernel, " + options.strategy + " strategy";
  std::cout << rows.size() << " rows over " << problem.tree.tokens() << " tokens in " << nodes.size() << " nodes, "
            << heads.query_heads << " query and " << heads.kv_heads << " KV heads of " << heads.head_dim << ", "
            << name_of(problem.scalar) << ", " << how << ": " << solution.attend_ms << " ms\n"
            << "wrote " << options.out << (options.lse.empty() ? "" : " and " + options.lse) << "\n";
}

int attend_files(const Options& options) {
  const TreeInput tree = read_tree(options.tree);
  auto [q, k, v] = read_arrays(options, tree);
  if (options.scale && (!std::isfinite(*options.scale) || *options.scale == 0))
    bad_input("--scale is ", *options.scale, ", expected a finite number other than 0");
  if (!std::isfinite(options.soft_cap) || options.soft_cap < 0)
    bad_input("--soft-cap is ", options.soft_cap, ", expected a finite number, 0 or more");
  if (std::error_code ignored; std::filesystem::weakly_canonical(options.lse, ignored) ==
                               std::filesystem::weakly_canonical(options.out, ignored))
    bad_input("--lse names the same file as --out: ", options.out);
  const Scalar own_scalar = q.type == NpyType::f4 ? Scalar::f32 : Scalar::f16;
  const Scalar scalar = options.scalar.empty() ? own_scalar : scalar_named(options.scalar);
  for (NpyArray* array : {&q, &k, &v}) convert(*array, scalar);
  const std::optional<CostModel> cost_model = cost_model_of(options.cost_model);
  StagedFile out_file(options.out);
  std::optional<StagedFile> lse_file;
  if (!options.lse.empty()) lse_file.emplace(options.lse);

  const bool by_oracle = options.kernel == "oracle";
  const Problem problem{.tree = tree,
                        .heads = {int(q.shape[1]), int(k.shape[1]), int(q.shape[2])},
                        .q = q.values,
                        .k = k.values,
                        .v = v.values,
                        .scalar = scalar,
                        .block_tokens = options.block_tokens,
                        .strategy = strategy_named(options.strategy),
                        .cost_model = cost_model,
                        .kernel = by_oracle ? Kernel::automatic : kernel_named(options.kernel),
                        .options = {.scale = options.scale.value_or(0.0f), .soft_cap = options.soft_cap}};
  const Solution solution = by_oracle ? solve_by_oracle(problem) : solve(problem);
  if (!std::all_of(solution.out.begin(), solution.out.end(), [](float value) { return std::isfinite(value); })) {
    std::cerr << "espalier: attend: out is not finite everywhere: scores or sums exceed the range of float\n";
    return 1;
  }

  write_npy(out_file.stream(), "out", q.type, q.shape, solution.out);
  if (lse_file) write_npy(lse_file->stream(), "lse", NpyType::f4, std::span(q.shape).first(2), solution.lse);
  out_file.commit();
  if (lse_file) lse_file->commit();

  print_report(options, problem, solution);
  return 0;
}

}  // namespace

Command add_attend(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  std::vector<std::string> kernels = kernel_names();
  kernels.emplace_back("oracle");
  app.add_option("TREE", options->tree, "A tree: JSON, FastTree's text, or a workload (below)")->required();
  app.add_option("--q", options->q, "Queries  [rows, query_heads, head_dim]")->required()->type_name("FILE.npy");
  app.add_option("--k", options->k, "Keys  [tokens, kv_heads, head_dim], all nodes in node order")
      ->required()
      ->type_name("FILE.npy");
  app.add_option("--v", options->v, "Values, like k")->required()->type_name("FILE.npy");
  app.add_option("--out", options->out, "Written: the result, shape and type of q")->required()->type_name("FILE.npy");
  app.add_option("--lse", options->lse, "Written: log of the softmax denominator  [rows, query_heads] <f4")
      ->type_name("FILE.npy");
  app.add_option("--kernel", options->kernel, "Which kernel attends")
      ->check(CLI::IsMember(kernels))
      ->capture_default_str();
  app.add_option("--strategy", options->strategy, "How the tree is cut into tiles")
      ->check(CLI::IsMember(strategy_names()))
      ->capture_default_str();
  add_cost_model_option(app, options->cost_model);
  app.add_option("--dtype", options->scalar, "Element type to compute with; inputs are converted. Default: that of q")
      ->check(CLI::IsMember(scalar_names()));
  app.add_option("--block-tokens", options->block_tokens,
                 "Tokens of a cache block; blocks are stored in shuffled order")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--scale", options->scale, "score = SCALE * q.k; default 1 / sqrt(head_dim)");
  app.add_option("--soft-cap", options->soft_cap, "score = CAP * tanh(score / CAP); 0: none")->capture_default_str();
  app.add_flag("--json", options->json, "Print a report for machines");
  app.footer("Arrays are NumPy files, <f4 or <f2, C order.\n\n" + describe_trees());
  return [options] { return attend_files(*options); };
}

}  // namespace espalier::cli
