#include "cli/npy.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <string_view>
#include <utility>

#include "cli/input_error.hpp"
#include "espalier/detail/scalar.hpp"

static_assert(std::endian::native == std::endian::little, "array files are little-endian");

namespace espalier::cli {
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 20;            // values that are converted at a time
constexpr std::size_t kMostHeaderBytes = std::size_t{1} << 16;  // NumPy's own limit is 10,000

std::int64_t bytes_of(NpyType type) { return type == NpyType::f4 ? 4 : 2; }

struct Header {
  std::string type;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
};

/// Reads the header: a Python dictionary such as {'descr': '<f4', 'fortran_order': False, 'shape': (3, 8), }.
class HeaderParser {
 public:
  HeaderParser(std::string file, std::string_view text) : file_(std::move(file)), text_(text) {}

  Header parse() {
    Header header;
    bool has_type = false, has_order = false, has_shape = false;
    expect('{');
    while (!take('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !std::exchange(has_type, true))
        header.type = type();
      else if (key == "fortran_order" && !std::exchange(has_order, true))
        header.fortran_order = truth();
      else if (key == "shape" && !std::exchange(has_shape, true))
        header.shape = shape();
      else
        fail("'descr', 'fortran_order' and 'shape' once each");
      if (!take(',') && peek() != '}') fail("',' or '}'");
    }
    if (!has_type || !has_order || !has_shape) fail("'descr', 'fortran_order' and 'shape' once each");
    skip_space();
    if (!text_.empty()) fail("nothing after '}'");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    bad_input(file_, ": the array's header is malformed, expected ", expected);
  }

  void skip_space() {
    while (!text_.empty() && std::strchr(" \t\r\n", text_.front()) != nullptr) text_.remove_prefix(1);
  }

  char peek() {
    skip_space();
    return text_.empty() ? '\0' : text_.front();
  }

  bool take(char wanted) {
    if (peek() != wanted || text_.empty()) return false;
    text_.remove_prefix(1);
    return true;
  }

  void expect(char wanted) {
    if (!take(wanted)) fail(std::string("'") + wanted + "'");
  }

  bool take_word(std::string_view word) {
    skip_space();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }

  std::string quoted() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail("a quoted word");
    text_.remove_prefix(1);
    const std::size_t end = text_.find(quote);
    if (end == std::string_view::npos) fail("a closing quote");
    std::string word(text_.substr(0, end));
    text_.remove_prefix(end + 1);
    return word;
  }

  std::string type() {
    if (peek() == '[') bad_input(file_, ": is an array of records, expected <f4 or <f2");
    return quoted();
  }

  bool truth() {
    if (take_word("True")) return true;
    if (take_word("False")) return false;
    fail("True or False after 'fortran_order'");
  }

  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> extents;
    expect('(');
    while (!take(')')) {
      skip_space();
      std::int64_t extent = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), extent);
      if (error != std::errc{} || extent < 0) fail("extents from 0 to 2^63 - 1 in 'shape'");
      text_.remove_prefix(std::size_t(end - text_.data()));
      extents.push_back(extent);
      if (!take(',') && peek() != ')') fail("',' or ')' in 'shape'");
    }
    return extents;
  }

  std::string file_;
  std::string_view text_;
};

/// Reads exactly `bytes` bytes.
void read_bytes(std::ifstream& stream, const std::string& file, void* into, std::size_t bytes, const char* what) {
  stream.read(static_cast<char*>(into), std::streamsize(bytes));
  if (std::size_t(stream.gcount()) != bytes) bad_input(file, ": is truncated: it ends inside ", what);
}

std::string read_header(std::ifstream& stream, const std::string& file) {
  unsigned char magic[8];
  stream.read(reinterpret_cast<char*>(magic), sizeof magic);
  if (stream.gcount() == 0) bad_input(file, ": is empty, expected a NumPy array (.npy)");
  if (stream.gcount() < 6 || std::memcmp(magic, "\x93NUMPY", 6) != 0)
    bad_input(file, ": does not begin with NumPy's signature, expected a NumPy array (.npy)");
  if (stream.gcount() < 8) bad_input(file, ": is truncated: it ends inside its first 8 bytes");
  if (magic[6] < 1 || magic[6] > 3)
    bad_input(file, ": has format version ", int(magic[6]), ".", int(magic[7]), ", expected 1.0, 2.0 or 3.0");
  unsigned char length_bytes[4] = {};
  read_bytes(stream, file, length_bytes, magic[6] == 1 ? 2 : 4, "its header's length");
  std::uint32_t length;
  std::memcpy(&length, length_bytes, sizeof length);
  if (length > kMostHeaderBytes)
    bad_input(file, ": announces a header of ", length, " bytes, expected at most ", kMostHeaderBytes);
  std::string header(length, '\0');
  read_bytes(stream, file, header.data(), length, "its header");
  return header;
}

