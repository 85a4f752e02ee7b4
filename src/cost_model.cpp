#include "espalier/cost_model.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/error.hpp"

namespace espalier {
namespace {

/// A device that computes: its name, and how many multiprocessors or compute units it has. On a host nothing.
template <class Exec>
struct Gpu {
  static constexpr bool kIsOne = false;
};
#ifdef KOKKOS_ENABLE_CUDA
template <>
struct Gpu<Kokkos::Cuda> {
  static constexpr bool kIsOne = true;
  static auto properties(const Kokkos::Cuda& exec) { return exec.cuda_device_prop(); }
};
#endif
#ifdef KOKKOS_ENABLE_HIP
template <>
struct Gpu<Kokkos::HIP> {
  static constexpr bool kIsOne = true;
  static auto properties(const Kokkos::HIP& exec) { return exec.hip_device_prop(); }
};
#endif

}  // namespace

CostModel gpu_cost_model(std::string_view device_name) {
  const auto names = [&](std::string_view part) { return device_name.find(part) != std::string_view::npos; };
  if (names("H200")) return kH200CostModel;  // GH200 too
  if (names("H100") || names("H800")) return kH100CostModel;
  if (names("AMD") || names("Instinct") || names("gfx")) return kMi300CostModel;
  return kA100CostModel;
}

namespace detail {

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
  expects(model.panel_lanes >= 0 && model.panel_lanes <= 65536, ErrorCode::invalid_argument,
          "cost model: panel_lanes is ", model.panel_lanes, ", expected 0 to 65536");
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
  cost.panel_lanes = std::max(model.panel_lanes / model.lane_step, 1) * model.lane_step;
  return cost;
}

CostModel shared_by(CostModel model, std::int32_t workers, std::int32_t multiprocessors) {
  if (workers <= multiprocessors) return model;
  const double share = double(multiprocessors) / workers;
  model.read_gbs *= share;
  model.math_gflops *= share;
  return model;
}

}  // namespace detail

template <ExecutionSpace Exec>
CostModel default_cost_model([[maybe_unused]] const Exec& exec, [[maybe_unused]] std::int32_t workers) {
  if constexpr (Gpu<Exec>::kIsOne) {
    const auto properties = Gpu<Exec>::properties(exec);
    return detail::shared_by(gpu_cost_model(properties.name), workers, properties.multiProcessorCount);
  } else {
    return kCpuCostModel;
  }
}

#define ESPALIER_INSTANTIATE(Exec) template CostModel default_cost_model(const Exec&, std::int32_t);
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
