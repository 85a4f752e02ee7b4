#include "espalier/tree_arrays.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <limits>

#include "espalier/error.hpp"
#include "line_order.hpp"

namespace espalier {
namespace {

using detail::expects;

constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

/// Where the tokens of one described node lie.
struct NodePlace {
  std::int64_t first_slot;
  std::int64_t tokens;
  int block_tokens;
  [[nodiscard]] std::int64_t first_block() const { return first_slot / block_tokens; }
  [[nodiscard]] std::int64_t first_offset() const { return first_slot % block_tokens; }
  [[nodiscard]] std::int64_t blocks() const {
    return tokens == 0 ? 0 : (first_offset() + tokens + block_tokens - 1) / block_tokens;
  }
};

/// Checks the described nodes and gives each its place.
std::vector<NodePlace> place_nodes(std::span<const NodeSpec> nodes, int block_tokens, TreeLayout layout,
                                   const char* function) {
  expects(1 <= block_tokens && block_tokens <= kMaxBlockTokens, ErrorCode::invalid_argument, function,
          ": block_tokens is ", block_tokens, ", expected 1 .. ", kMaxBlockTokens);
  expects(std::ssize(nodes) <= kInt32Max, ErrorCode::invalid_argument, function, ": ", nodes.size(),
          " nodes, expected at most ", kInt32Max);
  std::vector<NodePlace> places;
  places.reserve(nodes.size());
  std::int64_t tokens = 0;
  std::int64_t slot = 0;
  for (std::int64_t node = 0; node < std::ssize(nodes); ++node) {
    const NodeSpec& spec = nodes[static_cast<std::size_t>(node)];
    expects(-1 <= spec.parent && spec.parent < node, ErrorCode::invalid_argument, function, ": node ", node,
            " has parent ", spec.parent, ", expected a node before it, or -1 for a root");
    expects(spec.tokens >= 0, ErrorCode::invalid_argument, function, ": node ", node, " has ", spec.tokens,
            " tokens, expected 0 or more");
    tokens += spec.tokens;
    expects(tokens <= kInt32Max, ErrorCode::invalid_argument, function, ": nodes 0 .. ", node, " have ", tokens,
            " tokens, expected at most ", kInt32Max);
    if (layout == TreeLayout::aligned) slot = (slot + block_tokens - 1) / block_tokens * block_tokens;
    places.push_back({slot, spec.tokens, block_tokens});
    slot += spec.tokens;
  }
  return places;
}

/// Position of each node in depth-first order, children in the order given.
std::vector<std::int32_t> line_positions(std::span<const NodeSpec> nodes) {
  std::vector<std::int32_t> subtree_nodes(nodes.size(), 1);
  for (std::size_t node = nodes.size(); node-- > 0;) {
    if (nodes[node].parent >= 0) subtree_nodes[static_cast<std::size_t>(nodes[node].parent)] += subtree_nodes[node];
  }
  std::vector<std::int32_t> position(nodes.size());
  std::vector<std::int32_t> next_child(nodes.size());  // position of the node's next child
  std::int32_t next_root = 0;
  for (std::size_t node = 0; node < nodes.size(); ++node) {
    const std::int32_t parent = nodes[node].parent;
    std::int32_t& next = parent < 0 ? next_root : next_child[static_cast<std::size_t>(parent)];
    position[node] = next;
    next += subtree_nodes[node];
    next_child[node] = position[node] + 1;
  }
  return position;
}

std::vector<RowSpec> one_row_per_leaf(std::span<const NodeSpec> nodes) {
  std::vector<char> is_leaf(nodes.size(), 1);
  for (const NodeSpec& node : nodes) {
    if (node.parent >= 0) is_leaf[static_cast<std::size_t>(node.parent)] = 0;
  }
  std::vector<RowSpec> rows;
  for (std::size_t node = 0; node < nodes.size(); ++node) {
    if (is_leaf[node]) rows.push_back({static_cast<std::int32_t>(node)});
  }
  return rows;
}

/// Checks the described rows and puts them on the line.
std::vector<detail::PlacedRow> place_rows(std::span<const RowSpec> rows, std::span<const NodeSpec> nodes,
                                          std::span<const std::int32_t> position) {
  expects(std::ssize(rows) <= kInt32Max, ErrorCode::invalid_argument, "make_snapshot: ", rows.size(),
          " rows, expected at most ", kInt32Max);
  std::vector<detail::PlacedRow> placed;
  placed.reserve(rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const RowSpec& spec = rows[row];
    expects(0 <= spec.node && spec.node < std::ssize(nodes), ErrorCode::invalid_argument, "make_snapshot: row ", row,
            " is at node ", spec.node, ", expected one of the ", nodes.size(), " nodes");
    const auto node = static_cast<std::size_t>(spec.node);
    expects(-1 <= spec.visible && spec.visible <= nodes[node].tokens, ErrorCode::invalid_argument,
            "make_snapshot: row ", row, " sees ", spec.visible, " tokens of node ", spec.node, ", expected 0 .. ",
            nodes[node].tokens, ", or -1 for all");
    placed.push_back({position[node], spec.visible < 0 ? nodes[node].tokens : spec.visible});
  }
  return placed;
}

}  // namespace

TreeSnapshot make_snapshot(std::span<const NodeSpec> nodes, std::span<const RowSpec> rows, int block_tokens,
                           TreeLayout layout) {
  const std::vector<NodePlace> places = place_nodes(nodes, block_tokens, layout, "make_snapshot");
  const std::vector<std::int32_t> position = line_positions(nodes);
  const std::vector<RowSpec> leaf_rows = rows.empty() ? one_row_per_leaf(nodes) : std::vector<RowSpec>{};
  const auto placed_rows = place_rows(rows.empty() ? std::span<const RowSpec>(leaf_rows) : rows, nodes, position);

  std::int64_t table_entries = 0;
  for (const NodePlace& place : places) table_entries += place.blocks();
  expects(table_entries <= kInt32Max, ErrorCode::invalid_argument, "make_snapshot: the nodes list ", table_entries,
          " blocks, expected at most ", kInt32Max);

  TreeSnapshot snapshot;
  snapshot.block_tokens = block_tokens;
  snapshot.parent.resize(nodes.size());
  snapshot.tokens.resize(nodes.size());
  snapshot.first_block.resize(nodes.size());
  snapshot.first_offset.resize(nodes.size());
  snapshot.block_table.reserve(static_cast<std::size_t>(table_entries));

  std::vector<std::size_t> node_at(nodes.size());  // inverse of position
  for (std::size_t node = 0; node < nodes.size(); ++node) node_at[static_cast<std::size_t>(position[node])] = node;
  for (std::size_t line = 0; line < nodes.size(); ++line) {
    const NodeSpec& spec = nodes[node_at[line]];
    const NodePlace& place = places[node_at[line]];
    snapshot.parent[line] = spec.parent < 0 ? -1 : position[static_cast<std::size_t>(spec.parent)];
    snapshot.tokens[line] = spec.tokens;
    snapshot.first_block[line] = static_cast<std::int32_t>(snapshot.block_table.size());
    snapshot.first_offset[line] = place.tokens == 0 ? 0 : static_cast<std::int32_t>(place.first_offset());
    for (std::int64_t entry = 0; entry < place.blocks(); ++entry) {
      snapshot.block_table.push_back(BlockId{static_cast<std::int32_t>(place.first_block() + entry)});
    }
  }
  detail::set_rows(snapshot, placed_rows);
  return snapshot;
}

std::vector<std::int64_t> slots_in_node_order(std::span<const NodeSpec> nodes, int block_tokens, TreeLayout layout) {
  std::vector<std::int64_t> slots;
  for (const NodePlace& place : place_nodes(nodes, block_tokens, layout, "slots_in_node_order")) {
    for (std::int64_t token = 0; token < place.tokens; ++token) slots.push_back(place.first_slot + token);
  }
  return slots;
}

// ------------------------------------------------------------------------------------------------------- TreeArrays

namespace {

/// Host spaces run their kernels before the call that launches them returns, so a plain copy is in order there.
template <class Exec>
inline constexpr bool kIsStaged = !std::same_as<typename Exec::memory_space, Kokkos::HostSpace>;

constexpr std::size_t kCounts = 4;          // nodes, rows, block_tokens, entries of the block table
constexpr std::size_t kAlignment = 32;      // entries: every array begins a cache line of any GPU
constexpr std::uint64_t kStagingSlots = 4;  // uploads that may be under way

constexpr std::size_t aligned(std::size_t entries) { return (entries + kAlignment - 1) / kAlignment * kAlignment; }

/// Places of the arrays inside the one allocation.
struct ArrayPlaces {
  explicit ArrayPlaces(const TreeCapacity& capacity)
      : node_stride(aligned(static_cast<std::size_t>(capacity.nodes))),
        row_stride(aligned(static_cast<std::size_t>(capacity.rows))),
        blocks(static_cast<std::size_t>(capacity.blocks)) {}

