#include "espalier/detail/scalar.hpp"

#include <bit>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "espalier/types.hpp"

namespace espalier {
namespace {

struct Format {
  int exponent_bits;
  int mantissa_bits;
  [[nodiscard]] std::uint16_t infinity() const { return std::uint16_t(((1 << exponent_bits) - 1) << mantissa_bits); }
};

template <class T>
constexpr Format kFormat{};
template <>
constexpr Format kFormat<float16>{5, 10};
template <>
constexpr Format kFormat<bfloat16>{8, 7};

/// What the bits mean by the definition of the format.
float value_of(std::uint16_t bits, Format format) {
  const int sign = bits >> 15 != 0 ? -1 : 1;
  const int exponent = (bits & 0x7fff) >> format.mantissa_bits;
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  if (exponent == (1 << format.exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN()
                         : float(sign) * std::numeric_limits<float>::infinity();
  }
  const int significand = exponent == 0 ? mantissa : mantissa + (1 << format.mantissa_bits);
  return std::ldexp(float(sign * significand), std::max(exponent, 1) - bias - format.mantissa_bits);
}

template <class T>
std::uint16_t bits_from(float value) {
  return from_float<T>(value).bits;
}

}  // namespace

TEMPLATE_TEST_CASE("every 16-bit pattern means what its format says", "[scalar]", float16, bfloat16) {
  int wrong = 0;
  for (int pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = std::uint16_t(pattern);
    const float expected = value_of(bits, kFormat<TestType>);
    const float actual = to_float(TestType{bits});
    if (std::isnan(expected) ? !std::isnan(actual)
                             : std::bit_cast<std::uint32_t>(actual) != std::bit_cast<std::uint32_t>(expected) &&
                                   !(expected == 0 && actual == 0 && std::signbit(actual) == (bits >> 15 != 0)))
      ++wrong;
  }
  REQUIRE(wrong == 0);
}

TEMPLATE_TEST_CASE("every 16-bit pattern survives the way to float and back", "[scalar]", float16, bfloat16) {
  int wrong = 0;
  for (int pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = std::uint16_t(pattern);
    const std::uint16_t back = bits_from<TestType>(to_float(TestType{bits}));
    const bool is_nan = (bits & 0x7fff) > kFormat<TestType>.infinity();
    const bool back_is_nan = (back & 0x7fff) > kFormat<TestType>.infinity();
    if (is_nan ? !back_is_nan || (back >> 15) != (bits >> 15) : back != bits) ++wrong;
  }
  REQUIRE(wrong == 0);
}

TEMPLATE_TEST_CASE("between two neighbours a float rounds to the nearer one, and to the even one from the middle",
                   "[scalar]", float16, bfloat16) {
  const std::uint16_t infinity = kFormat<TestType>.infinity();
  int wrong = 0;
  for (std::uint16_t lower = 0; lower < infinity; ++lower) {
    const auto upper = std::uint16_t(lower + 1);
    const double low = to_float(TestType{lower});
    // Past the largest number the next one would have been twice the last step away; it rounds to infinity instead.
    const double high = upper < infinity ? double(to_float(TestType{upper}))
                                         : low + (low - double(to_float(TestType{std::uint16_t(lower - 1)})));
    const auto middle = float((low + high) / 2);
    const float infinite = std::numeric_limits<float>::infinity();
    for (const std::uint16_t sign : {std::uint16_t{0}, std::uint16_t{0x8000}}) {
      const auto rounded = [sign](float value) { return bits_from<TestType>(sign != 0 ? -value : value); };
      if (rounded(middle) != (sign | (lower % 2 == 0 ? lower : upper))) ++wrong;
      if (rounded(std::nextafter(middle, 0.0f)) != (sign | lower)) ++wrong;
      if (rounded(std::nextafter(middle, infinite)) != (sign | upper)) ++wrong;
    }
  }
  REQUIRE(wrong == 0);
}

TEMPLATE_TEST_CASE("floats beyond the range become infinite and NaN stays NaN", "[scalar]", float16, bfloat16) {
  const std::uint16_t infinity = kFormat<TestType>.infinity();
  const float largest = std::numeric_limits<float>::max();
  REQUIRE(bits_from<TestType>(largest) == infinity);
  REQUIRE(bits_from<TestType>(-largest) == (0x8000 | infinity));
  REQUIRE(bits_from<TestType>(std::numeric_limits<float>::infinity()) == infinity);
  REQUIRE(std::isnan(to_float(from_float<TestType>(std::numeric_limits<float>::quiet_NaN()))));
  REQUIRE(std::isnan(to_float(from_float<TestType>(std::bit_cast<float>(0x7f800001u)))));  // the smallest payload
  REQUIRE(bits_from<TestType>(0.0f) == 0);
  REQUIRE(bits_from<TestType>(-0.0f) == 0x8000);
}

#ifdef __FLT16_MAX__
TEST_CASE("float16 agrees with the compiler's own binary16", "[scalar]") {
  const std::uint64_t seed = 20260;
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  int wrong = 0;
  for (int i = 0; i < 2'000'000; ++i) {
    auto pattern = std::uint32_t(random());
    if (i % 2 == 0) pattern = (pattern & 0x807fffffu) | ((100u + pattern % 60u) << 23);  // around binary16's range
    const auto value = std::bit_cast<float>(pattern);
    if (std::isnan(value)) continue;
    if (bits_from<float16>(value) != std::bit_cast<std::uint16_t>(static_cast<_Float16>(value))) ++wrong;
  }
  REQUIRE(wrong == 0);
}
#endif

TEST_CASE("a Scalar knows its type's name and size", "[scalar]") {
  STATIC_REQUIRE(kScalarOf<float> == Scalar::f32);
  STATIC_REQUIRE(kScalarOf<float16> == Scalar::f16);
  STATIC_REQUIRE(kScalarOf<bfloat16> == Scalar::bf16);
  STATIC_REQUIRE(bytes_of(Scalar::f32) == sizeof(float));
  STATIC_REQUIRE(bytes_of(Scalar::bf16) == sizeof(bfloat16));
  REQUIRE(std::string(name_of(Scalar::f32)) == "f32");
  REQUIRE(std::string(name_of(Scalar::f16)) == "f16");
  REQUIRE(std::string(name_of(Scalar::bf16)) == "bf16");
}

}  // namespace espalier