void expects_finite(const NpyArray& array) {
  const auto at = std::find_if_not(array.values.begin(), array.values.end(), [](float x) { return std::isfinite(x); });
  if (at != array.values.end())
    bad_input(array.place_of(std::size_t(at - array.values.begin())), " is ", *at, ", expected finite numbers");
}

}  // namespace

std::string NpyArray::place_of(std::size_t entry) const {
  std::vector<std::int64_t> index(shape.size());
  for (std::size_t d = shape.size(); d-- > 0; entry /= std::size_t(shape[d]))
    index[d] = std::int64_t(entry % std::size_t(shape[d]));
  std::string text = shape_text(index);
  text.front() = '[';
  text.back() = ']';
  return file + ": " + name + text;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t d = 0; d < shape.size(); ++d) text += (d == 0 ? "" : ", ") + std::to_string(shape[d]);
  return text + ")";
}

NpyArray read_npy(const std::string& file, const std::string& name, std::size_t rank, const std::string& dimensions) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) bad_input(file, ": is a directory, expected a NumPy array (.npy)");
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) bad_input(file, ": cannot be opened: ", std::strerror(errno));

  const std::string header_text = read_header(stream, file);
  const Header header = HeaderParser(file, header_text).parse();
  if (header.type != "<f4" && header.type != "<f2")
    bad_input(file, ": ", name, " has the type '", header.type.substr(0, 40), "', expected <f4 or <f2");
  if (header.fortran_order) bad_input(file, ": ", name, " is in Fortran order, expected C order");
  if (header.shape.size() != rank)
    bad_input(file, ": ", name, " has the shape ", shape_text(header.shape), ", expected ", dimensions);

  NpyArray array{file, name, header.type == "<f4" ? NpyType::f4 : NpyType::f2, header.shape, {}};
  const std::string size_of_array = file + ": the size of " + name;
  std::int64_t count = 1;
  for (const std::int64_t extent : array.shape) count = product_of({count, extent}, size_of_array);
  const std::int64_t bytes = product_of({count, bytes_of(array.type)}, size_of_array);
  // Before memory is asked for, the file must be as long as it says.
  const auto begin = stream.tellg();
  stream.seekg(0, std::ios::end);
  const std::int64_t there = std::int64_t(stream.tellg() - begin);
  stream.seekg(begin);
  if (there < bytes)
    bad_input(file, ": is truncated: ", there, " bytes of data, expected ", bytes, " for the shape ",
              shape_text(array.shape));
  if (there > bytes)
    bad_input(file, ": has ", there - bytes, " bytes behind its data of shape ", shape_text(array.shape));
  expects_memory(product_of({count, 4}, size_of_array), file + ": " + name);

  array.values.resize(std::size_t(count));
  if (array.type == NpyType::f4) {
    read_bytes(stream, file, array.values.data(), std::size_t(bytes), "its data");
  } else {
    std::vector<float16> chunk(std::min(kChunk, array.values.size()));
    for (std::size_t first = 0; first < array.values.size(); first += chunk.size()) {
      const std::size_t size = std::min(chunk.size(), array.values.size() - first);
      read_bytes(stream, file, chunk.data(), size * sizeof(float16), "its data");
      for (std::size_t i = 0; i < size; ++i) array.values[first + i] = to_float(chunk[i]);
    }
  }
  expects_finite(array);
  return array;
}

void write_npy(std::ostream& stream, const std::string& name, NpyType type, std::span<const std::int64_t> shape,
               std::span<const float> values) {
  std::string extents;
  for (const std::int64_t extent : shape) extents += std::to_string(extent) + ", ";
  std::string header = "{'descr': '" + std::string(type == NpyType::f4 ? "<f4" : "<f2") +
                       "', 'fortran_order': False, 'shape': (" + extents + "), }";
  constexpr std::size_t kAlignment = 64, kPrefix = 10;
  header.resize((kPrefix + header.size() + 1 + kAlignment - 1) / kAlignment * kAlignment - kPrefix - 1, ' ');
  header += '\n';
  const auto length = std::uint16_t(header.size());
  stream.write("\x93NUMPY\x01\x00", 8);
  stream.write(reinterpret_cast<const char*>(&length), sizeof length);
  stream << header;
  if (type == NpyType::f4) {
    stream.write(reinterpret_cast<const char*>(values.data()), std::streamsize(values.size_bytes()));
    return;
  }
  std::vector<float16> chunk;
  for (std::size_t first = 0; first < values.size(); first += kChunk) {
    chunk.clear();
    for (const float value : values.subspan(first, std::min(kChunk, values.size() - first))) {
      chunk.push_back(from_float<float16>(value));
      if (std::isfinite(value) && std::isinf(to_float(chunk.back())))
        bad_input(name, ": holds ", value, ", beyond what <f2 can store; give q as <f4");
    }
    stream.write(reinterpret_cast<const char*>(chunk.data()), std::streamsize(chunk.size() * sizeof(float16)));
  }
}

}  // namespace espalier::cli
