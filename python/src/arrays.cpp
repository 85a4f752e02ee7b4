#include "arrays.hpp"

#include <ostream>

namespace espalier::python {

std::ostream& operator<<(std::ostream& out, NamedDevice named) {
  switch (named.device) {
    case nb::device::cpu::value: return out << "CPU";
    case nb::device::cuda::value: return out << "CUDA";
    case nb::device::rocm::value: return out << "ROCm";
    default: return out << "another device's";
  }
}

std::ostream& operator<<(std::ostream& out, NamedDtype named) {
  using nb::dlpack::dtype_code;
  const auto code = dtype_code(named.dtype.code);
  const char* kind = code == dtype_code::Int      ? "int"
                     : code == dtype_code::UInt   ? "uint"
                     : code == dtype_code::Float  ? "f"
                     : code == dtype_code::Bfloat ? "bf"
                     : code == dtype_code::Bool   ? "bool"
                                                  : "other";
  return out << kind << int(named.dtype.bits);
}

Scalar scalar_of(nb::dlpack::dtype dtype, const char* function, const char* name) {
  if (has_elements<float>(dtype)) return Scalar::f32;
  if (has_elements<float16>(dtype)) return Scalar::f16;
  detail::expects(has_elements<bfloat16>(dtype), ErrorCode::invalid_argument, function, ": ", name,
                  " has elements of type ", NamedDtype{dtype}, ", expected f32, f16 or bf16");
  return Scalar::bf16;
}

Scalar scalar_from_name(std::string_view name) {
  for (const Scalar scalar : {Scalar::f32, Scalar::f16, Scalar::bf16})
    if (name == name_of(scalar)) return scalar;
  detail::fail(std::source_location::current(), ErrorCode::invalid_argument, "dtype is '", name,
               "', expected 'f32', 'f16' or 'bf16'");
}

}  // namespace espalier::python
