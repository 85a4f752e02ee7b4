#pragma once
// Narrow tiles: up to 16 pairs, bound by memory. Every warp works for itself: it keeps a ring of stages full through the
// copy engine and computes on the stage that arrived, so no barrier is wider than a warp.
//
//   scores^T (tokens x pairs) = K Q^T        mma.m16n8k16: 16 tokens, 8 pairs, so that tokens which only 8 pairs see
//   output^T (head_dim x pairs) += V^T P^T   cost half
//
// A tile is a sequence of stages: Q, then K and V of kSteps steps of 16 tokens, [chunk][token][64]. Issuing is as
// many stages ahead as the ring holds, across tiles. The addresses of up to 32 steps are found at once, one a lane (a window); descriptors of the next
// tile are fetched while this one's tokens arrive.

#include "backends/cuda/sm90/common.hpp"

namespace espalier::gpu::sm90 {

/// What a step in a stage of K and the one of V behind it is: flags, then tokens << 8, the pairs that see them [lo, hi) as
/// lo << 16 | hi << 24.
enum StageFlags : int {
  kStageLowPairs = 1,   ///< one of the pairs 0 .. 7 sees a token of it
  kStageHighPairs = 2,  ///< one of the pairs 8 .. 15 does
  kStageLast = 4,       ///< the last of its tile
  kStageMasked = 8,     ///< not every pair sees every one of 16 tokens
  kStageByToken = 16,   ///< each token has an interval of pairs of its own
  kStageSingles = 32,   ///< copied token by token
  kStageShared = 64,    ///< other tiles read these tokens, too
  kStageWhole = 128,    ///< one copy brings a whole stage that begins with this step
};

/// Shared memory of one warp, addressed by offsets, so that the address of each field need not be found again.
template <int HeadDim>
struct NarrowStages {
  using C = Config<HeadDim>;
  std::uint64_t full[C::kNarrowStages];
  int what[C::kNarrowStages][8];  ///< of K: the word of each step; of Q: the tile
  std::uint16_t token_pairs[C::kNarrowStages][C::kSteps][detail::kNarrowTokens];  ///< lo | hi << 8, where kStageByToken

  static constexpr std::uint32_t kWhat = C::kNarrowStages * 8;
  static constexpr std::uint32_t kTokenPairs = kWhat + C::kNarrowStages * 32;

  __device__ __forceinline__ void init() {
    for (int stage = 0; stage < C::kNarrowStages; ++stage) barrier_init(shared_address(&full[stage]), 1);
  }
};

/// The narrow tiles a block may take: its own, then those of the queue.
struct NarrowList {
  const detail::FusedTile* own;
  int own_tiles;
  int total;  ///< own and queue
  const detail::FusedTile* queue;
  int taken;  ///< shared counter of the block

  __device__ __forceinline__ const detail::FusedTile* at(int number) const {
    return number < own_tiles ? own + number : queue + (number - own_tiles);
  }
};

template <class T, int HeadDim>
class NarrowWorker {
  using C = Config<HeadDim>;
  static constexpr int kSlices = C::kPadded / 16;  ///< of head_dim, one for each matrix instruction
  static constexpr int kChunkBytes = C::kStageTokens * 128;
  static constexpr int kStepBytes = detail::kNarrowTokens * 128;  ///< of one chunk

 public:
  __device__ __forceinline__ NarrowWorker(const Arguments& arguments, NarrowList& list, std::uint32_t ring,
                                          const NarrowStages<HeadDim>& stages)
      : arguments_(arguments),
        list_(list),
        ring_(pinned(ring)),
        stages_(pinned(shared_address(&stages))),
        lane_(threadIdx.x % kWaveLanes) {}

  /// Fetches the descriptors of a first tile, number `warp` of the block's own; reads nothing that a preceding launch
  /// writes.
  __device__ __forceinline__ void prepare(int warp) {
    next_valid_ = warp < list_.own_tiles;
    if (!next_valid_) return;
    next_words_ = fetch_tile(warp);
    take();
    follow_tile();
  }

