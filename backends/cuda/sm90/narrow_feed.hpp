#pragma once
// The feeding part of a narrow warp: takes tiles, finds where their tokens lie, and issues the copies of one stage after another.
//
// The addresses of up to 32 steps are found at once, one a lane (a window); descriptors of the next tile are fetched while
// this one's tokens arrive.

#include "backends/cuda/sm90/narrow_stages.hpp"

namespace espalier::gpu::sm90 {

template <int HeadDim>
class NarrowFeed {
  using C = Config<HeadDim>;
  using Ring = NarrowRing<HeadDim>;

 public:
  __device__ __forceinline__ NarrowFeed(const Arguments& arguments, NarrowList& list, const Ring& ring)
      : arguments_(arguments), list_(list), ring_(ring), lane_(threadIdx.x % kWaveLanes) {}

  /// Fetches the descriptors of a first tile, number `warp` of the block's own; reads nothing but the plan. It may draw from the
  /// queue's counter, which is settled, too: the main launch in front has ended, and merges leave it alone.
  __device__ __forceinline__ void prepare(int warp) {
    next_valid_ = warp < list_.own_tiles;
    if (!next_valid_) return;
    next_words_ = fetch_tile(warp);
    take();
    follow_tile();
  }

  /// Fetches what prepare() has not. @returns whether there is anything to do
  __device__ __forceinline__ bool begin() {
    if (!next_valid_) {  // nothing was prepared: the queue, if there is one
      if (list_.total == list_.own_tiles) return false;
      take();
      const int number = taken();
      if (number >= list_.total) return false;
      next_valid_ = true;
      next_words_ = fetch_tile(number);
      take();
      follow_tile();
    }
    fetch_later();
    return true;
  }

  /// Finds the next stage. Before each fill().
  __device__ __forceinline__ void find_stage() {
    if (step_ == window_steps_) open();
  }

  /// Fills a slot of the ring with the stage that was found. @returns whether there was one
  __device__ __forceinline__ bool fill(int slot) {
    if (kind_ == StageKind::none) return false;
    issue(slot);
    return true;
  }

 private:
  // ------------------------------------------------------------------------------------------------------- tiles

  /// Asks for the number of a tile; taken() has it later.
  __device__ __forceinline__ void take() {
    if (lane_ == 0) {
      ticket_ = atomicAdd(&list_.taken, 1);
      if (ticket_ >= list_.own_tiles && list_.total > list_.own_tiles) {
        queued_ = true;
        // Every warp draws until it gets a number beyond the queue, once: the last of these draws leaves the counter at 0.
        const int draws = list_.total - list_.own_tiles + kNarrowWarps * arguments_.plan.workers;
        ticket_ = static_cast<int>(atomicInc(arguments_.plan.queue_next, static_cast<unsigned>(draws - 1)));
      }
    }
  }

  [[nodiscard]] __device__ __forceinline__ int taken() const {
    return value_of_lane(queued_ ? list_.own_tiles + ticket_ : ticket_, 0);
  }

  /// The words of a tile, one a lane.
  [[nodiscard]] __device__ __forceinline__ int fetch_tile(int number) const {
    return __ldg(reinterpret_cast<const int*>(list_.at(number)) + lane_ % 8);
  }

  [[nodiscard]] __device__ __forceinline__ int word(int words, int i) const { return value_of_lane(words, i); }

  /// Pairs that one copy of Q brings: all heads of a row where the tile holds whole rows.
  [[nodiscard]] __device__ __forceinline__ int q_unit(int pair_begin, int pairs) const {
    if (arguments_.group > detail::kNarrowPairs) return 1;
    const int rows = divide(pairs, arguments_.by_group), first = divide(pair_begin, arguments_.by_group);
    return rows * arguments_.group == pairs && first * arguments_.group == pair_begin ? arguments_.group : 1;
  }