  [[nodiscard]] std::size_t node_array(std::size_t which) const { return kAlignment + which * node_stride; }
  [[nodiscard]] std::size_t row_array(std::size_t which) const { return node_array(7) + which * row_stride; }
  [[nodiscard]] std::size_t block_table() const { return row_array(3); }
  [[nodiscard]] std::size_t entries() const { return block_table() + blocks; }

  std::size_t node_stride;
  std::size_t row_stride;
  std::size_t blocks;
};

/// The arrays inside the one allocation.
detail::TreeTarget target_of(std::int32_t* arrays, const ArrayPlaces& places) {
  const auto node_array = [&](std::size_t which) { return arrays + places.node_array(which); };
  const auto row_array = [&](std::size_t which) { return arrays + places.row_array(which); };
  return {arrays,        node_array(0), node_array(1), node_array(2), node_array(3), node_array(4),
          node_array(5), node_array(6), row_array(0),  row_array(1),  row_array(2),  arrays + places.block_table()};
}

/// One array of a snapshot and where it goes.
struct Piece {
  const void* source;
  std::size_t entries;
  std::int32_t* target;
};

using Pieces = std::array<Piece, 12>;

Pieces pieces_of(const TreeSnapshot& snapshot, const std::array<std::int32_t, kCounts>& counts,
                 const detail::TreeTarget& target) {
  const auto piece = [](const auto& array, std::int32_t* to) { return Piece{array.data(), array.size(), to}; };
  return {piece(counts, target.counts),
          piece(snapshot.parent, target.parent),
          piece(snapshot.tokens, target.tokens),
          piece(snapshot.first_block, target.first_block),
          piece(snapshot.first_offset, target.first_offset),
          piece(snapshot.subtree_end, target.subtree_end),
          piece(snapshot.row_begin, target.row_begin),
          piece(snapshot.row_end, target.row_end),
          piece(snapshot.row_node, target.row_node),
          piece(snapshot.row_visible, target.row_visible),
          piece(snapshot.row_index, target.row_index),
          piece(snapshot.block_table, target.block_table)};
}

void copy_piece(const Piece& piece, std::int32_t* target) {
  if (piece.entries != 0) std::memcpy(target, piece.source, piece.entries * sizeof(std::int32_t));
}

/// Takes the pieces, which lie one after another in a slot of the staging ring, to their places.
struct Unpack {
  static constexpr int kPieces = int(std::tuple_size_v<Pieces>);
  std::int64_t staged_end[kPieces];  // of each piece, in the staging slot
  std::int64_t shift[kPieces];       // from there to its place
  const std::int32_t* staged;
  std::int32_t* arrays;
  std::uint64_t* finished;  // in host memory
  std::uint64_t upload;

