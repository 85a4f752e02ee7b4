#pragma once
// Wide tiles: up to 128 pairs of a node or a chain of nodes, bound by the matrix units. Four warps fill stages of K and V
// with the copy engine; two consumer warpgroups hold 64 pairs each, scores = Q K^T and output += P V by wgmma. While one
// warpgroup computes softmax, the other has the matrix units (the barriers kTurn), and within a warpgroup the scores of
// the next stage are in flight beside the second product of this one.

#include "backends/cuda/sm90/common.hpp"
#include "backends/cuda/sm90/wgmma.hpp"

namespace espalier::gpu::sm90 {

/// Descriptor of an operand in 128-byte swizzled shared memory. Strides in bytes: `leading` between columns of 64
/// elements of a transposed operand (unused otherwise), `stride` between groups of 8 rows.
__device__ __forceinline__ std::uint64_t matrix_descriptor(std::uint32_t address, std::uint32_t leading,
                                                           std::uint32_t stride) {
  return static_cast<std::uint64_t>((address & 0x3ffffu) >> 4) | (static_cast<std::uint64_t>(leading >> 4) << 16) |
         (static_cast<std::uint64_t>(stride >> 4) << 32) | (1ull << 62);
}

/// The descriptor of a place some bytes behind another one's, a multiple of 16: nothing carries out of the address.
__device__ __forceinline__ std::uint64_t operand_behind(std::uint64_t descriptor, std::uint32_t bytes) {
  return (descriptor & 0xffffffff00000000ull) | (static_cast<std::uint32_t>(descriptor) + (bytes >> 4));
}

/// Named barriers of the block.
enum NamedBarrier : int {
  kTurn = 1,      ///< and 2: the turn of each consumer warpgroup on the matrix units
  kGroup = 4,     ///< and 5: within a consumer warpgroup
  kConsumers = 6  ///< all computing warps: the wide tiles are done, their shared memory is free
};

/// Warps 0 and 1 feed K and Q, warps 2 and 3 feed V, each the chunks whose number has its parity: issuing copies takes a
/// single warp longer than the matrix units take to consume a stage.
template <int HeadDim>
inline constexpr int kWideFeeders = Config<HeadDim>::kChunks > 1 ? 2 : 1;  ///< of one stage

template <int HeadDim>
struct WideBarriers {
  std::uint64_t k_full[Config<HeadDim>::kWideStages], k_empty[Config<HeadDim>::kWideStages];
  std::uint64_t v_full[Config<HeadDim>::kWideStages], v_empty[Config<HeadDim>::kWideStages];
  std::uint64_t q_full, q_empty;

  __device__ __forceinline__ void init() {
    for (int stage = 0; stage < Config<HeadDim>::kWideStages; ++stage) {
      barrier_init(shared_address(&k_full[stage]), kWideFeeders<HeadDim>);
      barrier_init(shared_address(&k_empty[stage]), 2);
      barrier_init(shared_address(&v_full[stage]), kWideFeeders<HeadDim>);
      barrier_init(shared_address(&v_empty[stage]), 2);
    }
    barrier_init(shared_address(&q_full), kWideFeeders<HeadDim>);
    barrier_init(shared_address(&q_empty), 2);
  }
};

/// Shared memory of the wide path: Q [chunk][128 pairs][64], then K stages and V stages [chunk][tokens][64], all with
/// the 128-byte swizzle of the copy engine.
template <int HeadDim>
struct WideMemory {
  using C = Config<HeadDim>;
  std::uint32_t base;
  WideBarriers<HeadDim>* barriers;

  __device__ __forceinline__ std::uint32_t q() const { return base; }
  __device__ __forceinline__ std::uint32_t k(int stage) const {
    return base + C::kWideQBytes + stage * C::kWideStageBytes;
  }
  __device__ __forceinline__ std::uint32_t v(int stage) const { return k(C::kWideStages + stage); }
};

// --------------------------------------------------------------------------------------------------------- feeders

/// Whether one copy can bring all rows of Q of a tile: they follow one another for the caller, too.
struct QueryRows {
  bool together = false;
  int first = 0;  ///< as the caller numbers it

