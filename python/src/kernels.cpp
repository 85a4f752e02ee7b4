#include "espalier/kernels.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "bind.hpp"
#include "espalier/validate.hpp"
#include "objects.hpp"

namespace espalier::python {

using namespace nb::literals;

std::optional<Kernel> kernel_from_name(std::string_view name) {
  if (name == "automatic") return Kernel::automatic;
  if (name == "portable") return Kernel::portable;
  if (name == "fused") return Kernel::fused;
  return std::nullopt;
}

void bind_kernels(nb::module_& m) {
  nb::class_<KernelInfo>(m, "KernelInfo", "A kernel that was compiled in.")
      .def_ro("name", &KernelInfo::name)
      .def_ro("backend", &KernelInfo::backend, "The execution space it runs on.")
      .def_ro("available", &KernelInfo::available, "A device that runs it is present.")
      .def_ro("why_not", &KernelInfo::why_not)
      .def_ro("emulated", &KernelInfo::emulated, "It runs on the CPU lane by lane: right, and slow.");
  m.def(
      "kernels",
      [] {
        start_runtime();
        return available_kernels();
      },
      "The kernels that were compiled in, and which of them run here.");

  nb::class_<KernelValidation>(m, "KernelValidation", "What one kernel made of the attentions that validate() gave it.")
      .def_ro("kernel", &KernelValidation::kernel)
      .def_ro("checked", &KernelValidation::checked, "Attentions that it ran.")
      .def_ro("unsupported", &KernelValidation::unsupported, "Attentions that it does not support.")
      .def_ro("wrong", &KernelValidation::wrong, "Attentions whose result is not what it should be.")
      .def_ro("largest_error", &KernelValidation::largest_error, "|out - expected| / |expected|, the largest of all.")
      .def_ro("largest_share", &KernelValidation::largest_share, "The largest error as a share of what is allowed.")
      .def_ro("largest_difference", &KernelValidation::largest_difference,
              "|out - portable| / |portable|, where the portable kernel ran the same case.")
      .def_ro("faults", &KernelValidation::faults,
              "What is wrong with the first few, each with the case that shows it.")
      .def_prop_ro("passed", &KernelValidation::passed,
                   "It ran at least one attention, and all were right; or it cannot run here.");
  m.def(
      "validate",
      [](const std::string& kernel, bool quick, std::uint32_t seed) {
        return launch(0, [&](const Exec& exec) {
          return validate_kernels(exec, {.kernel = kernel, .quick = quick, .seed = seed, .progress = {}});
        });
      },
      nb::kw_only(), "kernel"_a = "", "quick"_a = false, "seed"_a = 1,
      R"(Runs every kernel over a sweep of small problems, and compares with attention in double precision and with the
portable kernel. Takes a minute, `quick` seconds. Returns a KernelValidation for each, in the order of kernels().

kernel  those whose names begin with this; '': all that are not emulated

Raises ValueError if no kernel has such a name.)");
}

}  // namespace espalier::python
