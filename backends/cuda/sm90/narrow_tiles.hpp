#pragma once
// Narrow tiles: up to 16 pairs, bound by memory. Warps work in couples: one feeds a ring of stages in shared memory
// through the copy engine, the other computes. No barrier is wider than a couple.
//
//   scores^T (tokens x pairs) = K Q^T        mma.m16n8k16: 16 tokens, 8 pairs, so that tokens which only 8 pairs see
//   output^T (head_dim x pairs) += V^T P^T   cost half
//
// A stage holds K or V of kSteps steps of 16 tokens; K and V of the same tokens take turns. Every instruction of the
// computing warp is on the critical path of its ring, so all addressing is the feeder's. It fetches the next tile, all of
// its segments at once and its rows' numbers while this tile's tokens arrive.

#include "backends/cuda/sm90/common.hpp"

namespace espalier::gpu::sm90 {

/// What a stage of K holds.
struct StageInfo {
  int flags;         ///< StageFlags
  int tokens;        ///< of step 0, of step 1 << 8
  int pairs_see[2];  ///< step s is seen by pairs [lo, hi): lo | hi << 8
};

enum StageFlags : int {
  kStageLowPairs = 1,   ///< one of the pairs 0 .. 7 sees a token of it
  kStageHighPairs = 2,  ///< one of the pairs 8 .. 15 does
  kStageLast = 4,       ///< of its tile
  kStageMasked = 8,     ///< not every pair sees every token
  kStageByToken = 16,   ///< each token has an interval of pairs of its own
  kStageEnd = 32        ///< there are no more
};

/// Shared memory of one couple.
template <int HeadDim>
struct NarrowStages {
  using C = Config<HeadDim>;
  std::uint64_t full[C::kNarrowStages], empty[C::kNarrowStages];
  std::uint64_t q_full, q_empty;
  StageInfo info[C::kNarrowStages];
  detail::FusedTile tile;                                        ///< that Q belongs to
  std::uint16_t token_pairs[C::kNarrowStages][C::kStageTokens];  ///< lo | hi << 8, where kStageByToken

  __device__ __forceinline__ void init() {
    for (int stage = 0; stage < C::kNarrowStages; ++stage) {
      barrier_init(shared_address(&full[stage]), 1);
      barrier_init(shared_address(&empty[stage]), 1);
    }
    barrier_init(shared_address(&q_full), kWaveLanes + 1);  // each lane's copies, and the tile
    barrier_init(shared_address(&q_empty), 1);
  }
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
};

// ---------------------------------------------------------------------------------------------------------- feeder

template <class T, int HeadDim>
class NarrowFeeder {
  using C = Config<HeadDim>;

 public:
  __device__ __forceinline__ NarrowFeeder(const Arguments& arguments, const NarrowList& list, std::uint32_t ring,
                                          std::uint32_t q, NarrowStages<HeadDim>& stages)
      : arguments_(arguments), list_(list), ring_(ring), q_(q), stages_(stages), lane_(threadIdx.x % kWaveLanes) {}

  /// Takes a tile of the block's own list and fetches its descriptors; reads nothing that a preceding launch writes.
  __device__ __forceinline__ void prepare() {
    int number = 0;
    if (lane_ == 0) number = atomicAdd(list_.taken, 1);
    next_number_ = __shfl_sync(kAllLanes, number, 0);
    if (next_number_ < list_.own_tiles) {
      next_words_ = fetch_tile(next_number_);
      follow_tile();
    }
  }

  __device__ __forceinline__ void run() {
    if (next_number_ >= list_.own_tiles) {  // nothing was prepared: the queue, if there is one
      int number = next_number_;
      if (lane_ == 0 && list_.total > list_.own_tiles) number = take_queued();
      next_number_ = __shfl_sync(kAllLanes, number, 0);
      if (next_number_ < list_.total) {
        next_words_ = fetch_tile(next_number_);
        follow_tile();
      }
    }
    if (next_number_ < list_.total) take_later();
    while (next_number_ < list_.total) {
      begin_tile();
      do {
        copy_stages();
      } while (left_ > 0);
    }
    await_empty();
    if (lane_ == 0) {
      stages_.info[stage_].flags = kStageEnd;
      barrier_arrive(shared_address(&stages_.full[stage_]));
    }
  }

