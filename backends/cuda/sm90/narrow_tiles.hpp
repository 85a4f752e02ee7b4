#pragma once
// Narrow tiles: up to 16 pairs, bound by memory. Every warp works alone, with its own ring of stages in shared memory
// that the copy engine fills; no barrier is wider than a warp.
//
//   scores^T (tokens x pairs) = K Q^T        mma.m16n8k16: 16 tokens, 8 pairs, so a step that only 8 pairs see
//   output^T (head_dim x pairs) += V^T P^T   costs half
//
// A stage holds K or V of kSteps steps of 16 tokens; K and V of the same tokens take turns. The cursor that issues
// copies runs a ring ahead of the arithmetic, and fetches each descriptor before it is needed: the ticket two tiles
// ahead, the tile and its rows' numbers one tile ahead, a segment one segment ahead, Q when the tile's first copy is
// issued.

#include "backends/cuda/sm90/common.hpp"

namespace espalier::gpu::sm90 {

/// Shared memory of one warp.
template <int HeadDim>
struct NarrowStages {
  std::uint64_t full[Config<HeadDim>::kNarrowStages];
  int2 info[Config<HeadDim>::kNarrowStages];  ///< {StageFlags, number of the tile}
  std::uint16_t pairs[Config<HeadDim>::kNarrowStages][Config<HeadDim>::kSteps * 16];  ///< lo | hi << 8 of each token
};

/// Bits of a stage's info; tokens of step s are in bits 8 + 8 s and up.
enum StageFlags : int {
  kStageLowPairs = 1,   ///< one of the pairs 0 .. 7 sees a token of it
  kStageHighPairs = 2,  ///< one of the pairs 8 .. 15 does
  kStageLast = 4,       ///< of its tile
  kStageMasked = 8,     ///< not every pair sees every token
};

/// The narrow tiles a block may take: its own, then those of the queue.
struct NarrowList {
  const detail::FusedTile* own;
  int own_tiles;
  int total;  ///< own and queue
  const detail::FusedTile* queue;
  int* taken;  ///< shared counter of the block

  __device__ __forceinline__ const detail::FusedTile* at(int number) const {
    return number < own_tiles ? own + number : queue + (number - own_tiles);
  }
  /// In lane 0; the number of a tile, or at least `total` when there are none left.
  __device__ __forceinline__ int take(const Arguments& arguments) const {
    int number = atomicAdd(taken, 1);
    if (number >= own_tiles && total > own_tiles) {
      number = own_tiles + static_cast<int>(atomicAdd(arguments.plan.queue_next, 1u));
    }
    return number;
  }
};

template <class T, int HeadDim>
class NarrowWorker {
  using C = Config<HeadDim>;
  static constexpr int kSlices = C::kPadded / 16;  ///< of head_dim, one for each matrix instruction
  static constexpr bool kPrefetchQ = C::kPadded <= 128;  ///< above, registers do not suffice

 public:
  __device__ __forceinline__ NarrowWorker(const Arguments& arguments, NarrowList list, std::uint32_t ring,
                                          NarrowStages<HeadDim>& stages)
      : arguments_(arguments), list_(list), ring_(ring), stages_(stages), lane_(threadIdx.x % kWaveLanes) {}

  /// Fetches the first descriptors; reads nothing that a preceding launch writes.
  __device__ __forceinline__ void prepare() {
    int number = 0;
    if (lane_ == 0) number = list_.take(arguments_);
    number = __shfl_sync(kAllLanes, number, 0);
    if (lane_ == 0) ticket_ = list_.take(arguments_);
    next_number_ = number;
    more_ = number < list_.total;
    if (!more_) return;
    fetch_tile(number);
    fetch_segment(next_.segment_begin, next_.flags);
  }