  __device__ __forceinline__ void run() {
    if (!next_valid_) {  // nothing was prepared: the queue, if there is one
      if (list_.total == list_.own_tiles) return;
      take();
      const int number = taken();
      if (number >= list_.total) return;
      next_valid_ = true;
      next_words_ = fetch_tile(number);
      take();
      follow_tile();
    }
    fetch_later();
    Kind arrived = Kind::query;
    int slot = 0, live = 0;
    std::uint32_t parity = 1;
    bool filling = true;
#pragma unroll 1
    while (true) {
      if (step_ == window_steps_) open();
      if (!filling) {
        if (live == 0) return;
        --live;
        arrived = consume(arrived, slot, parity);
        __syncwarp();
      }
      if (kind_ != Kind::none) {
        issue(slot);
        ++live;
      }
      if (++slot == C::kNarrowStages) {
        slot = 0;
        parity ^= 1;
        filling = false;
      }
    }
  }

 private:
  enum class Kind { none, query, keys, values };

  using S = NarrowStages<HeadDim>;
  [[nodiscard]] __device__ __forceinline__ std::uint32_t full_of(int slot) const { return stages_ + slot * 8; }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t what_of(int slot) const {
    return stages_ + S::kWhat + slot * 32;
  }
  [[nodiscard]] __device__ __forceinline__ std::uint32_t pairs_of(int slot, int s, int token) const {
    return stages_ + S::kTokenPairs + ((slot * C::kSteps + s) * detail::kNarrowTokens + token) * 2;
  }

  // ------------------------------------------------------------------------------------------------------- tiles

  /// Asks for the number of a tile; taken() has it later.
  __device__ __forceinline__ void take() {
    if (lane_ == 0) {
      ticket_ = atomicAdd(&list_.taken, 1);
      if (ticket_ >= list_.own_tiles && list_.total > list_.own_tiles) {
        queued_ = true;
        ticket_ = static_cast<int>(atomicAdd(arguments_.plan.queue_next, 1u));
      }
    }
  }

  [[nodiscard]] __device__ __forceinline__ int taken() const {
    return __shfl_sync(kAllLanes, queued_ ? list_.own_tiles + ticket_ : ticket_, 0);
  }

  /// The words of a tile, one a lane.
  [[nodiscard]] __device__ __forceinline__ int fetch_tile(int number) const {
    return __ldg(reinterpret_cast<const int*>(list_.at(number)) + lane_ % 8);
  }

  [[nodiscard]] __device__ __forceinline__ int word(int words, int i) const { return __shfl_sync(kAllLanes, words, i); }

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
      kind_ = Kind::none;
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
      kind_ = Kind::query;
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
          const int before = __shfl_up_sync(kAllLanes, end, distance);
          if (lane_ >= distance) end += before;
        }
#pragma unroll
        for (int half = kWaveLanes / 2; half > 0; half /= 2) {  // the first segment whose end lies behind this step
          if (__shfl_sync(kAllLanes, end, source + half - 1) <= lane_) source += half;
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
    if (arguments_.stage_copies) {  // neighbouring steps of a block
      const int next_block = __shfl_down_sync(kAllLanes, block_, 1),
                next_offset = __shfl_down_sync(kAllLanes, offset_, 1);
      const bool joined = lane_ + 1 < window_steps_ && next_block == block_ &&
                          next_offset == offset_ + detail::kNarrowTokens && (C::kSteps == 1 || lane_ % 2 == 0);
      if (!(see_ & kStageSingles) && (C::kSteps == 1 || joined)) see_ |= kStageWhole;
    }
  }

  // ------------------------------------------------------------------------------------------------------- stages

  /// Fills a slot of the ring with the next stage.
  __device__ __forceinline__ void issue(int slot) {
    const std::uint32_t full = full_of(slot), stage = ring_ + slot * C::kStageBytes;
    if (kind_ == Kind::query) {
      copy_query(full, stage, slot);
      kind_ = Kind::keys;
      return;
    }
    const bool values = kind_ == Kind::values;
    const int steps = min(C::kSteps, window_steps_ - step_);
    const int see0 = word(see_, step_), see1 = steps == C::kSteps ? word(see_, step_ + C::kSteps - 1) : kStageMasked;
    const int block = word(block_, step_), offset = word(offset_, step_);
    if (!values && lane_ == 0) {
      store_shared(what_of(slot), see0);
      if (C::kSteps == 2) store_shared(what_of(slot) + 4, see1);
    }
    if (see0 & kStageWhole) {
      if (lane_ == 0) {
        barrier_expect(full, C::kStageBytes);
        copy_kv(stage, values ? &arguments_.v_stage : &arguments_.k_stage, full, 0, offset, 0, kv_head_, block,
                see0 & kStageShared ? kEvictNormal : kEvictFirst);
      }
    } else {
      copy_parts(full, stage, slot, steps, values);
    }
    if (!values) {
      kind_ = Kind::values;
    } else {
      kind_ = Kind::keys;
      step_ = min(step_ + C::kSteps, window_steps_);
    }
  }

