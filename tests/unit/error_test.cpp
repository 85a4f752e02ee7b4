#include "espalier/error.hpp"

#include <catch2/catch_test_macros.hpp>
#include <string>

namespace espalier {

TEST_CASE("a condition that holds is silent", "[error]") {
  REQUIRE_NOTHROW(detail::expects(1 + 1 == 2, ErrorCode::invalid_argument, "never seen"));
}

TEST_CASE("a condition that does not hold throws its code, its values and its place", "[error]") {
  unsigned line = 0;
  try {
    line = __LINE__ + 1;
    detail::expects(1 > 2, ErrorCode::capacity_exceeded, "pool: needs ", 12, " blocks, ", 3L, " are free");
    FAIL("nothing was thrown");
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::capacity_exceeded);
    REQUIRE(std::string(error.what()) == "pool: needs 12 blocks, 3 are free");
    REQUIRE(error.where().line() == line);
    REQUIRE(std::string(error.where().file_name()).ends_with("error_test.cpp"));
  }
}

TEST_CASE("an Error is a runtime_error, so that a caller needs no special case", "[error]") {
  REQUIRE_THROWS_AS(detail::expects(false, ErrorCode::unsupported, "no"), std::runtime_error);
}

}  // namespace espalier
