// KvTree: where tokens lie, and the tree in line order.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "state.hpp"

namespace espalier {

using detail::Branch;
using detail::expects;
using detail::kInt32Max;
using detail::Named;
using detail::NodeIndex;
using detail::TopologyNode;

/// Writes the slots of the tokens [begin, begin + slots.size()) of the path to a node.
void KvTree::Impl::write_slots(NodeIndex tail, std::int64_t begin, std::span<std::int64_t> slots) const {
  std::int64_t end = begin + std::ssize(slots);
  for (NodeIndex node = topology.find(tail, end); end > begin; node = topology[node].parent) {
    const TopologyNode& self = topology[node];
    const std::int64_t first = std::max(begin, self.begin());
    for (std::int64_t token = first; token < end; ++token) {
      const std::int64_t place = self.first_offset + token - self.begin();
      const std::int64_t block = static_cast<std::int32_t>(self.blocks[std::size_t(place / block_tokens())]);
      slots[std::size_t(token - begin)] = block * block_tokens() + place % block_tokens();
    }
    end = first;
  }
}

void KvTree::Impl::add_to_line(NodeIndex node, std::int32_t position_of_parent, TreeSnapshot& snapshot) const {
  const TopologyNode& self = topology[node];
  snapshot.parent.push_back(position_of_parent);
  snapshot.tokens.push_back(std::int32_t(self.tokens));
  snapshot.first_block.push_back(std::int32_t(snapshot.block_table.size()));
  snapshot.first_offset.push_back(self.first_offset);
  snapshot.block_table.insert(snapshot.block_table.end(), self.blocks.begin(), self.blocks.end());
}

void KvTree::Impl::last_slots(std::span<const BranchId> ids, std::int64_t tokens, std::span<std::int64_t> slots) const {
  expects(tokens >= 0, ErrorCode::invalid_argument, "KvTree::last_slots: tokens is ", tokens, ", expected 0 or more");
  for (const BranchId id : ids) {
    const std::int64_t length = tokens_of(expects_live(id, "KvTree::last_slots"));
    expects(tokens <= length, ErrorCode::invalid_argument, "KvTree::last_slots: the last ", tokens,
            " tokens of branch ", Named{id}, ", which has ", length);
  }
  expects(slots.size() == ids.size() * std::size_t(tokens), ErrorCode::invalid_argument,
          "KvTree::last_slots: slots has size ", slots.size(), ", expected ", ids.size(), " branches times ", tokens,
          " tokens");
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Branch& branch = branches[ids[i].index];
    write_slots(branch.tail, tokens_of(branch) - tokens, slots.subspan(i * std::size_t(tokens), std::size_t(tokens)));
  }
}

void KvTree::Impl::snapshot(std::span<const BranchRow> rows, TreeSnapshot& snapshot) const {
  constexpr std::int32_t kUnseen = -2;
  constexpr std::int32_t kSeen = -1;
  auto& [position, row_nodes, placed] = snapshot_work;
  position.assign(std::size_t(topology.node_limit()), kUnseen);
  row_nodes.clear();
  row_nodes.reserve(rows.size());
  std::int64_t seen_nodes = 0;
  std::int64_t seen_tokens = 0;
  std::int64_t seen_blocks = 0;
  for (const BranchRow& row : rows) {
    const Branch& branch = expects_live(row.branch, "KvTree::snapshot");
    const std::int64_t length = tokens_of(branch);
    expects(row.tokens == kBranchEnd || (0 <= row.tokens && row.tokens <= length), ErrorCode::invalid_argument,
            "KvTree::snapshot: row ", row_nodes.size(), " sees ", row.tokens, " tokens of branch ", Named{row.branch},
            ", expected 0 .. ", length);
    row_nodes.push_back(topology.find(branch.tail, std::min(row.tokens, length)));
    for (NodeIndex node = row_nodes.back(); node >= 0 && position[node] == kUnseen; node = topology[node].parent) {
      position[node] = kSeen;
      ++seen_nodes;
      seen_tokens += topology[node].tokens;
      seen_blocks += std::ssize(topology[node].blocks);
    }
  }
  expects(std::max({std::int64_t(rows.size()), seen_tokens, seen_blocks}) <= kInt32Max, ErrorCode::capacity_exceeded,
          "KvTree::snapshot: ", rows.size(), " rows see ", seen_tokens, " tokens in ", seen_blocks,
          " blocks, expected at most 2^31 - 1 of each");

  snapshot.block_tokens = block_tokens();
  snapshot.version = version;
  for (auto* array : {&snapshot.parent, &snapshot.tokens, &snapshot.first_block, &snapshot.first_offset}) {
    array->clear();
    array->reserve(std::size_t(seen_nodes));
  }
  snapshot.block_table.clear();
  snapshot.block_table.reserve(std::size_t(seen_blocks));
  for (NodeIndex node = topology.first_root(); node >= 0;) {
    const bool seen = position[node] != kUnseen;
    if (seen) {
      const NodeIndex parent = topology[node].parent;
      position[node] = snapshot.nodes();
      add_to_line(node, parent >= 0 ? position[parent] : -1, snapshot);
    }
    if (seen && topology[node].first_child >= 0) {
      node = topology[node].first_child;
    } else {
      while (node >= 0 && topology[node].next < 0) node = topology[node].parent;
      if (node >= 0) node = topology[node].next;
    }
  }

  placed.clear();
  placed.reserve(rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const TopologyNode& node = topology[row_nodes[row]];
    placed.push_back({position[row_nodes[row]], std::int32_t(std::min(rows[row].tokens, node.end) - node.begin())});
  }
  detail::set_rows(snapshot, placed);
}

}  // namespace espalier