  __device__ __forceinline__ void find(const Arguments& arguments, int pair_begin, int pairs, int lane) {
    together = false;
    if (arguments.rows_per_wide_tile == 0) return;
    const int line_row = divide(pair_begin, arguments.by_group);
    if (line_row * arguments.group != pair_begin) return;
    const int rows = divide(pairs + arguments.group - 1, arguments.by_group);
    first = __ldg(arguments.plan.row_index + line_row);
    bool follow = true;
#pragma unroll 1
    for (int i = lane; i < rows; i += kWaveLanes) {
      follow &= __ldg(arguments.plan.row_index + line_row + i) == first + i;
    }
    together = __all_sync(kAllLanes, follow);
  }
};

/// One of the four warps that feed.
template <int HeadDim>
class WideFeeder {
  using C = Config<HeadDim>;

 public:
  __device__ __forceinline__ WideFeeder(const Arguments& arguments, const WideMemory<HeadDim>& memory, int warp)
      : arguments_(arguments),
        memory_(memory),
        lane_(threadIdx.x % kWaveLanes),
        values_(warp >= 2),
        part_(warp % 2),
        chunks_((C::kChunks + 1 - part_) / 2) {}

  [[nodiscard]] __device__ __forceinline__ bool has_work() const { return chunks_ > 0; }

  /// Fetches descriptors of a tile; reads nothing but the plan.
  __device__ __forceinline__ void prepare(const detail::FusedTile* tile) {
    const int4 first = __ldg(reinterpret_cast<const int4*>(tile));
    const int4 second = __ldg(reinterpret_cast<const int4*>(tile) + 1);
    pair_begin_ = second.x;
    pairs_ = second.z & 0xffff;
    kv_head_ = static_cast<unsigned>(second.z) >> 16;
    tokens_ = first.w;
    segment_ = first.x;
    const int4 segment = __ldg(reinterpret_cast<const int4*>(arguments_.plan.segments + segment_));
    table_begin_ = segment.x;
    place_ = segment.z + first.z;
    segment_left_ = segment.w - first.z;
    const int page = arguments_.page_tokens;
    paged_ = page > 0 && (place_ & (page - 1)) == 0 && first.y == first.x + 1;
    if (paged_)
      find_page(0);
    else
      pieces_ = walk<false>(min(C::kWideTokens, tokens_), lane_);
    if (!values_) rows_.find(arguments_, pair_begin_, pairs_, lane_);
  }

  __device__ __forceinline__ void run(const detail::FusedTile* tiles, int begin, int end) {
    for (int number = begin; number < end; ++number) {
      if (number > begin) prepare(tiles + number);
      if (paged_)
        feed<true>();
      else
        feed<false>();
    }
  }

 private:
  /// The stages of a tile.
  template <bool Paged>
  __device__ __forceinline__ void feed() {
    const CUtensorMap* page_map = values_ ? &arguments_.v_page : &arguments_.k_page;
    const std::uint32_t full_barriers = shared_address(values_ ? memory_.barriers->v_full : memory_.barriers->k_full);
    const std::uint32_t empty_barriers =
        shared_address(values_ ? memory_.barriers->v_empty : memory_.barriers->k_empty);
    const int page = arguments_.page_tokens;
#pragma unroll 1
    for (int first = 0; first < tokens_; first += C::kWideTokens) {
      const std::uint32_t full = full_barriers + stage_ * 8;
      const std::uint32_t destination =
          (values_ ? memory_.v(stage_) : memory_.k(stage_)) + part_ * C::kWideTokens * 128;
      const int left = tokens_ - first, tokens = min(C::kWideTokens, left);
      if (Paged) {
        const int block = piece_block_, offset = piece_offset_;
        if (left > C::kWideTokens) find_page(first + C::kWideTokens);
        barrier_wait(empty_barriers + stage_ * 8, parity_ ^ 1);
        const int pages = (tokens + page - 1) >> (31 - __clz(page));
        if (lane_ == 0) barrier_expect(full, pages * page * 128 * chunks_);
        synchronise_warp();
        if (lane_ < pages) {
#pragma unroll
          for (int c = 0; c < (C::kChunks + 1) / 2; ++c) {
            if (c < chunks_) {
              copy_kv(destination + c * 2 * C::kWideTokens * 128 + lane_ * page * 128, page_map, full,
                      (2 * c + part_) * kChunk, offset, 0, kv_head_, block, kEvictNormal);
            }
          }
        }
      } else {
        barrier_wait(empty_barriers + stage_ * 8, parity_ ^ 1);
        copy_pieces(destination, full, tokens);
        if (left > C::kWideTokens) pieces_ = walk<false>(min(C::kWideTokens, left - C::kWideTokens), lane_);
      }
      if (first == 0 && !values_) {
        barrier_wait(shared_address(&memory_.barriers->q_empty), q_parity_ ^ 1);
        q_parity_ ^= 1;
        copy_q_rows();
      }
      if (++stage_ == C::kWideStages) {
        stage_ = 0;
        parity_ ^= 1;
      }
    }
  }

