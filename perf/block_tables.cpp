// What it costs to derive a tree on the device: from an engine's page tables, and from nodes in any order. Blocks hold
// 16 tokens. Each run is one update and the wait for it.

#include <benchmark/benchmark.h>

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <random>
#include <vector>

#include "espalier/block_tables.hpp"
#include "espalier/device_order.hpp"
#include "espalier/tree_arrays.hpp"

namespace {

using espalier::NodeSpec;
using espalier::RowSpec;
using Exec = Kokkos::DefaultExecutionSpace;
using Ints = Kokkos::View<std::int32_t*, Exec::memory_space>;

constexpr int kBlockTokens = 16;

Ints to_device(const std::vector<std::int32_t>& values) {
  Ints view(Kokkos::view_alloc(Kokkos::WithoutInitializing, "perf::values"), values.size());
  Kokkos::deep_copy(view, Kokkos::View<const std::int32_t*, Kokkos::HostSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>(
                              values.data(), values.size()));
  return view;
}

/// Tables of three levels: half of each is common to all sequences, a quarter to those of a group, the rest is its own.
struct Tables {
  std::int32_t sequences, blocks, groups;
  std::int32_t pool_blocks;
  Kokkos::View<std::int32_t**, Kokkos::LayoutRight, Exec::memory_space> ids;
  Ints lengths;

  /// @param width  entries of a row: engines allocate them for their longest sequence
  Tables(std::int32_t sequences_, std::int32_t blocks_, std::int32_t groups_, std::int32_t width)
      : sequences(sequences_),
        blocks(blocks_),
        groups(groups_),
        pool_blocks(blocks / 2 + groups * (blocks / 4) + sequences * (blocks - blocks / 2 - blocks / 4)),
        ids(Kokkos::view_alloc(Kokkos::WithoutInitializing, "perf::ids"), std::size_t(sequences), std::size_t(width)),
        lengths(Kokkos::view_alloc(Kokkos::WithoutInitializing, "perf::lengths"), std::size_t(sequences)) {
    Kokkos::parallel_for("perf::fill", Kokkos::RangePolicy<Exec>(0, sequences), *this);
    Kokkos::fence("perf::fill");
  }