  __device__ __forceinline__ void copy_query(std::uint32_t full, std::uint32_t stage, int slot) {
    if (lane_ < 8) store_shared(what_of(slot) + lane_ * 4, words_);
    if (lane_ == 0) barrier_expect(full, pairs_ * C::kRowBytes);
    __syncwarp();
    const int unit = q_unit(pair_begin_, pairs_), pair = lane_ * unit;
    if (pair < pairs_) {
      const CUtensorMap* map = unit == 1 ? &arguments_.q_pair : &arguments_.q_group;
      const int line_row = divide(pair_begin_ + pair, arguments_.by_group);
      const int head = kv_head_ * arguments_.group + pair_begin_ + pair - line_row * arguments_.group;
#pragma unroll
      for (int chunk = 0; chunk < C::kChunks; ++chunk) {
        copy_q(stage + chunk * kChunkBytes + pair * 128, map, full, chunk * kChunk, head, row_);
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
    __syncwarp();
    if (token < (single ? tokens : min(tokens, 1))) {
      int block = first, offset = place;
      if (see & kStageByToken) {
        const int2 listed = __ldg(reinterpret_cast<const int2*>(arguments_.plan.gathered + first + token));
        block = divide(listed.x, arguments_.by_block_tokens);
        offset = listed.x - block * arguments_.block_tokens;
        const int hi = min(listed.y >> 16, pairs_);
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(pairs_of(slot, s, token)),
                     "h"(static_cast<std::uint16_t>((listed.y & 0xffff) | hi << 8))
                     : "memory");
      } else if (single) {
        const int entry = divide(place + token, arguments_.by_block_tokens);
        block = __ldg(arguments_.plan.block_table + first + entry);
        offset = place + token - entry * arguments_.block_tokens;
      }
      const CUtensorMap* map = single ? &arguments_.k_token : &arguments_.k_run;
      if (values) ++map;  // the map of V follows that of K
#pragma unroll 1
      for (int chunk = 0; chunk < C::kChunks; ++chunk) {
        copy_kv(stage + chunk * kChunkBytes + lane_ * 128, map, full, chunk * kChunk, offset, 0, kv_head_, block,
                see & kStageShared ? kEvictNormal : kEvictFirst);
      }
    }
    __syncwarp();
  }

  // ------------------------------------------------------------------------------------------------------ compute

  /// Waits for the stage in a slot and works it off. @returns what the next one is
  __device__ __forceinline__ Kind consume(Kind arrived, int slot, std::uint32_t parity) {
    const std::uint32_t full = full_of(slot), stage = ring_ + slot * C::kStageBytes;
    if (arrived == Kind::keys) {
      barrier_wait(full, parity);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) info_[s] = load_shared(what_of(slot) + 4 * s);
      by_columns([&](auto columns) { multiply_qk<columns.value>(stage, slot); });
      return Kind::values;
    }
    if (arrived == Kind::values) {
      bool written = false;
      by_columns([&](auto columns) {
        softmax<columns.value>();
        barrier_wait(full, parity);
        written = clear_tail(stage);
        multiply_pv<columns.value>(stage);
      });
      const bool last = any_info() & kStageLast;
      if (last) {
        __syncwarp();
        finish(stage);
        written = true;
      }
      if (written) fence_async_proxy();
      return last ? Kind::query : Kind::keys;
    }
    barrier_wait(full, parity);
    start(stage, slot);
    return Kind::keys;
  }

  /// Flags of any of the steps.
  [[nodiscard]] __device__ __forceinline__ int any_info() const { return info_[0] | info_[C::kSteps - 1]; }

  template <int Columns>
  struct ColumnsTag {
    static constexpr int value = Columns;
  };

  template <class Action>
  __device__ __forceinline__ void by_columns(Action action) {
    const int columns = any_info() & (kStageLowPairs | kStageHighPairs);
    if (columns == 1)
      action(ColumnsTag<1>{});
    else if (columns == 2)
      action(ColumnsTag<2>{});
    else
      action(ColumnsTag<3>{});
  }

