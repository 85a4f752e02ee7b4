#pragma once
// Arrays of Python as arguments: where their memory lies and what it looks like, for the time of a call.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace espalier::python {

namespace nb = nanobind;

/// An array that was asked for its memory once, and keeps it alive.
class WrappedArray {
 public:
  explicit WrappedArray(nb::ndarray<> array)
      : tensor_{array.data(),
                {array.device_type(), array.device_id()},
                std::int32_t(array.ndim()),
                array.dtype(),
                const_cast<std::int64_t*>(array.shape_ptr()),
                const_cast<std::int64_t*>(array.stride_ptr()),
                0},
        owner_(std::move(array)) {}

  [[nodiscard]] const nb::dlpack::dltensor& tensor() const { return tensor_; }

 private:
  nb::dlpack::dltensor tensor_;
  nb::ndarray<> owner_;
};

/// Borrows the memory of a WrappedArray, or through DLPack's exchange table, a few pointers that the array's type carries:
/// tens of nanoseconds, where the method `__dlpack__` of a PyTorch tensor takes microseconds and may synchronise.
/// @param tensor  written; its shape and strides stay the array's own
/// @return whether it is wrapped, or the type has such a table and the array can be borrowed
/// Method: DLPack 1.3, "C exchange API".
[[nodiscard]] bool borrow_array(nb::handle array, nb::dlpack::dltensor& tensor) noexcept;

/// Anything that speaks DLPack or the buffer protocol; nothing is copied or converted.
template <bool kWritable>
class ArrayArgument {
 public:
  using Imported = std::conditional_t<kWritable, nb::ndarray<>, nb::ndarray<nb::ro>>;

  [[nodiscard]] std::size_t ndim() const { return std::size_t(tensor_.ndim); }
  [[nodiscard]] std::size_t shape(std::size_t dimension) const { return std::size_t(tensor_.shape[dimension]); }
  [[nodiscard]] std::int64_t stride(std::size_t dimension) const { return tensor_.strides[dimension]; }
  [[nodiscard]] nb::dlpack::dtype dtype() const { return tensor_.dtype; }
  [[nodiscard]] int device_type() const { return tensor_.device.device_type; }
  [[nodiscard]] int device_id() const { return tensor_.device.device_id; }
  [[nodiscard]] void* data() const { return static_cast<std::byte*>(tensor_.data) + tensor_.byte_offset; }

  bool borrow(nb::handle array) noexcept { return borrow_array(array, tensor_); }

  void keep(const Imported& array) {
    owner_ = array;
    tensor_.data = const_cast<void*>(static_cast<const void*>(array.data()));
    tensor_.device = {array.device_type(), array.device_id()};
    tensor_.ndim = std::int32_t(array.ndim());
    tensor_.dtype = array.dtype();
    tensor_.shape = const_cast<std::int64_t*>(array.shape_ptr());
    tensor_.strides = const_cast<std::int64_t*>(array.stride_ptr());
  }

 private:
  nb::dlpack::dltensor tensor_;
  Imported owner_;  // keeps what tensor_ points to, unless it was borrowed: then the caller of the function does
};

using InArray = ArrayArgument<false>;
using OutArray = ArrayArgument<true>;

}  // namespace espalier::python

namespace nanobind::detail {

template <bool kWritable>
struct type_caster<espalier::python::ArrayArgument<kWritable>> {
  using Argument = espalier::python::ArrayArgument<kWritable>;
  using Imported = make_caster<typename Argument::Imported>;
  NB_TYPE_CASTER(Argument, Imported::Name + const_name(" | Array"))

  bool from_python(handle source, std::uint8_t flags, cleanup_list* cleanup) noexcept {
    if (value.borrow(source)) return true;
    Imported imported;
    if (!imported.from_python(source, flags, cleanup)) return false;
    value.keep(imported.value);
    return true;
  }
};

}  // namespace nanobind::detail