  /// The page of this lane in the stage that begins at a token of the tile.
  __device__ __forceinline__ void find_page(int first) {
    const int token = first + lane_ * arguments_.page_tokens;
    if (token >= tokens_ || token >= first + C::kWideTokens) return;
    const int entry = divide(place_ + token, arguments_.by_block_tokens);
    piece_offset_ = place_ + token - entry * arguments_.block_tokens;
    piece_block_ = __ldg(arguments_.plan.block_table + table_begin_ + entry);
  }

  /// Where a stage holds tokens of several segments, or no whole pages: pieces of 16 tokens that lie in one block, and
  /// the single tokens around them. Finds piece `number` of the next stage, and with `Move` goes on behind the stage.
  /// @returns the pieces of the stage
  template <bool Move>
  __device__ __forceinline__ int walk(int tokens, int number) {
    int segment = segment_, table_begin = table_begin_, place = place_, segment_left = segment_left_;
    int row = 0, pieces = 0;
#pragma unroll 1
    while (row < tokens) {
      if (segment_left == 0) {
        const int4 words = __ldg(reinterpret_cast<const int4*>(arguments_.plan.segments + ++segment));
        table_begin = words.x;
        place = words.z;
        segment_left = words.w;
      }
      const int now = min(tokens - row, segment_left);
      if (!Move) {
        const int head = arguments_.page_tokens > 0 ? min(now, -place & 15) : now;
        const int runs = (now - head) / 16, i = number - pieces;
        const int count = now - 15 * runs;
        if (i >= 0 && i < count) {
          piece_run_ = i < runs;
          const int token = i < runs ? head + 16 * i : i - runs < head ? i - runs : 15 * runs + i;
          const int entry = divide(place + token, arguments_.by_block_tokens);
          piece_row_ = row + token;
          piece_offset_ = place + token - entry * arguments_.block_tokens;
          piece_block_ = __ldg(arguments_.plan.block_table + table_begin + entry);
        }
        pieces += count;
      }
      row += now;
      place += now;
      segment_left -= now;
    }
    if (Move) {
      segment_ = segment;
      table_begin_ = table_begin;
      place_ = place;
      segment_left_ = segment_left;
    }
    return pieces;
  }

  /// Copies the pieces of the next stage, of which the first 32 have been found.
  __device__ __forceinline__ void copy_pieces(std::uint32_t destination, std::uint32_t full, int tokens) {
    const CUtensorMap* run_map = values_ ? &arguments_.v_run : &arguments_.k_run;
    const CUtensorMap* token_map = values_ ? &arguments_.v_token : &arguments_.k_token;
    if (lane_ == 0) barrier_expect(full, tokens * 128 * chunks_);
    synchronise_warp();
#pragma unroll 1
    for (int number = lane_; number < pieces_; number += kWaveLanes) {
      if (number >= kWaveLanes) walk<false>(tokens, number);
#pragma unroll 1
      for (int c = 0; c < chunks_; ++c) {
        copy_kv(destination + c * 2 * C::kWideTokens * 128 + piece_row_ * 128, piece_run_ ? run_map : token_map, full,
                (2 * c + part_) * kChunk, piece_offset_, 0, kv_head_, piece_block_, kEvictNormal);
      }
    }
    synchronise_warp();
    walk<true>(tokens, 0);
  }

