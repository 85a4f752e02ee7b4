#pragma once

#include <cstdint>

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu {

/// One token of a tile, as a kernel meets it.
struct WalkToken {
  std::int64_t block;
  int offset;     ///< inside the block
  int row_begin;  ///< rows in line order that see it ...
  int row_end;
  int own_row_end;  ///< ... those below this one only where node_token < row_visible[row]
  int node_token;
};

/// Walks the tokens of a tile, segment by segment, through the block table. The same in all threads of a block.
class BlockWalk {
 public:
  __device__ __forceinline__ BlockWalk(const detail::PlanView& plan, const detail::Tile& tile, int block_tokens)
      : plan_(plan), block_tokens_(block_tokens), segment_(tile.segment_begin), place_(tile.skip) {
    skip_finished();
  }

  [[nodiscard]] __device__ __forceinline__ WalkToken token() const {
    const detail::Segment& s = plan_.segments[segment_];
    const int place = s.block_offset + place_;
    const int entry = place / block_tokens_;
    return {plan_.block_table[s.table_begin + entry],
            place - entry * block_tokens_,
            s.row_begin,
            s.row_end,
            s.own_row_end,
            s.node_token + place_};
  }

  __device__ __forceinline__ void next() {
    ++place_;
    skip_finished();
  }

 private:
  __device__ __forceinline__ void skip_finished() {
    while (place_ >= plan_.segments[segment_].tokens) {
      place_ -= plan_.segments[segment_].tokens;
      ++segment_;
    }
  }

  const detail::PlanView& plan_;
  const int block_tokens_;
  int segment_;
  int place_;
};

}  // namespace espalier::gpu
