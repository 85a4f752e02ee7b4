#include "cli/input_error.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

namespace espalier::cli {
namespace {

/// Memory that programs can still get, or -1 where the system does not say.
std::int64_t available_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string word;
  while (meminfo >> word)
    if (std::int64_t kibibytes = 0; word == "MemAvailable:" && meminfo >> kibibytes) return kibibytes * 1024;
  return -1;
}

}  // namespace

std::int64_t product_of(std::initializer_list<std::int64_t> sizes, const std::string& what) {
  std::int64_t product = 1;
  for (const std::int64_t size : sizes) {
    if (size != 0 && product > std::numeric_limits<std::int64_t>::max() / size)
      bad_input(what, " is beyond what 64 bits can count");
    product *= size;
  }
  return product;
}

void expects_memory(std::int64_t bytes, const std::string& what) {
  const std::int64_t available = available_bytes();
  if (available >= 0 && bytes > available)
    bad_input(what, " needs ", readable_bytes(double(bytes)), " of memory, this machine has ",
              readable_bytes(double(available)), " available");
}

std::string readable_bytes(double bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 6; ++unit) bytes /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, bytes < 10 && unit > 0 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
  return text;
}

std::string read_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) bad_input(path, ": is a directory, expected a file");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) bad_input(path, ": cannot be opened: ", std::strerror(errno));
  if (const auto bytes = std::filesystem::file_size(path, ignored); !ignored)
    expects_memory(std::int64_t(bytes), path + ": reading it");
  std::ostringstream content;
  if (file.peek() != std::ifstream::traits_type::eof()) content << file.rdbuf();
  if (file.bad() || content.fail()) bad_input(path, ": cannot be read: ", std::strerror(errno));
  return std::move(content).str();
}

}  // namespace espalier::cli
