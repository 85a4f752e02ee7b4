#include "espalier/version.hpp"

#include <catch2/catch_test_macros.hpp>

TEST_CASE("the library tells its version") { REQUIRE(espalier::version() == EXPECTED_VERSION); }
