// espalier info: what this build is, and what of it runs here.

#include <CLI/CLI.hpp>
#include <Kokkos_Core.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/device.hpp"
#include "espalier/attention.hpp"
#include "espalier/version.hpp"

namespace espalier::cli {
namespace {

std::string kokkos_version() {
  return std::to_string(KOKKOS_VERSION / 10000) + "." + std::to_string(KOKKOS_VERSION / 100 % 100) + "." +
         std::to_string(KOKKOS_VERSION % 100);
}

std::vector<std::string> kokkos_backends() {
  std::vector<std::string> names;
#ifdef KOKKOS_ENABLE_SERIAL
  names.emplace_back(Kokkos::Serial::name());
#endif
#ifdef KOKKOS_ENABLE_OPENMP
  names.emplace_back(Kokkos::OpenMP::name());
#endif
#ifdef KOKKOS_ENABLE_THREADS
  names.emplace_back(Kokkos::Threads::name());
#endif
#ifdef KOKKOS_ENABLE_CUDA
  names.emplace_back(Kokkos::Cuda::name());
#endif
#ifdef KOKKOS_ENABLE_HIP
  names.emplace_back(Kokkos::HIP::name());
#endif
  return names;
}

int print_info(bool as_json) {
  const Kokkos::DefaultExecutionSpace exec;
  const std::string device = device_name();
  const std::vector<KernelInfo> kernels = available_kernels();
  if (as_json) {
    nlohmann::ordered_json report = {{"version", version()},
                                     {"kokkos", {{"version", kokkos_version()}, {"backends", kokkos_backends()}}},
                                     {"execution_space", Kokkos::DefaultExecutionSpace::name()},
                                     {"device", device},
                                     {"concurrency", exec.concurrency()},
                                     {"kernels", nlohmann::ordered_json::array()}};
    for (const KernelInfo& kernel : kernels) {
      report["kernels"].push_back({{"name", kernel.name},
                                   {"backend", kernel.backend},
                                   {"available", kernel.available},
                                   {"emulated", kernel.emulated}});
      if (!kernel.available) report["kernels"].back()["why_not"] = kernel.why_not;
    }
    std::cout << report.dump(2) << "\n";
    return 0;
  }
  std::string backends;
  for (const std::string& name : kokkos_backends()) (backends += backends.empty() ? "" : ", ") += name;
  std::printf("espalier  %s\nKokkos    %s with %s\ndevice    %s, %d at a time through %s\nkernels\n",
              std::string(version()).c_str(), kokkos_version().c_str(), backends.c_str(), device.c_str(),
              int(exec.concurrency()), Kokkos::DefaultExecutionSpace::name());
  for (const KernelInfo& kernel : kernels)
    std::printf("  %-20s %-8s %s\n", kernel.name.c_str(), kernel.backend.c_str(),
                !kernel.available ? ("does not run here: " + kernel.why_not).c_str()
                : kernel.emulated ? "runs here, emulated on the CPU"
                                  : "runs here");
  return 0;
}

}  // namespace

Command add_info(CLI::App& app) {
  const auto as_json = std::make_shared<bool>(false);
  app.add_flag("--json", *as_json, "Print it for machines");
  return [as_json] { return print_info(*as_json); };
}

}  // namespace espalier::cli