  KOKKOS_FUNCTION void operator()(std::int64_t entry) const {
    // This kernel runs after those of all earlier uploads: their slots may be written again.
    if (entry == 0) *finished = upload - 1;
    int piece = 0;
    while (entry >= staged_end[piece]) ++piece;
    arrays[entry + shift[piece]] = staged[entry];
  }
};

/// Gives a row the token behind the end of its node.
struct GrowRows {
  detail::TreeTarget tree;
  std::int32_t nodes;
  std::int32_t rows;
  int block_tokens;
  std::int64_t* slots;  // [rows]

  KOKKOS_FUNCTION void operator()(std::int32_t row) const {
    const std::int32_t node = tree.row_node[row];
    const std::int32_t tokens = tree.tokens[node];
    const std::int32_t place = tree.first_offset[node] + tokens;
    const std::int32_t table_end = node + 1 < nodes ? tree.first_block[node + 1] : tree.counts[3];
    const std::int32_t entry = tree.first_block[node] + place / block_tokens;
    std::int64_t& slot = slots[tree.row_index[row]];
    slot = -1;
    if (entry >= table_end || tree.row_visible[row] != tokens || shares_node(row) || tree.subtree_end[node] != node + 1)
      return;
    slot = std::int64_t(tree.block_table[entry]) * block_tokens + place % block_tokens;
    tree.tokens[node] = tokens + 1;
    tree.row_visible[row] = tokens + 1;
  }

