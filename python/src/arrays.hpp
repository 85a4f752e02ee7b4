#pragma once
// Arrays of Python, handed over by DLPack or the buffer protocol, as Views of the same memory.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <Kokkos_Core.hpp>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "array_argument.hpp"
#include "espalier/error.hpp"
#include "espalier/types.hpp"
#include "runtime.hpp"

namespace espalier::python {

template <class T, int kRank>
struct Pointers : Pointers<T*, kRank - 1> {};
template <class T>
struct Pointers<T, 0> {
  using type = T;
};

template <class T, int kRank, class Space = Exec>
using StridedView = Kokkos::View<typename Pointers<T, kRank>::type, Kokkos::LayoutStride, typename Space::memory_space,
                                 Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

/// The DLPack device in whose memory the arrays of an execution space lie.
template <class Space>
inline constexpr int kDeviceOf =
    bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Space::memory_space>::accessible)
        ? nb::device::cpu::value
#if defined(KOKKOS_ENABLE_HIP)
        : nb::device::rocm::value;
#else
        : nb::device::cuda::value;
#endif

/// A device and an element type that are written as their names, such as "CUDA" and "f16". Checks take them instead of the
/// names, so that these are made for a message alone.
struct NamedDevice {
  int device;
};
struct NamedDtype {
  nb::dlpack::dtype dtype;
};
std::ostream& operator<<(std::ostream& out, NamedDevice named);
std::ostream& operator<<(std::ostream& out, NamedDtype named);

/// @throws Error{invalid_argument} naming the array, unless it has this rank, strides that are not negative, and lies
/// in the memory of Space
template <int kRank, class Space, class Array>
void expects_array(const Array& array, const char* function, const char* name) {
  detail::expects(int(array.ndim()) == kRank, ErrorCode::invalid_argument, function, ": ", name, " has ", array.ndim(),
                  " dimensions, expected ", kRank);
  detail::expects(array.device_type() == kDeviceOf<Space>, ErrorCode::invalid_argument, function, ": ", name,
                  " lies in ", NamedDevice{array.device_type()}, " memory, expected ", NamedDevice{kDeviceOf<Space>},
                  " memory: this build runs on ", Exec::name());
  if constexpr (kDeviceOf<Space> != nb::device::cpu::value) {
    detail::expects(array.device_id() == device_of_kokkos(), ErrorCode::invalid_argument, function, ": ", name,
                    " lies on device ", array.device_id(), ", expected device ", device_of_kokkos(),
                    ", which Kokkos was initialised for");
  }
  for (int dimension = 0; dimension < kRank; ++dimension)
    detail::expects(array.stride(std::size_t(dimension)) >= 0, ErrorCode::invalid_argument, function, ": ", name,
                    " has stride ", array.stride(std::size_t(dimension)), " in dimension ", dimension,
                    ", expected 0 or more");
}

/// Whether the elements are of type T.
template <class T>
bool has_elements(nb::dlpack::dtype dtype) {
  using nb::dlpack::dtype_code;
  if constexpr (std::is_same_v<T, float16>)
    return dtype == nb::dlpack::dtype{std::uint8_t(dtype_code::Float), 16, 1};
  else if constexpr (std::is_same_v<T, bfloat16>)
    return dtype == nb::dlpack::dtype{std::uint8_t(dtype_code::Bfloat), 16, 1};
  else
    return dtype == nb::dtype<T>();
}

template <class T>
constexpr const char* name_of_element() {
  if constexpr (std::is_same_v<T, std::int32_t>)
    return "int32";
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return "int64";
  else
    return name_of(kScalarOf<T>);
}

/// The same memory as a View; nothing is copied.
/// @throws Error{invalid_argument} naming the array if its element type, rank or device is another one
template <class T, int kRank, class Space = Exec, class Array>
StridedView<T, kRank, Space> view_of(const Array& array, const char* function, const char* name) {
  using Element = std::remove_const_t<T>;
  expects_array<kRank, Space>(array, function, name);
  detail::expects(has_elements<Element>(array.dtype()), ErrorCode::invalid_argument, function, ": ", name,
                  " has elements of type ", NamedDtype{array.dtype()}, ", expected ", name_of_element<Element>());
  Kokkos::LayoutStride layout;
  for (std::size_t dimension = 0; dimension < std::size_t(kRank); ++dimension) {
    layout.dimension[dimension] = array.shape(dimension);
    layout.stride[dimension] = std::size_t(array.stride(dimension));
  }
  return StridedView<T, kRank, Space>(static_cast<T*>(array.data()), layout);
}

/// A one-dimensional array of consecutive elements.
template <class T, class Space = Exec, class Array>
StridedView<T, 1, Space> list_of(const Array& array, const char* function, const char* name) {
  const auto view = view_of<T, 1, Space>(array, function, name);
  detail::expects(view.extent(0) <= 1 || view.stride(0) == 1, ErrorCode::invalid_argument, function, ": ", name,
                  " has stride ", view.stride(0), ", expected 1");
  return view;
}

/// The Scalar of an array's elements.
/// @throws Error{invalid_argument} naming the array if it is none of f32, f16 and bf16
[[nodiscard]] Scalar scalar_of(nb::dlpack::dtype dtype, const char* function, const char* name);

/// The Scalar of that name: "f32", "f16" or "bf16".
[[nodiscard]] Scalar scalar_from_name(std::string_view name);

/// Calls function(std::type_identity<T>{}) with the element type that a Scalar names.
template <class Function>
void with_element(Scalar scalar, Function&& function) {
  switch (scalar) {
    case Scalar::f32: return function(std::type_identity<float>{});
    case Scalar::f16: return function(std::type_identity<float16>{});
    case Scalar::bf16: return function(std::type_identity<bfloat16>{});
  }
}

/// A NumPy array that owns these elements.
template <class T>
auto numpy_of(std::vector<T>&& elements) {
  auto* owned = new std::vector<T>(std::move(elements));
  const nb::capsule owner(owned, [](void* memory) noexcept { delete static_cast<std::vector<T>*>(memory); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(owned->data(), {owned->size()}, owner);
}

}  // namespace espalier::python
