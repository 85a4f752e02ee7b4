#include "cli/options.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "cli/input_error.hpp"

namespace espalier::cli {
namespace {

using espalier::name_of;

constexpr Scalar kScalars[] = {Scalar::f32, Scalar::f16, Scalar::bf16};
constexpr Kernel kKernels[] = {Kernel::automatic, Kernel::portable, Kernel::fused};

const char* name_of(Kernel kernel) {
  return kernel == Kernel::automatic ? "auto" : kernel == Kernel::portable ? "portable" : "fused";
}

template <class List>
std::vector<std::string> names_of(const List& values) {
  std::vector<std::string> names;
  for (const auto value : values) names.emplace_back(name_of(value));
  return names;
}

template <class List>
auto value_named(const List& values, const std::string& name) {
  for (const auto value : values)
    if (name == name_of(value)) return value;
  bad_input("'", name, "' is unknown");
}

}  // namespace

std::vector<std::string> scalar_names() { return names_of(kScalars); }
std::vector<std::string> strategy_names() { return names_of(kPlanStrategies); }
std::vector<std::string> kernel_names() { return names_of(kKernels); }

Scalar scalar_named(const std::string& name) { return value_named(kScalars, name); }
PlanStrategy strategy_named(const std::string& name) { return value_named(kPlanStrategies, name); }
Kernel kernel_named(const std::string& name) { return value_named(kKernels, name); }

HeadShape heads_of(const std::string& text) {
  constexpr int kMost = 1024;  // sizes stay far from overflow; the kernels know their own limits
  int values[3] = {};
  const char* begin = text.data();
  const char* const end = begin + text.size();
  bool good = true;
  for (int i = 0; i < 3 && good; ++i) {
    const auto [next, error] = std::from_chars(begin, end, values[i]);
    good = error == std::errc{} && values[i] >= 1 && values[i] <= kMost &&
           (i == 2 ? next == end : next != end && *next == ',');
    begin = next + 1;
  }
  if (!good || values[0] % values[1] != 0)
    bad_input("--heads: '", text, "', expected QUERY_HEADS,KV_HEADS,HEAD_DIM such as 32,8,128; ",
              "each from 1 to 1024, and the first a multiple of the second");
  return {values[0], values[1], values[2]};
}

double tolerance(Scalar scalar, std::int64_t longest_path) {
  const double unit_roundoff = scalar == Scalar::f32 ? 0 : scalar == Scalar::f16 ? 0x1p-11 : 0x1p-8;
  return unit_roundoff + 1e-5 * std::max(1.0, std::sqrt(double(longest_path) / 1000));
}

double kv_bytes_per_token(const HeadShape& heads, Scalar scalar) {
  return 2.0 * heads.kv_heads * heads.head_dim * bytes_of(scalar);
}

}  // namespace espalier::cli