 private:
  // ------------------------------------------------------------------------------------------------------- tiles

  __device__ __forceinline__ int take_queued() {
    return list_.own_tiles + static_cast<int>(atomicAdd(arguments_.plan.queue_next, 1u));
  }

  __device__ __forceinline__ int take() {
    const int number = atomicAdd(list_.taken, 1);
    return number >= list_.own_tiles && list_.total > list_.own_tiles ? take_queued() : number;
  }

  /// The words of a tile, one a lane.
  [[nodiscard]] __device__ __forceinline__ int fetch_tile(int number) const {
    return __ldg(reinterpret_cast<const int*>(list_.at(number)) + lane_ % 8);
  }

  [[nodiscard]] __device__ __forceinline__ int word(int words, int i) const { return __shfl_sync(kAllLanes, words, i); }

  /// Fetches what the words of the next tile point to: its segments, one a lane, and the row of one pair in each of the
  /// lanes 0 .. 15.
  __device__ __forceinline__ void follow_tile() {
    const int sizes = word(next_words_, 6);
    next_place_ = locate_pair(arguments_, word(next_words_, 4) + min(lane_ % 16, (sizes & 0xffff) - 1),
                              static_cast<unsigned>(sizes) >> 16);
    const int begin = word(next_words_, 0), end = word(next_words_, 1);
    if (!(word(next_words_, 7) & detail::kTileGathered)) next_segments_ = fetch_segments(begin, end);
  }

  struct Segments {  ///< one a lane
    int table_begin, first_block;
    int size;  ///< tokens | block_offset << 23
    int rows_begin, rows_end;
  };

  [[nodiscard]] __device__ __forceinline__ Segments fetch_segments(int begin, int end) const {
    const int4* source = reinterpret_cast<const int4*>(arguments_.plan.segments + min(begin + lane_, end - 1));
    const int4 place = __ldg(source);
    const int2 rows = __ldg(reinterpret_cast<const int2*>(source + 1));
    return {place.x, place.y, place.w | (place.z << 23), rows.x, rows.y};
  }

  /// Makes the fetched tile the current one. Q and the fetches for later tiles wait until its first copies are on
  /// their way.
  __device__ __forceinline__ void begin_tile() {
    segment_ = word(next_words_, 0);
    segment_end_ = word(next_words_, 1);
    const int skip = word(next_words_, 2);
    left_ = word(next_words_, 3);
    pair_begin_ = word(next_words_, 4);
    const int sizes = word(next_words_, 6);
    pairs_ = sizes & 0xffff;
    kv_head_ = static_cast<unsigned>(sizes) >> 16;
    gathered_ = word(next_words_, 7) & detail::kTileGathered;
    begun_ = true;
    segments_ = next_segments_;
    segment_lane_ = 0;
    if (!gathered_) enter_segment(skip);
  }

  /// After the first copy of K.
  __device__ __forceinline__ void start_q() {
    barrier_wait(shared_address(&stages_.q_empty), q_parity_ ^ 1);
    q_parity_ ^= 1;
    if (lane_ < 8) reinterpret_cast<int*>(&stages_.tile)[lane_] = next_words_;
    __syncwarp();
    if (lane_ == 0) barrier_arrive(shared_address(&stages_.q_full));
    copy_q_rows();
  }

  /// After the first copy of V: the next tile's descriptors arrive while this one's tokens do.
  __device__ __forceinline__ void fetch_ahead() {
    begun_ = false;
    next_number_ = later_number_;
    if (next_number_ >= list_.total) return;
    next_words_ = later_words_;
    follow_tile();
    take_later();
  }

