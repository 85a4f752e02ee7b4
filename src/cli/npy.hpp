#pragma once
// NumPy's array files: <f4 or <f2, C order.

#include <cstdint>
#include <iosfwd>
#include <span>
#include <string>
#include <vector>

namespace espalier::cli {

enum class NpyType : std::uint8_t { f4, f2 };

struct NpyArray {
  std::string file;
  std::string name;  ///< what messages call it: "k"
  NpyType type = NpyType::f4;
  std::vector<std::int64_t> shape;
  std::vector<float> values;  ///< C order; f2 converts exactly

  /// "k.npy: k[3, 0, 17]": where an entry stands.
  [[nodiscard]] std::string place_of(std::size_t entry) const;
};

/// "(3, 8, 128)"
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

/// Reads a file with as many dimensions as `dimensions` names.
/// @param name        what messages call the array
/// @param dimensions  what each of its dimensions means: "[rows, query_heads, head_dim]"
/// @throws InputError naming the file and what is wrong with it; values that are not finite are refused
[[nodiscard]] NpyArray read_npy(const std::string& file, const std::string& name, std::size_t rank,
                                const std::string& dimensions);

/// @throws InputError naming `name` where a finite value does not fit f2
void write_npy(std::ostream& stream, const std::string& name, NpyType type, std::span<const std::int64_t> shape,
               std::span<const float> values);

}  // namespace espalier::cli
