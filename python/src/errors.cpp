#include "espalier/error.hpp"

#include "bind.hpp"

namespace espalier::python {
namespace {

namespace nb = nanobind;

PyObject* capacity_error = nullptr;
PyObject* stale_plan_error = nullptr;

PyObject* exception_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return PyExc_ValueError;
    case ErrorCode::capacity_exceeded: return capacity_error;
    case ErrorCode::stale_plan: return stale_plan_error;
    case ErrorCode::unsupported: return PyExc_NotImplementedError;
    case ErrorCode::backend_failure: return PyExc_RuntimeError;
  }
  return PyExc_RuntimeError;
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    PyErr_SetString(exception_of(error.code()), error.what());
  }
}

PyObject* add_exception(nb::module_& m, const char* name, const char* full_name, const char* doc) {
  PyObject* exception = PyErr_NewExceptionWithDoc(full_name, doc, PyExc_RuntimeError, nullptr);
  if (exception == nullptr) nb::raise_python_error();
  m.attr(name) = nb::handle(exception);
  return exception;
}

}  // namespace

void bind_errors(nb::module_& m) {
  capacity_error =
      add_exception(m, "CapacityError", "espalier.CapacityError",
                    "A fixed capacity does not suffice: the blocks of a pool, the nodes, rows or tiles of a plan.");
  stale_plan_error = add_exception(m, "StalePlanError", "espalier.StalePlanError",
                                   "A plan was never updated, or it belongs to another problem.");
  nb::register_exception_translator(translate);
}

}  // namespace espalier::python