  __device__ __forceinline__ void take_later() {
    int number = 0;
    if (lane_ == 0) number = take();
    later_number_ = __shfl_sync(kAllLanes, number, 0);
    if (later_number_ < list_.total) later_words_ = fetch_tile(later_number_);
  }

  __device__ __forceinline__ void copy_q_rows() {
    constexpr int kWords = C::kRowBytes / 16;
    const std::int64_t offset = next_place_.row * arguments_.q_row_stride + next_place_.head * arguments_.q_head_stride;
#pragma unroll 2
    for (int i = 0; i * kWaveLanes < pairs_ * kWords; ++i) {  // rows beyond the pairs keep what they held: never stored
      const int index = lane_ + i * kWaveLanes, row = index / kWords, word = index % kWords;
      const std::int64_t row_offset = __shfl_sync(kAllLanes, offset, row);
      const T* source = static_cast<const T*>(arguments_.q) + row_offset + word * 8;
      const int bytes = word * 8 < HeadDim ? 16 : 0;  // the padding becomes zero
      asm volatile(
          "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(q_ + row * C::kRowBytes + ((word ^ (row & 7)) << 4)),
          "l"(bytes ? source : static_cast<const T*>(arguments_.q)), "r"(bytes)
          : "memory");
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&stages_.q_full))
                 : "memory");
  }

  // ---------------------------------------------------------------------------------------------------- segments

  __device__ __forceinline__ void enter_segment(int skip) {
    table_begin_ = word(segments_.table_begin, segment_lane_);
    block_ = word(segments_.first_block, segment_lane_);
    const int size = word(segments_.size, segment_lane_);
    const int first = static_cast<int>(static_cast<unsigned>(size) >> 23) + skip;
    segment_left_ = (size & 0x7fffff) - skip;
    pair_lo_ = max(word(segments_.rows_begin, segment_lane_) * arguments_.group - pair_begin_, 0);
    pair_hi_ = min(word(segments_.rows_end, segment_lane_) * arguments_.group - pair_begin_, pairs_);
    ++segment_;
    if (++segment_lane_ == kWaveLanes && segment_ < segment_end_) {
      segments_ = fetch_segments(segment_, segment_end_);
      segment_lane_ = 0;
    }
    entry_ = 0;
    offset_ = first;
    if (first >= arguments_.block_tokens) {
      entry_ = divide(first, arguments_.by_block_tokens);
      offset_ = first - entry_ * arguments_.block_tokens;
    }
    if (offset_ + segment_left_ > arguments_.block_tokens || entry_ > 0) load_window();
    if (entry_ > 0)
      block_ = __shfl_sync(kAllLanes, window_, 0);
    else
      follow_tile();
  }

  /// Loads 32 entries of the block table from the current one on.
  __device__ __forceinline__ void load_window() {
    window_begin_ = entry_;
    const int last = entry_ + divide(offset_ + segment_left_ - 1, arguments_.by_block_tokens);
    window_ = __ldg(arguments_.plan.block_table + table_begin_ + min(entry_ + lane_, last));
  }

  /// Moves on by tokens of the current segment, at most up to the end of a block.
  __device__ __forceinline__ void advance(int tokens) {
    segment_left_ -= tokens;
    left_ -= tokens;
    offset_ += tokens;
    if (left_ == 0) return;
    if (segment_left_ == 0) {
      enter_segment(0);
    } else if (offset_ >= arguments_.block_tokens) {
      offset_ -= arguments_.block_tokens;
      ++entry_;
      if (entry_ - window_begin_ >= kWaveLanes) load_window();
      block_ = __shfl_sync(kAllLanes, window_, entry_ - window_begin_);
    }
  }

  // ------------------------------------------------------------------------------------------------------ stages

  __device__ __forceinline__ void await_empty() { barrier_wait(shared_address(&stages_.empty[stage_]), parity_ ^ 1); }

  __device__ __forceinline__ void next_stage() {
    if (++stage_ == C::kNarrowStages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

  [[nodiscard]] __device__ __forceinline__ int flags_of(int lo, int hi) const {
    return (lo < min(hi, 8) ? kStageLowPairs : 0) | (hi > max(lo, 8) ? kStageHighPairs : 0) |
           (lo > 0 || hi < pairs_ ? kStageMasked : 0);
  }

  /// What this lane copies to the next stages of K and V.
  struct Copy {
    int lanes = 0;  ///< tokens it brings: kStageTokens, 16 or 1; 0: none
    int block = 0;
    int offset = 0;
  };

  /// The next tokens of the current segments. Lanes 16 s .. 16 s + 15 find the tokens of step s.
  __device__ __forceinline__ Copy find_stage(StageInfo& info, int& bytes) {
    Copy copy;
    if (arguments_.stage_copies && segment_left_ >= C::kStageTokens && left_ >= C::kStageTokens &&
        offset_ % C::kStageTokens == 0) {  // one copy each: the common case
      info.flags = flags_of(pair_lo_, pair_hi_);
      info.tokens = C::kSteps == 2 ? 16 | 16 << 8 : 16;
      info.pairs_see[0] = info.pairs_see[1] = pair_lo_ | (pair_hi_ << 8);
      bytes = C::kStageBytes;
      if (lane_ == 0) copy.lanes = C::kStageTokens;
      copy.block = block_;
      copy.offset = offset_;
      advance(C::kStageTokens);
      return copy;
    }
#pragma unroll 1
    for (int s = 0; s < C::kSteps; ++s) {
      if (left_ == 0) {
        info.flags |= kStageMasked;
        break;
      }
      const bool whole = arguments_.page_tokens > 0 && offset_ % 16 == 0;
      const int tokens = min(min(left_, segment_left_), detail::kNarrowTokens);
      info.tokens |= tokens << (8 * s);
      if (s == 0)
        info.pairs_see[0] = pair_lo_ | (pair_hi_ << 8);
      else
        info.pairs_see[1] = pair_lo_ | (pair_hi_ << 8);
      info.flags |= flags_of(pair_lo_, pair_hi_) | (tokens < detail::kNarrowTokens ? kStageMasked : 0);
      bytes += (whole ? detail::kNarrowTokens : tokens) * C::kRowBytes;
      const int i = lane_ - 16 * s;
      if (whole) {
        if (i == 0) copy = {16, block_, offset_};
      } else if (i >= 0 && i < tokens) {
        const int own = divide(offset_ + i, arguments_.by_block_tokens);
        copy = {1, __ldg(arguments_.plan.block_table + table_begin_ + entry_ + own),
                offset_ + i - own * arguments_.block_tokens};
      }
      int rest = tokens;  // over any number of blocks
      do {
        const int now = min(rest, arguments_.block_tokens - offset_);
        advance(now);
        rest -= now;
      } while (rest > 0);
    }
    return copy;
  }

  /// The next tokens of a gathered tile.
  __device__ __forceinline__ Copy gather_stage(StageInfo& info, int& bytes) {
    Copy copy;
    const int tokens = min(left_, C::kStageTokens);
    int lo = 0, hi = 0;
    if (lane_ < tokens) {
      const int2 token = __ldg(reinterpret_cast<const int2*>(arguments_.plan.gathered + segment_ + lane_));
      const int block = divide(token.x, arguments_.by_block_tokens);
      copy = {1, block, token.x - block * arguments_.block_tokens};
      lo = token.y & 0xffff;
      hi = min(token.y >> 16, pairs_);
    }
    segment_ += tokens;
    left_ -= tokens;
    info.flags = kStageByToken | kStageMasked;
    if (__any_sync(kAllLanes, hi > max(lo, 8))) info.flags |= kStageHighPairs;
    if (__any_sync(kAllLanes, lo < min(hi, 8)) || !(info.flags & kStageHighPairs)) info.flags |= kStageLowPairs;
    info.tokens = min(tokens, 16) | (tokens > 16 ? tokens - 16 : 0) << 8;
    bytes = tokens * C::kRowBytes;
    await_empty();
    if (lane_ < C::kStageTokens) {
      stages_.token_pairs[stage_][lane_] = static_cast<std::uint16_t>(lo | (hi << 8));
    }
    __syncwarp();  // before lane 0 hands the stage over
    return copy;
  }

  /// A stage of K, then one of V.
  __device__ __forceinline__ void copy_stages() {
    StageInfo info = {0, 0, {0, 0}};
    int bytes = 0;
    const int head = kv_head_;
    const Copy copy = gathered_ ? gather_stage(info, bytes) : find_stage(info, bytes);
    if (left_ == 0) info.flags |= kStageLast;
    const CUtensorMap* map = copy.lanes == C::kStageTokens ? &arguments_.k_stage
                             : copy.lanes == 16            ? &arguments_.k_run
                                                           : &arguments_.k_token;
    const int chunks = copy.lanes == 0 ? 0 : map == &arguments_.k_stage ? 1 : C::kChunks;
#pragma unroll 1
    for (int values = 0; values < 2; ++values) {
      await_empty();
      const std::uint32_t full = shared_address(&stages_.full[stage_]);
      if (lane_ == 0) {
        if (!values) stages_.info[stage_] = info;
        barrier_expect(full, bytes);
      }
      __syncwarp();
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; ++chunk) {
        // The map of V follows that of K.
        copy_kv(ring_ + stage_ * C::kStageBytes + (chunk * C::kStageTokens + lane_) * 128, map + values, full,
                chunk * kChunk, copy.offset, 0, head, copy.block, kEvictFirst);
      }
      __syncwarp();
      next_stage();
      if (begun_) {
        if (values)
          fetch_ahead();
        else
          start_q();
      }
    }
  }

  const Arguments& arguments_;
  const NarrowList& list_;
  const std::uint32_t ring_, q_;
  NarrowStages<HeadDim>& stages_;
  const int lane_;

  int stage_ = 0;
  std::uint32_t parity_ = 0, q_parity_ = 0;
  int next_number_ = 0, later_number_ = 0;
  int next_words_ = 0, later_words_ = 0;  ///< of the FusedTile, one a lane
  PairPlace next_place_;                  ///< of one pair of the next tile
  Segments next_segments_, segments_;
  bool begun_ = false;  ///< the current tile's Q is still to be copied, or the next tile to be fetched
  int segment_ = 0, segment_end_ = 0, segment_lane_ = 0, left_ = 0, kv_head_ = 0, pair_begin_ = 0, pairs_ = 0;
  bool gathered_ = false;
  int table_begin_ = 0, block_ = 0, entry_ = 0, offset_ = 0, segment_left_ = 0, pair_lo_ = 0, pair_hi_ = 0;
  int window_ = 0, window_begin_ = 0;  ///< entries of the block table, one a lane
};

