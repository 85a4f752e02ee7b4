#pragma once
// Finds the constants of a CostModel from measured times. Knows no Kokkos.

#include <cstdint>
#include <vector>

#include "espalier/cost_model.hpp"
#include "espalier/types.hpp"

namespace espalier::cli {

/// Tiles that are alike.
struct TileKind {
  double tiles;
  std::int64_t lanes;  ///< of each tile
  std::int64_t tokens;
  std::int64_t merged_lanes;  ///< of its lanes, those whose result is merged from partials
};

/// What a worker was busy with, and how long.
struct CostSample {
  std::vector<TileKind> kinds;
  double worker_us;  ///< the sum over all workers
};

/// A model, and how far its times are from the measured ones: root mean square and largest of |model / measured - 1|.
struct CostFit {
  CostModel model;
  double error;
  double largest_error;
};

/// How far a model is from the samples.
[[nodiscard]] CostFit compare(const CostModel& model, const std::vector<CostSample>& samples, const HeadShape& heads,
                              Scalar scalar);

/// The model whose relative errors have the least sum of squares.
///
/// For given lane_step and panel_lanes, and reading and products either added or overlapped, a model's time is linear in tile_us,
/// lane_us, partial_us and the inverses of the two rates (of reading and products that overlap, the larger counts: which
/// one it is in a sample is found by iteration). Each of the linear problems is solved by least squares, with no constant
/// below 0, and the best of them is the result. `start` wins where samples cannot tell lane_step, panel_lanes or overlaps apart.
[[nodiscard]] CostFit fit_cost_model(const std::vector<CostSample>& samples, const HeadShape& heads, Scalar scalar,
                                     const CostModel& start);

}  // namespace espalier::cli
