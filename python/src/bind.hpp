#pragma once

#include <nanobind/nanobind.h>

namespace espalier::python {

// Each adds one part of the library to the module.
void bind_errors(nanobind::module_& m);
void bind_tree(nanobind::module_& m);
void bind_tree_arrays(nanobind::module_& m);
void bind_branch_controllers(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_plan(nanobind::module_& m);
void bind_attention(nanobind::module_& m);

}  // namespace espalier::python