// ---------------------------------------------------------------------------------------------------------- worker

template <class T, int HeadDim>
class NarrowWorker {
  using C = Config<HeadDim>;
  static constexpr int kSlices = C::kPadded / 16;            ///< of head_dim, one for each matrix instruction
  static constexpr int kChunkBytes = C::kStageTokens * 128;  ///< of a stage

 public:
  __device__ __forceinline__ NarrowWorker(const Arguments& arguments, std::uint32_t ring, std::uint32_t q,
                                          NarrowStages<HeadDim>& stages)
      : arguments_(arguments), ring_(ring), q_stage_(q), stages_(stages), lane_(threadIdx.x % kWaveLanes) {}

  __device__ __forceinline__ void run() {
    int stage = 0;
    std::uint32_t parity = 0, q_parity = 0;
    bool fresh = true;
    detail::FusedTile tile;
    while (true) {
      barrier_wait(shared_address(&stages_.full[stage]), parity);
      const StageInfo info = stages_.info[stage];
      if (info.flags & kStageEnd) return;
      if (fresh) {
        barrier_wait(shared_address(&stages_.q_full), q_parity);
        q_parity ^= 1;
        tile = stages_.tile;
        start();
        fresh = false;
      }
      const int columns = info.flags & (kStageLowPairs | kStageHighPairs);
      const std::uint32_t k_stage = ring_ + stage * C::kStageBytes;
      float scores[C::kSteps][2][4];
      const std::uint16_t* token_pairs = stages_.token_pairs[stage];
      if (columns == 1)
        multiply_qk<1>(scores, k_stage, info, token_pairs);
      else if (columns == 2)
        multiply_qk<2>(scores, k_stage, info, token_pairs);
      else
        multiply_qk<3>(scores, k_stage, info, token_pairs);
      release(stage, parity);
      std::uint32_t weights[C::kSteps][2][2];
      if (columns == 1)
        softmax<1>(scores, weights);
      else if (columns == 2)
        softmax<2>(scores, weights);
      else
        softmax<3>(scores, weights);

      barrier_wait(shared_address(&stages_.full[stage]), parity);
      const std::uint32_t v_stage = ring_ + stage * C::kStageBytes;
      bool written = clear_tail(v_stage, info);
      if (columns == 1)
        multiply_pv<1>(weights, v_stage, info);
      else if (columns == 2)
        multiply_pv<2>(weights, v_stage, info);
      else
        multiply_pv<3>(weights, v_stage, info);
      if (info.flags & kStageLast) {
        __syncwarp();
        finish(tile, v_stage);
        written = true;
        fresh = true;
      }
      if (written) fence_async_proxy();
      release(stage, parity);
    }
  }