  KOKKOS_FUNCTION void operator()(std::int32_t s) const {
    const std::int32_t common = blocks / 2, of_group = blocks / 4, own = blocks - common - of_group;
    lengths(s) = blocks * kBlockTokens - s % kBlockTokens;
    for (std::int32_t i = 0; i < blocks; ++i) {
      std::int64_t id = i;
      if (i >= common) id = common + std::int64_t(s % groups) * of_group + i - common;
      if (i >= common + of_group)
        id = common + std::int64_t(groups) * of_group + std::int64_t(s) * own + i - common - of_group;
      ids(s, i) = std::int32_t(id * 7919 % pool_blocks);
    }
  }
};

void block_tables(benchmark::State& state) {
  const Exec exec;
  const Tables tables(std::int32_t(state.range(0)), std::int32_t(state.range(1)), std::int32_t(state.range(2)),
                      std::int32_t(state.range(3)));
  espalier::BlockTableReader<Exec> reader(exec, {tables.sequences, tables.pool_blocks});
  espalier::TreeArrays<Exec> tree(exec, {2 * tables.sequences, tables.sequences, tables.pool_blocks});
  for ([[maybe_unused]] auto run : state) {
    reader.update(exec, {tables.ids, tables.lengths, kBlockTokens}, tree);
    exec.fence("perf::block_tables");
  }
  const espalier::DerivedTree derived = reader.report(exec);
  if (reader.searched_again(exec)) state.SkipWithError("the tables should not need the slow search");
  state.counters["nodes"] = derived.nodes;
  state.SetItemsProcessed(state.iterations() * std::int64_t(tables.sequences) * tables.blocks);
}

/// Nodes that hang below any earlier one, below the one before, or level by level three below one; a row at each leaf.
enum Shape : std::int64_t { any_parent, chain, levels };

std::vector<NodeSpec> nodes_of(std::int64_t count, Shape shape) {
  std::mt19937 random(7);
  std::vector<NodeSpec> nodes{{-1, 48}};
  for (std::int32_t node = 1; node < count; ++node) {
    const std::int32_t parent = shape == any_parent ? std::int32_t(random() % std::uint32_t(node))
                                : shape == chain    ? node - 1
                                                    : (node - 1) / 3;
    nodes.push_back({parent, 1 + std::int32_t(random() % 100)});
  }
  return nodes;
}

void device_order(benchmark::State& state) {
  const Exec exec;
  const std::vector<NodeSpec> nodes = nodes_of(state.range(0), Shape(state.range(1)));
  const espalier::TreeSnapshot snapshot = make_snapshot(nodes, {}, kBlockTokens);
  std::vector<std::int32_t> parent, tokens, first_block, row_node(std::size_t(snapshot.rows()));
  std::vector<char> is_leaf(nodes.size(), 1);
  std::int32_t blocks = 0;
  for (const NodeSpec& node : nodes) {
    parent.push_back(node.parent);
    tokens.push_back(node.tokens);
    first_block.push_back(blocks);
    blocks += (node.tokens + kBlockTokens - 1) / kBlockTokens;
    if (node.parent >= 0) is_leaf[std::size_t(node.parent)] = 0;
  }
  std::size_t row = 0;
  for (std::size_t node = 0; node < nodes.size(); ++node)
    if (is_leaf[node]) row_node[row++] = std::int32_t(node);
  std::vector<std::int32_t> block_table(static_cast<std::size_t>(blocks));
  for (std::int32_t i = 0; i < blocks; ++i) block_table[std::size_t(i)] = i;

  const Ints parents = to_device(parent), token_counts = to_device(tokens), blocks_of = to_device(first_block),
             offsets = to_device(std::vector<std::int32_t>(nodes.size())), rows = to_device(row_node),
             table = to_device(block_table);
  espalier::DeviceOrder<Exec> order(exec, snapshot.nodes(), snapshot.rows());
  espalier::TreeArrays<Exec> tree(exec, {snapshot.nodes(), snapshot.rows(), blocks});
  for ([[maybe_unused]] auto run : state) {
    order.update(exec, {parents, token_counts, blocks_of, offsets, rows, {}, table}, kBlockTokens, tree);
    exec.fence("perf::device_order");
  }
  static_cast<void>(order.report(exec));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

/// The same on the host, with the upload: what DeviceOrder stands in for.
void host_order(benchmark::State& state) {
  const Exec exec;
  const std::vector<NodeSpec> nodes = nodes_of(state.range(0), Shape(state.range(1)));
  espalier::TreeArrays<Exec> tree(exec, make_snapshot(nodes, {}, kBlockTokens));
  for ([[maybe_unused]] auto run : state) {
    tree.upload(exec, make_snapshot(nodes, {}, kBlockTokens));
    exec.fence("perf::host_order");
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

BENCHMARK(block_tables)
    ->ArgNames({"sequences", "blocks", "groups", "width"})
    ->Args({16, 64, 4, 64})
    ->Args({64, 256, 8, 256})
    ->Args({64, 256, 8, 8192})
    ->Args({1024, 128, 32, 128})
    ->Args({1024, 128, 32, 8192})
    ->Args({4096, 128, 64, 128})
    ->Args({4096, 8192, 64, 8192})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

BENCHMARK(device_order)
    ->ArgNames({"nodes", "shape"})
    ->ArgsProduct({{10, 100, 1400, 4000, 10000, 100000}, {any_parent, chain, levels}})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

BENCHMARK(host_order)
    ->ArgNames({"nodes", "shape"})
    ->ArgsProduct({{10, 1400, 100000}, {any_parent, chain, levels}})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
