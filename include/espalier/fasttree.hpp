#pragma once

#include <cstdint>
#include <vector>

#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// The numbers of FastTree's cost rule, under their published names where they have one. Arrays of two are indexed by
/// the phase: 0 for nodes that more than tile_rows[1] rows read, else 1.
struct FastTreeParams {
  double alpha = 0.66;                         ///< weight of a padding query head times a token
  double beta = 0.33;                          ///< weight of a padding token times a query head
  double gamma = 0.1;                          ///< weight of a partial that has to be merged
  std::int32_t tile_rows[2] = {0, 0};          ///< TSQ: rows of a tile; 0: 64 / group and 16 / group, at least 1
  std::int32_t tile_tokens[2] = {32, 32};      ///< TSK: tokens that a tile reads at once
  std::int32_t split_tokens[2] = {1024, 128};  ///< tokens of a tile at first, and where a phase has too few tiles
  std::int32_t enough_tiles[2] = {132, 528};   ///< in the first round: a phase with fewer has its tokens split finer
  std::int32_t enough_tiles_then[2] = {132, 132};  ///< in the second: both phases get the tiles of the other one
};

/// What FastTree decides about a tree, nodes in line order.
struct FastTreeAssignments {
  std::vector<std::uint8_t> takes_copy;  ///< [nodes]  1: Split-Q, reads its parent's tokens too; 0: Split-K
  std::vector<std::int32_t>
      rows;  ///< [nodes]  rows that read the node with its tile: not those of children with a copy
  std::vector<std::int32_t> tokens;  ///< [nodes]  its own tokens and those it took a copy of
  std::int32_t tile_rows[2];         ///< after the last round
  std::int32_t tile_tokens[2];
  std::int32_t split_tokens[2];
};

/// The assignments that `PlanStrategy::fasttree` makes on the device, made on the host.
///
/// With G = heads.group(), p = rows > tile_rows[1] ? 0 : 1, padQ the rows that are missing to a multiple of
/// tile_rows[p], and padK = max(0, tile_tokens[p] - tokens),
///   cost(rows, tokens) = alpha * padQ * G * tokens + beta * padK * rows * G.
/// Going down the tree, the children l of v in turn, l takes a copy of what v reads where
///   cost(rows_v, tokens_v) + cost(rows_l, tokens_l) + gamma * rows_l
///     > cost(rows_v - rows_l, tokens_v) + cost(rows_l, tokens_l + tokens_v),
/// and then rows_v loses rows_l, and tokens_l gains tokens_v. Up to three rounds adapt the tiles to the tree.
///
/// Method: Pan et al. 2025, "FastTree: Optimizing Attention Kernel and Runtime for Tree-Structured LLM Inference". It
/// knows rows at leaves of one tree; here rows may end at any node, and every root begins a tree of its own.
/// @throws Error{invalid_argument} for a head shape or parameters that make no sense
[[nodiscard]] FastTreeAssignments fasttree_assignments(const TreeSnapshot& snapshot, const HeadShape& heads,
                                                       const FastTreeParams& params = {});

}  // namespace espalier