 private:
  /// The stage has been read: it may be filled again.
  __device__ __forceinline__ void release(int& stage, std::uint32_t& parity) {
    __syncwarp();
    if (lane_ == 0) barrier_arrive(shared_address(&stages_.empty[stage]));
    if (++stage == C::kNarrowStages) {
      stage = 0;
      parity ^= 1;
    }
  }

  /// Takes Q into registers and empties the softmax.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int row = lane_ % 8 + 8 * b;
#pragma unroll
      for (int k = 0; k < kSlices; k += 2) {
        std::uint32_t m[4];
        load_matrices(m, q_stage_ + row * C::kRowBytes + (((k * 2 + lane_ / 8) ^ (row & 7)) << 4));
        q_[b][k][0] = m[0];
        q_[b][k][1] = m[1];
        q_[b][k + 1][0] = m[2];
        q_[b][k + 1][1] = m[3];
      }
#pragma unroll
      for (int j = 0; j < kSlices; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) output_[b][j][i] = 0.0f;
      }
      peak_[b][0] = peak_[b][1] = kNoPeak;
      weight_[b][0] = weight_[b][1] = 0.0f;
    }
    __syncwarp();
    if (lane_ == 0) barrier_arrive(shared_address(&stages_.q_empty));
  }

  template <int Columns>
  __device__ __forceinline__ void multiply_qk(float (&scores)[C::kSteps][2][4], std::uint32_t stage,
                                              const StageInfo& info, const std::uint16_t* token_pairs) {
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
      const std::uint32_t place = k / 4 * kChunkBytes + row * 128 + (((k % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        std::uint32_t a[4];
        load_matrices(a, stage + s * 2048 + place);
        if (Columns & 1) mma_m16n8k16<T>(scores[s][0], a, q_[0][k][0], q_[0][k][1]);
        if (Columns & 2) mma_m16n8k16<T>(scores[s][1], a, q_[1][k][0], q_[1][k][1]);
      }
    }
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
    mask<Columns>(scores, info, token_pairs);
  }

  /// Hides a token of this lane from the pairs outside [lo, hi).
  template <int Columns>
  __device__ __forceinline__ void mask_token(float (&scores)[2][4], int h, int lo, int hi) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (!(Columns >> b & 1)) continue;
      const int pair = 8 * b + 2 * (lane_ % 4);
      if (pair < lo || pair >= hi) scores[b][2 * h] = -INFINITY;
      if (pair + 1 < lo || pair + 1 >= hi) scores[b][2 * h + 1] = -INFINITY;
    }
  }

  template <int Columns>
  __device__ __forceinline__ void mask(float (&scores)[C::kSteps][2][4], const StageInfo& info,
                                       const std::uint16_t* token_pairs) {
    if (!(info.flags & kStageMasked)) return;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const int tokens = (info.tokens >> (8 * s)) & 0xff;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = lane_ / 4 + 8 * h;
        int see = token < tokens ? info.pairs_see[s] : 0;
        if (info.flags & kStageByToken) see = token_pairs[s * 16 + token];
        mask_token<Columns>(scores[s], h, see & 255, see >> 8);
      }
    }
  }

  template <int Columns>
  __device__ __forceinline__ void softmax(float (&scores)[C::kSteps][2][4], std::uint32_t (&weights)[C::kSteps][2][2]) {
    const float scale = arguments_.weight_scale;
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
                                              const StageInfo& info) {
    if (C::kSteps == 2 && info.tokens > 255)
      multiply_pv_steps<Columns, C::kSteps>(weights, stage);
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
      const std::uint32_t place = j / 4 * kChunkBytes + row * 128 + (((j % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
      for (int s = 0; s < Steps; ++s) {
        std::uint32_t a[4];
        load_matrices_transposed(a, stage + s * 2048 + place);
        if (Columns & 1) mma_m16n8k16<T>(output_[0][j], a, weights[s][0][0], weights[s][0][1]);
        if (Columns & 2) mma_m16n8k16<T>(output_[1][j], a, weights[s][1][0], weights[s][1][1]);
      }
    }
  }

  /// Zeroes V beyond the tokens of a step: other nodes' tokens, or memory that nothing was written to yet.
  __device__ __forceinline__ bool clear_tail(std::uint32_t stage, const StageInfo& info) {
    if (!(info.flags & kStageMasked)) return false;
    bool cleared = false;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const int tokens = (info.tokens >> (8 * s)) & 0xff;
      if (tokens == 0 || tokens == detail::kNarrowTokens) continue;
      const int words = (detail::kNarrowTokens - tokens) * 8;  // of 16 bytes, in each chunk
#pragma unroll 1
      for (int chunk = 0; chunk < C::kChunks; ++chunk) {
#pragma unroll 1
        for (int i = lane_; i < words; i += kWaveLanes) {
          asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(stage + chunk * kChunkBytes + s * 2048 +
                                                                        tokens * 128 + i * 16),
                       "r"(0)
                       : "memory");
        }
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
    if (direct) {
#pragma unroll 1
      for (int index = lane_; index < tile.pairs * kWords; index += kWaveLanes) {
        const int row = index / kWords, word = index % kWords;
        if (word * 8 < HeadDim) {
          T* target = out_of<T>(arguments_, locate_pair(arguments_, tile.pair_begin + row, tile.kv_head));
          *reinterpret_cast<uint4*>(target + word * 8) = staged_word(stage, row, word);
        }
      }
      return;
    }
    T* target = static_cast<T*>(arguments_.plan.partial_out) + static_cast<std::int64_t>(tile.partial_begin) * HeadDim;
#pragma unroll
    for (int i = 0; i < 16 * kWords / kWaveLanes; ++i) {
      const int index = lane_ + i * kWaveLanes, row = index / kWords, word = index % kWords;
      if (row < tile.pairs && word * 8 < HeadDim) {
        *reinterpret_cast<uint4*>(target + row * HeadDim + word * 8) = staged_word(stage, row, word);
      }
    }
  }

  __device__ __forceinline__ uint4 staged_word(std::uint32_t stage, int row, int word) const {
    uint4 value;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(stage + row * C::kRowBytes + ((word ^ (row & 7)) << 4))
                 : "memory");
    return value;
  }

  const Arguments& arguments_;
  const std::uint32_t ring_, q_stage_;
  NarrowStages<HeadDim>& stages_;
  const int lane_;
  std::uint32_t q_[2][kSlices][2];
  float output_[2][kSlices][4];
  float peak_[2][2];
  float weight_[2][2];
};

}  // namespace espalier::gpu::sm90
