#pragma once
// The way of Q, K and V into shared memory: a ring of slots that a team of warps fills ahead of what it computes, across
// the ends of tiles. A team is one warp, or all warps of the block.
//
// A slot takes 16 rows from each warp:
//   one warp alone     Q of a piece, and an empty slot; then K of 16 tokens, and in the next slot their V
//   all warps          Q of a piece, kPairBlocks slots; then K of 32 tokens from warps 0 and 1, their V from warps 2 and 3
// So a warp alone looks rows up for every other slot, at one place in its code: 32 tokens at a time. All warps together look up
// 128, in every fourth slot; what they found waits in shared memory.
// Rows of a slot that are none are zeros, so that 0 * V of a tail is 0 whatever lies in the cache.
//
// A row is cut in chunks of 16 bytes, one for each lane that copies; chunk c of row r lies at place c ^ swizzle(r), so that
// the eight rows of a matrix load are in eight different banks.

#include "backends/cuda/sm80/config.hpp"
#include "backends/cuda/warp.hpp"
#include "backends/gpu/wave_walk.hpp"

namespace espalier::gpu::sm80 {

/// What a team does, piece after piece: tokens of a tile for some of its pairs.
class Pieces {
 public:
  /// Tiles order[first], order[first + step] and so on, each cut by pairs.
  __device__ __forceinline__ Pieces(const detail::Tile* tiles, const unsigned char* order, int first, int end, int step,
                                    int pairs_at_once, int group)
      : tiles_(tiles), order_(order), next_(first), end_(end), step_(step), pairs_(pairs_at_once), group_(group) {}

  /// A quarter of the tokens of one tile; there may be none.
  static __device__ __forceinline__ Pieces quarter(const detail::Tile* tiles, const unsigned char* order, int number,
                                                   int warp, int group) {
    Pieces pieces(tiles, order, number, number + 1, 1, kRows, group);
    const int tokens = pieces.tile().tokens;
    pieces.share_ = (tokens + kWarps * kRows - 1) / (kWarps * kRows) * kRows;
    pieces.token_begin_ = warp * pieces.share_;
    if (pieces.token_begin_ >= tokens) pieces.end_ = number;
    return pieces;
  }

  [[nodiscard]] __device__ __forceinline__ bool done() const { return next_ >= end_; }
  [[nodiscard]] __device__ __forceinline__ const detail::Tile& tile() const { return tiles_[order_[next_]]; }
  [[nodiscard]] __device__ __forceinline__ int first_pair() const { return first_pair_; }
  [[nodiscard]] __device__ __forceinline__ int token_begin() const { return token_begin_; }
  [[nodiscard]] __device__ __forceinline__ int token_end() const {
    return tile().tokens - token_begin_ < share_ ? tile().tokens : token_begin_ + share_;
  }

  __device__ __forceinline__ int next() const { return next_; }
  __device__ __forceinline__ void resume(int next, int first_pair) {
    next_ = next;
    first_pair_ = first_pair;
  }

  __device__ __forceinline__ void advance() {
    first_pair_ += pairs_;
    if (first_pair_ < (tile().row_end - tile().row_begin) * group_) return;
    first_pair_ = 0;
    next_ += step_;
  }

 private:
  const detail::Tile* tiles_;
  const unsigned char* order_;
  int next_, end_, step_;
  int pairs_;
  int group_;
  int first_pair_ = 0;
  int token_begin_ = 0;
  int share_ = INT32_MAX;
};

/// The place of a 16-byte chunk in a row is its number XOR this.
template <int kHeadDim>
__device__ __forceinline__ constexpr int swizzle(int row) {
  return kHeadDim % 64 == 0 ? row & 7 : (row >> 1) & 3;
}

template <class T, int kHeadDim, int kPairBlocks, bool kShared>
class Feed {
  using C = Config<kHeadDim>;

 public:
  /// Begins to fill the ring, which no warp of the team may still read.
  __device__ __forceinline__ Feed(const detail::AttendParams& p, SharedMemory<kHeadDim>& memory, const Pieces& pieces,
                                  int group)
      : p_(p), memory_(memory), ring_(shared_address(memory.ring)), pieces_(pieces), group_(known_only_here(group)) {
    begin_piece();
#pragma unroll 1
    for (int slot = 0; slot < C::kSlots - 1; ++slot) {
      if constexpr (kShared) {
        fill(slot);
      } else if (slot % 2 == 0) {
        fill_first(slot);
      } else {
        fill_second(slot);
      }
    }
    if constexpr (kShared) leave_place(C::kSlots - 1);
  }