  __device__ __forceinline__ void copy_q_rows() {
    const std::uint32_t full = shared_address(&memory_.barriers->q_full);
    const std::uint32_t destination = memory_.q() + part_ * detail::kWidePairs * 128;
    if (rows_.together) {
      if (lane_ == 0) {
        barrier_expect(full, detail::kWidePairs * 128 * chunks_);
#pragma unroll 1
        for (int c = 0; c < chunks_; ++c) {
          copy_q(destination + c * 2 * detail::kWidePairs * 128, &arguments_.q_rows, full, (2 * c + part_) * kChunk,
                 kv_head_ * arguments_.group, rows_.first);
        }
      }
      synchronise_warp();
      return;
    }
    if (lane_ == 0) barrier_expect(full, pairs_ * 128 * chunks_);
    synchronise_warp();
#pragma unroll 1
    for (int i = lane_; i < pairs_; i += kWaveLanes) {
      const PairPlace place = locate_pair(arguments_, pair_begin_ + i, kv_head_);
#pragma unroll 1
      for (int c = 0; c < chunks_; ++c) {
        copy_q(destination + c * 2 * detail::kWidePairs * 128 + i * 128, &arguments_.q_pair, full,
               (2 * c + part_) * kChunk, place.head, place.row);
      }
    }
    synchronise_warp();
  }

  const Arguments& arguments_;
  const WideMemory<HeadDim>& memory_;
  const int lane_;
  const bool values_;
  const int part_;    ///< parity of its chunks
  const int chunks_;  ///< how many they are
  int pair_begin_ = 0, pairs_ = 0, kv_head_ = 0;
  int stage_ = 0;
  std::uint32_t parity_ = 0, q_parity_ = 0;
  int segment_ = 0, table_begin_ = 0, place_ = 0, segment_left_ = 0;  ///< the cursor; fixed while `paged_`
  int tokens_ = 0;
  bool paged_ = false;                      ///< one segment, whole pages: each lane has a page
  int piece_block_ = 0, piece_offset_ = 0;  ///< the page or piece of this lane in the next stage
  int piece_row_ = 0, pieces_ = 0;
  bool piece_run_ = false;
  QueryRows rows_;
};

// ------------------------------------------------------------------------------------------------------- consumers

/// One warpgroup, `group_` 0 or 1. A thread holds, of rows 64 * group_ + 16 * warp + lane / 4 and 8 below it, the
/// columns 8 j + 2 (lane % 4) and the next one.
template <class T, int HeadDim, bool Transform>
class WideConsumer {
 protected:
  using C = Config<HeadDim>;
  static constexpr int kTokens = C::kWideTokens;
  static constexpr int kScores = kTokens / 2;  ///< accumulators of a thread
  static constexpr int kOutputs = C::kPadded / 2;

 public:
  __device__ __forceinline__ WideConsumer(const Arguments& arguments, const WideMemory<HeadDim>& memory, int group)
      : arguments_(arguments), memory_(memory), group_(group), thread_(threadIdx.x % 128) {}

