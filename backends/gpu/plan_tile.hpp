#pragma once

#include <cstdint>

#include "backends/gpu/platform.hpp"
#include "espalier/detail/params.hpp"

namespace espalier::gpu {

/// The tile that a worker's list calls `number`: the plan has those of KV head 0 alone.
__device__ __forceinline__ detail::Tile tile_of_plan(const detail::AttendParams& p, int number) {
  detail::Tile tile = p.plan.tiles[number / p.kv_heads];
  tile.kv_head = static_cast<std::int16_t>(number % p.kv_heads);
  tile.partial_begin += tile.kv_head * p.plan.sizes->partials;
  return tile;
}

}  // namespace espalier::gpu
