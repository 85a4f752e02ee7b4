#pragma once
// The problems that kernels are validated on.

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier::validate {

struct NamedTree {
  std::string name;
  std::vector<NodeSpec> nodes;
  std::vector<RowSpec> rows;  ///< at least one
};

/// How the dimensions of the cache follow each other in memory.
enum class CacheOrder : std::uint8_t {
  tokens_first,  ///< [blocks, block_tokens, kv_heads, head_dim]
  heads_first    ///< [blocks, kv_heads, block_tokens, head_dim]
};

struct Case {
  NamedTree tree;
  HeadShape heads;
  Scalar scalar;
  int block_tokens;
  TreeLayout layout;
  CacheOrder order;
  int gap;  ///< elements left free behind each head of the cache, and each row of q and out; a multiple of 8
  float scale;
  float soft_cap;
  bool wants_lse;
};

/// "f16, 8 / 2 heads of 128, blocks of 16 tokens, ..."
[[nodiscard]] std::string describe(const Case& it);

/// Every tree with every type and group; the other sizes take turns.
[[nodiscard]] std::vector<Case> make_cases(bool quick, std::uint32_t seed);

}  // namespace espalier::validate
