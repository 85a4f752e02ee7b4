#pragma once
// What both kinds of plans check, with the same words.

#include <cstdint>
#include <string>

#include "espalier/plan.hpp"

namespace espalier::plan {

/// @throws Error{invalid_argument} for a head shape or capacities that make no sense
void check_shape(const PlanConfig& config);

/// @param given  0: `value`
/// @throws Error{invalid_argument} if the default does not fit into 32 bits
std::int32_t capacity_or_default(std::int32_t given, std::int64_t value, const char* name);

/// @throws Error{capacity_exceeded} if the tree has more nodes or rows than the plan has room for
void check_fits(std::int32_t nodes, std::int32_t rows, const PlanCapacity& capacity);

/// @param updated  the plan's tree
/// @throws Error{stale_plan} before the first update, or if the tree has other numbers of nodes or rows
void check_growth(bool is_updated, const detail::TreeView& updated, std::int32_t nodes, std::int32_t rows);

/// The capacities that a plan exceeds.
class Exceeded {
 public:
  void compare(std::int64_t need, std::int64_t capacity, const char* name);
  /// @throws Error{capacity_exceeded} naming each of them, its value and the need, if there is any
  void check() const;

 private:
  std::string list_;
};

/// A capacity that holds what is needed, at least one of each: 0 would ask for the default.
/// @throws Error{capacity_exceeded} if one is more than 32 bits hold
PlanCapacity exact_capacity(const TreeSnapshot& snapshot, std::int64_t segments, std::int64_t tiles,
                            std::int64_t partials);

/// The snapshot's own arrays, without what says where tokens lie.
detail::TreeView view_of(const TreeSnapshot& snapshot);

}  // namespace espalier::plan
