// espalier validate: every kernel against attention in double precision, over a sweep of trees and sizes.

#include "espalier/validate.hpp"

#include <CLI/CLI.hpp>
#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/commands.hpp"
#include "cli/device.hpp"
#include "cli/text.hpp"

namespace espalier::cli {
namespace {

struct Options {
  std::string kernel;
  std::uint32_t seed = 1;
  bool quick = false;
  bool json = false;
};

/// Kernels that are checked only where they are asked for.
std::vector<std::string> left_out(const Options& options) {
  std::vector<std::string> names;
  if (!options.kernel.empty()) return names;
  for (const KernelInfo& kernel : available_kernels())
    if (kernel.emulated && kernel.backend == Kokkos::DefaultExecutionSpace::name()) names.push_back(kernel.name);
  return names;
}

void print_json(const Options& options, const std::vector<KernelValidation>& kernels, bool passed) {
  nlohmann::ordered_json report = {
      {"device", device_name()},       {"execution_space", Kokkos::DefaultExecutionSpace::name()},
      {"seed", options.seed},          {"passed", passed},
      {"left_out", left_out(options)}, {"kernels", nlohmann::ordered_json::array()}};
  for (const KernelValidation& it : kernels) {
    report["kernels"].push_back({{"name", it.kernel.name},
                                 {"available", it.kernel.available},
                                 {"passed", it.passed()},
                                 {"checked", it.checked},
                                 {"unsupported", it.unsupported},
                                 {"wrong", it.wrong},
                                 {"largest_error", it.largest_error},
                                 {"largest_share_of_allowed", it.largest_share},
                                 {"largest_difference_from_portable", it.largest_difference},
                                 {"faults", it.faults}});
    if (!it.kernel.available) report["kernels"].back()["why_not"] = it.kernel.why_not;
  }
  std::cout << report.dump(2) << "\n";
}

void print_table(const Options& options, const std::vector<KernelValidation>& kernels, bool passed) {
  std::printf("%s through %s\n\n  %-20s %8s %12s %7s %11s %11s %12s\n", device_name().c_str(),
              Kokkos::DefaultExecutionSpace::name(), "kernel", "checked", "unsupported", "wrong", "error", "of allowed",
              "to portable");
  for (const KernelValidation& it : kernels) {
    if (!it.kernel.available) {
      std::printf("  %-20s does not run here: %s\n", it.kernel.name.c_str(), it.kernel.why_not.c_str());
      continue;
    }
    std::printf("  %-20s %8d %12d %7d %11.2e %9.0f %% %12.2e%s\n", it.kernel.name.c_str(), it.checked, it.unsupported,
                it.wrong, it.largest_error, 100 * it.largest_share, it.largest_difference,
                it.passed() ? "" : "  WRONG");
  }
  for (const std::string& name : left_out(options))
    std::printf("  %-20s left out: emulated on the CPU, which takes minutes; '--kernel %s' checks it\n", name.c_str(),
                name.c_str());
  std::printf("\n%s\n", passed ? "all right" : "NOT all right");
  for (const KernelValidation& it : kernels) {
    for (const std::string& fault : it.faults) std::printf("  %s: %s\n", it.kernel.name.c_str(), fault.c_str());
    if (it.kernel.available && it.checked == 0)
      std::printf("  %s: it supports none of the problems\n", it.kernel.name.c_str());
  }
}

int validate(const Options& options) {
  std::optional<ProgressBar> progress;
  ValidateOptions what{.kernel = options.kernel, .quick = options.quick, .seed = options.seed};
  what.progress = [&](std::int32_t done, std::int32_t all) {
    if (!progress) progress.emplace(all, "problems");
    progress->show(done);
  };
  const std::vector<KernelValidation> kernels = validate_kernels(Kokkos::DefaultExecutionSpace(), what);
  progress.reset();
  const bool passed = std::ranges::all_of(kernels, [](const KernelValidation& it) { return it.passed(); });
  options.json ? print_json(options, kernels, passed) : print_table(options, kernels, passed);
  return passed ? 0 : 1;
}

}  // namespace

Command add_validate(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("--kernel", options->kernel,
                 "Only kernels whose names begin with this, emulated ones too; 'espalier info' lists them")
      ->type_name("NAME");
  app.add_option("--seed", options->seed, "Of the inputs, and of which sizes meet which trees")->capture_default_str();
  app.add_flag("--quick", options->quick, "A seventh of the problems");
  app.add_flag("--json", options->json, "Print it for machines");
  app.footer(
      "Small trees of every kind, groups of 1, 4, 5 and 8 query heads, every head size, type and strategy that a "
      "kernel\n"
      "supports, blocks of 1 to 256 tokens. 'error' is |out - oracle| / |oracle|, the largest of all problems; 'of\n"
      "allowed' also covers single elements and lse. Exit code 1 if a kernel is wrong. Kernels that are emulated on "
      "the CPU\n"
      "take minutes each, and are left out unless --kernel asks for them.");
  return [options] { return validate(*options); };
}

}  // namespace espalier::cli