  /// Takes Q into registers and empties the softmax.
  __device__ __forceinline__ void start(std::uint32_t stage, int slot) {
    pair_begin_of_tile_ = load_shared(what_of(slot) + 16);
    partial_begin_ = load_shared(what_of(slot) + 20);
    sizes_ = load_shared(what_of(slot) + 24);
    direct_ = load_shared(what_of(slot) + 28) & detail::kTileDirect;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int row = lane_ % 8 + 8 * b;
#pragma unroll
      for (int k = 0; k < kSlices; k += 2) {
        std::uint32_t m[4];
        load_matrices(m, stage + k / 4 * kChunkBytes + row * 128 + (((k % 4 * 2 + lane_ / 8) ^ (row & 7)) << 4));
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
  }

  template <int Columns>
  __device__ __forceinline__ void multiply_qk(std::uint32_t stage, int slot) {
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores_[s][b][i] = 0.0f;
      }
    }
    const int row = lane_ % 8 + (lane_ / 8 % 2) * 8, half = lane_ / 16;
#pragma unroll
    for (int k = 0; k < kSlices; ++k) {
      const std::uint32_t place = k / 4 * kChunkBytes + row * 128 + (((k % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        std::uint32_t a[4];
        load_matrices(a, stage + s * kStepBytes + place);
        if (Columns & 1) mma_m16n8k16<T>(scores_[s][0], a, q_[0][k][0], q_[0][k][1]);
        if (Columns & 2) mma_m16n8k16<T>(scores_[s][1], a, q_[1][k][0], q_[1][k][1]);
      }
    }
    if (arguments_.transform) {
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          if (!(Columns >> b & 1)) continue;
#pragma unroll
          for (int i = 0; i < 4; ++i) scores_[s][b][i] = transform_score(scores_[s][b][i], arguments_);
        }
      }
    }
    if (any_info() & kStageMasked) mask<Columns>(slot);
  }

  template <int Columns>
  __device__ __forceinline__ void mask(int slot) {
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const int tokens = info_[s] >> 8 & 255;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = lane_ / 4 + 8 * h;
        int lo = info_[s] >> 16 & 255, hi = token < tokens ? info_[s] >> 24 : 0;
        if (info_[s] & kStageByToken) {
          std::uint16_t see = 0;
          if (token < tokens)
            asm volatile("ld.shared.u16 %0, [%1];" : "=h"(see) : "r"(pairs_of(slot, s, token)) : "memory");
          lo = see & 255;
          hi = see >> 8;
        }
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          if (!(Columns >> b & 1)) continue;
          const int pair = 8 * b + 2 * (lane_ % 4);
          if (pair < lo || pair >= hi) scores_[s][b][2 * h] = -INFINITY;
          if (pair + 1 < lo || pair + 1 >= hi) scores_[s][b][2 * h + 1] = -INFINITY;
        }
      }
    }
  }

  template <int Columns>
  __device__ __forceinline__ void softmax() {
    const float scale = arguments_.weight_scale;
    // The peak may lag behind by a factor of 2^8 in the weights before the output is rescaled.
    const float slack = arguments_.peak_slack;
    float highest[2][2];
    bool rescale = false;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (!(Columns >> b & 1)) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        highest[b][i] = fmaxf(scores_[0][b][i], scores_[0][b][2 + i]);
        if (C::kSteps == 2) {
          highest[b][i] = fmaxf(highest[b][i], fmaxf(scores_[C::kSteps - 1][b][i], scores_[C::kSteps - 1][b][2 + i]));
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
        const float e0 = exp2_fast(fmaf(scores_[s][b][0], scale, shift0));
        const float e1 = exp2_fast(fmaf(scores_[s][b][1], scale, shift1));
        const float e2 = exp2_fast(fmaf(scores_[s][b][2], scale, shift0));
        const float e3 = exp2_fast(fmaf(scores_[s][b][3], scale, shift1));
        weight_[b][0] += e0 + e2;
        weight_[b][1] += e1 + e3;
        weights_[s][b][0] = transpose_matrix(pack<T>(e0, e1));
        weights_[s][b][1] = transpose_matrix(pack<T>(e2, e3));
      }
    }
  }

  template <int Columns>
  __device__ __forceinline__ void multiply_pv(std::uint32_t stage) {
    const int row = lane_ % 8 + lane_ / 16 * 8, half = lane_ / 8 % 2;
#pragma unroll
    for (int j = 0; j < kSlices; ++j) {
      const std::uint32_t place = j / 4 * kChunkBytes + row * 128 + (((j % 4 * 2 + half) ^ (row & 7)) << 4);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        std::uint32_t a[4];
        load_matrices_transposed(a, stage + s * kStepBytes + place);
        if (Columns & 1) mma_m16n8k16<T>(output_[0][j], a, weights_[s][0][0], weights_[s][0][1]);
        if (Columns & 2) mma_m16n8k16<T>(output_[1][j], a, weights_[s][1][0], weights_[s][1][1]);
      }
    }
  }

  /// Zeroes V beyond the tokens of a step: other nodes' tokens, or memory that nothing was written to yet.
  __device__ __forceinline__ bool clear_tail(std::uint32_t stage) {
    if (!(any_info() & kStageMasked)) return false;
    bool cleared = false;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const int tokens = info_[s] >> 8 & 255;
      if (tokens == detail::kNarrowTokens) continue;
      const int words = (detail::kNarrowTokens - tokens) * 8;  // of 16 bytes, in each chunk
#pragma unroll 1
      for (int i = lane_; i < words * C::kChunks; i += kWaveLanes) {
        const int chunk = i / words;
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(stage + s * kStepBytes + chunk * kChunkBytes +
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
  __device__ __forceinline__ void finish(std::uint32_t stage) {
    const int quad = lane_ / 4, quad_lane = lane_ % 4;
    const int tile_pairs = sizes_ & 0xffff, tile_head = static_cast<unsigned>(sizes_) >> 16;
    const bool direct = direct_;
    constexpr int kWords = C::kRowBytes / 16;  ///< 16-byte words of a row
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (b == 1 && tile_pairs <= 8) break;
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
          if (pair < tile_pairs) {
            if (direct) {
              if (arguments_.lse) {
                store_lse(arguments_, locate_pair(arguments_, pair_begin_of_tile_ + pair, tile_head), lse[i]);
              }
            } else {
              arguments_.plan.partial_lse[partial_begin_ + pair] = lse[i];
            }
          }
        }
      }
    }
    __syncwarp();
    if (direct) {
#pragma unroll 1
      for (int index = lane_; index < tile_pairs * kWords; index += kWaveLanes) {
        const int row = index / kWords, word = index % kWords;
        if (word * 8 < HeadDim) {
          T* target = out_of<T>(arguments_, locate_pair(arguments_, pair_begin_of_tile_ + row, tile_head));
          store_words(target + word * 8, staged_word(stage, row, word));
        }
      }
      return;
    }
    T* target = static_cast<T*>(arguments_.plan.partial_out) + static_cast<std::int64_t>(partial_begin_) * HeadDim;
#pragma unroll 4
    for (int i = 0; i < 16 * kWords / kWaveLanes; ++i) {
      const int index = lane_ + i * kWaveLanes, row = index / kWords, word = index % kWords;
      if (row < tile_pairs && word * 8 < HeadDim) {
        store_words(target + row * HeadDim + word * 8, staged_word(stage, row, word));
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
  NarrowList& list_;
  const std::uint32_t ring_;
  const std::uint32_t stages_;  ///< NarrowStages
  const int lane_;

  // Issuing. Words and what they point to: of the tile that is issued, the next one, and the one after it.
  int words_, next_words_, later_words_;
  bool next_valid_ = false, later_valid_ = false;
  int ticket_ = 0;
  bool queued_ = false;
  int row_, next_row_;  ///< of the pairs that this lane copies
  Segments next_segments_;
  int segment_ = 0, segment_end_ = 0, skip_ = 0, left_ = 0, pair_begin_ = 0, pairs_ = 0, kv_head_ = 0;
  bool gathered_ = false;
  Kind kind_ = Kind::none;           ///< of the stage to issue
  int step_ = 0, window_steps_ = 0;  ///< of the window
  int block_, offset_, see_;         ///< of this lane's step; where singles: entry of the block table, place from there

  // Computing.
  int pair_begin_of_tile_, partial_begin_, sizes_;  ///< of the tile that is computed
  bool direct_;
  int info_[C::kSteps];
  std::uint32_t q_[2][kSlices][2];
  float scores_[C::kSteps][2][4];
  std::uint32_t weights_[C::kSteps][2][2];
  float output_[2][kSlices][4];
  float peak_[2][2];
  float weight_[2][2];
};

}  // namespace espalier::gpu::sm90
