#pragma once
// What BlockTableReader means, on the host: a map from block to child at every place, and nothing clever. And tables to
// try it on.

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "espalier/tree_arrays.hpp"

namespace espalier::test {

struct HostTables {
  int block_tokens = 1;
  std::int32_t pool_blocks = 0;
  std::vector<std::vector<std::int32_t>> blocks;  ///< [sequences]  ids, as many as the length needs, or more
  std::vector<std::int32_t> lengths;              ///< [sequences]  tokens

  [[nodiscard]] std::int32_t sequences() const { return std::int32_t(lengths.size()); }
  [[nodiscard]] std::int32_t blocks_of(std::int32_t sequence) const {
    return (lengths[std::size_t(sequence)] + block_tokens - 1) / block_tokens;
  }
  [[nodiscard]] std::int32_t all_blocks() const {
    std::int32_t sum = 0;
    for (std::int32_t s = 0; s < sequences(); ++s) sum += blocks_of(s);
    return sum;
  }
  [[nodiscard]] std::int32_t max_blocks() const {
    std::size_t most = 0;
    for (const auto& row : blocks) most = std::max(most, row.size());
    return std::int32_t(most);
  }
};

namespace model {

/// One block at one place behind one prefix.
struct Entry {
  std::int32_t block;
  std::int32_t first_sequence;
  bool has_end = false;  // a sequence ends in this block
  std::map<std::int32_t, std::int32_t> children;
  std::int32_t node = -1;
};

}  // namespace model

/// The tree of the tables in line order.
inline TreeSnapshot tree_of(const HostTables& tables) {
  std::vector<model::Entry> entries{{-1, 0, false, {}, -1}};
  std::vector<std::int32_t> last_entry;
  for (std::int32_t s = 0; s < tables.sequences(); ++s) {
    std::int32_t at = 0;
    for (std::int32_t i = 0; i < tables.blocks_of(s); ++i) {
      const std::int32_t block = tables.blocks[std::size_t(s)][std::size_t(i)];
      const auto [child, is_new] = entries[std::size_t(at)].children.try_emplace(block, std::int32_t(entries.size()));
      at = child->second;
      if (is_new) entries.push_back({block, s, false, {}, -1});
    }
    entries[std::size_t(at)].has_end = true;
    last_entry.push_back(at);
  }

  TreeSnapshot tree;
  tree.block_tokens = tables.block_tokens;
  std::vector<std::int32_t> node_begin;  // tokens before each node
  const auto open_node = [&](std::int32_t parent, std::int32_t begin) {
    tree.parent.push_back(parent);
    tree.tokens.push_back(0);
    tree.first_block.push_back(std::int32_t(tree.block_table.size()));
    tree.first_offset.push_back(0);
    node_begin.push_back(begin);
    return tree.nodes() - 1;
  };
  if (entries[0].has_end && tables.sequences() > 0) entries[0].node = open_node(-1, 0);

  // Depth first with a stack of (entry, node above, blocks before it, whether it goes on in that node).
  struct Visit {
    std::int32_t entry, node, depth;
    bool goes_on;
  };
  std::vector<Visit> stack;
  const auto push_children = [&](const model::Entry& entry, std::int32_t node, std::int32_t depth) {
    std::vector<std::int32_t> children;
    for (const auto& [block, child] : entry.children) children.push_back(child);
    std::ranges::sort(children, [&](std::int32_t a, std::int32_t b) {
      return entries[std::size_t(a)].first_sequence > entries[std::size_t(b)].first_sequence;
    });
    const bool goes_on = depth > 0 && children.size() == 1 && !entry.has_end;
    for (const std::int32_t child : children) stack.push_back({child, node, depth, goes_on});
  };
  push_children(entries[0], -1, 0);
  while (!stack.empty()) {
    const Visit visit = stack.back();
    stack.pop_back();
    model::Entry& entry = entries[std::size_t(visit.entry)];
    entry.node = visit.goes_on ? visit.node : open_node(visit.node, visit.depth * tables.block_tokens);
    tree.block_table.push_back(BlockId{entry.block});
    if (!entry.children.empty()) tree.tokens[std::size_t(entry.node)] += tables.block_tokens;
    push_children(entry, entry.node, visit.depth + 1);
  }

  struct Row {
    std::int32_t node, visible, sequence;
    auto operator<=>(const Row&) const = default;
  };
  std::vector<Row> rows;
  for (std::int32_t s = 0; s < tables.sequences(); ++s) {
    const std::int32_t node = entries[std::size_t(last_entry[std::size_t(s)])].node;
    rows.push_back({node, tables.lengths[std::size_t(s)] - node_begin[std::size_t(node)], s});
    tree.tokens[std::size_t(node)] = std::max(tree.tokens[std::size_t(node)], rows.back().visible);
  }
  std::ranges::sort(rows);
  for (const Row& row : rows) {
    tree.row_node.push_back(row.node);
    tree.row_visible.push_back(row.visible);
    tree.row_index.push_back(row.sequence);
  }
  for (std::int32_t node = 0; node < tree.nodes(); ++node) {
    std::int32_t end = node + 1;
    while (end < tree.nodes() && tree.parent[std::size_t(end)] >= node) ++end;
    tree.subtree_end.push_back(end);
    const auto first_row = [&](std::int32_t of) {
      return std::int32_t(std::ranges::lower_bound(tree.row_node, of) - tree.row_node.begin());
    };
    tree.row_begin.push_back(first_row(node));
    tree.row_end.push_back(first_row(end));
  }
  return tree;
}

/// How random tables come about.
struct TableStyle {
  std::int32_t sequences = 8;
  std::int32_t most_blocks = 12;  ///< of a sequence
  int block_tokens = 4;
  double shared = 0.7;    ///< chance that a sequence begins with blocks of an earlier one
  double whole = 0.2;     ///< chance that it then has all of that one's blocks
  double reused_ids = 0;  ///< chance that a new block has an id that occurs somewhere else
  double zero_length = 0.05;
};

/// Sequences that continue earlier ones, in random order.
inline HostTables random_tables(const TableStyle& style, std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::int32_t end) { return std::int32_t(random() % std::uint32_t(end)); };
  const auto chance = [&](double p) { return std::uniform_real_distribution<double>()(random) < p; };
  HostTables tables;
  tables.block_tokens = style.block_tokens;
  std::int32_t next_block = 0;
  for (std::int32_t s = 0; s < style.sequences; ++s) {
    std::vector<std::int32_t> blocks;
    if (s > 0 && chance(style.shared)) {
      const auto& other = tables.blocks[std::size_t(below(s))];
      const auto shared = chance(style.whole) ? other.size()
                          : other.empty()     ? 0
                                              : std::size_t(below(std::int32_t(other.size())));
      blocks.assign(other.begin(), other.begin() + std::ptrdiff_t(shared));
    }
    const std::int32_t total = chance(0.3) ? std::int32_t(blocks.size()) : below(style.most_blocks + 1);
    while (std::int32_t(blocks.size()) < total)
      blocks.push_back(next_block > 0 && chance(style.reused_ids) ? below(next_block) : next_block++);
    if (chance(style.zero_length)) blocks.clear();
    const auto missing = blocks.empty() ? 0 : below(style.block_tokens);
    tables.lengths.push_back(std::int32_t(blocks.size()) * style.block_tokens - missing);
    tables.blocks.push_back(std::move(blocks));
  }
  // Ids and sequences in random order.
  std::vector<std::int32_t> id(std::size_t(next_block) + 3);
  for (std::size_t i = 0; i < id.size(); ++i) id[i] = std::int32_t(i);
  std::ranges::shuffle(id, random);
  tables.pool_blocks = std::int32_t(id.size());
  for (auto& row : tables.blocks)
    for (std::int32_t& block : row) block = id[std::size_t(block)];
  for (std::int32_t s = tables.sequences() - 1; s > 0; --s) {
    const auto other = std::size_t(below(s + 1));
    std::swap(tables.blocks[std::size_t(s)], tables.blocks[other]);
    std::swap(tables.lengths[std::size_t(s)], tables.lengths[other]);
  }
  return tables;
}

}  // namespace espalier::test
