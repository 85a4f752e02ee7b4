#include "espalier/block_tables.hpp"

#include <algorithm>
#include <cstddef>

#include "derivation.hpp"
#include "espalier/error.hpp"
#include "tables.hpp"

namespace espalier {
namespace {

using detail::expects;
using namespace derive;

BlockTableCapacity checked(const BlockTableCapacity& capacity) {
  constexpr std::int32_t kMost = 1 << 29;
  expects(0 <= capacity.sequences && capacity.sequences <= kMost, ErrorCode::invalid_argument,
          "BlockTableReader: capacity.sequences is ", capacity.sequences, ", expected 0 .. ", kMost);
  expects(capacity.pool_blocks >= 0, ErrorCode::invalid_argument, "BlockTableReader: capacity.pool_blocks is ",
          capacity.pool_blocks, ", expected 0 or more");
  return capacity;
}

/// Most nodes that the tree of some sequences may have.
std::int32_t most_nodes(std::int32_t sequences) { return sequences == 0 ? 0 : 2 * sequences - 1; }

template <class Exec>
void expects_valid(const BlockTables<Exec>& tables) {
  const auto& blocks = tables.blocks;
  expects_block_tokens("BlockTableReader::update", tables.block_tokens);
  expects(tables.lengths.extent(0) == blocks.extent(0), ErrorCode::invalid_argument,
          "BlockTableReader::update: there are ", tables.lengths.extent(0), " lengths, but tables of ",
          blocks.extent(0), " sequences");
  expects(blocks.extent(1) <= std::size_t(kInt32Max), ErrorCode::invalid_argument,
          "BlockTableReader::update: max_blocks is ", blocks.extent(1), ", expected at most ", kInt32Max);
  expects(blocks.extent(1) <= 1 || blocks.extent(0) == 0 || blocks.stride(1) == 1, ErrorCode::invalid_argument,
          "BlockTableReader::update: the entries of a table are ", blocks.stride(1), " apart, expected 1");
}

}  // namespace

template <ExecutionSpace Exec>
struct BlockTableReader<Exec>::Impl {
  template <class T>
  using Array = Kokkos::View<T*, typename Exec::memory_space>;

  BlockTableCapacity capacity;
  Derivation<Exec> derivation;
  Array<std::int32_t> first_user;
  Array<std::int32_t> by_sequence;  // kSequenceArrays of them
  Array<std::int32_t> by_node;      // kNodeArrays of them

  static constexpr std::size_t kSequenceArrays = 8;
  static constexpr std::size_t kNodeArrays = 7;

  Impl(const Exec& exec, const BlockTableCapacity& given)
      : capacity(checked(given)),
        derivation(exec, std::size_t(2 * capacity.sequences), std::size_t(2 * capacity.sequences)),
        first_user(
            allocate<std::int32_t>(exec, "espalier::BlockTableReader::first_user", std::size_t(capacity.pool_blocks))),
        by_sequence(allocate<std::int32_t>(exec, "espalier::BlockTableReader::by_sequence",
                                           kSequenceArrays * (std::size_t(capacity.sequences) + 1))),
        by_node(allocate<std::int32_t>(exec, "espalier::BlockTableReader::by_node",
                                       kNodeArrays * std::size_t(2 * capacity.sequences))) {}

