#pragma once
// Bad input, and the checks that find it before anything is computed or written.

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

namespace espalier::cli {

/// The user's input is wrong: one line that names the file, the place and what was expected. Ends the program with 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws InputError with the parts written one after another.
template <class... Parts>
[[noreturn]] void bad_input(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw InputError(message.str());
}

/// The product of sizes that are not negative.
/// @throws InputError naming `what` where 64 bits do not hold it
[[nodiscard]] std::int64_t product_of(std::initializer_list<std::int64_t> sizes, const std::string& what);

/// @throws InputError naming `what` if this machine has less memory available
void expects_memory(std::int64_t bytes, const std::string& what);

/// "1.5 GiB", "12 KiB": sizes for people.
[[nodiscard]] std::string readable_bytes(double bytes);

/// The whole content of a file.
/// @throws InputError if there is none, it is a directory, or it cannot be read
[[nodiscard]] std::string read_file(const std::string& path);

}  // namespace espalier::cli
