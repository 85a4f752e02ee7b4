// KvTree: roots, longer branches, and room for what is to come.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "state.hpp"

namespace espalier {

using detail::expects;
using detail::Growth;
using detail::kInt32Max;
using detail::NodeIndex;
using detail::TopologyNode;

std::int64_t KvTree::Impl::blocks_for(std::int64_t tokens) const {
  return tokens / block_tokens() + (tokens % block_tokens() > 0 ? 1 : 0);
}

BranchId KvTree::Impl::root(std::int64_t tokens) {
  expects(tokens >= 0, ErrorCode::invalid_argument, "KvTree::root: tokens is ", tokens, ", expected 0 or more");
  expects_free(blocks_for(tokens), "KvTree::root");
  reserve_branches(1);
  topology.reserve(1);
  std::vector<BlockId> blocks = topology.take_list(std::size_t(blocks_for(tokens)));
  const std::span<const BlockId> acquired = acquire(blocks_for(tokens));
  blocks.assign(acquired.begin(), acquired.end());

  const NodeIndex node = topology.add(-1);
  topology[node].branches = 1;
  topology[node].blocks = std::move(blocks);
  lengthen(node, tokens);
  ++version;
  return add_branch(node);
}

/// Where the branch's next tokens go. Marks the tail whose last block they continue, so that no sibling does as well.
Growth KvTree::Impl::plan_growth(BranchId id, std::int64_t tokens) {
  const NodeIndex tail = expects_once(id, "KvTree::append").tail;
  TopologyNode& self = topology[tail];
  const int room = topology.room(tail);
  Growth growth{id.index, self.branches == 1, false, 0};
  if (!growth.in_own_node && room > 0 && self.continuation < 0 && self.call != call) {
    growth.continues = true;
    self.call = call;
  }
  const bool uses_room = growth.in_own_node || growth.continues;
  growth.new_blocks = blocks_for(std::max(std::int64_t{0}, tokens - (uses_room ? room : 0)));
  return growth;
}

/// Room for the new blocks in the list of the branch's own node. Throws std::bad_alloc.
void KvTree::Impl::reserve_blocks(const Growth& growth) {
  std::vector<BlockId>& blocks = topology[branches[growth.branch].tail].blocks;
  const std::size_t need = blocks.size() + std::size_t(growth.new_blocks);
  if (need > blocks.capacity()) blocks.reserve(std::max(need, 2 * blocks.capacity()));
}

/// What the block list of a new node holds before its new blocks, with room for those. Throws std::bad_alloc.
std::vector<BlockId> KvTree::Impl::begin_blocks(const Growth& growth) {
  std::vector<BlockId> blocks = topology.take_list(std::size_t(growth.new_blocks) + 1);
  if (growth.continues) blocks.push_back(topology[branches[growth.branch].tail].blocks.back());
  return blocks;
}

void KvTree::Impl::lengthen(NodeIndex node, std::int64_t tokens) noexcept {
  topology[node].tokens += tokens;
  topology[node].end += tokens;
  stored_tokens += tokens;
}

/// A node of the branch's own below the one where it ended.
NodeIndex KvTree::Impl::add_own_node(const Growth& growth, std::vector<BlockId> blocks) noexcept {
  const NodeIndex parent = branches[growth.branch].tail;
  const NodeIndex node = topology.add(parent);
  TopologyNode& above = topology[parent];
  TopologyNode& self = topology[node];
  self.blocks = std::move(blocks);
  if (growth.continues) {
    self.first_offset = block_tokens() - topology.room(parent);
    above.continuation = node;
  }
  self.branches = 1;
  self.tails = 1;
  --above.tails;
  branches[growth.branch].tail = node;
  return node;
}

void KvTree::Impl::append(std::span<const BranchId> ids, std::int64_t tokens) {
  expects(tokens >= 0, ErrorCode::invalid_argument, "KvTree::append: tokens is ", tokens, ", expected 0 or more");
  ++call;
  std::vector<Growth>& growths = work.growths;
  growths.clear();
  growths.reserve(ids.size());
  std::int64_t new_nodes = 0;
  std::int64_t new_blocks = 0;
  for (const BranchId id : ids) {
    const Growth& growth = growths.emplace_back(plan_growth(id, tokens));
    new_nodes += growth.in_own_node ? 0 : 1;
    new_blocks += std::min(growth.new_blocks, kInt32Max);  // an absurd length must not overflow the sum
  }
  if (tokens == 0 || ids.empty()) return;

  expects_free(new_blocks, "KvTree::append");
  topology.reserve(new_nodes);
  std::vector<std::vector<BlockId>>& new_lists = work.new_lists;
  new_lists.clear();
  new_lists.reserve(std::size_t(new_nodes));
  for (const Growth& growth : growths) {
    if (growth.in_own_node) {
      reserve_blocks(growth);
    } else {
      new_lists.push_back(begin_blocks(growth));
    }
  }
  const std::span<const BlockId> acquired = acquire(new_blocks);

  auto next_list = new_lists.begin();
  auto next_block = acquired.begin();
  for (const Growth& growth : growths) {
    const NodeIndex node =
        growth.in_own_node ? branches[growth.branch].tail : add_own_node(growth, std::move(*next_list++));
    std::vector<BlockId>& blocks = topology[node].blocks;
    blocks.insert(blocks.end(), next_block, next_block + std::ptrdiff_t(growth.new_blocks));
    next_block += std::ptrdiff_t(growth.new_blocks);
    lengthen(node, tokens);
  }
  unshared_tokens += tokens * std::ssize(ids);
  ++version;
}

void KvTree::Impl::reserve(const KvTreeCapacity& capacity) {
  for (const auto& [value, name] : {std::pair{capacity.nodes, "nodes"}, std::pair{capacity.branches, "branches"},
                                    std::pair{capacity.node_blocks, "node_blocks"}})
    expects(value >= 0, ErrorCode::invalid_argument, "KvTree::reserve: ", name, " is ", value, ", expected 0 or more");
  const auto more_nodes = std::size_t(capacity.nodes), more_branches = std::size_t(capacity.branches);
  topology.reserve(capacity.nodes, capacity.node_blocks);
  branches.reserve(more_branches);
  unused_branches.reserve(branches.capacity());
  for (auto* list : {&work.fork_nodes, &work.prune_tails, &work.cuts}) list->reserve(more_branches);
  work.changed.reserve(more_nodes);
  work.growths.reserve(more_branches);
  work.new_lists.reserve(more_branches);
  // Each block is owned by one node.
  const auto most_blocks = std::size_t(
      std::min(std::int64_t(pool.config().blocks), std::int64_t(capacity.nodes) * std::int64_t(capacity.node_blocks)));
  work.gained.reserve(most_blocks);
  work.lost.reserve(most_blocks);
  work.acquired.reserve(most_blocks);
  snapshot_work.position.reserve(more_nodes);
  snapshot_work.row_nodes.reserve(more_branches);
  snapshot_work.placed.reserve(more_branches);
}

}  // namespace espalier
