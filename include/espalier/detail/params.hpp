#pragma once
// Plain structs between the library and its kernels. Fused kernels see this file and no other of the library.

#include <cstdint>

namespace espalier::detail {

/// A token range of one node, addressed through the block table.
/// Token t of the segment (0 <= t < tokens) lies in slot
///   block_table[table_begin + (block_offset + t) / block_tokens] * block_tokens + (block_offset + t) % block_tokens
/// and is seen by rows [row_begin, row_end), except that a row below own_row_end sees it only if
///   node_token + t < row_visible[row].
struct Segment {
  std::int32_t table_begin;   ///< entry of the block table that holds the segment's first token
  std::int32_t block_offset;  ///< place of the first token inside that block, 0 .. block_tokens - 1
  std::int32_t tokens;        ///< may be 0
  std::int32_t row_begin;     ///< rows in line order
  std::int32_t row_end;
  std::int32_t own_row_end;  ///< row_begin where every row of the interval sees the whole segment
  std::int32_t node_token;   ///< position of the first token inside its node
  std::int32_t node;         ///< position of the node in the line
};

/// The unit of work: `tokens` tokens of consecutive segments, for rows [row_begin, row_end) of one KV head.
/// Row r of the tile writes partial `partial_begin + r - row_begin`, or its output where it has no other partial.
/// A plan lists the tiles of KV head 0: those of KV head h are the same, with partials h * PlanSizes::partials further on.
struct Tile {
  std::int32_t segment_begin;
  std::int32_t segment_end;
  std::int32_t skip;    ///< tokens of the first segment that do not belong to the tile
  std::int32_t tokens;  ///< over all segments, at least 1
  std::int32_t row_begin;
  std::int32_t row_end;
  std::int16_t kv_head;
  std::int8_t masked;  ///< 1 where a row of the tile does not see every token of it
  std::int8_t open;    ///< 1 where the tile ends with its last segment: it grows with it
  std::int32_t partial_begin;
};

/// A tree in line order (nodes in depth-first order, rows by node), in the memory of the execution space.
struct TreeView {
  std::int32_t nodes;
  std::int32_t rows;
  std::int32_t block_tokens;
  const std::int32_t* parent;        ///< [nodes]  position of the parent, -1 at a root
  const std::int32_t* tokens;        ///< [nodes]
  const std::int32_t* first_block;   ///< [nodes]  entry of the block table that holds the node's first token
  const std::int32_t* first_offset;  ///< [nodes]  place of the first token inside that block
  const std::int32_t* subtree_end;   ///< [nodes]  position behind the node's last descendant
  const std::int32_t* row_begin;     ///< [nodes]  rows of the node's subtree
  const std::int32_t* row_end;       ///< [nodes]
  const std::int32_t* row_node;      ///< [rows]   position of the row's node
  const std::int32_t* row_visible;   ///< [rows]   tokens of its own node that the row sees
  const std::int32_t* row_index;     ///< [rows]   the caller's number of the row
  const std::int32_t* block_table;   ///< [blocks] block ids
};

/// How much there is of a plan for each KV head; known on the device alone.
struct PlanSizes {
  std::int32_t tiles;
  std::int32_t partials;
};

/// A finished plan, in the memory of the execution space. All KV heads have the same tiles and merge lists.
struct PlanView {
  std::int32_t workers;
  std::int32_t rows;
  const PlanSizes* sizes;  ///< [1]
  const Segment* segments;
  const Tile* tiles;                 ///< [tiles]  of KV head 0
  const std::int32_t* worker_begin;  ///< [workers + 1]  tiles of each worker; number t is tile t / kv_heads of KV head
                                     ///< t % kv_heads
  const std::int32_t* merge_begin;   ///< [rows + 1]  partials of each row, rows in line order
  const std::int32_t* merge_partials;  ///< [partials]  of KV head 0; those of KV head h are h * partials further on
  const std::int32_t* row_visible;     ///< [rows]
  const std::int32_t* row_index;       ///< [rows]
  const std::int32_t* block_table;
  float* partial_out;         ///< [partials, group, head_dim]
  float* partial_lse;         ///< [partials, group]  natural log
  std::int32_t* next_worker;  ///< [1]  the first that no CPU thread has taken, 0 between attentions; null on a GPU
};

enum class ScalarType : std::uint8_t { f32, f16, bf16 };

/// Everything that one attention needs. Strides count elements; the last dimension is contiguous everywhere.
struct AttendParams {
  PlanView plan;
  ScalarType scalar;  ///< of q, k, v and out
  std::int32_t query_heads;
  std::int32_t kv_heads;
  std::int32_t head_dim;
  std::int32_t block_tokens;
  float scale;     ///< score = scale * q.k
  float soft_cap;  ///< score = soft_cap * tanh(score / soft_cap), none where it is 0
  const void* q;   ///< [rows, query_heads, head_dim], rows as the caller numbers them
  std::int64_t q_row_stride;
  std::int64_t q_head_stride;
  const void* k;  ///< [blocks, block_tokens, kv_heads, head_dim]
  std::int64_t k_block_stride;
  std::int64_t k_token_stride;
  std::int64_t k_head_stride;
  const void* v;  ///< like k
  std::int64_t v_block_stride;
  std::int64_t v_token_stride;
  std::int64_t v_head_stride;
  void* out;  ///< like q
  std::int64_t out_row_stride;
  std::int64_t out_head_stride;
  float* lse;  ///< [rows, query_heads], natural log; may be null
  std::int64_t lse_row_stride;
};

/// Writes new K and V into their slots.
struct AppendParams {
  ScalarType scalar;
  std::int32_t tokens;
  std::int32_t kv_heads;
  std::int32_t head_dim;
  std::int32_t block_tokens;
  const std::int64_t* slots;  ///< [tokens]
  const void* k_new;          ///< [tokens, kv_heads, head_dim]
  std::int64_t k_new_token_stride;
  std::int64_t k_new_head_stride;
  const void* v_new;
  std::int64_t v_new_token_stride;
  std::int64_t v_new_head_stride;
  void* k;  ///< [blocks, block_tokens, kv_heads, head_dim]
  std::int64_t k_block_stride;
  std::int64_t k_token_stride;
  std::int64_t k_head_stride;
  void* v;
  std::int64_t v_block_stride;
  std::int64_t v_token_stride;
  std::int64_t v_head_stride;
};

/// Combines partials that lie one after another, row by row.
struct MergeParams {
  ScalarType scalar;  ///< of partial_out and out
  std::int32_t rows;
  std::int32_t query_heads;
  std::int32_t head_dim;
  const void* partial_out;  ///< [partials, query_heads, head_dim]
  std::int64_t partial_out_row_stride;
  std::int64_t partial_out_head_stride;
  const float* partial_lse;  ///< [partials, query_heads]
  std::int64_t partial_lse_row_stride;
  const std::int32_t* row_begin;  ///< [rows + 1]
  void* out;                      ///< [rows, query_heads, head_dim]
  std::int64_t out_row_stride;
  std::int64_t out_head_stride;
  float* lse;  ///< [rows, query_heads]; may be null
  std::int64_t lse_row_stride;
};

}  // namespace espalier::detail
