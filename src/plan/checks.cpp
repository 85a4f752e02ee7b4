#include "checks.hpp"

#include <algorithm>
#include <utility>

#include "espalier/error.hpp"

namespace espalier::plan {

using detail::expects;

namespace {

constexpr std::int64_t kMostIndex = 2147483647;

}  // namespace

void check_shape(const PlanConfig& config) {
  const HeadShape& heads = config.heads;
  expects(heads.kv_heads >= 1 && heads.kv_heads <= 32767, ErrorCode::invalid_argument, "plan: kv_heads is ",
          heads.kv_heads, ", expected 1 to 32767");
  expects(heads.query_heads >= 1 && heads.query_heads % heads.kv_heads == 0, ErrorCode::invalid_argument,
          "plan: query_heads is ", heads.query_heads, ", expected a positive multiple of kv_heads ", heads.kv_heads);
  expects(heads.head_dim >= 1 && heads.head_dim <= 256, ErrorCode::invalid_argument, "plan: head_dim is ",
          heads.head_dim, ", expected 1 to 256");
  const PlanCapacity& capacity = config.capacity;
  for (const auto& [value, name] :
       {std::pair{capacity.nodes, "nodes"}, std::pair{capacity.rows, "rows"}, std::pair{capacity.segments, "segments"},
        std::pair{capacity.tiles, "tiles"}, std::pair{capacity.partials, "partials"}})
    expects(value >= 0, ErrorCode::invalid_argument, "plan: capacity of ", name, " is ", value, ", expected 0 or more");
}

std::int32_t capacity_or_default(std::int32_t given, std::int64_t value, const char* name) {
  if (given > 0) return given;
  expects(value <= kMostIndex, ErrorCode::invalid_argument, "plan: the default capacity of ", name, " would be ", value,
          ", more than 2147483647: give it");
  return std::int32_t(value);
}

void check_fits(std::int32_t nodes, std::int32_t rows, const PlanCapacity& capacity) {
  expects(nodes <= capacity.nodes, ErrorCode::capacity_exceeded, "plan: the tree has ", nodes,
          " nodes, the plan's capacity is ", capacity.nodes);
  expects(rows <= capacity.rows, ErrorCode::capacity_exceeded, "plan: the tree has ", rows,
          " rows, the plan's capacity is ", capacity.rows);
}

void check_growth(bool is_updated, const detail::TreeView& updated, std::int32_t nodes, std::int32_t rows) {
  expects(is_updated, ErrorCode::stale_plan, "plan: grow before the first update");
  expects(nodes == updated.nodes && rows == updated.rows, ErrorCode::stale_plan, "plan: grow with a tree of ", nodes,
          " nodes and ", rows, " rows, the plan was updated with ", updated.nodes, " and ", updated.rows);
}

void Exceeded::compare(std::int64_t need, std::int64_t capacity, const char* name) {
  if (need <= capacity) return;
  if (!list_.empty()) list_ += ", ";
  list_ += std::to_string(need) + " " + name + " (capacity " + std::to_string(capacity) + ")";
}

void Exceeded::check() const { expects(list_.empty(), ErrorCode::capacity_exceeded, "plan: the tree needs ", list_); }

PlanCapacity exact_capacity(const TreeSnapshot& snapshot, std::int64_t segments, std::int64_t tiles,
                            std::int64_t partials) {
  expects(std::max({segments, tiles, partials}) <= kMostIndex, ErrorCode::capacity_exceeded, "plan: ", segments,
          " segments, ", tiles, " tiles and ", partials, " partials: one of them is more than 2147483647");
  const auto at_least_one = [](std::int64_t count) { return std::int32_t(std::max<std::int64_t>(count, 1)); };
  return {snapshot.nodes(), snapshot.rows(), at_least_one(segments), at_least_one(tiles), at_least_one(partials)};
}

detail::TreeView view_of(const TreeSnapshot& snapshot) {
  detail::TreeView tree{};
  tree.nodes = snapshot.nodes();
  tree.rows = snapshot.rows();
  tree.block_tokens = snapshot.block_tokens;
  tree.parent = snapshot.parent.data();
  tree.tokens = snapshot.tokens.data();
  tree.subtree_end = snapshot.subtree_end.data();
  tree.row_begin = snapshot.row_begin.data();
  tree.row_end = snapshot.row_end.data();
  tree.row_node = snapshot.row_node.data();
  tree.row_visible = snapshot.row_visible.data();
  return tree;
}

}  // namespace espalier::plan
