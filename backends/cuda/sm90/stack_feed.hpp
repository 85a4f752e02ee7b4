#pragma once
// The warps that feed. A stage holds 128 slots of a tile (64 above head_dim 128). Each segment begins at a multiple of 16,
// since pages and runs of 16 tokens are what one copy brings; the slots behind its last token hold whatever follows in memory.
//
// Mapping: one warp for each stage of the ring, K and V, and one for Q. A warp looks at 32 segments at once, one in each lane (a
// window), and then finds the pages or runs of its next stage, again one a lane, while the stage before is consumed.
// Budget: 72 registers, none spilled.

#include "backends/cuda/sm90/stack_memory.hpp"

namespace espalier::gpu::sm90 {

/// Whether one copy can bring all rows of Q of a tile: they follow one another for the caller, too.
struct QueryRows {
  bool together = false;
  int first = 0;  ///< as the caller numbers it

  __device__ __forceinline__ void find(const Arguments& arguments, int pair_begin, int pairs, int lane) {
    together = false;
    if (arguments.rows_per_tile == 0) return;
    const int line_row = divide(pair_begin, arguments.by_group);
    if (line_row * arguments.group != pair_begin) return;
    const int rows = divide(pairs + arguments.group - 1, arguments.by_group);
    first = load_plan(arguments.plan.row_index + line_row);
    bool follow = true;
#pragma unroll 1
    for (int i = lane; i < rows; i += kWaveLanes) {
      follow &= load_plan(arguments.plan.row_index + line_row + i) == first + i;
    }
    together = !in_any_lane(!follow);
  }
};

/// The warp that brings Q.
template <int HeadDim>
class StackQueries {
  using C = Config<HeadDim>;

 public:
  __device__ __forceinline__ StackQueries(const Arguments& arguments, const StackMemory<HeadDim>& memory)
      : arguments_(arguments), memory_(memory), lane_(threadIdx.x % kWaveLanes) {}

  /// Fetches descriptors of a tile; reads nothing but the plan.
  __device__ __forceinline__ void prepare(const detail::FusedTile* tile) {
    const int4 second = load_plan(reinterpret_cast<const int4*>(tile) + 1);
    pair_begin_ = second.x;
    pairs_ = second.z & 0xffff;
    kv_head_ = static_cast<unsigned>(second.z) >> 16;
    rows_.find(arguments_, pair_begin_, pairs_, lane_);
  }

  __device__ __forceinline__ void run(const detail::FusedTile* tiles, int count) {
    for (int number = 0; number < count; ++number) {
      if (number > 0) prepare(tiles + number);
      barrier_wait(shared_address(&memory_.barriers->q_empty), (number & 1) ^ 1);
      copy_q_rows();
    }
  }

 private:
  __device__ __forceinline__ void copy_q_rows() {
    const std::uint32_t full = shared_address(&memory_.barriers->q_full);
    if (lane_ == 0) barrier_expect(full, (rows_.together ? detail::kTilePairs : pairs_) * C::kRowBytes);
    synchronise_warp();
    if (rows_.together) {
      if (lane_ < C::kChunks) {
        copy_q(memory_.q() + lane_ * detail::kTilePairs * kChunkBytes, &arguments_.q_rows, full, lane_ * kChunk,
               kv_head_ * arguments_.group, rows_.first);
      }
      synchronise_warp();
      return;
    }
#pragma unroll 1
    for (int i = lane_; i < pairs_; i += kWaveLanes) {
      const PairPlace place = locate_pair(arguments_, pair_begin_ + i, kv_head_);
#pragma unroll 1
      for (int c = 0; c < C::kChunks; ++c) {
        copy_q(memory_.q() + (c * detail::kTilePairs + i) * kChunkBytes, &arguments_.q_pair, full, c * kChunk,
               place.head, place.row);
      }
    }
    synchronise_warp();
  }

  const Arguments& arguments_;
  const StackMemory<HeadDim>& memory_;
  const int lane_;
  int pair_begin_ = 0, pairs_ = 0, kv_head_ = 0;
  QueryRows rows_;
};

/// A warp that brings K and V: it has a stage of each, to which every third (second) stage of the tiles goes, since finding
/// and issuing the copies of a stage takes longer than the matrix units take to consume it. Each waits for its own barriers
/// alone: one that also waited for another's could find it two phases on.
template <int HeadDim>
class StackFeeder {
  using C = Config<HeadDim>;