 private:
  /// Rows are in the order of their nodes.
  KOKKOS_FUNCTION bool shares_node(std::int32_t row) const {
    return (row > 0 && tree.row_node[row - 1] == tree.row_node[row]) ||
           (row + 1 < rows && tree.row_node[row + 1] == tree.row_node[row]);
  }
};

void expects_consistent(const TreeSnapshot& snapshot) {
  for (const auto* array : {&snapshot.tokens, &snapshot.first_block, &snapshot.first_offset, &snapshot.subtree_end,
                            &snapshot.row_begin, &snapshot.row_end}) {
    expects(array->size() == snapshot.parent.size(), ErrorCode::invalid_argument,
            "TreeArrays::upload: an array over the nodes has ", array->size(), " entries, expected ",
            snapshot.parent.size());
  }
  for (const auto* array : {&snapshot.row_visible, &snapshot.row_index}) {
    expects(array->size() == snapshot.row_node.size(), ErrorCode::invalid_argument,
            "TreeArrays::upload: an array over the rows has ", array->size(), " entries, expected ",
            snapshot.row_node.size());
  }
}

TreeCapacity exact_capacity(const TreeSnapshot& snapshot) {
  return {snapshot.nodes(), snapshot.rows(), static_cast<std::int32_t>(snapshot.block_table.size())};
}

TreeCapacity checked(const TreeCapacity& capacity) {
  const auto expects_count = [](std::int32_t count, const char* what) {
    expects(count >= 0, ErrorCode::invalid_argument, "TreeArrays: capacity.", what, " is ", count,
            ", expected 0 or more");
  };
  expects_count(capacity.nodes, "nodes");
  expects_count(capacity.rows, "rows");
  expects_count(capacity.blocks, "blocks");
  return capacity;
}

}  // namespace

template <ExecutionSpace Exec>
TreeArrays<Exec>::TreeArrays(const Exec& exec, TreeCapacity capacity)
    : capacity_(checked(capacity)),
      arrays_(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "espalier::TreeArrays::arrays"),
              ArrayPlaces(capacity).entries()) {
  if constexpr (kIsStaged<Exec>) {
    staging_ = decltype(staging_)(Kokkos::view_alloc(Kokkos::WithoutInitializing, "espalier::TreeArrays::staging"),
                                  kStagingSlots * aligned(ArrayPlaces(capacity).entries()));
    finished_ =
        decltype(finished_)(Kokkos::view_alloc(Kokkos::WithoutInitializing, "espalier::TreeArrays::finished"), 1);
    *finished_.data() = 0;
  }
  upload(exec, TreeSnapshot{});  // the counts in device memory are 0 from the start
}

template <ExecutionSpace Exec>
TreeArrays<Exec>::TreeArrays(const Exec& exec, const TreeSnapshot& snapshot)
    : TreeArrays(exec, exact_capacity(snapshot)) {
  upload(exec, snapshot);
}

