#include "arrays.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <stdexcept>

#include "espalier/detail/scalar.hpp"

namespace espalier::test {
namespace {

template <class Element>
std::string bytes_of(const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    const Element element = from_float<Element>(value);
    bytes.append(reinterpret_cast<const char*>(&element), sizeof element);
  }
  return bytes;
}

template <class Element>
std::vector<float> values_of(const std::string& bytes) {
  std::vector<float> values;
  for (std::size_t at = 0; at + sizeof(Element) <= bytes.size(); at += sizeof(Element)) {
    Element element;
    std::memcpy(&element, &bytes[at], sizeof element);
    values.push_back(to_float(element));
  }
  return values;
}

}  // namespace

std::string npy_with_header(const std::string& header, const std::string& data) {
  std::string file("\x93NUMPY\x01\x00", 8);
  file += char(header.size() & 0xff);
  file += char(header.size() >> 8);
  return file + header + data;
}

std::string npy_of(const Array& array) {
  std::string header = "{'descr': '" + array.type + "', 'fortran_order': False, 'shape': (";
  for (const std::int64_t extent : array.shape) header += std::to_string(extent) + ",";
  header += "), }";
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  return npy_with_header(header + "\n",
                         array.type == "<f4" ? bytes_of<float>(array.values) : bytes_of<float16>(array.values));
}

Array array_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::smatch match;
  const std::regex pattern(R"(\{'descr': '(<f[24])', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n)");
  if (bytes.size() < 10 || bytes.substr(0, 8) != std::string("\x93NUMPY\x01\x00", 8))
    throw std::runtime_error(path + " is no array");
  const auto length = std::size_t(std::uint8_t(bytes[8])) + (std::size_t(std::uint8_t(bytes[9])) << 8);
  const std::string header = bytes.substr(10, length);
  if (!std::regex_match(header, match, pattern) || (10 + length) % 64 != 0)
    throw std::runtime_error(path + " has the header " + header);
  Array array{match[1], {}, {}};
  const std::string shape = match[2];
  const std::regex number("[0-9]+");
  std::size_t elements = 1;
  for (std::sregex_iterator at(shape.begin(), shape.end(), number), end; at != end; ++at) {
    array.shape.push_back(std::stoll(at->str()));
    elements *= std::size_t(array.shape.back());
  }
  const std::string data = bytes.substr(10 + length);
  array.values = array.type == "<f4" ? values_of<float>(data) : values_of<float16>(data);
  if (array.values.size() != elements || data.size() != elements * (array.type == "<f4" ? 4 : 2))
    throw std::runtime_error(path + " does not hold what its shape says");
  return array;
}

}  // namespace espalier::test