  __device__ __forceinline__ void run() {
    if (!more_) return;
    begin_tile();
#pragma unroll 1
    for (int i = 0; i < C::kNarrowStages; ++i) issue();
    int stage = 0;
    std::uint32_t parity = 0;
    bool fresh = true;
    detail::FusedTile tile;
    while (consumed_ < issued_) {
      barrier_wait(shared_address(&stages_.full[stage]), parity);
      const int2 info = stages_.info[stage];
      if (fresh) {
        tile = *list_.at(info.y);
        fresh = false;
        start(tile, info.y);
      }
      const int columns = info.x & (kStageLowPairs | kStageHighPairs);
      const std::uint32_t k_stage = ring_ + stage * C::kStageBytes;
      const std::uint16_t* seen = stages_.pairs[stage];
      float scores[C::kSteps][2][4];
      if (columns == 1)
        multiply_qk<1>(scores, k_stage);
      else if (columns == 2)
        multiply_qk<2>(scores, k_stage);
      else
        multiply_qk<3>(scores, k_stage);
      std::uint32_t weights[C::kSteps][2][2];
      if (columns == 1)
        softmax<1>(scores, weights, info.x, seen);
      else if (columns == 2)
        softmax<2>(scores, weights, info.x, seen);
      else
        softmax<3>(scores, weights, info.x, seen);
      release(stage, parity);

      barrier_wait(shared_address(&stages_.full[stage]), parity);
      const std::uint32_t v_stage = ring_ + stage * C::kStageBytes;
      if (clear_tail(v_stage, info.x)) dirty_ = true;
      if (columns == 1)
        multiply_pv<1>(weights, v_stage, info.x);
      else if (columns == 2)
        multiply_pv<2>(weights, v_stage, info.x);
      else
        multiply_pv<3>(weights, v_stage, info.x);
      if (info.x & kStageLast) {
        __syncwarp();
        finish(tile, v_stage);
        dirty_ = true;
        fresh = true;
      }
      if (dirty_) {
        fence_async_proxy();
        dirty_ = false;
      }
      release(stage, parity);
    }
  }

 private:
  // ------------------------------------------------------------------------------------------ the issuing cursor

  __device__ __forceinline__ void fetch_tile(int number) {
    next_ = *list_.at(number);
    const int quad = lane_ / 4;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      next_place_[b] = locate_pair(arguments_, next_.pair_begin + min(quad + 8 * b, next_.pairs - 1), next_.kv_head);
    }
  }

  __device__ __forceinline__ void fetch_segment(int segment, int flags) {
    if (flags & detail::kTileGathered) return;
    const int4* source = reinterpret_cast<const int4*>(arguments_.plan.segments + segment);
    ahead_place_ = __ldg(source);
    ahead_rows_ = __ldg(reinterpret_cast<const int2*>(source + 1));
  }

  __device__ __forceinline__ void enter_segment(int skip) {
    table_begin_ = ahead_place_.x;
    first_block_ = ahead_place_.y;
    place_ = ahead_place_.z + skip;
    segment_left_ = ahead_place_.w - skip;
    pair_lo_ = max(ahead_rows_.x * arguments_.group - pair_begin_, 0);
    pair_hi_ = min(ahead_rows_.y * arguments_.group - pair_begin_, pairs_);
    window_begin_ = -kWaveLanes;
    if (place_ + segment_left_ > arguments_.block_tokens) {
      load_window(divide(place_, arguments_.by_block_tokens));
    }
    if (segment_ + 1 < segment_end_) {
      fetch_segment(segment_ + 1, 0);
    } else if (next_number_ < list_.total) {
      fetch_segment(next_.segment_begin, next_.flags);
    }
  }

  /// Makes the fetched tile the current one, and fetches the one after it.
  __device__ __forceinline__ void begin_tile() {
    number_ = next_number_;
    segment_ = next_.segment_begin;
    segment_end_ = next_.segment_end;
    left_ = next_.tokens;
    kv_head_ = next_.kv_head;
    pair_begin_ = next_.pair_begin;
    pairs_ = next_.pairs;
    gathered_ = next_.flags & detail::kTileGathered;
    const int skip = next_.skip;
    if constexpr (kPrefetchQ) {
      load_q(q_ahead_, next_place_);
      q_ahead_number_ = number_;
    }

    next_number_ = __shfl_sync(kAllLanes, ticket_, 0);
    if (next_number_ < list_.total) {
      if (lane_ == 0) ticket_ = list_.take(arguments_);
      fetch_tile(next_number_);
    }
    if (!gathered_)
      enter_segment(skip);
    else if (next_number_ < list_.total)
      fetch_segment(next_.segment_begin, next_.flags);
  }

