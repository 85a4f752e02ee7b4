#pragma once

#include <cstdint>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>

namespace espalier {

enum class ErrorCode : std::uint8_t {
  invalid_argument,   ///< the call is wrong: shapes, ranges, a handle that is no longer live
  capacity_exceeded,  ///< a fixed capacity (blocks of a pool, tiles of a plan) does not suffice
  stale_plan,         ///< the plan was never updated, or it belongs to another problem
  unsupported,        ///< no compiled kernel can do this
  backend_failure     ///< a call of the vendor's runtime failed
};

/// What every public function throws. Nothing is changed by a call that throws, unless it says otherwise.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::source_location where)
      : std::runtime_error(message), code_(code), where_(where) {}

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

  /// The place in the library that found the error.
  [[nodiscard]] const std::source_location& where() const noexcept { return where_; }

 private:
  ErrorCode code_;
  std::source_location where_;
};

namespace detail {

/// A condition together with the place that states it.
struct Condition {
  Condition(bool condition, std::source_location place = std::source_location::current())
      : holds(condition), where(place) {}
  bool holds;
  std::source_location where;
};

template <class... Parts>
[[noreturn]] void fail(std::source_location where, ErrorCode code, const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(code, message.str(), where);
}

/// Throws Error{code} with the parts written one after another as its message, unless the condition holds.
template <class... Parts>
void expects(Condition condition, ErrorCode code, const Parts&... parts) {
  if (!condition.holds) fail(condition.where, code, parts...);
}

}  // namespace detail
}  // namespace espalier