 public:
  __device__ __forceinline__ StackFeeder(const Arguments& arguments, const StackMemory<HeadDim>& memory, int warp)
      : arguments_(arguments), memory_(memory), lane_(threadIdx.x % kWaveLanes), stage_(warp), to_own_(warp) {}

  /// Fetches descriptors of a tile; reads nothing but the plan.
  __device__ __forceinline__ void prepare(const detail::FusedTile* tile) {
    const int4 first = load_plan(reinterpret_cast<const int4*>(tile));
    const int4 second = load_plan(reinterpret_cast<const int4*>(tile) + 1);
    pair_begin_ = second.x;
    pairs_and_head_ = second.z;
    slots_ = first.w;
    segment_end_ = first.y;
    open_window(first.x, -first.z);
    find(to_own_ * C::kStageSlots);
  }

  __device__ __forceinline__ void run(const detail::FusedTile* tiles, int count) {
    if (count > 0 && stage_ > 0) let_first_stage_arrive(stage_ == 1 ? kSecondLooks : kThirdLooks);
    for (int number = 0; number < count; ++number) {
      if (number > 0) prepare(tiles + number);
      feed();
    }
  }

 private:
  [[nodiscard]] __device__ __forceinline__ int pairs() const { return pairs_and_head_ & 0xffff; }
  [[nodiscard]] __device__ __forceinline__ int kv_head() const { return static_cast<unsigned>(pairs_and_head_) >> 16; }

  static constexpr int kSecondLooks = 25;  ///< about 0.7 us
  static constexpr int kThirdLooks = 256;  ///< some microseconds

  /// All multiprocessors begin at once, and what they ask for first comes first only where they ask for little more; a second
  /// stage is needed a while after the first, a third one when the first has been there for a while. Nothing depends on it, so
  /// that it need not matter whether this warp comes when that phase of the barrier, and the next one, have long passed.
  /// @param looks  at most
  __device__ __forceinline__ void let_first_stage_arrive(int looks) {
    const std::uint32_t full = shared_address(&memory_.barriers->k_full[0]);
#pragma unroll 1
    for (int look = 0; look < looks && !uniform(barrier_passed(full, 0)); ++look) {
    }
  }

  /// Finds what the lanes copy of the stage that begins at a slot of the tile, if it has one.
  __device__ __forceinline__ void find(int first) {
    if (first >= slots_ || (unit_ > 0 && first - units_first_ < kWaveLanes * unit_)) return;
#pragma unroll 1
    for (int window_last; (window_last = value_of_lane(segment_last_, kWaveLanes - 1)) <= first;) {
      open_window(next_segment_, window_last);
    }
    if (unit_ > 0) {
      // The window begins with the stage, and then has all of the next 32 units.
      const int segment = bits_set(lanes_where(segment_last_ <= first));
      if (segment > 0) open_window(next_segment_ - kWaveLanes + segment, value_of_lane(segment_first_, segment));
    }
    if (unit_ > 0)
      find_units(first);
    else
      find_pieces(first, 0);
  }