  [[nodiscard]] Tables context(const BlockTables<Exec>& tables, TreeArrays<Exec>& tree) {
    const auto sequences = std::int32_t(tables.lengths.extent(0));
    const std::int32_t nodes = std::min(most_nodes(sequences), tree.capacity().nodes);
    Tables c{};
    c.blocks = tables.blocks.data();
    c.row_stride = std::int64_t(tables.blocks.stride(0));
    c.lengths = tables.lengths.data();
    c.max_blocks = std::int32_t(tables.blocks.extent(1));
    c.pool_blocks = capacity.pool_blocks;
    static_cast<Line&>(c) =
        derivation.begin(tree, nodes, nodes, sequences, tables.block_tokens,
                         {.max_blocks = std::max(1, c.max_blocks), .pool_blocks = capacity.pool_blocks});

    std::int32_t* array = by_sequence.data();
    for (auto* member : {&c.origin, &c.own_begin, &c.leader, &c.candidate, &c.place_of_head, &c.chain_head,
                         &c.out_row_node, &c.out_row_visible}) {
      *member = array;
      array += capacity.sequences + 1;
    }
    array = by_node.data();
    for (auto* member :
         {&c.node_of_end, &c.node_chain, &c.node_begin, &c.node_end, &c.group_begin, &c.out_parent, &c.out_tokens}) {
      *member = array;
      array += 2 * capacity.sequences;
    }
    c.first_user = first_user.data();
    c.parent = c.out_parent;
    c.tokens = c.out_tokens;
    c.row_node = c.out_row_node;
    c.row_visible = c.out_row_visible;
    return c;
  }
};

template <ExecutionSpace Exec>
BlockTableReader<Exec>::BlockTableReader(const Exec& exec, BlockTableCapacity capacity)
    : impl_(std::make_unique<Impl>(exec, capacity)) {}

template <ExecutionSpace Exec>
BlockTableReader<Exec>::~BlockTableReader() = default;

template <ExecutionSpace Exec>
BlockTableReader<Exec>::BlockTableReader(BlockTableReader&&) noexcept = default;

template <ExecutionSpace Exec>
BlockTableReader<Exec>& BlockTableReader<Exec>::operator=(BlockTableReader&&) noexcept = default;

template <ExecutionSpace Exec>
void BlockTableReader<Exec>::update(const Exec& exec, const BlockTables<Exec>& tables, TreeArrays<Exec>& tree) {
  expects_valid(tables);
  const std::size_t sequences = tables.lengths.extent(0);
  expects(sequences <= std::size_t(impl_->capacity.sequences), ErrorCode::capacity_exceeded,
          "BlockTableReader::update: there are ", sequences, " sequences, the capacity is ", impl_->capacity.sequences);
  expects(sequences == 0 || tree.capacity().nodes > 0, ErrorCode::capacity_exceeded,
          "BlockTableReader::update: the tree has at least 1 node, its arrays have room for 0");

  const Tables c = impl_->context(tables, tree);
  Each<Clear>::on_grid(exec, c);
  run_lists<CheckTables>(exec, c.rows, c);
  run_lists<RegisterGaps>(exec, c.rows, c);
  run_lists<FindChains>(exec, c.rows, c);
  run_and_copy<TableSteps, ChainBlocks>(exec, "espalier::BlockTableReader::tree", 2 * std::int64_t{c.rows}, c);
}

template <ExecutionSpace Exec>
DerivedTree BlockTableReader<Exec>::report(const Exec& exec) const {
  return impl_->derivation.checked(impl_->derivation.status(exec, "BlockTableReader::report"),
                                   "BlockTableReader::update");
}

template <ExecutionSpace Exec>
bool BlockTableReader<Exec>::searched_again(const Exec& exec) const {
  return impl_->derivation.status(exec, "BlockTableReader::searched_again").suspect != 0;
}

template <ExecutionSpace Exec>
TreeArrays<Exec> tree_from_block_tables(const Exec& exec, const BlockTables<Exec>& tables, std::int32_t pool_blocks) {
  const auto sequences = std::int32_t(tables.lengths.extent(0));
  BlockTableReader<Exec> reader(exec, {sequences, pool_blocks});
  // The first update only counts: the tree has no room for blocks.
  TreeArrays<Exec> counted(exec, TreeCapacity{most_nodes(sequences), sequences, 0});
  reader.update(exec, tables, counted);
  Status status = reader.impl_->derivation.status(exec, "tree_from_block_tables");
  status.forget(Fault::block_capacity);
  const DerivedTree need = reader.impl_->derivation.checked(status, "tree_from_block_tables");
  TreeArrays<Exec> tree(exec, TreeCapacity{need.nodes, need.rows, std::int32_t(need.blocks)});
  reader.update(exec, tables, tree);
  exec.fence("espalier::tree_from_block_tables");
  return tree;
}

#define ESPALIER_INSTANTIATE(Exec)       \
  template class BlockTableReader<Exec>; \
  template TreeArrays<Exec> tree_from_block_tables(const Exec&, const BlockTables<Exec>&, std::int32_t);
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
