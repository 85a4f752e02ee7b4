#include "espalier/tree_arrays.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "arrays.hpp"
#include "bind.hpp"
#include "cli/input_error.hpp"
#include "cli/workload.hpp"
#include "espalier/block_tables.hpp"
#include "objects.hpp"

namespace espalier::python {
namespace {

using namespace nb::literals;

// -------------------------------------------------------------------------------------------------------- snapshots

/// A field of a snapshot as a NumPy array that shares its memory.
template <auto kField>
auto field(nb::handle self) {
  const auto& values = nb::cast<const TreeSnapshot&>(self).*kField;
  return nb::ndarray<nb::numpy, const std::int32_t, nb::ndim<1>>(reinterpret_cast<const std::int32_t*>(values.data()),
                                                                 {values.size()}, self);
}

TreeLayout layout_from_name(const std::string& name) {
  detail::expects(name == "aligned" || name == "contiguous", ErrorCode::invalid_argument, "layout is '", name,
                  "', expected 'aligned' or 'contiguous'");
  return name == "aligned" ? TreeLayout::aligned : TreeLayout::contiguous;
}

std::vector<NodeSpec> nodes_of(const std::vector<std::int32_t>& parents, const std::vector<std::int32_t>& tokens) {
  detail::expects(parents.size() == tokens.size(), ErrorCode::invalid_argument, "there are ", parents.size(),
                  " parents, but ", tokens.size(), " numbers of tokens");
  std::vector<NodeSpec> nodes(parents.size());
  for (std::size_t node = 0; node < nodes.size(); ++node) nodes[node] = {parents[node], tokens[node]};
  return nodes;
}

/// Puts the caller's block ids in the place of 0, 1, 2, ...
void rename_blocks(TreeSnapshot& snapshot, const std::vector<std::int32_t>& ids) {
  detail::expects(ids.size() == snapshot.block_table.size(), ErrorCode::invalid_argument, "block_table has ",
                  ids.size(), " entries, expected ", snapshot.block_table.size(), ": the blocks of all nodes");
  for (std::size_t entry = 0; entry < ids.size(); ++entry)
    detail::expects(ids[entry] >= 0, ErrorCode::invalid_argument, "block_table[", entry, "] is ", ids[entry],
                    ", expected 0 or more");
  for (BlockId& block : snapshot.block_table) block = BlockId{ids[std::size_t(static_cast<std::int32_t>(block))]};
}

TreeSnapshot described_tree(const std::vector<std::int32_t>& parents, const std::vector<std::int32_t>& tokens,
                            const std::vector<std::int32_t>& row_nodes, const std::vector<std::int32_t>& row_visible,
                            int block_tokens, const std::string& layout,
                            const std::optional<std::vector<std::int32_t>>& block_table) {
  detail::expects(!block_table || layout == "aligned", ErrorCode::invalid_argument,
                  "block_table is given, but layout is '", layout, "', expected 'aligned'");
  detail::expects(row_visible.empty() || row_visible.size() == row_nodes.size(), ErrorCode::invalid_argument,
                  "row_visible has ", row_visible.size(), " entries, row_nodes ", row_nodes.size());
  std::vector<RowSpec> rows(row_nodes.size());
  for (std::size_t row = 0; row < rows.size(); ++row)
    rows[row] = {row_nodes[row], row_visible.empty() ? -1 : row_visible[row]};
  TreeSnapshot snapshot = make_snapshot(nodes_of(parents, tokens), rows, block_tokens, layout_from_name(layout));
  if (block_table) rename_blocks(snapshot, *block_table);
  return snapshot;
}

void bind_snapshot(nb::module_& m) {
  nb::class_<TreeSnapshot>(m, "TreeSnapshot", R"(A tree in line order, on the host.

Nodes are in depth-first order, rows by (node, visible, caller's number): the rows below node i are the interval
[row_begin[i], row_end[i]). The arrays are int32 and read-only.)")
      .def_ro("block_tokens", &TreeSnapshot::block_tokens)
      .def_ro("version", &TreeSnapshot::version)
      .def_prop_ro("nodes", &TreeSnapshot::nodes)
      .def_prop_ro("rows", &TreeSnapshot::rows)
      .def_prop_ro("parent", &field<&TreeSnapshot::parent>, "[nodes]  position of the parent, -1 at a root")
      .def_prop_ro("tokens", &field<&TreeSnapshot::tokens>, "[nodes]")
      .def_prop_ro("first_block", &field<&TreeSnapshot::first_block>, "[nodes]  entry of block_table")
      .def_prop_ro("first_offset", &field<&TreeSnapshot::first_offset>, "[nodes]  place in the first block")
      .def_prop_ro("subtree_end", &field<&TreeSnapshot::subtree_end>, "[nodes]  behind the last descendant")
      .def_prop_ro("row_begin", &field<&TreeSnapshot::row_begin>, "[nodes]")
      .def_prop_ro("row_end", &field<&TreeSnapshot::row_end>, "[nodes]")
      .def_prop_ro("row_node", &field<&TreeSnapshot::row_node>, "[rows]  position of the row's node")
      .def_prop_ro("row_visible", &field<&TreeSnapshot::row_visible>, "[rows]  tokens of its own node it sees")
      .def_prop_ro("row_index", &field<&TreeSnapshot::row_index>, "[rows]  the caller's number of the row")
      .def_prop_ro("block_table", &field<&TreeSnapshot::block_table>, "blocks of all nodes, one node after another");

  m.def("make_snapshot", &described_tree, "parents"_a, "tokens"_a, "row_nodes"_a = std::vector<std::int32_t>(),
        "row_visible"_a = std::vector<std::int32_t>(), "block_tokens"_a = 16, "layout"_a = "aligned",
        "block_table"_a = nb::none(),
        R"(The snapshot of a tree that is described from outside.

parents     [nodes]  the parent's number, -1 at a root; parents come before children
tokens      [nodes]  may be 0
row_nodes   [rows]   the node of each row; empty: one row per leaf, in node order
row_visible [rows]   tokens of its own node that a row sees; empty: all
layout      'aligned': every node begins a block of its own, blocks are numbered in node order;
            'contiguous': the tokens of all nodes lie one after another in node order, from slot 0
block_table [blocks] ids of the blocks that an 'aligned' tree has, one node after another; None: 0, 1, 2, ...

Raises ValueError naming the first node or row that is wrong.)");
  m.def(
      "slots_in_node_order",
      [](const std::vector<std::int32_t>& parents, const std::vector<std::int32_t>& tokens, int block_tokens,
         const std::string& layout) {
        return numpy_of(slots_in_node_order(nodes_of(parents, tokens), block_tokens, layout_from_name(layout)));
      },
      "parents"_a, "tokens"_a, "block_tokens"_a = 16, "layout"_a = "aligned",
      "The slots of all tokens of a described tree in node order, int64 [tokens].");
  m.def(
      "workload",
      [](const std::string& name) {
        try {
          const cli::TreeInput tree = cli::make_workload(name);
          std::vector<std::int32_t> parents, tokens, row_nodes;
          for (const NodeSpec& node : tree.nodes) parents.push_back(node.parent), tokens.push_back(node.tokens);
          for (const RowSpec& row : tree.rows) row_nodes.push_back(row.node);
          return nb::make_tuple(parents, tokens, row_nodes);
        } catch (const cli::InputError& error) {
          throw nb::value_error(error.what());
        }
      },
      "name"_a, nb::sig("def workload(name: str) -> tuple[list[int], list[int], list[int]]"),
      R"(The tree of a published benchmark, by the names of the command line: (parents, tokens, row_nodes).

  layers:S0,S1,.../L0,L1,...  S_i nodes of L_i tokens on level i
  star:P,B,T                  a prompt of P tokens, B branches of T tokens
  beam:P,W,D,T                a prompt of P tokens, W beams over D steps of T tokens
  tot:P,L,W,S,C               a prompt of P, L survivors of S, W leaves of C tokens
  tokens:P,N[,COPIES]         a context of P tokens and Medusa's token tree of N nodes
  eagle:F,P,K,T               F prompts of P tokens, each with K drafts of T tokens

Raises ValueError naming the field that is wrong.)");
}

// ----------------------------------------------------------------------------------------------------------- arrays

BlockTables<Exec> tables_of(const InArray& blocks, const InArray& lengths, int block_tokens, const char* function) {
  const auto tables = view_of<const std::int32_t, 2>(blocks, function, "block_tables");
  const auto tokens = list_of<const std::int32_t>(lengths, function, "lengths");
  return {tables, decltype(BlockTables<Exec>::lengths)(tokens.data(), tokens.extent(0)), block_tokens};
}

void bind_arrays(nb::module_& m) {
  nb::class_<HeldArrays>(m, "TreeArrays", R"(A snapshot in the memory that plans read, at fixed addresses.

A captured graph that reads it stays valid while the tree changes.)")
      .def(
          "__init__",
          [](HeldArrays* self, const TreeSnapshot& snapshot, std::uintptr_t stream) {
            new (self) HeldArrays(instance_on(stream), snapshot);
          },
          "snapshot"_a, "stream"_a = 0, "A tree of exactly the snapshot's size.")
      .def(
          "__init__",
          [](HeldArrays* self, std::int32_t nodes, std::int32_t rows, std::int32_t blocks, std::uintptr_t stream) {
            new (self) HeldArrays(instance_on(stream), TreeCapacity{nodes, rows, blocks});
          },
          nb::kw_only(), "nodes"_a, "rows"_a, "blocks"_a, "stream"_a = 0,
          "An empty tree with room for that many nodes, rows and entries of the block table.")
      .def_static(
          "from_block_tables",
          [](const InArray& block_tables, const InArray& lengths, int block_tokens, std::int32_t pool_blocks,
             std::uintptr_t stream) {
            const auto tables = tables_of(block_tables, lengths, block_tokens, "from_block_tables");
            return new HeldArrays(
                launch(stream, [&](const Exec& exec) { return tree_from_block_tables(exec, tables, pool_blocks); }));
          },
          "block_tables"_a, "lengths"_a, "block_tokens"_a, "pool_blocks"_a, "stream"_a = 0,
          nb::rv_policy::take_ownership,
          R"(The tree of an engine's page tables: every sequence becomes a row, what sequences share becomes a node.

block_tables  int32 [sequences, max_blocks]  block ids; entries behind a sequence's length are not read
lengths       int32 [sequences]              tokens of each sequence
pool_blocks   blocks of the cache: ids are 0 .. pool_blocks - 1

Allocates and waits. Raises ValueError naming the first sequence or entry that is wrong.)")
      .def_prop_ro("nodes", [](HeldArrays& arrays) { return arrays->nodes(); })
      .def_prop_ro("rows", [](HeldArrays& arrays) { return arrays->rows(); })
      .def_prop_ro("block_tokens", [](HeldArrays& arrays) { return arrays->block_tokens(); })
      .def_prop_ro("version", [](HeldArrays& arrays) { return arrays->version(); })
      .def(
          "upload",
          [](HeldArrays& arrays, const TreeSnapshot& snapshot, std::uintptr_t stream) {
            launch(stream, [&](const Exec& exec) { arrays->upload(exec, snapshot); });
          },
          "snapshot"_a, "stream"_a = 0,
          "Replaces the content; enqueued on the stream. Raises CapacityError if the snapshot does not fit.")
      .def(
          "grow",
          [](HeldArrays& arrays, const OutArray& slots, std::uintptr_t stream) {
            const auto list = list_of<std::int64_t>(slots, "grow", "slots");
            const Kokkos::View<std::int64_t*, Exec::memory_space> written(list.data(), list.extent(0));
            launch(stream, [&](const Exec& exec) { arrays->grow(exec, written); });
          },
          "slots"_a.noconvert(), "stream"_a = 0,
          R"(One decode step on the device: each row at the end of a leaf gets the next token there.

slots  int64 [rows], written: where the K and V of each row's new token go, for append(); -1 for a row that stays as it
       is, because its entries of the block table are used up, it sees only a part of its node, shares it with another
       row, or the node has children

Enqueued on the stream, so that a captured graph of grow, Plan.grow, append and attend goes on from step to step
without the host.)");
}

// ------------------------------------------------------------------------------------------------------ page tables

void bind_block_tables(nb::module_& m) {
  nb::class_<DerivedTree>(m, "DerivedTree", "What BlockTableReader.report() tells of a tree.")
      .def_ro("nodes", &DerivedTree::nodes)
      .def_ro("rows", &DerivedTree::rows)
      .def_ro("blocks", &DerivedTree::blocks, "Entries of the block table.")
      .def_ro("tokens", &DerivedTree::tokens);

  using HeldReader = Held<BlockTableReader<Exec>>;
  nb::class_<HeldReader>(m, "BlockTableReader",
                         R"(Infers which sequences share KV from an engine's page tables, at each step.

Every sequence becomes a row, every run of blocks that the same sequences have becomes a node. TreeArrays with room for
2 * sequences - 1 nodes, as many rows as sequences and all blocks always suffice.)")
      .def(
          "__init__",
          [](HeldReader* self, std::int32_t sequences, std::int32_t pool_blocks, std::uintptr_t stream) {
            new (self) HeldReader(instance_on(stream), BlockTableCapacity{sequences, pool_blocks});
          },
          nb::kw_only(), "sequences"_a, "pool_blocks"_a, "stream"_a = 0,
          "sequences: at most that many in a table; pool_blocks: ids are 0 .. pool_blocks - 1.")
      .def(
          "update",
          [](HeldReader& reader, const InArray& block_tables, const InArray& lengths, int block_tokens,
             HeldArrays& arrays, std::uintptr_t stream) {
            const auto tables = tables_of(block_tables, lengths, block_tokens, "update");
            launch(stream, [&](const Exec& exec) { reader->update(exec, tables, *arrays); });
          },
          "block_tables"_a, "lengths"_a, "block_tokens"_a, "arrays"_a, "stream"_a = 0,
          R"(Writes the tree of the tables into `arrays`; enqueued on the stream, allocates and waits for nothing.

block_tables  int32 [sequences, max_blocks]  read; entries behind a sequence's length are not
lengths       int32 [sequences]              read; tokens of each sequence

Raises CapacityError for more sequences than there is room for. Tables that are wrong give a tree whose rows see
nothing, and report() tells why.)")
      .def(
          "report",
          [](HeldReader& reader, std::uintptr_t stream) {
            return launch(stream, [&](const Exec& exec) { return reader->report(exec); });
          },
          "stream"_a = 0,
          "Waits for the stream and describes the tree of the last update. Raises StalePlanError before the first,\n"
          "ValueError naming the sequence or entry that is wrong, CapacityError for a tree that did not fit.");
}

}  // namespace

void bind_tree_arrays(nb::module_& m) {
  bind_snapshot(m);
  bind_arrays(m);
  bind_block_tables(m);
}

}  // namespace espalier::python
