#pragma once

#include <string>

#include "cli/plan_contents.hpp"
#include "espalier/tree_arrays.hpp"

namespace espalier::cli {

/// An SVG picture of how a plan cuts its tree. Every row is a strip from the root, to the right, through the tokens that
/// it sees; a node is as high as its rows and as wide as its tokens; a tile has the colour of its worker. Below, the
/// predicted time of each worker. One KV head is drawn, the one where the busiest worker does most; all are cut alike.
///
/// Short stretches of tokens are widened, and the axis says where. A plan of many tiles is drawn worker by worker, and
/// what is smaller than a pixel may be left out: the picture says so, and stays below about a megabyte.
/// @param name  of the tree
[[nodiscard]] std::string draw_plan(const std::string& name, const TreeSnapshot& tree, const PlanContents& plan);

}  // namespace espalier::cli
