#pragma once
// NumPy files, written and read without the tool's own code.

#include <cstdint>
#include <string>
#include <vector>

namespace espalier::test {

struct Array {
  std::string type;  ///< "<f4" or "<f2"
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

/// A file with this header text, version 1.0, and these bytes behind it.
[[nodiscard]] std::string npy_with_header(const std::string& header, const std::string& data);

/// The bytes of a file.
[[nodiscard]] std::string npy_of(const Array& array);

/// @throws std::runtime_error if it is no array as npy_of writes it
[[nodiscard]] Array array_of(const std::string& path);

}  // namespace espalier::test