template <ExecutionSpace Exec>
void TreeArrays<Exec>::upload(const Exec& exec, const TreeSnapshot& snapshot) {
  expects_consistent(snapshot);
  const auto expects_room = [](std::int32_t capacity, std::size_t need, const char* what) {
    expects(need <= static_cast<std::size_t>(capacity), ErrorCode::capacity_exceeded,
            "TreeArrays::upload: the tree has ", need, " ", what, ", the capacity is ", capacity);
  };
  expects_room(capacity_.nodes, snapshot.parent.size(), "nodes");
  expects_room(capacity_.rows, snapshot.row_node.size(), "rows");
  expects_room(capacity_.blocks, snapshot.block_table.size(), "entries of the block table");

  const std::array<std::int32_t, kCounts> counts{snapshot.nodes(), snapshot.rows(), snapshot.block_tokens,
                                                 static_cast<std::int32_t>(snapshot.block_table.size())};
  const Pieces pieces = pieces_of(snapshot, counts, target_of(arrays_.data(), ArrayPlaces(capacity_)));
  if constexpr (kIsStaged<Exec>) {
    const std::uint64_t upload = ++uploads_;
    const auto finished = [&] { return std::atomic_ref(*finished_.data()).load(std::memory_order_acquire); };
    if (upload > kStagingSlots && finished() < upload - kStagingSlots) {
      exec.fence("espalier::TreeArrays::upload: the staging ring is full");
    }
    const std::size_t slot_entries = staging_.extent(0) / kStagingSlots;
    std::int32_t* const staged = staging_.data() + (upload % kStagingSlots) * slot_entries;
    Unpack unpack{{}, {}, staged, arrays_.data(), finished_.data(), upload};
    std::size_t staged_entries = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      copy_piece(pieces[i], staged + staged_entries);
      unpack.shift[i] = (pieces[i].target - arrays_.data()) - std::int64_t(staged_entries);
      staged_entries += pieces[i].entries;
      unpack.staged_end[i] = std::int64_t(staged_entries);
    }
    Kokkos::parallel_for(
        "espalier::TreeArrays::upload",
        Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int64_t>>(exec, 0, std::int64_t(staged_entries)), unpack);
  } else {
    for (const Piece& piece : pieces) copy_piece(piece, piece.target);
  }
  nodes_ = snapshot.nodes();
  rows_ = snapshot.rows();
  block_tokens_ = snapshot.block_tokens;
  version_ = snapshot.version;
}

template <ExecutionSpace Exec>
void TreeArrays<Exec>::grow(const Exec& exec, const Kokkos::View<std::int64_t*, memory_space>& slots) {
  expects(slots.extent(0) == std::size_t(rows_), ErrorCode::invalid_argument, "TreeArrays::grow: slots has ",
          slots.extent(0), " entries, expected ", rows_, ", one for each row");
  const GrowRows kernel{target_of(arrays_.data(), ArrayPlaces(capacity_)), nodes_, rows_, block_tokens_, slots.data()};
  Kokkos::parallel_for("espalier::TreeArrays::grow",
                       Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int32_t>>(exec, 0, rows_), kernel);
}

template <ExecutionSpace Exec>
detail::TreeTarget TreeArrays<Exec>::rewrite(std::int32_t nodes, std::int32_t rows, int block_tokens) {
  expects(nodes <= capacity_.nodes, ErrorCode::capacity_exceeded, "TreeArrays::rewrite: the tree may have ", nodes,
          " nodes, the capacity is ", capacity_.nodes);
  expects(rows <= capacity_.rows, ErrorCode::capacity_exceeded, "TreeArrays::rewrite: the tree has ", rows,
          " rows, the capacity is ", capacity_.rows);
  nodes_ = nodes;
  rows_ = rows;
  block_tokens_ = block_tokens;
  version_ = 0;
  return target_of(arrays_.data(), ArrayPlaces(capacity_));
}

template <ExecutionSpace Exec>
detail::TreeView TreeArrays<Exec>::view() const {
  const detail::TreeTarget arrays = target_of(arrays_.data(), ArrayPlaces(capacity_));
  return {nodes_,
          rows_,
          block_tokens_,
          arrays.parent,
          arrays.tokens,
          arrays.first_block,
          arrays.first_offset,
          arrays.subtree_end,
          arrays.row_begin,
          arrays.row_end,
          arrays.row_node,
          arrays.row_visible,
          arrays.row_index,
          arrays.block_table};
}

#define ESPALIER_INSTANTIATE(Exec) template class TreeArrays<Exec>;
#include "instantiate.inc"

}  // namespace espalier
