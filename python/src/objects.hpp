#pragma once
// The Python objects that several parts of the module share.

#include <nanobind/nanobind.h>

#include <optional>
#include <string_view>

#include "espalier/kernels.hpp"
#include "espalier/kv_tree.hpp"
#include "espalier/plan.hpp"
#include "espalier/tree_arrays.hpp"
#include "runtime.hpp"

namespace espalier::python {

using HostPool = BlockPool<HostExec>;
using HeldPool = Held<HostPool>;
using HeldTree = Held<KvTree>;
using HeldArrays = Held<TreeArrays<Exec>>;

/// A plan and the arrays that its kernels read.
struct PlanObject {
  Held<Plan<Exec>> plan;
  nb::object arrays;
};

/// "automatic", "portable" or "fused"
[[nodiscard]] std::optional<Kernel> kernel_from_name(std::string_view name);

/// For methods that touch nothing of Python's.
using Unlocked = nb::call_guard<nb::gil_scoped_release>;

}  // namespace espalier::python
