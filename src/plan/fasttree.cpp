#include "espalier/fasttree.hpp"

#include <cmath>
#include <cstddef>

#include "cuts/fasttree.hpp"
#include "espalier/error.hpp"

namespace espalier {

using detail::expects;

namespace plan {

void check_fasttree(const FastTreeParams& params, const char* function) {
  for (const auto& [value, name] :
       {std::pair{params.alpha, "alpha"}, std::pair{params.beta, "beta"}, std::pair{params.gamma, "gamma"}})
    expects(std::isfinite(value), ErrorCode::invalid_argument, function, ": fasttree ", name, " is ", value,
            ", expected a finite number");
  constexpr std::int32_t kMost = 1 << 20;
  for (int p = 0; p < 2; ++p)
    for (const auto& [value, smallest, name] :
         {std::tuple{params.tile_rows[p], 0, "tile_rows"}, std::tuple{params.tile_tokens[p], 1, "tile_tokens"},
          std::tuple{params.split_tokens[p], 1, "split_tokens"}, std::tuple{params.enough_tiles[p], 0, "enough_tiles"},
          std::tuple{params.enough_tiles_then[p], 0, "enough_tiles_then"}})
      expects(smallest <= value && value <= kMost, ErrorCode::invalid_argument, function, ": fasttree ", name, "[", p,
              "] is ", value, ", expected ", smallest, " to ", kMost);
}

}  // namespace plan

FastTreeAssignments fasttree_assignments(const TreeSnapshot& snapshot, const HeadShape& heads,
                                         const FastTreeParams& params) {
  expects(heads.kv_heads >= 1 && heads.query_heads >= 1 && heads.query_heads % heads.kv_heads == 0,
          ErrorCode::invalid_argument, "fasttree_assignments: query_heads is ", heads.query_heads,
          ", expected a positive multiple of kv_heads ", heads.kv_heads);
  plan::check_fasttree(params, "fasttree_assignments");
  detail::TreeView tree{};
  tree.nodes = snapshot.nodes();
  tree.rows = snapshot.rows();
  tree.parent = snapshot.parent.data();
  tree.tokens = snapshot.tokens.data();
  tree.subtree_end = snapshot.subtree_end.data();
  tree.row_begin = snapshot.row_begin.data();
  tree.row_end = snapshot.row_end.data();

  const auto nodes = std::size_t(tree.nodes);
  plan::Scratch needed;
  plan::FastTreeCut::reserve(needed, nodes);
  std::vector<char> memory(needed.bytes());
  plan::Scratch scratch(memory.data());
  const plan::FastTreeArrays a = plan::FastTreeArrays::in(scratch, nodes);
  plan::FastTreeCut::walk(tree, params, heads.kv_heads, heads.group(), a)(plan::OneThread{});

  FastTreeAssignments assignments{};
  assignments.takes_copy.assign(a.takes_copy, a.takes_copy + nodes);
  assignments.rows.assign(a.rows, a.rows + nodes);
  assignments.tokens.assign(a.line_tokens, a.line_tokens + nodes);
  const plan::FastTreeTiles& tiles = a.state->tiles;
  for (int p = 0; p < 2; ++p) {
    assignments.tile_rows[p] = tiles.rows[p];
    assignments.tile_tokens[p] = tiles.tokens[p];
    assignments.split_tokens[p] = tiles.split[p];
  }
  return assignments;
}

}  // namespace espalier