  /// Fetches what the words of the next tile point to: its segments, one a lane, and the rows of its pairs.
  __device__ __forceinline__ void follow_tile() {
    const int pair_begin = word(next_words_, 4), pairs = word(next_words_, 6) & 0xffff;
    const int pair = pair_begin + min(lane_ * q_unit(pair_begin, pairs), pairs - 1);
    next_row_ = __ldg(arguments_.plan.row_index + divide(pair, arguments_.by_group));
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

  /// The words of the tile after the next one.
  __device__ __forceinline__ void fetch_later() {
    const int number = taken();
    later_valid_ = number < list_.total;
    if (!later_valid_) return;
    later_words_ = fetch_tile(number);
    take();
  }

  /// After the last step of a window: the next one, or the next tile's first.
  __device__ __forceinline__ void open() {
    const bool begins = left_ == 0;
    if (begins && !next_valid_) {
      kind_ = StageKind::none;
      return;
    }
    Segments segments = next_segments_;
    if (begins) {
      words_ = next_words_;
      row_ = next_row_;
      segment_ = word(words_, 0);
      segment_end_ = word(words_, 1);
      skip_ = word(words_, 2);
      left_ = word(words_, 3);
      pair_begin_ = word(words_, 4);
      const int sizes = word(words_, 6);
      pairs_ = sizes & 0xffff;
      kv_head_ = static_cast<unsigned>(sizes) >> 16;
      gathered_ = word(words_, 7) & detail::kTileGathered;
      kind_ = StageKind::query;
    } else if (!gathered_) {
      segments = fetch_segments(segment_, segment_end_);
    }
    open_window(segments);
    if (!begins) return;
    next_valid_ = later_valid_;
    if (!next_valid_) return;
    next_words_ = later_words_;
    follow_tile();
    fetch_later();
  }

  // ------------------------------------------------------------------------------------------------------ windows

  [[nodiscard]] __device__ __forceinline__ int see_of(int lo, int hi, int tokens) const {
    const bool shared = lo < 0 || hi > pairs_;
    lo = max(lo, 0);
    hi = min(hi, pairs_);
    return (lo < min(hi, 8) ? kStageLowPairs : 0) | (hi > max(lo, 8) ? kStageHighPairs : 0) |
           (lo > 0 || hi < pairs_ || tokens < detail::kNarrowTokens ? kStageMasked : 0) | (shared ? kStageShared : 0) |
           tokens << 8 | lo << 16 | hi << 24;
  }

  /// Finds the next up to 32 steps of the tile, one a lane.
  /// @param segments  those from segment_ on
  __device__ __forceinline__ void open_window(const Segments& segments) {
    step_ = 0;
    if (gathered_) {
      window_steps_ = min((left_ + detail::kNarrowTokens - 1) / detail::kNarrowTokens, kWaveLanes);
      const int tokens = min(left_ - lane_ * detail::kNarrowTokens, detail::kNarrowTokens);
      block_ = segment_ + lane_ * detail::kNarrowTokens;
      see_ = kStageLowPairs | (pairs_ > 8 ? kStageHighPairs : 0) | kStageMasked | kStageByToken | kStageSingles |
             max(tokens, 0) << 8;
      segment_ += kWaveLanes * detail::kNarrowTokens;
      left_ = max(left_ - kWaveLanes * detail::kNarrowTokens, 0);
    } else {
      const int count = min(segment_end_ - segment_, kWaveLanes);
      int own = lane_ < count ? (segments.size & 0x7fffff) - (lane_ == 0 ? skip_ : 0) : 0;
      if (segment_ + count == segment_end_) {  // the tile may end inside its last segment
        const int before = __reduce_add_sync(kAllLanes, lane_ < count - 1 ? own : 0);
        if (lane_ == count - 1) own = left_ - before;
      }
      const int steps = (own + detail::kNarrowTokens - 1) / detail::kNarrowTokens;
      int end = steps, source = 0;
      if (count > 1) {
#pragma unroll
        for (int distance = 1; distance < kWaveLanes; distance *= 2) {
          const int before = value_of_earlier_lane(end, distance);
          if (lane_ >= distance) end += before;
        }
#pragma unroll
        for (int half = kWaveLanes / 2; half > 0; half /= 2) {  // the first segment whose end lies behind this step
          if (value_of_lane(end, source + half - 1) <= lane_) source += half;
        }
      }
      window_steps_ = min(word(end, count - 1), kWaveLanes);
      const bool valid = lane_ < window_steps_;
      const int in_segment = (lane_ - (word(end, source) - word(steps, source))) * detail::kNarrowTokens;
      const int left_in_segment = word(own, source) - in_segment;
      const int tokens = valid ? min(left_in_segment, detail::kNarrowTokens) : 0;
      const int size = word(segments.size, source), table_begin = word(segments.table_begin, source);
      const int first = in_segment + (source == 0 ? skip_ : 0);
      const int place = static_cast<int>(static_cast<unsigned>(size) >> 23) + first;
      const int entry = place < arguments_.block_tokens ? 0 : divide(place, arguments_.by_block_tokens);
      block_ = word(segments.first_block, source);
      offset_ = place - entry * arguments_.block_tokens;
      const int lo = word(segments.rows_begin, source) * arguments_.group - pair_begin_;
      const int hi = word(segments.rows_end, source) * arguments_.group - pair_begin_;
      see_ = see_of(lo, hi, tokens);
      if (arguments_.page_tokens == 0 || offset_ % detail::kNarrowTokens != 0) {
        see_ |= kStageSingles;
        block_ = table_begin;
        offset_ = place;
      } else if (valid && entry > 0) {
        block_ = __ldg(arguments_.plan.block_table + table_begin + entry);
      }
      left_ -= __reduce_add_sync(kAllLanes, tokens);
      if (left_ > 0) {  // a further window: where it begins
        const int last = window_steps_ - 1, behind = word(first + tokens, last);
        const bool whole = behind == (word(size, last) & 0x7fffff);
        const int moved = word(source, last) + (whole ? 1 : 0);
        skip_ = whole ? 0 : behind;
        segment_ += moved;
      }
    }
    if (left_ == 0 && lane_ == window_steps_ - 1) see_ |= kStageLast;
    if (lane_ >= window_steps_) see_ = kStageMasked;  // no step, but perhaps the second half of a stage
    whole_ = 0;
    if (arguments_.stage_copies) {  // neighbouring steps of a block
      const int next_block = __shfl_down_sync(kAllLanes, block_, 1),
                next_offset = __shfl_down_sync(kAllLanes, offset_, 1);
      const bool joined = lane_ + 1 < window_steps_ && next_block == block_ &&
                          next_offset == offset_ + detail::kNarrowTokens && lane_ % 2 == 0;
      whole_ = lanes_where(!(see_ & kStageSingles) && (C::kSteps == 1 || joined));
    }
  }

  // ------------------------------------------------------------------------------------------------------- stages

  __device__ __forceinline__ void issue(int slot) {
    const std::uint32_t full = ring_.full_of(slot), stage = ring_.slot_of(slot);
    if (kind_ == StageKind::query) {
      copy_query(full, stage, slot);
      kind_ = StageKind::keys;
      return;
    }
    const bool values = kind_ == StageKind::values;
    const int behind = lane_ - step_;
    if (!values && behind >= 0 && behind < C::kSteps) store_shared(ring_.what_of(slot) + 4 * behind, see_);
    if (whole_ >> step_ & 1) [[likely]] {  // the lane that found the step copies it: nothing need be asked of another
      if (lane_ == step_) {
        barrier_expect(full, C::kStageBytes);
        copy_kv(stage, values ? &arguments_.v_stage : &arguments_.k_stage, full, 0, offset_, 0, kv_head_, block_,
                see_ & kStageShared ? kEvictNormal : kEvictFirst);
      }
    } else {
      copy_parts(full, stage, slot, min(C::kSteps, window_steps_ - step_), values);
    }
    if (!values) {
      kind_ = StageKind::values;
    } else {
      kind_ = StageKind::keys;
      step_ = min(step_ + C::kSteps, window_steps_);
    }
  }

  __device__ __forceinline__ void copy_query(std::uint32_t full, std::uint32_t stage, int slot) {
    if (lane_ < 8) store_shared(ring_.what_of(slot) + lane_ * 4, words_);
    if (lane_ == 0) barrier_expect(full, pairs_ * C::kRowBytes);
    synchronise_warp();
    const int unit = q_unit(pair_begin_, pairs_), pair = lane_ * unit;
    if (pair < pairs_) {
      const CUtensorMap* map = unit == 1 ? &arguments_.q_pair : &arguments_.q_group;
      const int line_row = divide(pair_begin_ + pair, arguments_.by_group);
      const int head = kv_head_ * arguments_.group + pair_begin_ + pair - line_row * arguments_.group;
#pragma unroll
      for (int chunk = 0; chunk < C::kChunks; ++chunk) {
        copy_q(stage + chunk * Ring::kChunkBytes + pair * 128, map, full, chunk * kChunk, head, row_);
      }
    }
  }

  /// Step by step: as pieces of 16 tokens, or token by token where the step is a list of tokens, or where blocks or
  /// places in them are no multiples of 16.
  __device__ __forceinline__ void copy_parts(std::uint32_t full, std::uint32_t stage, int slot, int steps,
                                             bool values) {
    const int s = lane_ / detail::kNarrowTokens, token = lane_ % detail::kNarrowTokens;
    const int mine = min(step_ + s, window_steps_ - 1);
    int see = word(see_, mine);
    const int first = word(block_, mine), place = word(offset_, mine);
    if (s >= steps) see = 0;
    const bool single = see & kStageSingles;
    const int tokens = see == 0 ? 0 : single ? see >> 8 & 255 : detail::kNarrowTokens;  // that are copied
    const int bytes = tokens * C::kRowBytes;
    const int all_bytes = word(bytes, 0) + (C::kSteps == 2 ? word(bytes, detail::kNarrowTokens) : 0);
    if (lane_ == 0) barrier_expect(full, all_bytes);
    synchronise_warp();
    if (token < (single ? tokens : min(tokens, 1))) {
      int block = first, offset = place;
      if (see & kStageByToken) {
        const int2 listed = __ldg(reinterpret_cast<const int2*>(arguments_.plan.gathered + first + token));
        block = divide(listed.x, arguments_.by_block_tokens);
        offset = listed.x - block * arguments_.block_tokens;
        const int hi = min(listed.y >> 16, pairs_);
        store_shared_half(ring_.pairs_of(slot, s, token), static_cast<std::uint16_t>((listed.y & 0xffff) | hi << 8));
      } else if (single) {
        const int entry = divide(place + token, arguments_.by_block_tokens);
        block = __ldg(arguments_.plan.block_table + first + entry);
        offset = place + token - entry * arguments_.block_tokens;
      }
      const CUtensorMap* map = single ? &arguments_.k_token : &arguments_.k_run;
      if (values) ++map;  // the map of V follows that of K
#pragma unroll 1
      for (int chunk = 0; chunk < C::kChunks; ++chunk) {
        copy_kv(stage + chunk * Ring::kChunkBytes + lane_ * 128, map, full, chunk * kChunk, offset, 0, kv_head_, block,
                see & kStageShared ? kEvictNormal : kEvictFirst);
      }
    }
    synchronise_warp();
  }

  const Arguments& arguments_;
  NarrowList& list_;
  const Ring ring_;
  const int lane_;

  int words_, next_words_, later_words_;
  bool next_valid_ = false, later_valid_ = false;
  int ticket_ = 0;
  bool queued_ = false;
  int row_, next_row_;  ///< of the pairs that this lane copies
  Segments next_segments_;
  int segment_ = 0, segment_end_ = 0, skip_ = 0, left_ = 0, pair_begin_ = 0, pairs_ = 0, kv_head_ = 0;
  bool gathered_ = false;
  StageKind kind_ = StageKind::none;  ///< of the stage to issue
  int step_ = 0, window_steps_ = 0;   ///< of the window
  int block_, offset_, see_;  ///< of this lane's step; where singles: entry of the block table, place from there
  unsigned whole_ = 0;        ///< bit i: one copy brings the whole stage that begins with step i of the window
};

}  // namespace espalier::gpu::sm90