  /// This warp's stages of a tile.
  __device__ __forceinline__ void feed() {
    StackBarriers<HeadDim>& barriers = *memory_.barriers;
    const std::uint32_t k_full = shared_address(&barriers.k_full[stage_]),
                        v_full = shared_address(&barriers.v_full[stage_]);
    const std::uint32_t k_empty = shared_address(&barriers.k_empty[stage_]);
    const std::uint32_t v_empty = shared_address(&barriers.v_empty[stage_]);
#pragma unroll 1
    for (int first = to_own_ * C::kStageSlots; first < slots_; first += C::kStages * C::kStageSlots) {
      barrier_wait(k_empty, parity_ ^ 1);
      if (unit_ > 0) {
        const int slots = min(C::kStageSlots, slots_ - first);
        const int bytes = ((slots + unit_ - 1) & -unit_) * C::kRowBytes;
        const bool pages = unit_ == arguments_.page_tokens;
        const int row = units_first_ - first + lane_ * unit_;
        const bool mine = row >= 0 && row < slots;
        if (lane_ == 0) barrier_announce(k_full, bytes);
        synchronise_warp();
        if (mine) copy_piece(memory_.k(stage_), pages ? &arguments_.k_page : &arguments_.k_run, k_full, row);
        // While K is on its way.
        Notes notes = begin_notes();
        take_notes(notes, first);
        store_notes(notes, first);
        barrier_arrive(k_full);
        barrier_wait(v_empty, parity_ ^ 1);
        if (lane_ == 0) barrier_expect(v_full, bytes);
        synchronise_warp();
        if (mine) copy_piece(memory_.v(stage_), pages ? &arguments_.v_page : &arguments_.v_run, v_full, row);
        synchronise_warp();
      } else {
        barrier_wait(v_empty, parity_ ^ 1);
        copy_pieces(k_full, v_full, first);
      }
      parity_ ^= 1;
      find(first + C::kStages * C::kStageSlots);
    }
    to_own_ -= (slots_ + C::kStageSlots - 1) / C::kStageSlots % C::kStages;
    if (to_own_ < 0) to_own_ += C::kStages;
  }

  /// All chunks of what the lane has found, to a row of a stage.
  __device__ __forceinline__ void copy_piece(std::uint32_t stage, const CUtensorMap* map, std::uint32_t full, int row) {
    const std::uint64_t policy = piece_offset_ < 0 ? kUnchangedPolicy : C::kReadOncePolicy;
#pragma unroll
    for (int c = 0; c < C::kChunks; ++c) {
      copy_kv(stage + (c * C::kStageSlots + row) * kChunkBytes, map, full, c * kChunk, piece_offset_ & ~kReadAgain,
              kv_head(), piece_block_, policy);
    }
  }

  /// The units of all lanes, from the one that begins a stage on.
  __device__ __forceinline__ void find_units(int first) {
    units_first_ = first;
    const int slot = first + lane_ * unit_;
    int owner = 0;  // the segments that end before it
#pragma unroll
    for (int distance = kWaveLanes / 2; distance > 0; distance /= 2) {
      if (value_of_lane(segment_last_, owner + distance - 1) <= slot) owner += distance;
    }
    const int place = value_of_lane(place_ - segment_first_, owner) + slot;
    const int table = value_of_lane(table_begin_, owner), first_block = value_of_lane(first_block_, owner);
    if (slot >= slots_) return;
    const int entry = divide(place, arguments_.by_block_tokens);
    piece_offset_ = (place - entry * arguments_.block_tokens) | (table & kReadAgain);
    piece_block_ = entry == 0 ? first_block : load_plan(block_table(table) + entry);
  }

  /// Fetches 32 segments, one a lane, the first of which begins at a slot of the tile (in front of it where `skip` is not 0).
  __device__ __forceinline__ void open_window(int segment, int first) {
    next_segment_ = segment + kWaveLanes;
    units_first_ = -(1 << 30);  // none is found yet
    int4 words = {0, 0, 0, 0};
    segment_pairs_ = 0;
    if (segment + lane_ < segment_end_) {
      const int4* source = reinterpret_cast<const int4*>(arguments_.plan.segments + segment + lane_);
      words = load_plan(source);
      const int4 rows = load_plan(source + 1);
      const int first_pair = rows.x * arguments_.group - pair_begin_,
                last_pair = rows.y * arguments_.group - pair_begin_;
      const int low = max(first_pair, 0), high = min(last_pair, pairs());
      if (first_pair < 0 || last_pair > pairs()) words.x |= kReadAgain;  // by tiles of other pairs
      if (low < high) segment_pairs_ = high << 8 | low | (rows.z * arguments_.group > pair_begin_ + low ? kLimited : 0);
    }
    table_begin_ = words.x;
    first_block_ = words.y;
    place_ = words.z;
    segment_tokens_ = words.w;
    const int slots = detail::stack_slots(words.w);
    segment_first_ = first + sum_of_lanes_before(slots);
    segment_last_ = segment_first_ + slots;
    const int page = arguments_.page_tokens, ends = segment_last_ < slots_ ? segment_last_ : 0;
    const int odd = words.w > 0 ? segment_first_ | place_ | ends : 0;
    unit_ = page == 0 || in_any_lane((odd & 15) != 0) ? 0 : in_any_lane((odd & (page - 1)) != 0) ? 16 : page;
  }

