#include "espalier/cost_model.hpp"

#include <cmath>
#include <utility>

#include "espalier/error.hpp"

namespace espalier::detail {

TileCost tile_cost_of(const CostModel& model, const HeadShape& heads, Scalar scalar) {
  for (const auto& [value, name] : {std::pair{model.tile_us, "tile_us"}, std::pair{model.lane_us, "lane_us"},
                                    std::pair{model.partial_us, "partial_us"}})
    expects(std::isfinite(value) && value >= 0 && value < 1e6, ErrorCode::invalid_argument, "cost model: ", name,
            " is ", value, ", expected 0 to a million microseconds");
  for (const auto& [value, name] : {std::pair{model.read_gbs, "read_gbs"}, std::pair{model.math_gflops, "math_gflops"}})
    expects(std::isfinite(value) && value >= 1e-3 && value <= 1e6, ErrorCode::invalid_argument, "cost model: ", name,
            " is ", value, ", expected 0.001 to a million");
  expects(model.lane_step >= 1 && model.lane_step <= 1024, ErrorCode::invalid_argument, "cost model: lane_step is ",
          model.lane_step, ", expected 1 to 1024");
  const auto picoseconds = [](double microseconds) { return std::int64_t(std::llround(microseconds * 1e6)); };
  const double dims = heads.head_dim / 128.0;
  TileCost cost{};
  cost.tile_ps = picoseconds(model.tile_us);
  cost.lane_ps = picoseconds(model.lane_us * dims);
  cost.partial_ps = picoseconds(model.partial_us * dims);
  cost.token_ps = std::llround(2.0 * heads.head_dim * bytes_of(scalar) / model.read_gbs * 1e3);
  cost.lane_token_ps = std::llround(4.0 * heads.head_dim / model.math_gflops * 1e3);
  cost.lane_step = model.lane_step;
  cost.overlaps = model.overlaps ? 1 : 0;
  return cost;
}

}  // namespace espalier::detail