  __device__ __forceinline__ void run(const detail::FusedTile* tiles, int begin, int end) {
    WideBarriers<HeadDim>& barriers = *memory_.barriers;
    const bool elected = thread_ == 0;
    float scores[kScores], output[kOutputs];
    std::uint32_t weights[kTokens / 4];
    int stage = 0;
    std::uint32_t parity = 0, q_parity = 0;
#pragma unroll 1
    for (int number = begin; number < end; ++number) {
      const detail::FusedTile loaded = load_tile(tiles + number);
      const detail::FusedTile* tile = &loaded;
      const int pairs = tile->pairs, tokens = tile->tokens, stages = (tokens + kTokens - 1) / kTokens;
      barrier_wait(shared_address(&barriers.q_full), q_parity);
      q_parity ^= 1;
      if (pairs <= group_ * 64) {
        skip_tile(stages, stage, parity);
        continue;
      }
      const bool take_turns = pairs > 64;
      limit_[0] = limit_[1] = tokens;
      if (tile->flags & detail::kTileLimited) find_limits(tile);
      peak_[0] = peak_[1] = kNoPeak;
      weight_[0] = weight_[1] = 0.0f;

      barrier_wait(shared_address(&barriers.k_full[stage]), parity);
      wgmma_fence();
      multiply_qk(scores, stage);
      wgmma_commit();
      wgmma_wait<0>();
      if (elected) {
        barrier_arrive(shared_address(&barriers.k_empty[stage]));
        if (stages == 1) barrier_arrive(shared_address(&barriers.q_empty));
      }
      // Of each stage: softmax, then its second product, in flight together with the scores of the next stage. One softmax in
      // the code, not one more before the loop: fetching it costs time. ptxas moves wgmma_wait<0> in front of the softmax;
      // kept behind it, it was slower (README.md).
      int v_stage = stage;
#pragma unroll 1
      for (int s = 0;; ++s) {
        softmax(scores, s * kTokens);
        wgmma_wait<0>();
        if (s > 0 && elected) barrier_arrive(shared_address(&barriers.v_empty[v_stage]));
        pack_weights(scores, weights);
        if (s > 0) rescale(output);
        if (s == stages - 1) break;
        v_stage = stage;
        const std::uint32_t v_parity = parity;
        if (++stage == C::kWideStages) {
          stage = 0;
          parity ^= 1;
        }
        barrier_wait(shared_address(&barriers.k_full[stage]), parity);
        if (take_turns) named_sync<256>(kTurn + group_);
        wgmma_fence();
        multiply_qk(scores, stage);
        wgmma_commit();
        barrier_wait(shared_address(&barriers.v_full[v_stage]), v_parity);
        wgmma_fence();
        multiply_pv(output, weights, v_stage, s == 0);
        wgmma_commit();
        if (take_turns) named_arrive<256>(kTurn + (group_ ^ 1));
        wgmma_wait<1>();
        if (elected) {
          barrier_arrive(shared_address(&barriers.k_empty[stage]));
          if (s == stages - 2) barrier_arrive(shared_address(&barriers.q_empty));
        }
      }
      barrier_wait(shared_address(&barriers.v_full[stage]), parity);
      clear_tail(stage, tokens - (stages - 1) * kTokens);
      wgmma_fence();
      multiply_pv(output, weights, stage, stages == 1);
      wgmma_commit();
      finish(tile, output, [&] {
        wgmma_wait<0>();
        if (elected) barrier_arrive(shared_address(&barriers.v_empty[stage]));
      });
      if (++stage == C::kWideStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

 protected:
  /// The other warpgroup has all pairs of the tile.
  __device__ __forceinline__ void skip_tile(int stages, int& stage, std::uint32_t& parity) {
    WideBarriers<HeadDim>& barriers = *memory_.barriers;
    for (int s = 0; s < stages; ++s) {
      barrier_wait(shared_address(&barriers.k_full[stage]), parity);
      barrier_wait(shared_address(&barriers.v_full[stage]), parity);
      named_sync<128>(kGroup + group_);
      if (thread_ == 0) {
        barrier_arrive(shared_address(&barriers.k_empty[stage]));
        barrier_arrive(shared_address(&barriers.v_empty[stage]));
      }
      if (++stage == C::kWideStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    if (thread_ == 0) barrier_arrive(shared_address(&barriers.q_empty));
  }

  __device__ __forceinline__ int row_of_thread(int half) const {
    return group_ * 64 + thread_ / kWaveLanes * 16 + thread_ % kWaveLanes / 4 + 8 * half;
  }

  __device__ __forceinline__ void find_limits(const detail::FusedTile* tile) {
    int before = -tile->skip;  // tokens of the tile in front of its last segment
#pragma unroll 1
    for (int segment = tile->segment_begin; segment < tile->segment_end - 1; ++segment) {
      before += __ldg(&arguments_.plan.segments[segment].tokens);
    }
    const int2 own = __ldg(reinterpret_cast<const int2*>(arguments_.plan.segments + tile->segment_end - 1) + 3);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = divide(tile->pair_begin + min(row_of_thread(half), tile->pairs - 1), arguments_.by_group);
      if (row < own.x) {
        const int visible = max(__ldg(arguments_.plan.row_visible + row) - own.y, 0);
        limit_[half] = max(min(before + visible, tile->tokens), 0);
      }
    }
  }

  __device__ __forceinline__ void multiply_qk(float (&scores)[kScores], int stage) {
    const std::uint64_t q = matrix_descriptor(memory_.q() + group_ * 8192, 16, 1024);
    const std::uint64_t k = matrix_descriptor(memory_.k(stage), 16, 1024);
#pragma unroll
    for (int slice = 0; slice < C::kPadded / 16; ++slice) {
      const std::uint64_t a = operand_behind(q, slice / 4 * detail::kWidePairs * 128 + slice % 4 * 32);
      const std::uint64_t b = operand_behind(k, slice / 4 * kTokens * 128 + slice % 4 * 32);
      if constexpr (kTokens == 128)
        wgmma_n128<T>(scores, a, b, slice > 0);
      else
        wgmma_n64<T>(scores, a, b, slice > 0);
    }
  }

  __device__ __forceinline__ void multiply_pv(float (&output)[kOutputs], const std::uint32_t (&weights)[kTokens / 4],
                                              int stage, bool first) {
    const std::uint64_t v = matrix_descriptor(memory_.v(stage), kTokens * 128, 1024);
#pragma unroll
    for (int slice = 0; slice < kTokens / 16; ++slice) {
      const int accumulate = !(first && slice == 0);
#pragma unroll
      for (int chunk = 0; chunk < C::kChunks; chunk += 2) {
        const std::uint64_t b = operand_behind(v, chunk * kTokens * 128 + slice * 2048);
        if (chunk + 1 < C::kChunks)
          wgmma_n128<T>(output + chunk * 32, weights + slice * 4, b, accumulate);
        else
          wgmma_n64<T>(output + chunk * 32, weights + slice * 4, b, accumulate);
      }
    }
  }

  __device__ __forceinline__ void softmax(float (&scores)[kScores], int first_token) {
    const int quad_lane = thread_ % 4;
    transform(scores);
    const int left0 = limit_[0] - first_token, left1 = limit_[1] - first_token;
    if (left0 < kTokens || left1 < kTokens) {
#pragma unroll
      for (int j = 0; j < kScores / 4; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int token = j * 8 + quad_lane * 2 + e;
          if (token >= left0) scores[4 * j + e] = -INFINITY;
          if (token >= left1) scores[4 * j + 2 + e] = -INFINITY;
        }
      }
    }
    weigh(scores);
  }

  __device__ __forceinline__ void transform(float (&scores)[kScores]) {
    if constexpr (Transform) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores[i] = transform_score(scores[i], arguments_);
    }
  }

  /// Scores become weights; peaks and sums of weights go on.
  __device__ __forceinline__ void weigh(float (&scores)[kScores]) {
    const float scale = arguments_.weight_scale;
    float top0 = scores[0], top1 = scores[2];
#pragma unroll
    for (int j = 0; j < kScores / 4; ++j) {
      top0 = fmaxf(top0, fmaxf(scores[4 * j], scores[4 * j + 1]));
      top1 = fmaxf(top1, fmaxf(scores[4 * j + 2], scores[4 * j + 3]));
    }
    top0 = fmaxf(top0, exchange_lanes(top0, 1));
    top1 = fmaxf(top1, exchange_lanes(top1, 1));
    top0 = fmaxf(fmaxf(top0, exchange_lanes(top0, 2)), peak_[0]);
    top1 = fmaxf(fmaxf(top1, exchange_lanes(top1, 2)), peak_[1]);
    factor_[0] = fast_exp2((peak_[0] - top0) * scale);
    factor_[1] = fast_exp2((peak_[1] - top1) * scale);
    peak_[0] = top0;
    peak_[1] = top1;
    const float shift0 = shift_of(top0, scale), shift1 = shift_of(top1, scale);
    float sum0 = 0.0f, sum1 = 0.0f;
#pragma unroll
    for (int j = 0; j < kScores / 4; ++j) {
      scores[4 * j] = fast_exp2(fmaf(scores[4 * j], scale, shift0));
      scores[4 * j + 1] = fast_exp2(fmaf(scores[4 * j + 1], scale, shift0));
      scores[4 * j + 2] = fast_exp2(fmaf(scores[4 * j + 2], scale, shift1));
      scores[4 * j + 3] = fast_exp2(fmaf(scores[4 * j + 3], scale, shift1));
      sum0 += scores[4 * j] + scores[4 * j + 1];
      sum1 += scores[4 * j + 2] + scores[4 * j + 3];
    }
    weight_[0] = weight_[0] * factor_[0] + sum0;
    weight_[1] = weight_[1] * factor_[1] + sum1;
  }

  /// By what the last softmax changed the peaks.
  __device__ __forceinline__ void rescale(float (&output)[kOutputs]) const {
#pragma unroll
    for (int j = 0; j < kOutputs / 4; ++j) {
      output[4 * j] *= factor_[0];
      output[4 * j + 1] *= factor_[0];
      output[4 * j + 2] *= factor_[1];
      output[4 * j + 3] *= factor_[1];
    }
  }

  __device__ __forceinline__ void pack_weights(const float (&scores)[kScores], std::uint32_t (&weights)[kTokens / 4]) {
#pragma unroll
    for (int k = 0; k < kTokens / 4; ++k) weights[k] = pack<T>(scores[2 * k], scores[2 * k + 1]);
  }

  /// Zeroes V beyond the tile's tokens: other nodes' tokens or memory that nothing was written to yet, of which
  /// 0 * NaN would be NaN. Both warpgroups write the same zeros, each before its own product.
  __device__ __forceinline__ void clear_tail(int stage, int tokens) {
    if (tokens >= kTokens) return;
    const int words = (kTokens - tokens) * 8;  // of 16 bytes, in each chunk
#pragma unroll
    for (int chunk = 0; chunk < C::kChunks; ++chunk) {
      const std::uint32_t first = memory_.v(stage) + chunk * kTokens * 128 + tokens * 128;
      for (int i = thread_; i < words; i += 128) {
        clear_shared(first + i * 16);
      }
    }
    fence_async_proxy();
    named_sync<128>(kGroup + group_);
  }

  /// Normalises and stores the rows of this thread; `await_output` returns once the last product is complete.
  template <class Await>
  __device__ __forceinline__ void finish(const detail::FusedTile* tile, float (&output)[kOutputs], Await await_output) {
    const int quad_lane = thread_ % 4;
    const bool direct = tile->flags & detail::kTileDirect;
    float inverse[2];
    char* target[2];
    bool valid[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float weight = weight_[half];
      weight += exchange_lanes(weight, 1);
      weight += exchange_lanes(weight, 2);
      inverse[half] = weight == 0.0f ? 0.0f : 1.0f / weight;
      const float lse = weight == 0.0f ? -INFINITY : peak_[half] * arguments_.weight_scale + fast_log2(weight);
      const int row = row_of_thread(half);
      valid[half] = row < tile->pairs;
      if (direct) {
        const PairPlace place = locate_pair(arguments_, tile->pair_begin + min(row, tile->pairs - 1), tile->kv_head);
        target[half] = reinterpret_cast<char*>(out_of<T>(arguments_, place));
        if (quad_lane == 0 && valid[half]) store_lse(arguments_, place, lse);
      } else {
        target[half] = static_cast<char*>(arguments_.plan.partial_out) +
                       static_cast<std::int64_t>(tile->partial_begin + row) * (HeadDim * 2);
        if (quad_lane == 0 && valid[half]) arguments_.plan.partial_lse[tile->partial_begin + row] = lse;
      }
    }
    await_output();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t words[kOutputs / 4];
#pragma unroll
      for (int j = 0; j < kOutputs / 4; ++j) {
        words[j] = pack<T>(output[4 * j + 2 * half] * inverse[half], output[4 * j + 2 * half + 1] * inverse[half]);
      }
      store_quad_row<HeadDim>(target[half], words, quad_lane, valid[half]);
    }
  }

  const Arguments& arguments_;
  const WideMemory<HeadDim>& memory_;
  const int group_;
  const int thread_;
  int limit_[2];  ///< tokens of the tile that each row sees
  float peak_[2], weight_[2], factor_[2];
};

}  // namespace espalier::gpu::sm90