  [[nodiscard]] __device__ __forceinline__ int sum_of_lanes_before(int value) const {
    int sum = value;
#pragma unroll
    for (int distance = 1; distance < kWaveLanes; distance *= 2) {
      const int before = value_of_earlier_lane(sum, distance);
      if (lane_ >= distance) sum += before;
    }
    return sum - value;
  }

  static constexpr int kLimited = 1 << 16, kRun = 1 << 8, kPage = 2 << 8;
  static constexpr int kReadAgain = 1 << 31;  ///< by tiles of other pairs

  /// What the consumers are told of a stage: who sees which slots, and which hold no token.
  struct Notes {
    std::uint32_t flags = 0;
    int intervals = 0;
    bool gaps = false;  ///< found by this lane
  };

  __device__ __forceinline__ static unsigned char* units_of(StageNotes<HeadDim>& stage) {
    return reinterpret_cast<unsigned char*>(stage.tokens_of_slots);
  }

  __device__ __forceinline__ Notes begin_notes() {
    if (lane_ < 2) memory_.notes[stage_].tokens_of_slots[lane_] = 0x01010101u * detail::kStackSlots;
    synchronise_warp();
    return {};
  }

  /// Adds what the window has of the stage that begins at a slot of the tile.
  __device__ __forceinline__ void take_notes(Notes& notes, int first) {
    const int tokens_last = segment_first_ + segment_tokens_;
    if (lanes_where(segment_first_ <= first && tokens_last >= first + C::kStageSlots &&
                    segment_pairs_ == pairs() << 8) != 0) {
      notes.flags |= pairs() > kHalfPairs ? kSeen * 3 : kSeen;
      return;
    }
    StageNotes<HeadDim>& stage = memory_.notes[stage_];
    const int last = min(first + C::kStageSlots, slots_);
    const int begin = max(segment_first_, first) - first, end = min(tokens_last, last) - first;
    if (tokens_last < segment_last_ && segment_last_ > first && segment_last_ <= last) {
      units_of(stage)[(segment_last_ - 1 - first) / detail::kStackSlots] =
          static_cast<unsigned char>(segment_tokens_ % detail::kStackSlots);
      notes.gaps = true;
    }
    const int low = segment_pairs_ & 255, high = segment_pairs_ >> 8 & 255;
    const bool meets = begin < end && low < high, limited = meets && (segment_pairs_ & kLimited) != 0;
    if (in_any_lane(limited || (begin < end && low >= high))) notes.flags |= kSeenPartly * 3;  // some see none of it
    add_interval(stage, notes, meets && !limited, begin, end, low, high);
#pragma unroll 1
    for (unsigned left = lanes_where(limited); left != 0; left &= left - 1) {
      // A node's own rows see more of it one after another: what one sees further than the one before is seen by all from it on.
      const int owner = 31 - __clz(static_cast<int>(left & -left));
      const int owner_begin = value_of_lane(begin, owner), owner_end = value_of_lane(end, owner);
      const int owner_high = value_of_lane(high, owner), owner_low = value_of_lane(low, owner);
      const int owner_first = value_of_lane(segment_first_, owner) - first;
      const int2 own =
          load_plan(reinterpret_cast<const int2*>(arguments_.plan.segments + next_segment_ - kWaveLanes + owner) + 3);
      int row = divide(pair_begin_ + owner_low, arguments_.by_group), from = owner_begin;
#pragma unroll 1
      for (; from < owner_end && row < own.x; row += kWaveLanes) {
        const int mine = row + lane_;
        int to = owner_end;
        if (mine < own.x) {
          const int visible = max(load_plan(arguments_.plan.row_visible + mine) - own.y, 0);
          to = min(max(owner_first + visible, owner_begin), owner_end);
        }
        int before = value_of_earlier_lane(to, 1);
        if (lane_ == 0) before = from;
        const int row_low = max(mine * arguments_.group - pair_begin_, 0);
        add_interval(stage, notes, before < to && mine < own.x && row_low < owner_high, before, to, row_low,
                     owner_high);
        const int rows = min(own.x - row, kWaveLanes);
        from = value_of_lane(to, rows - 1);
      }
      const int rest_low = max(own.x * arguments_.group - pair_begin_, 0);
      add_interval(stage, notes, lane_ == 0 && from < owner_end && rest_low < owner_high, from, owner_end, rest_low,
                   owner_high);
    }
  }

