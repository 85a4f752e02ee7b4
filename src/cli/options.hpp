#pragma once
// Values of options that several subcommands share, and their names.

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/attention.hpp"
#include "espalier/plan.hpp"
#include "espalier/types.hpp"

namespace espalier::cli {

[[nodiscard]] std::vector<std::string> scalar_names();    ///< f32, f16, bf16
[[nodiscard]] std::vector<std::string> strategy_names();  ///< every PlanStrategy
[[nodiscard]] std::vector<std::string> kernel_names();    ///< auto, portable, fused

/// The strategy that a plan has unless it is told otherwise.
inline constexpr PlanStrategy kDefaultStrategy = PlanStrategy::automatic;

/// The value of a name that one of the lists above holds.
[[nodiscard]] Scalar scalar_named(const std::string& name);
[[nodiscard]] PlanStrategy strategy_named(const std::string& name);
[[nodiscard]] Kernel kernel_named(const std::string& name);

/// "32,8,128": query heads, KV heads, head dimension.
/// @throws InputError unless there are three positive integers, the first a multiple of the second
[[nodiscard]] HeadShape heads_of(const std::string& text);

/// The largest error by norm that attention may have: the rounding of its output, and that of float arithmetic, which
/// grows like a random walk along the path.
[[nodiscard]] double tolerance(Scalar scalar, std::int64_t longest_path);

/// Bytes of K and V of one token in one layer.
[[nodiscard]] double kv_bytes_per_token(const HeadShape& heads, Scalar scalar);

}  // namespace espalier::cli