  __device__ __forceinline__ void load_window(int entry) {
    window_begin_ = entry;
    const int last = divide(place_ + segment_left_ - 1, arguments_.by_block_tokens);
    window_ = __ldg(arguments_.plan.block_table + table_begin_ + min(entry + lane_, last));
  }

  /// The block of a place in the current segment; `entry` is the same in all lanes.
  __device__ __forceinline__ int block_of(int entry) {
    if (entry == 0) return first_block_;
    if (entry - window_begin_ >= kWaveLanes) load_window(entry);
    return __shfl_sync(kAllLanes, window_, entry - window_begin_);
  }

  /// Finds the tokens of one step: where this lane's token lies and which pairs see it.
  __device__ __forceinline__ int find_step(int step) {
    const bool mine = C::kSteps == 1 || lane_ / 16 == step;
    const int i = lane_ % 16;
    if (gathered_) {
      const int tokens = min(left_, detail::kNarrowTokens);
      if (mine) {
        copy_run_ = false;
        copy_valid_ = i < tokens && lane_ < 16 * C::kSteps;
        seen_lo_ = seen_hi_ = 0;
        if (copy_valid_) {
          const int2 token = __ldg(reinterpret_cast<const int2*>(arguments_.plan.gathered + segment_ + i));
          copy_block_ = divide(token.x, arguments_.by_block_tokens);
          copy_offset_ = token.x - copy_block_ * arguments_.block_tokens;
          seen_lo_ = token.y & 0xffff;
          seen_hi_ = token.y >> 16;
        }
      }
      segment_ += tokens;
      left_ -= tokens;
      return tokens;
    }
    const int tokens = min(min(left_, segment_left_), detail::kNarrowTokens);
    const int entry = divide(place_, arguments_.by_block_tokens);
    const int offset = place_ - entry * arguments_.block_tokens;
    if (arguments_.page_tokens > 0 && offset % 16 == 0) {
      const int block = block_of(entry);
      if (mine) {
        copy_run_ = true;
        copy_valid_ = i < tokens && lane_ < 16 * C::kSteps;
        copy_block_ = block;
        copy_offset_ = offset;
      }
    } else if (mine) {
      copy_run_ = false;
      copy_valid_ = i < tokens && lane_ < 16 * C::kSteps;
      if (copy_valid_) {
        const int own_entry = divide(place_ + i, arguments_.by_block_tokens);
        copy_block_ = __ldg(arguments_.plan.block_table + table_begin_ + own_entry);
        copy_offset_ = place_ + i - own_entry * arguments_.block_tokens;
      }
    }
    if (mine) {
      seen_lo_ = copy_valid_ ? pair_lo_ : 0;
      seen_hi_ = copy_valid_ ? pair_hi_ : 0;
    }
    place_ += tokens;
    segment_left_ -= tokens;
    left_ -= tokens;
    if (segment_left_ == 0 && left_ > 0) {
      ++segment_;
      enter_segment(0);
    }
    return tokens;
  }

