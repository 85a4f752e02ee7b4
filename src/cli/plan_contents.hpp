#pragma once
// A finished plan on the host, with the cost of each tile: for tables, pictures and calibration.

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <vector>

#include "espalier/plan.hpp"
#include "espalier/tree_arrays.hpp"

namespace espalier::cli {

struct PlanContents {
  PlanConfig config;
  PlanReport report;
  std::vector<detail::Segment> segments;
  std::vector<detail::Tile> tiles;        ///< worker by worker
  std::vector<std::int32_t> tile_worker;  ///< [tiles]
  std::vector<std::int32_t> merged_rows;  ///< [tiles]  rows whose result is merged from several partials
  std::vector<double> tile_us;            ///< [tiles]  by the cost model
  std::vector<double> worker_us;          ///< [workers]

  [[nodiscard]] std::int32_t busiest_worker() const;  ///< the first of those with most to do
  [[nodiscard]] std::int32_t masked_tiles() const;
  [[nodiscard]] double mean_worker_us() const;
  [[nodiscard]] int workers_at_a_time() const;  ///< that the prediction has; the others begin where one of them ends
  /// What all tiles compute: also what is masked out, unlike `report.flops`.
  [[nodiscard]] double computed_flops() const;
};

/// Waits for the instance.
/// @throws Error as Plan::report does
[[nodiscard]] PlanContents contents_of(const Kokkos::DefaultExecutionSpace& exec,
                                       const Plan<Kokkos::DefaultExecutionSpace>& plan);

/// A plan of the tree, and the median time of an update.
struct TimedPlan {
  PlanContents contents;
  double plan_us;
};

/// @param config  its capacity is set to what the tree needs
/// @throws Error, InputError if memory cannot hold the plan
[[nodiscard]] TimedPlan make_timed_plan(const TreeSnapshot& tree, PlanConfig config);

}  // namespace espalier::cli
