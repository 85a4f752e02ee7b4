#include <nanobind/nanobind.h>
#include <nanobind/stl/string_view.h>

#include "bind.hpp"
#include "espalier/version.hpp"
#include "runtime.hpp"

NB_MODULE(_core, m) {
  namespace nb = nanobind;
  using namespace espalier;
  nb::set_leak_warnings(false);  // an object that is alive when Python exits is the program's own affair
  m.doc() = "The compiled library: what the package espalier gives out.";
  m.attr("__version__") = version();
  python::bind_errors(m);
  python::bind_tree_arrays(m);
  python::bind_tree(m);
  python::bind_branch_controllers(m);
  python::bind_kernels(m);
  python::bind_plan(m);
  python::bind_attention(m);
  nb::module_::import_("atexit").attr("register")(nb::cpp_function(&python::end_runtime));
}