  /// Starts the copies of the next stage, if any are left.
  __device__ __forceinline__ void issue() {
    if (!more_) return;
    if (!value_turn_) {
      copy_valid_ = false;
      int tokens[2] = {0, 0};
      tokens[0] = find_step(0);
      if (C::kSteps == 2) {
        if (left_ > 0) {
          tokens[1] = find_step(1);
        } else if (lane_ >= 16) {
          copy_valid_ = false;
          seen_lo_ = seen_hi_ = 0;
        }
      }
      const unsigned low = __ballot_sync(kAllLanes, copy_valid_ && seen_lo_ < min(seen_hi_, 8));
      const unsigned high = __ballot_sync(kAllLanes, copy_valid_ && seen_hi_ > max(seen_lo_, 8));
      const unsigned whole = __ballot_sync(kAllLanes, copy_valid_ && seen_lo_ == 0 && seen_hi_ >= pairs_);
      constexpr unsigned kStageLanes = C::kSteps == 2 ? kAllLanes : 0xffffu;
      const unsigned runs = __ballot_sync(kAllLanes, copy_valid_ && copy_run_);
      copy_bytes_ = ((runs & 1u) ? C::kStepBytes : tokens[0] * C::kRowBytes) +
                    ((runs & 0x10000u) ? C::kStepBytes : tokens[1] * C::kRowBytes);
      if (lane_ < 16 * C::kSteps) {
        stages_.pairs[issue_stage_][lane_] = static_cast<std::uint16_t>(seen_lo_ | (seen_hi_ << 8));
      }
      if (lane_ == 0) {
        stages_.info[issue_stage_] =
            make_int2((low ? kStageLowPairs : 0) | (high ? kStageHighPairs : 0) | (left_ == 0 ? kStageLast : 0) |
                          (whole != kStageLanes ? kStageMasked : 0) | (tokens[0] << 8) | (tokens[1] << 16),
                      number_);
      }
      copy_stage(&arguments_.k_run, &arguments_.k_token);
      value_turn_ = true;
      return;
    }
    copy_stage(&arguments_.v_run, &arguments_.v_token);
    value_turn_ = false;
    if (left_ > 0) return;
    more_ = next_number_ < list_.total;
    if (more_) begin_tile();
  }

  __device__ __forceinline__ void copy_stage(const CUtensorMap* run_map, const CUtensorMap* token_map) {
    const std::uint32_t full = shared_address(&stages_.full[issue_stage_]);
    const std::uint32_t step = ring_ + issue_stage_ * C::kStageBytes + lane_ / 16 * C::kStepBytes;
    if (lane_ == 0) barrier_expect(full, copy_bytes_);
    __syncwarp();
    if (copy_valid_) {
      if (copy_run_) {
        if (lane_ % 16 == 0) {
          if constexpr (HeadDim % kChunk == 0) {
            copy_kv(step, run_map, full, 0, copy_offset_, 0, kv_head_, copy_block_, kEvictFirst);
          } else {
#pragma unroll
            for (int chunk = 0; chunk < C::kChunks; ++chunk) {
              copy_kv(step + chunk * 2048, run_map, full, chunk * kChunk, copy_offset_, 0, kv_head_, copy_block_,
                      kEvictFirst);
            }
          }
        }
      } else {
#pragma unroll
        for (int chunk = 0; chunk < C::kChunks; ++chunk) {
          copy_kv(step + chunk * 2048 + lane_ % 16 * 128, token_map, full, chunk * kChunk, copy_offset_, 0, kv_head_,
                  copy_block_, kEvictFirst);
        }
      }
    }
    ++issued_;
    if (++issue_stage_ == C::kNarrowStages) issue_stage_ = 0;
  }

  // -------------------------------------------------------------------------------------------- the arithmetic

  /// The stage has been read: it may be filled again.
  __device__ __forceinline__ void release(int& stage, std::uint32_t& parity) {
    __syncwarp();
    ++consumed_;
    issue();
    if (++stage == C::kNarrowStages) {
      stage = 0;
      parity ^= 1;
    }
  }

