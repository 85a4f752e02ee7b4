#pragma once
// Attention over given arrays: by the library, through a paged cache in shuffled block order, or by the oracle.

#include <optional>
#include <span>
#include <vector>

#include "cli/workload.hpp"
#include "espalier/attention.hpp"
#include "espalier/plan.hpp"

namespace espalier::cli {

/// What `attend` computes. The arrays hold numbers that the element type represents.
struct Problem {
  const TreeInput& tree;
  HeadShape heads;
  std::span<const float> q;  ///< [rows, query_heads, head_dim]
  std::span<const float> k;  ///< [tokens, kv_heads, head_dim], tokens in node order
  std::span<const float> v;  ///< like k
  Scalar scalar;
  int block_tokens;
  PlanStrategy strategy;
  std::optional<CostModel> cost_model;  ///< none: that of the device
  Kernel kernel;
  AttendOptions options;
};

struct Solution {
  std::vector<float> out;  ///< like q
  std::vector<float> lse;  ///< [rows, query_heads]
  double plan_ms = 0;
  double attend_ms = 0;
};

/// By the library.
/// @throws Error, InputError if memory cannot hold the problem
[[nodiscard]] Solution solve(const Problem& problem);

/// By the oracle, in double precision.
[[nodiscard]] Solution solve_by_oracle(const Problem& problem);

/// Rounds values to what the element type represents.
/// @return the first entry that is beyond its range, or the number of values
[[nodiscard]] std::size_t round_to(Scalar scalar, std::span<float> values);

}  // namespace espalier::cli