  /// Waits for the next slot, and lets go of the one before it. All warps together: any slot.
  __device__ __forceinline__ int take() {
    const int slot = await_slot();
    const FeedPlace at = memory_.feed_place[slot_before(slot)];
    pieces_.resume(at.next, at.first_pair);
    query_block_ = at.query_block;
    first_ = at.first;
    end_ = at.end;
    place_ = at.place;
    fill(slot_before(slot));
    leave_place(slot);
    return slot;
  }

  /// One warp alone: a slot of Q or K, and the next one, which is empty or has V.
  __device__ __forceinline__ int take_first() { return take_of_two<C::kSlots % 2 == 0>(); }
  __device__ __forceinline__ int take_second() { return take_of_two<C::kSlots % 2 != 0>(); }

  /// The address of 16 rows of a slot.
  [[nodiscard]] __device__ __forceinline__ std::uint32_t rows_at(int slot, int part) const {
    return ring_ + static_cast<std::uint32_t>(slot * C::kSlotBytes + part * C::kPartBytes);
  }

 private:
  /// 16 rows to copy, `count` of which are there; where they begin is found from `offsets` on.
  struct Rows {
    const T* base;
    const std::int64_t* offsets;
    int count;
  };

  /// Not kept, nor what follows from it: registers are short where slots are filled.
  static __device__ __forceinline__ int thread() { return known_only_here(static_cast<int>(threadIdx.x)); }
  static __device__ __forceinline__ int at_most_rows(int count) { return count < kRows ? count : kRows; }

  __device__ __forceinline__ void begin_piece() {
    query_block_ = 0;
    place_ = 0;
    if (pieces_.done()) return;
    first_ = pieces_.token_begin();
    end_ = pieces_.token_end();
  }

  /// For the filling of the slot, behind the next barrier.
  __device__ __forceinline__ void leave_place(int slot) const {
    if (threadIdx.x == 0) {
      memory_.feed_place[slot] = {pieces_.next(), pieces_.first_pair(), query_block_, first_, end_, place_};
    }
  }

  static __device__ __forceinline__ int slot_before(int slot) { return slot == 0 ? C::kSlots - 1 : slot - 1; }

  __device__ __forceinline__ int await_slot() {
    wait_for_copies<C::kSlots - 2>();
    if constexpr (kShared) {
      __syncthreads();
    } else {
      synchronise_warp();
    }
    const int slot = next_slot_;
    next_slot_ = slot + 1 == C::kSlots ? 0 : slot + 1;
    return slot;
  }

  template <bool kFillsSecond>
  __device__ __forceinline__ int take_of_two() {
    const int slot = await_slot();
    if constexpr (kFillsSecond) {
      fill_second(slot_before(slot));
    } else {
      fill_first(slot_before(slot));
    }
    return slot;
  }

  /// All warps together.
  __device__ __forceinline__ void fill(int slot) {
    if (!pieces_.done()) {
      const bool is_query = query_block_ < kPairBlocks;
      copy_rows(slot, is_query ? queries() : tokens_of_team(slot));
      if (is_query) {
        ++query_block_;
      } else {
        first_ += kSharedTokens;
        place_ = (place_ + kSharedTokens) % kThreads;
        if (first_ >= end_) next_piece();
      }
    }
    end_copy_group();
  }

  /// One warp alone: Q or K.
  __device__ __forceinline__ void fill_first(int slot) {
    if (!pieces_.done()) {
      Rows rows;
      if (query_block_ < kPairBlocks) {
        rows = queries();
      } else {
        if (place_ == 0) find_tokens(first_, end_);
        note_rows(slot, kRows, thread() / kWaveLanes * kWaveLanes + place_);
        rows = tokens_of_warp(false);
      }
      copy_rows(slot, rows);
    }
    end_copy_group();
  }

  /// One warp alone: nothing or V.
  __device__ __forceinline__ void fill_second(int slot) {
    if (query_block_ < kPairBlocks) {
      ++query_block_;
    } else if (!pieces_.done()) {
      copy_rows(slot, tokens_of_warp(true));
      first_ += kRows;
      place_ = (place_ + kRows) % kWaveLanes;
      if (first_ >= end_) next_piece();
    }
    end_copy_group();
  }

  __device__ __forceinline__ void next_piece() {
    pieces_.advance();
    begin_piece();
  }