  __device__ __forceinline__ void add_interval(StageNotes<HeadDim>& stage, Notes& notes, bool any, int begin, int end,
                                               int low, int high) {
    const unsigned where = lanes_where(any);
    if (where == 0) return;
    if (any) {
      const int place = notes.intervals + bits_set(where & ((1u << lane_) - 1));
      stage.intervals[place] = static_cast<std::uint32_t>(begin | end << 8 | low << 16 | high << 24);
    }
    notes.intervals += bits_set(where);
    if (lanes_where(any && low < min(high, kHalfPairs)) != 0) notes.flags |= kSeen;
    if (lanes_where(any && max(low, kHalfPairs) < high) != 0) notes.flags |= kSeen << 1;
    if (lanes_where(any && (low > 0 || high < min(pairs(), kHalfPairs))) != 0) notes.flags |= kSeenPartly;
    if (lanes_where(any && (low > kHalfPairs || high < pairs())) != 0) notes.flags |= kSeenPartly << 1;
  }

  __device__ __forceinline__ void store_notes(Notes notes, int first) {
    StageNotes<HeadDim>& stage = memory_.notes[stage_];
    if (first + (lane_ + 1) * detail::kStackSlots > slots_ && lane_ < C::kStageSlots / detail::kStackSlots) {
      units_of(stage)[lane_] = static_cast<unsigned char>(max(slots_ - first - lane_ * detail::kStackSlots, 0));
      notes.gaps = true;
    }
    if (in_any_lane(notes.gaps)) notes.flags |= kStageGaps | kSeenPartly * 3;
    if (first + C::kStageSlots >= slots_) notes.flags |= kStageOfTileEnd;
    if (lane_ == 0) stage.what = notes.flags | static_cast<std::uint32_t>(notes.intervals) << 16;
  }

  /// Where a stage holds tokens of several segments, or no whole pages: runs of tokens that lie in one block, pages where a
  /// segment is made of such and of 16 tokens elsewhere, and the single tokens around them. Finds piece `number` + lane of
  /// what the window has of the stage that begins at a token.
  __device__ __forceinline__ void find_pieces(int first, int number) {
    const int last = min(first + C::kStageSlots, slots_), begin = max(segment_first_, first);
    const int now = max(min(segment_first_ + segment_tokens_, last) - begin, 0),
              place = place_ + begin - segment_first_;
    const int page = arguments_.page_tokens;
    const bool by_pages = page > 0 && ((place | now) & (page - 1)) == 0;
    const int unit = by_pages ? page : 16, head = page > 0 ? min(now, -place & (unit - 1)) : now;
    const int runs = (now - head) / unit, count = now - (unit - 1) * runs;
    const int before = sum_of_lanes_before(count);
    pieces_ = value_of_lane(before + count, kWaveLanes - 1);
    int owner = 0;  // the last lane whose pieces do not begin behind this one
    number += lane_;
#pragma unroll
    for (int distance = kWaveLanes / 2; distance > 0; distance /= 2) {
      if (value_of_lane(before, owner + distance) <= number) owner += distance;
    }
    const int shape = value_of_lane(by_pages << 24 | head << 16 | runs << 8 | (begin - first), owner);
    const int i = number - value_of_lane(before, owner);
    const int owner_place = value_of_lane(place, owner), owner_table = value_of_lane(table_begin_, owner);
    const int owner_block = value_of_lane(first_block_, owner);
    if (number >= pieces_) return;
    const int owner_unit = shape >> 24 ? page : 16, owner_head = shape >> 16 & 255, owner_runs = shape >> 8 & 255;
    const int token = i < owner_runs                ? owner_head + owner_unit * i
                      : i - owner_runs < owner_head ? i - owner_runs
                                                    : (owner_unit - 1) * owner_runs + i;
    const int entry = divide(owner_place + token, arguments_.by_block_tokens);
    piece_ = (shape & 255) + token + (i < owner_runs ? shape >> 24 ? kPage : kRun : 0);
    piece_offset_ = (owner_place + token - entry * arguments_.block_tokens) | (owner_table & kReadAgain);
    piece_block_ = entry == 0 ? owner_block : load_plan(block_table(owner_table) + entry);
  }