  __device__ __forceinline__ void load_q(std::uint32_t (&q)[2][kSlices][2], const PairPlace (&place)[2]) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const std::uint32_t* row = reinterpret_cast<const std::uint32_t*>(q_of<T>(arguments_, place[b]));
#pragma unroll
      for (int k = 0; k < kSlices; ++k) {
        q[b][k][0] = k * 16 < HeadDim ? __ldg(row + k * 8 + lane_ % 4) : 0u;
        q[b][k][1] = k * 16 + 8 < HeadDim ? __ldg(row + k * 8 + 4 + lane_ % 4) : 0u;
      }
    }
  }

  __device__ __forceinline__ void start(const detail::FusedTile& tile, int number) {
    if (kPrefetchQ && q_ahead_number_ == number) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
#pragma unroll
        for (int k = 0; k < (kPrefetchQ ? kSlices : 0); ++k) {
          q_[b][k][0] = q_ahead_[b][k][0];
          q_[b][k][1] = q_ahead_[b][k][1];
        }
      }
    } else {  // the cursor is already a tile further
      PairPlace place[2];
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        place[b] = locate_pair(arguments_, tile.pair_begin + min(lane_ / 4 + 8 * b, tile.pairs - 1), tile.kv_head);
      }
      load_q(q_, place);
    }
#pragma unroll
    for (int b = 0; b < 2; ++b) {
#pragma unroll
      for (int j = 0; j < kSlices; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) output_[b][j][i] = 0.0f;
      }
      peak_[b][0] = peak_[b][1] = kNoPeak;
      weight_[b][0] = weight_[b][1] = 0.0f;
    }
  }

  template <int Columns>
  __device__ __forceinline__ void multiply_qk(float (&scores)[C::kSteps][2][4], std::uint32_t stage) {
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[s][b][i] = 0.0f;
      }
    }
    const int row = lane_ % 8 + (lane_ / 8 % 2) * 8, half = lane_ / 16;
#pragma unroll
    for (int k = 0; k < kSlices; ++k) {
      const std::uint32_t place = k / 4 * 2048 + row * 128 + (((k % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        std::uint32_t a[4];
        load_matrices(a, stage + s * C::kStepBytes + place);
        if (Columns & 1) mma_m16n8k16<T>(scores[s][0], a, q_[0][k][0], q_[0][k][1]);
        if (Columns & 2) mma_m16n8k16<T>(scores[s][1], a, q_[1][k][0], q_[1][k][1]);
      }
    }
  }

  template <int Columns>
  __device__ __forceinline__ void softmax(float (&scores)[C::kSteps][2][4], std::uint32_t (&weights)[C::kSteps][2][2],
                                          int info, const std::uint16_t* seen) {
    const int quad = lane_ / 4, quad_lane = lane_ % 4;
    const float scale = arguments_.weight_scale;
    if (arguments_.transform) {
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          if (!(Columns >> b & 1)) continue;
#pragma unroll
          for (int i = 0; i < 4; ++i) scores[s][b][i] = transform_score(scores[s][b][i], arguments_);
        }
      }
    }
    if (info & kStageMasked) {
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int interval = seen[s * 16 + quad + 8 * h], lo = interval & 255, hi = interval >> 8;
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            if (!(Columns >> b & 1)) continue;
            const int pair = 8 * b + 2 * quad_lane;
            if (pair < lo || pair >= hi) scores[s][b][2 * h] = -INFINITY;
            if (pair + 1 < lo || pair + 1 >= hi) scores[s][b][2 * h + 1] = -INFINITY;
          }
        }
      }
    }
    // The peak may lag behind by a factor of 2^8 in the weights before the output is rescaled.
    const float slack = __fdividef(8.0f, scale);
    float highest[2][2];
    bool rescale = false;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (!(Columns >> b & 1)) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        highest[b][i] = fmaxf(scores[0][b][i], scores[0][b][2 + i]);
        if (C::kSteps == 2) {
          highest[b][i] = fmaxf(highest[b][i], fmaxf(scores[C::kSteps - 1][b][i], scores[C::kSteps - 1][b][2 + i]));
        }
        rescale |= highest[b][i] > peak_[b][i] + slack;
      }
    }
    if (__any_sync(kAllLanes, rescale)) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        if (!(Columns >> b & 1)) continue;
        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float top = highest[b][i];
          top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 4));
          top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 8));
          top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 16));
          const float peak = top > peak_[b][i] + slack ? top : peak_[b][i];
          factor[i] = exp2_fast((peak_[b][i] - peak) * scale);
          peak_[b][i] = peak;
          weight_[b][i] *= factor[i];
        }
