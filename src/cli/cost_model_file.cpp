#include "cli/cost_model_file.hpp"

#include <CLI/CLI.hpp>

#include "cli/input_error.hpp"
#include "cli/json_input.hpp"
#include "espalier/plan.hpp"

namespace espalier::cli {

std::optional<CostModel> cost_model_of(const std::string& file) {
  if (file.empty()) return std::nullopt;
  const Json document = parse_json(file, read_file(file));
  const JsonPlace root{document, file + ":"};
  expects_object(
      root, {"tile_us", "lane_us", "partial_us", "read_gbs", "math_gflops", "lane_step", "overlaps", "panel_lanes"},
      {"measured"});
  if (root.has("measured") && !root.value.at("measured").is_object())
    bad_input(root.at("measured").place, " is no object, expected how the model was measured");
  constexpr double kMostUs = 1e6, kLeastRate = 1e-3, kMostRate = 1e6;
  return CostModel{.tile_us = number_at(root.at("tile_us"), 0, kMostUs, " (microseconds)"),
                   .lane_us = number_at(root.at("lane_us"), 0, kMostUs, " (microseconds)"),
                   .partial_us = number_at(root.at("partial_us"), 0, kMostUs, " (microseconds)"),
                   .read_gbs = number_at(root.at("read_gbs"), kLeastRate, kMostRate, " (GB/s)"),
                   .math_gflops = number_at(root.at("math_gflops"), kLeastRate, kMostRate, " (GFLOP/s)"),
                   .lane_step = std::int32_t(integer_at(root.at("lane_step"), 1, 1024)),
                   .overlaps = boolean_at(root.at("overlaps")),
                   .panel_lanes = std::int32_t(integer_at(root.at("panel_lanes"), 0, 65536))};
}

nlohmann::ordered_json cost_model_json(const CostModel& model) {
  return {{"tile_us", model.tile_us},   {"lane_us", model.lane_us},         {"partial_us", model.partial_us},
          {"read_gbs", model.read_gbs}, {"math_gflops", model.math_gflops}, {"lane_step", model.lane_step},
          {"overlaps", model.overlaps}, {"panel_lanes", model.panel_lanes}};
}

void add_cost_model_option(CLI::App& app, std::string& file) {
  app.add_option("--cost-model", file,
                 "What tiles cost on this device, from espalier calibrate; default: by the device's name")
      ->type_name("FILE.json");
}

}  // namespace espalier::cli