  /// @param begin  as table_begin_
  [[nodiscard]] __device__ __forceinline__ const std::int32_t* block_table(int begin) const {
    return arguments_.plan.block_table + (begin & ~kReadAgain);
  }

  /// Copies a stage, of whose pieces the first 32 have been found. The window goes on to its end.
  __device__ __forceinline__ void copy_pieces(std::uint32_t k_full, std::uint32_t v_full, int first) {
    const int last = min(first + C::kStageSlots, slots_);
    Notes notes = begin_notes();
    while (true) {
      take_notes(notes, first);
      const int window_last = value_of_lane(segment_last_, kWaveLanes - 1);
      const int here = max(min(segment_first_ + segment_tokens_, last) - max(segment_first_, first), 0);
      const int bytes = value_of_lane(sum_of_lanes_before(here) + here, kWaveLanes - 1) * C::kRowBytes;
      if (window_last >= last) {
        store_notes(notes, first);
        if (lane_ == 0) {
          barrier_expect(k_full, bytes);
          barrier_expect(v_full, bytes);
        } else {
          barrier_arrive(k_full);
        }
      } else if (lane_ == 0) {
        barrier_announce(k_full, bytes);
        barrier_announce(v_full, bytes);
      }
      synchronise_warp();
#pragma unroll 1
      for (int number = 0; number < pieces_; number += kWaveLanes) {
        if (number > 0) find_pieces(first, number);
        if (number + lane_ < pieces_) {
          const int kind = piece_ & ~255, row = piece_ & 255;
          copy_piece(memory_.k(stage_),
                     kind == kPage  ? &arguments_.k_page
                     : kind == kRun ? &arguments_.k_run
                                    : &arguments_.k_token,
                     k_full, row);
          copy_piece(memory_.v(stage_),
                     kind == kPage  ? &arguments_.v_page
                     : kind == kRun ? &arguments_.v_run
                                    : &arguments_.v_token,
                     v_full, row);
        }
        synchronise_warp();
      }
      if (window_last >= last) return;
      open_window(next_segment_, window_last);
      find_pieces(first, 0);
    }
  }

  const Arguments& arguments_;
  const StackMemory<HeadDim>& memory_;
  const int lane_;
  const int stage_;  ///< that this warp fills
  int to_own_;       ///< stages of the next tile in front of the first one that goes there
  std::uint32_t parity_ = 0;
  int pair_begin_ = 0, pairs_and_head_ = 0;
  int segment_end_ = 0, next_segment_ = 0;             ///< of the tile, and of the window
  int table_begin_ = 0, first_block_ = 0, place_ = 0;  ///< of this lane's segment, the first with kReadAgain
  int segment_first_ = 0, segment_last_ = 0, segment_tokens_ = 0;  ///< slots of the tile that it holds
  int segment_pairs_ = 0;  ///< that see it: low | high << 8, kLimited where row_visible matters
  int slots_ = 0;          ///< of the tile
  int unit_ = 0;           ///< slots that a lane copies: a page or 16 tokens, 0 where segments do not begin with such
  int units_first_ = 0;    ///< where `unit_`: the slot of the first lane's unit
  int piece_block_ = 0,
      piece_offset_ = 0;        ///< the page or piece of this lane in the next stage, the last with kReadAgain
  int piece_ = 0, pieces_ = 0;  ///< its row in the stage, with kRun or kPage; of the window in the stage
};

}  // namespace espalier::gpu::sm90
