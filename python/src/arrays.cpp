#include "arrays.hpp"

#include <string>

namespace espalier::python {

const char* name_of_device(int device) {
  switch (device) {
    case nb::device::cpu::value: return "CPU";
    case nb::device::cuda::value: return "CUDA";
    case nb::device::rocm::value: return "ROCm";
    default: return "another device's";
  }
}

std::string name_of_dtype(nb::dlpack::dtype dtype) {
  using nb::dlpack::dtype_code;
  const auto code = dtype_code(dtype.code);
  const char* kind = code == dtype_code::Int      ? "int"
                     : code == dtype_code::UInt   ? "uint"
                     : code == dtype_code::Float  ? "f"
                     : code == dtype_code::Bfloat ? "bf"
                     : code == dtype_code::Bool   ? "bool"
                                                  : "other";
  return kind + std::to_string(dtype.bits);
}

Scalar scalar_of(nb::dlpack::dtype dtype, const char* function, const char* name) {
  if (has_elements<float>(dtype)) return Scalar::f32;
  if (has_elements<float16>(dtype)) return Scalar::f16;
  detail::expects(has_elements<bfloat16>(dtype), ErrorCode::invalid_argument, function, ": ", name,
                  " has elements of type ", name_of_dtype(dtype), ", expected f32, f16 or bf16");
  return Scalar::bf16;
}

Scalar scalar_from_name(std::string_view name) {
  for (const Scalar scalar : {Scalar::f32, Scalar::f16, Scalar::bf16})
    if (name == name_of(scalar)) return scalar;
  detail::fail(std::source_location::current(), ErrorCode::invalid_argument, "dtype is '", name,
               "', expected 'f32', 'f16' or 'bf16'");
}

}  // namespace espalier::python
