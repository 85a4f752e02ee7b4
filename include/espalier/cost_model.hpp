#pragma once

#include <cstdint>
#include <string_view>

#include "espalier/types.hpp"

namespace espalier {

/// What the tiles of an attention cost on one worker while all workers are busy. `PlanStrategy::automatic` weighs cuts
/// by it, and every plan balances its workers by it. `espalier calibrate` measures the numbers.
///
///   reading  = tokens * 2 * head_dim * bytes / read_gbs         K and V of the tile's tokens
///   products = tokens * lanes * 4 * head_dim / math_gflops      both products; lanes rounded up, see panel_lanes
///   tile     = tile_us + lanes * lane_us * head_dim / 128 + (reading + products, or the larger where they overlap)
///
/// and each lane whose result is a partial adds partial_us * head_dim / 128, for writing it and merging it.
/// A lane is one (row, query head).
struct CostModel {
  double tile_us;                ///< any tile
  double lane_us;                ///< per lane and 128 dimensions: its query in, its result out
  double partial_us;             ///< per lane and 128 dimensions whose result is merged from partials
  double read_gbs;               ///< GB/s that one worker reads K and V with
  double math_gflops;            ///< GFLOP/s of one worker
  std::int32_t lane_step;        ///< lanes are computed this many at a time
  bool overlaps;                 ///< reading hides behind the products, or they behind it
  std::int32_t panel_lanes = 0;  ///< lanes are computed in panels of so many, a multiple of lane_step; what is left of
                                 ///< them in one of lane_step, 2 lane_step, 4 lane_step, ... lanes. Below 2 lane_step:
                                 ///< all panels are of lane_step

  friend bool operator==(const CostModel&, const CostModel&) = default;
};

/// The portable kernel on one core of a server CPU with AVX-512: between what `espalier calibrate` found for f32 and bf16
/// on a virtual core of an Intel Xeon (Granite Rapids class).
inline constexpr CostModel kCpuCostModel{0.1, 0.22, 0.06, 10.0, 135.0, 4, false, 32};

/// One thread block of the fused kernels. H200: from measured tiles (a 128 x 128 block in 1.7 us, 80 GB/s streamed by
/// an SM, 2 us for a tile). A100, H100, MI300: the same tiles scaled by the vendor's bandwidth and matrix rate;
/// estimates, to be replaced by a calibration.
inline constexpr CostModel kH200CostModel{2.0, 0.01, 0.02, 36.0, 4900.0, 16, true};
inline constexpr CostModel kH100CostModel{2.0, 0.01, 0.02, 25.0, 4900.0, 16, true};
inline constexpr CostModel kA100CostModel{2.5, 0.015, 0.03, 18.0, 2000.0, 16, true};
inline constexpr CostModel kMi300CostModel{3.0, 0.015, 0.03, 16.0, 2500.0, 16, true};

/// The constants of a GPU by the name that its runtime gives it, "NVIDIA H100 80GB HBM3" say; of a GPU that is none of
/// the above those of the oldest of its vendor.
[[nodiscard]] CostModel gpu_cost_model(std::string_view device_name);

/// What plans take that are not given a model: kCpuCostModel on a host, gpu_cost_model of the instance's device on a GPU.
/// @param workers  of a GPU that run together; where they are more than its multiprocessors, each has a share of the
///                 rates of one. 0: one for each multiprocessor
template <ExecutionSpace Exec>
[[nodiscard]] CostModel default_cost_model(const Exec& exec, std::int32_t workers = 0);

namespace detail {

/// A CostModel for one problem, in whole picoseconds: sums of integers do not depend on their order.
struct TileCost {
  std::int64_t tile_ps;
  std::int64_t lane_ps;
  std::int64_t partial_ps;
  std::int64_t token_ps;
  std::int64_t lane_token_ps;
  std::int32_t lane_step;
  std::int32_t overlaps;
  std::int32_t panel_lanes;  // a multiple of lane_step

  /// Lanes that are computed for so many, with those that only fill a panel.
  [[nodiscard]] KOKKOS_FUNCTION std::int64_t with_padding(std::int64_t lanes) const {
    // A GPU divides 32-bit numbers several times faster, and tiles have no more lanes than that.
    const std::int64_t rest = lanes <= INT32_MAX ? std::int32_t(lanes) % panel_lanes : lanes % panel_lanes;
    if (rest == 0) return lanes;
    std::int64_t width = lane_step;
    while (width < rest) width *= 2;
    return lanes - rest + (width < panel_lanes ? width : panel_lanes);
  }

  /// Cost of `tokens` tokens for `lanes` lanes, without what a tile costs by itself.
  KOKKOS_FUNCTION std::int64_t tokens(std::int64_t lanes, std::int64_t tokens) const {
    const std::int64_t reading = tokens * token_ps;
    const std::int64_t products = tokens * with_padding(lanes) * lane_token_ps;
    if (overlaps != 0) return reading > products ? reading : products;
    return reading + products;
  }

  /// Cost of one tile of `length` tokens; of its lanes `partials` are merged with others.
  KOKKOS_FUNCTION std::int64_t tile(std::int64_t lanes, std::int64_t length, std::int64_t partials) const {
    return tile_ps + lanes * lane_ps + partials * partial_ps + tokens(lanes, length);
  }
};

/// The model of one of `workers` workers that share the rates of the multiprocessors, for each of which `model` is.
[[nodiscard]] CostModel shared_by(CostModel model, std::int32_t workers, std::int32_t multiprocessors);

/// @throws Error{invalid_argument} unless every rate is positive and every time is finite and not negative
[[nodiscard]] TileCost tile_cost_of(const CostModel& model, const HeadShape& heads, Scalar scalar);

}  // namespace detail
}  // namespace espalier