  [[nodiscard]] __device__ __forceinline__ Rows queries() const {
    const int thread = Feed::thread(), warp = thread / kWaveLanes, lane = thread % kWaveLanes;
    const detail::Tile& tile = pieces_.tile();
    const int first = pieces_.first_pair() + ((kShared ? warp * kPairBlocks : 0) + query_block_) * kRows;
    const int pairs = (tile.row_end - tile.row_begin) * group_, pair = first + lane;
    const int count = at_most_rows(pairs - first);
    std::int64_t* found = memory_.found.key + warp * kWaveLanes;
    if constexpr (kShared) {
      __syncthreads();
    } else {
      synchronise_warp();  // what was found before has been used
    }
    if (lane < kRows) {
      const int row = pair / group_;
      found[lane] = lane < count ? p_.plan.row_index[tile.row_begin + row] * p_.q_row_stride +
                                       (tile.kv_head * group_ + pair - row * group_) * p_.q_head_stride
                                 : 0;
    }
    synchronise_warp();
    return {static_cast<const T*>(p_.q), found, count};
  }

  /// Finds tokens [first, end) of the tile, at most one for each lane; none where there are none.
  __device__ __forceinline__ void find_tokens(int first, int end) const {
    LaneToken token = {};
    if (first < end) token = lane_token(p_, pieces_.tile(), first, end);
    const int thread = Feed::thread();
    synchronise_warp();  // what was found before has been used
    memory_.found.key[thread] = token.k;
    memory_.found.value[thread] = token.v;
    memory_.found.seen_by[thread] = {token.row_begin, token.row_end};
    synchronise_warp();
  }

  [[nodiscard]] __device__ __forceinline__ Rows tokens_of_warp(bool values) const {
    const int place = thread() / kWaveLanes * kWaveLanes + place_;
    return {static_cast<const T*>(values ? p_.v : p_.k), (values ? memory_.found.value : memory_.found.key) + place,
            at_most_rows(end_ - first_)};
  }

  [[nodiscard]] __device__ __forceinline__ Rows tokens_of_team(int slot) const {
    const int warp = thread() / kWaveLanes;
    if (place_ == 0) {
      __syncthreads();  // what was found before has been used
      find_tokens(first_ + warp * kWaveLanes, end_);
      __syncthreads();
    }
    const bool values = warp >= kWarps / 2;
    const int row = warp % 2 * kRows;
    if (!values) note_rows(slot, kSharedTokens, place_ + row);
    return {static_cast<const T*>(values ? p_.v : p_.k),
            (values ? memory_.found.value : memory_.found.key) + place_ + row, at_most_rows(end_ - first_ - row)};
  }

  /// Leaves who sees the tokens of a slot, unless it is everybody. Rows of tokens that are not there are not looked at.
  __device__ __forceinline__ void note_rows(int slot, int tokens, int place) const {
    if (!pieces_.tile().masked && first_ + tokens <= end_) return;
    const int thread = Feed::thread(), lane = thread % kWaveLanes;
    if (lane < kRows) memory_.seen_by[slot][thread / kWaveLanes][lane] = memory_.found.seen_by[place + lane];
  }

  __device__ __forceinline__ void copy_rows(int slot, const Rows& rows) const {
    constexpr int kChunks = kHeadDim / 8;
    constexpr int kTogether = kHeadDim == 64 ? 4 : kHeadDim <= 128 ? 2 : 1;  // rows
    const int thread = Feed::thread(), lane = thread % kWaveLanes;
    const int row_of_lane = lane / kChunks, chunk = lane % kChunks;
    const T* source = rows.base + 8 * chunk;
    const std::uint32_t destination =
        rows_at(slot, thread / kWaveLanes) +
        static_cast<std::uint32_t>(row_of_lane * C::kRowBytes + (chunk ^ swizzle<kHeadDim>(row_of_lane)) * 16);
#pragma unroll
    for (int i = 0; i < kRows; i += kTogether) {
      const int row = i + row_of_lane;
      // swizzle(i + row_of_lane) = swizzle(i) ^ swizzle(row_of_lane): they have no bit in common
      const std::uint32_t to = (destination ^ static_cast<std::uint32_t>(swizzle<kHeadDim>(i) * 16)) +
                               static_cast<std::uint32_t>(i * C::kRowBytes);
      if (row_of_lane < kTogether) copy_16_bytes(to, source + rows.offsets[row], row < rows.count);
    }
  }

  const detail::AttendParams& p_;
  SharedMemory<kHeadDim>& memory_;
  const std::uint32_t ring_;
  Pieces pieces_;
  const int group_;
  int next_slot_ = 0;
  int query_block_;  ///< to be copied next; kPairBlocks: tokens are
  int first_ = 0;    ///< of the tokens to be copied next
  int end_ = 0;
  int place_;  ///< where the first of them is found
};

}  // namespace espalier::gpu::sm80
