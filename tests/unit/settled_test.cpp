#include "plan/settled.hpp"

#include <catch2/catch_test_macros.hpp>

namespace espalier::test {
namespace {

using plan::kNoCapture;
using plan::kUnknownCapture;

/// One plan, and streams of which each may be captured.
struct Stage {
  plan::Settled settled;
  std::uint64_t captures[2] = {kNoCapture, kNoCapture};
  int asked = 0;

  bool enter(int stream) {
    return settled.enter(&captures[stream], [&] {
      ++asked;
      return captures[stream];
    });
  }
};

TEST_CASE("a plan is settled on a stream from the first attention there on, until it is made anew", "[plan]") {
  Stage stage;
  CHECK_FALSE(stage.enter(0));
  CHECK(stage.enter(0));
  CHECK(stage.enter(0));
  CHECK(stage.asked == 1);  // asking costs host time
  stage.settled.forget();
  CHECK_FALSE(stage.enter(0));
  CHECK(stage.enter(0));
  CHECK_FALSE(stage.enter(1));  // another stream, which may hold what makes the plan
  CHECK_FALSE(stage.enter(0));
  CHECK(stage.enter(0));
}

TEST_CASE("what is captured settles a plan for that capture alone", "[plan]") {
  Stage stage;
  stage.captures[0] = 7;
  CHECK_FALSE(stage.enter(0));
  CHECK(stage.enter(0));
  stage.captures[0] = kNoCapture;  // the graph has not run, and may never do
  CHECK_FALSE(stage.enter(0));
  CHECK(stage.enter(0));
  stage.captures[0] = 8;  // the graph begins when what is in front of it has ended
  CHECK(stage.enter(0));
  stage.settled.forget();  // a captured update
  CHECK_FALSE(stage.enter(0));
  CHECK(stage.enter(0));
  stage.captures[0] = 9;
  CHECK_FALSE(stage.enter(0));
}

TEST_CASE("a plan is never settled where nobody knows of captures", "[plan]") {
  Stage stage;
  stage.captures[0] = kUnknownCapture;
  CHECK_FALSE(stage.enter(0));
  CHECK_FALSE(stage.enter(0));
  stage.captures[0] = kNoCapture;
  CHECK_FALSE(stage.enter(0));
  CHECK(stage.enter(0));
}

}  // namespace
}  // namespace espalier::test
