#include "array_argument.hpp"

#include <array>

namespace espalier::python {
namespace {

/// DLPackExchangeAPI, up to the members that are used here.
struct ExchangeTable {
  std::uint32_t major_version;
  std::uint32_t minor_version;
  const ExchangeTable* previous;  // of an older major version
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, nb::dlpack::dltensor* tensor);  // may be absent
};

constexpr std::uint32_t kMajorVersion = 1;

const ExchangeTable* look_up(PyObject* type) {
  PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  const void* found = nullptr;
  if (capsule != nullptr && PyCapsule_IsValid(capsule, "dlpack_exchange_api") != 0)
    found = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  Py_XDECREF(capsule);
  PyErr_Clear();
  const auto* table = static_cast<const ExchangeTable*>(found);
  while (table != nullptr && table->major_version != kMajorVersion) table = table->previous;
  return table != nullptr && table->tensor_from_object != nullptr ? table : nullptr;
}

/// What look_up() said about a type; types are kept alive, so that an address means one type. Changed with the GIL held.
struct KnownType {
  PyObject* type = nullptr;
  const ExchangeTable* table = nullptr;
};
std::array<KnownType, 16> known_types;

const ExchangeTable* table_of(PyObject* type) {
  for (KnownType& known : known_types) {
    if (known.type == type) return known.table;
    if (known.type != nullptr) continue;
    Py_INCREF(type);
    known = {type, look_up(type)};
    return known.table;
  }
  return nullptr;  // a program with so many types of arrays takes the slower way for the others
}

}  // namespace

bool borrow_array(nb::handle array, nb::dlpack::dltensor& tensor) noexcept {
  static PyObject* const wrapped = nb::type<WrappedArray>().ptr();
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(array.ptr()));
  if (type == wrapped) {
    tensor = nb::inst_ptr<WrappedArray>(array)->tensor();
    return true;
  }
  const ExchangeTable* table = table_of(type);
  if (table == nullptr) return false;
  if (table->tensor_from_object(array.ptr(), &tensor) != 0) {
    PyErr_Clear();  // the slower way says why
    return false;
  }
  return tensor.ndim == 0 || tensor.strides != nullptr;
}

}  // namespace espalier::python
