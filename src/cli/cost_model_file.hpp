#pragma once
// Files with the constants of a cost model, as `espalier calibrate` writes them.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "espalier/cost_model.hpp"

namespace CLI {  // NOLINT(readability-identifier-naming): the library calls it so
class App;
}

namespace espalier::cli {

/// The model of a file: all constants of CostModel by name, and optionally "measured", an object for people.
/// @param file  empty: none, so that a plan takes that of its device
/// @throws InputError naming the file, the constant and what was expected
[[nodiscard]] std::optional<CostModel> cost_model_of(const std::string& file);

/// The constants by name.
[[nodiscard]] nlohmann::ordered_json cost_model_json(const CostModel& model);

/// Adds --cost-model FILE to a subcommand.
void add_cost_model_option(CLI::App& app, std::string& file);

}  // namespace espalier::cli
