#include "line_order.hpp"

#include <algorithm>
#include <cstddef>

namespace espalier::detail {

void set_rows(TreeSnapshot& snapshot, std::span<const PlacedRow> rows) {
  const std::size_t nodes = snapshot.parent.size();
  snapshot.subtree_end.resize(nodes);
  snapshot.row_begin.assign(nodes, 0);
  snapshot.row_end.assign(nodes, 0);
  snapshot.row_node.resize(rows.size());
  snapshot.row_visible.resize(rows.size());
  snapshot.row_index.resize(rows.size());

  // A counting sort by node; row_end counts, then serves as the place of the node's next row.
  for (const PlacedRow& row : rows) ++snapshot.row_end[static_cast<std::size_t>(row.node)];
  std::int32_t placed = 0;
  for (std::size_t node = 0; node < nodes; ++node) {
    snapshot.row_begin[node] = placed;
    placed += snapshot.row_end[node];
    snapshot.row_end[node] = snapshot.row_begin[node];
    snapshot.subtree_end[node] = static_cast<std::int32_t>(node) + 1;
  }
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const auto place = static_cast<std::size_t>(snapshot.row_end[static_cast<std::size_t>(rows[index].node)]++);
    snapshot.row_index[place] = static_cast<std::int32_t>(index);
  }
  const auto visible_of = [&](std::int32_t index) { return rows[static_cast<std::size_t>(index)].visible; };
  for (std::size_t node = 0; node < nodes; ++node) {
    const auto first = snapshot.row_index.begin();
    std::sort(first + snapshot.row_begin[node], first + snapshot.row_end[node], [&](std::int32_t a, std::int32_t b) {
      return visible_of(a) != visible_of(b) ? visible_of(a) < visible_of(b) : a < b;
    });
  }
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const PlacedRow& row = rows[static_cast<std::size_t>(snapshot.row_index[place])];
    snapshot.row_node[place] = row.node;
    snapshot.row_visible[place] = row.visible;
  }

  // Children lie behind their parent, so that one backward pass lifts every end to all ancestors.
  for (std::size_t node = nodes; node-- > 0;) {
    if (snapshot.parent[node] < 0) continue;
    const auto parent = static_cast<std::size_t>(snapshot.parent[node]);
    snapshot.row_end[parent] = std::max(snapshot.row_end[parent], snapshot.row_end[node]);
    snapshot.subtree_end[parent] = std::max(snapshot.subtree_end[parent], snapshot.subtree_end[node]);
  }
}

}  // namespace espalier::detail