#pragma unroll
        for (int j = 0; j < kSlices; ++j) {
          output_[b][j][0] *= factor[0];
          output_[b][j][1] *= factor[1];
          output_[b][j][2] *= factor[0];
          output_[b][j][3] *= factor[1];
        }
      }
    }
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (!(Columns >> b & 1)) continue;
      const float shift0 = -peak_[b][0] * scale, shift1 = -peak_[b][1] * scale;
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        const float e0 = exp2_fast(fmaf(scores[s][b][0], scale, shift0));
        const float e1 = exp2_fast(fmaf(scores[s][b][1], scale, shift1));
        const float e2 = exp2_fast(fmaf(scores[s][b][2], scale, shift0));
        const float e3 = exp2_fast(fmaf(scores[s][b][3], scale, shift1));
        weight_[b][0] += e0 + e2;
        weight_[b][1] += e1 + e3;
        weights[s][b][0] = transpose_matrix(pack<T>(e0, e1));
        weights[s][b][1] = transpose_matrix(pack<T>(e2, e3));
      }
    }
  }

  template <int Columns>
  __device__ __forceinline__ void multiply_pv(const std::uint32_t (&weights)[C::kSteps][2][2], std::uint32_t stage,
                                              int info) {
    if (C::kSteps == 2 && (info >> 16) != 0)
      multiply_pv_steps<Columns, 2>(weights, stage);
    else
      multiply_pv_steps<Columns, 1>(weights, stage);
  }

  /// Only steps that were copied: stale shared memory may hold NaN, and 0 * NaN is NaN.
  template <int Columns, int Steps>
  __device__ __forceinline__ void multiply_pv_steps(const std::uint32_t (&weights)[C::kSteps][2][2],
                                                    std::uint32_t stage) {
    const int row = lane_ % 8 + lane_ / 16 * 8, half = lane_ / 8 % 2;
#pragma unroll
    for (int j = 0; j < kSlices; ++j) {
      const std::uint32_t place = j / 4 * 2048 + row * 128 + (((j % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
      for (int s = 0; s < Steps; ++s) {
        std::uint32_t a[4];
        load_matrices_transposed(a, stage + s * C::kStepBytes + place);
        if (Columns & 1) mma_m16n8k16<T>(output_[0][j], a, weights[s][0][0], weights[s][0][1]);
        if (Columns & 2) mma_m16n8k16<T>(output_[1][j], a, weights[s][1][0], weights[s][1][1]);
      }
    }
  }

  /// Zeroes V beyond the tokens of a step: other nodes' tokens, or memory that nothing was written to yet.
  __device__ __forceinline__ bool clear_tail(std::uint32_t stage, int info) {
    bool cleared = false;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const int tokens = (info >> (8 + 8 * s)) & 0xff;
      if (tokens == 0 || tokens == detail::kNarrowTokens) continue;
      const int words = (detail::kNarrowTokens - tokens) * 8;  // of 16 bytes, in each chunk
      for (int i = lane_; i < words * C::kChunks; i += kWaveLanes) {
        const int chunk = i / words;
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(stage + s * C::kStepBytes + chunk * 2048 +
                                                                      tokens * 128 + (i - chunk * words) * 16),
                     "r"(0)
                     : "memory");
      }
      cleared = true;
    }
    if (cleared) __syncwarp();
    return cleared;
  }

  /// Normalises and stores the tile's rows, through the stage it has just read.
  __device__ __forceinline__ void finish(const detail::FusedTile& tile, std::uint32_t stage) {
    const int quad = lane_ / 4, quad_lane = lane_ % 4;
    const bool direct = tile.flags & detail::kTileDirect;
    constexpr int kWords = C::kRowBytes / 16;  ///< 16-byte words of a row
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (b == 1 && tile.pairs <= 8) break;
      float inverse[2], lse[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float weight = weight_[b][i];
        weight += __shfl_xor_sync(kAllLanes, weight, 4);
        weight += __shfl_xor_sync(kAllLanes, weight, 8);
        weight += __shfl_xor_sync(kAllLanes, weight, 16);
        inverse[i] = weight > 0.0f ? 1.0f / weight : 0.0f;
        lse[i] = weight > 0.0f ? peak_[b][i] * arguments_.weight_scale + __log2f(weight) : -INFINITY;
      }
      const int row = lane_ % 8 + 8 * b;
#pragma unroll
      for (int j = 0; j < kSlices; j += 2) {
        const int word = (j * 2 + lane_ / 8) ^ (row & 7);
        store_matrices_transposed(stage + row * C::kRowBytes + word * 16,
                                  pack<T>(output_[b][j][0] * inverse[0], output_[b][j][1] * inverse[1]),
                                  pack<T>(output_[b][j][2] * inverse[0], output_[b][j][3] * inverse[1]),
                                  pack<T>(output_[b][j + 1][0] * inverse[0], output_[b][j + 1][1] * inverse[1]),
                                  pack<T>(output_[b][j + 1][2] * inverse[0], output_[b][j + 1][3] * inverse[1]));
      }
      if (quad == 0) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int pair = 8 * b + 2 * quad_lane + i;
          if (pair < tile.pairs) {
            if (direct) {
              if (arguments_.lse) {
                store_lse(arguments_, locate_pair(arguments_, tile.pair_begin + pair, tile.kv_head), lse[i]);
              }
            } else {
              arguments_.plan.partial_lse[tile.partial_begin + pair] = lse[i];
            }
          }
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * kWords / kWaveLanes; ++i) {
      const int index = lane_ + i * kWaveLanes, row = index / kWords, word = index % kWords;
      if (row < tile.pairs && word * 8 < HeadDim) {
        uint4 value;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                     : "r"(stage + row * C::kRowBytes + ((word ^ (row & 7)) << 4))
                     : "memory");
        T* target = direct ? out_of<T>(arguments_, locate_pair(arguments_, tile.pair_begin + row, tile.kv_head))
                           : static_cast<T*>(arguments_.plan.partial_out) +
                                 static_cast<std::int64_t>(tile.partial_begin + row) * HeadDim;
        *reinterpret_cast<uint4*>(target + word * 8) = value;
      }
    }
  }

  const Arguments& arguments_;
  const NarrowList list_;
  const std::uint32_t ring_;
  NarrowStages<HeadDim>& stages_;
  const int lane_;

  // The cursor.
  bool more_ = false;
  bool value_turn_ = false;
  int issue_stage_ = 0;
  int issued_ = 0;
  int ticket_ = 0;  ///< in lane 0
  int number_ = 0, next_number_ = 0;
  detail::FusedTile next_;
  PairPlace next_place_[2];
  int segment_ = 0, segment_end_ = 0, left_ = 0, kv_head_ = 0, pair_begin_ = 0, pairs_ = 0;
  bool gathered_ = false;
  int table_begin_ = 0, first_block_ = 0, place_ = 0, segment_left_ = 0, pair_lo_ = 0, pair_hi_ = 0;
  int window_ = 0, window_begin_ = 0;  ///< entries of the block table, one a lane
  int4 ahead_place_;
  int2 ahead_rows_;
  bool copy_run_ = false, copy_valid_ = false;
  int copy_block_ = 0, copy_offset_ = 0, copy_bytes_ = 0;
  int seen_lo_ = 0, seen_hi_ = 0;

  // The arithmetic.
  int consumed_ = 0;
  bool dirty_ = false;
  int q_ahead_number_ = -1;
  std::uint32_t q_ahead_[2][kPrefetchQ ? kSlices : 1][2];
  std::uint32_t q_[2][kSlices][2];
  float output_[2][kSlices][4];
  float peak_[2][2];
  float weight_[2][2];
};

}  // namespace espalier::gpu::sm90
