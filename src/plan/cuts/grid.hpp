#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>

#include "cut.hpp"

namespace espalier::plan {

/// A part of a grid: the rows and tokens of one tile, tokens counted from the beginning of the grid's line.
struct Piece {
  std::int32_t row_begin;
  std::int32_t row_end;
  std::int32_t token_begin;
  std::int32_t token_end;
  bool masked;  ///< a row sees only the beginning of the tokens
};

/// A line of tokens and an interval of rows that read it, cut into tiles: runs of `tile_rows` rows times chunks of
/// `chunk_tokens` tokens. Rows below `limited_end`, sorted by what they see, see only the first
/// `row_visible[row] + ahead` tokens of the line; the others see all of it.
///
/// Runs whose rows see everything are alike, and counted together. A run with limited rows is named by its first row
/// and counted alone, in as many steps as it has rows; its tiles leave out the rows that see nothing of them.
struct Grid {
  const std::int32_t* row_visible;
  std::int32_t row_begin;
  std::int32_t row_end;
  std::int32_t limited_end;  ///< row_begin where no row is limited
  std::int32_t ahead;
  std::int32_t tokens;
  std::int32_t chunk_tokens;
  std::int32_t tile_rows;
  std::int32_t group;

  // -- the runs whose rows see everything

  KOKKOS_FUNCTION Counts count() const {
    Counts counts;
    if (row_begin >= row_end || tokens <= 0) return counts;
    const std::int64_t rows = row_end - open_begin();
    if (rows <= 0) return counts;
    const std::int64_t chunks = ceil_div(tokens, chunk_tokens);
    counts.tiles = ceil_div(rows, tile_rows) * chunks;
    counts.partials = rows * chunks;
    counts.cost = cost_of(rows, tokens);
    return counts;
  }

  /// Tiles go run by run, each chunk by chunk.
  KOKKOS_FUNCTION Piece piece(std::int32_t k, Counts& before) const {
    const std::int64_t chunks = ceil_div(tokens, chunk_tokens);
    const std::int64_t rows_before = k / chunks * tile_rows;
    const std::int64_t first_token = k % chunks * chunk_tokens;
    Piece piece{};
    piece.row_begin = std::int32_t(open_begin() + rows_before);
    piece.row_end = run_end(piece.row_begin);
    piece.token_begin = std::int32_t(first_token);
    piece.token_end = std::int32_t(Kokkos::min<std::int64_t>(first_token + chunk_tokens, tokens));
    const std::int64_t rows = piece.row_end - piece.row_begin;
    before.partials = rows_before * chunks + k % chunks * rows;
    before.cost = cost_of(rows_before, tokens) + cost_of(rows, first_token);
    return piece;
  }

  // -- a run with limited rows

  KOKKOS_FUNCTION bool limited_run_begins_at(std::int32_t row) const {
    return row_begin <= row && row < limited_end && (row - row_begin) % tile_rows == 0;
  }

  KOKKOS_FUNCTION Counts count_limited(std::int32_t first_row) const {
    const std::int32_t end = run_end(first_row);
    const std::int64_t seen = reach(end - 1);
    Counts counts;
    counts.tiles = ceil_div(seen, chunk_tokens);
    counts.partials = partials_before(first_row, counts.tiles);
    counts.cost = cost_of(end - first_row, seen);
    return counts;
  }

  KOKKOS_FUNCTION Piece limited_piece(std::int32_t first_row, std::int32_t k, Counts& before) const {
    const std::int32_t end = run_end(first_row);
    const std::int64_t first_token = std::int64_t(k) * chunk_tokens;
    Piece piece{};
    piece.row_begin = first_row;
    while (reach(piece.row_begin) <= first_token) ++piece.row_begin;
    piece.row_end = end;
    piece.token_begin = std::int32_t(first_token);
    piece.token_end = std::int32_t(Kokkos::min<std::int64_t>(first_token + chunk_tokens, reach(end - 1)));
    piece.masked = reach(piece.row_begin) < piece.token_end;
    before.partials = partials_before(first_row, k);
    before.cost = cost_of(end - first_row, first_token);
    return piece;
  }

 private:
  /// The first row of the runs whose rows see everything.
  KOKKOS_FUNCTION std::int64_t open_begin() const {
    return row_begin + ceil_div(limited_end - row_begin, tile_rows) * tile_rows;
  }

  KOKKOS_FUNCTION std::int64_t cost_of(std::int64_t rows, std::int64_t length) const {
    return tile_cost(rows, length, group) + (ceil_div(rows, tile_rows) - 1) * tile_cost(0, length, group);
  }

  KOKKOS_FUNCTION std::int32_t run_end(std::int32_t first_row) const {
    return std::int32_t(Kokkos::min<std::int64_t>(std::int64_t(first_row) + tile_rows, row_end));
  }

  /// Tokens of the line that a row sees.
  KOKKOS_FUNCTION std::int64_t reach(std::int32_t row) const {
    if (row >= limited_end) return tokens;
    return Kokkos::clamp<std::int64_t>(std::int64_t(row_visible[row]) + ahead, 0, tokens);
  }

  /// Partials of the first `chunks` tiles of a run.
  KOKKOS_FUNCTION std::int64_t partials_before(std::int32_t first_row, std::int64_t chunks) const {
    std::int64_t partials = 0;
    for (std::int32_t row = first_row; row < run_end(first_row); ++row)
      partials += Kokkos::min<std::int64_t>(ceil_div(reach(row), chunk_tokens), chunks);
    return partials;
  }
};

/// The tile of a piece whose line is one segment.
KOKKOS_INLINE_FUNCTION detail::Tile tile_of(const Piece& piece) {
  detail::Tile tile{};
  tile.segment_end = 1;
  tile.skip = piece.token_begin;
  tile.tokens = piece.token_end - piece.token_begin;
  tile.row_begin = piece.row_begin;
  tile.row_end = piece.row_end;
  tile.masked = piece.masked ? 1 : 0;
  return tile;
}

/// The segment of a path that holds token `token`, counted from the beginning of its first segment.
/// @param segments       non-empty segments of nodes that lie on one path, from above
/// @param tokens_before  [nodes]  tokens of the nodes above a node
KOKKOS_INLINE_FUNCTION std::int32_t segment_on_path(const detail::Segment* segments, std::int32_t count,
                                                    const std::int32_t* tokens_before, std::int32_t token) {
  std::int32_t low = 0;
  for (std::int32_t high = count; high - low > 1;) {  // segment `low` begins at or before the token
    const std::int32_t middle = low + (high - low) / 2;
    (tokens_before[segments[middle].node] - tokens_before[segments[0].node] <= token ? low : high) = middle;
  }
  return low;
}

/// The tile of a piece whose line is a path of segments.
KOKKOS_INLINE_FUNCTION detail::Tile tile_on_path(const Piece& piece, const detail::Segment* segments,
                                                 std::int32_t count, const std::int32_t* tokens_before) {
  detail::Tile tile = tile_of(piece);
  tile.segment_begin = segment_on_path(segments, count, tokens_before, piece.token_begin);
  tile.segment_end = segment_on_path(segments, count, tokens_before, piece.token_end - 1) + 1;
  tile.skip -= tokens_before[segments[tile.segment_begin].node] - tokens_before[segments[0].node];
  return tile;
}

}  // namespace espalier::plan
