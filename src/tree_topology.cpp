#include "tree_topology.hpp"

#include <algorithm>
#include <cassert>
#include <new>
#include <utility>

namespace espalier::detail {
namespace {

/// Room for more entries, without giving up amortised growth.
template <class T>
void reserve_more(std::vector<T>& vector, std::int64_t more) {
  const std::size_t need = vector.size() + std::size_t(more);
  if (need > vector.capacity()) vector.reserve(std::max(need, 2 * vector.capacity()));
}

}  // namespace

int TreeTopology::room(NodeIndex node) const {
  const TopologyNode& self = nodes_[node];
  return int(std::int64_t(self.blocks.size()) * block_tokens_ - self.first_offset - self.tokens);
}

NodeIndex TreeTopology::find(NodeIndex tail, std::int64_t tokens) const {
  NodeIndex node = tail;
  while (nodes_[node].begin() >= tokens && nodes_[node].parent >= 0) node = nodes_[node].parent;
  return node;
}

void TreeTopology::reserve(std::int64_t count) {
  const std::int64_t more = count - std::int64_t(removed_.size());
  if (more <= 0) return;
  reserve_more(nodes_, more);
  removed_.reserve(nodes_.capacity());
}

void TreeTopology::reserve(std::int64_t nodes, std::int64_t node_blocks) {
  nodes_.reserve(std::size_t(nodes));
  removed_.reserve(nodes_.capacity());
  for (TopologyNode& node : nodes_)
    if (node.branches >= 0) node.blocks.reserve(std::size_t(node_blocks));
  spare_lists_.reserve(nodes_.capacity());
  for (std::vector<BlockId>& list : spare_lists_) list.reserve(std::size_t(node_blocks));
  while (std::int64_t(spare_lists_.size()) + this->nodes() < nodes) {
    spare_lists_.emplace_back();
    spare_lists_.back().reserve(std::size_t(node_blocks));
  }
}

std::vector<BlockId> TreeTopology::take_list(std::size_t blocks) {
  std::vector<BlockId> list;
  if (!spare_lists_.empty()) {
    list = std::move(spare_lists_.back());
    spare_lists_.pop_back();
  }
  list.reserve(blocks);
  return list;
}

NodeIndex TreeTopology::add(NodeIndex parent) noexcept {
  const NodeIndex node = take();
  if (parent >= 0) nodes_[node].end = nodes_[parent].end;
  link(node, parent, parent >= 0 ? nodes_[parent].last_child : last_root_, -1);
  return node;
}

void TreeTopology::remove(NodeIndex node) noexcept {
  assert(nodes_[node].first_child < 0);
  const NodeIndex parent = nodes_[node].parent;
  if (parent >= 0 && nodes_[parent].continuation == node) nodes_[parent].continuation = -1;
  unlink(node);
  if (spare_lists_.size() < spare_lists_.capacity()) {
    nodes_[node].blocks.clear();
    spare_lists_.push_back(std::move(nodes_[node].blocks));
  }
  nodes_[node] = TopologyNode{};
  nodes_[node].branches = -1;
  removed_.push_back(node);
}

NodeIndex TreeTopology::split(NodeIndex node, std::int64_t tokens) {
  assert(0 <= tokens && tokens < nodes_[node].tokens);
  const std::int64_t cut = nodes_[node].first_offset + tokens;  // in slots of the node's block list
  const auto whole_blocks = cut / block_tokens_;
  const int cut_offset = int(cut % block_tokens_);
  const auto first = nodes_[node].blocks.begin();
  const auto last = tokens == 0 ? first : first + whole_blocks + (cut_offset > 0 ? 1 : 0);
  std::vector<BlockId> upper_blocks = take_list(std::size_t(last - first));
  upper_blocks.assign(first, last);

  const NodeIndex parent = nodes_[node].parent;
  const NodeIndex previous = nodes_[node].previous;
  const NodeIndex next = nodes_[node].next;
  unlink(node);
  const NodeIndex upper = take();
  link(upper, parent, previous, next);
  link(node, upper, -1, -1);

  TopologyNode& above = nodes_[upper];
  TopologyNode& below = nodes_[node];
  above.tokens = tokens;
  above.end = below.begin() + tokens;
  above.branches = below.branches;
  above.first_offset = below.first_offset;
  above.blocks = std::move(upper_blocks);
  if (parent >= 0 && nodes_[parent].continuation == node) nodes_[parent].continuation = upper;
  below.tokens -= tokens;
  if (tokens > 0) {
    below.first_offset = cut_offset;
    below.blocks.erase(below.blocks.begin(), below.blocks.begin() + whole_blocks);
    if (cut_offset > 0) above.continuation = node;
  }
  return upper;
}

bool TreeTopology::join(NodeIndex node) noexcept {
  const NodeIndex child = nodes_[node].first_child;
  if (nodes_[node].tails > 0 || child < 0 || child != nodes_[node].last_child) return false;
  TopologyNode& above = nodes_[node];
  TopologyNode& below = nodes_[child];
  if (above.tokens > 0 && room(node) > 0 && above.continuation != child)
    return false;  // below began a block of its own

  const auto shared_block = below.first_offset > 0 ? 1 : 0;
  try {
    below.blocks.insert(below.blocks.begin(), above.blocks.begin(), above.blocks.end() - shared_block);
  } catch (const std::bad_alloc&) {
    return false;
  }
  if (above.tokens > 0) below.first_offset = above.first_offset;
  below.tokens += above.tokens;

  const NodeIndex parent = above.parent;
  const NodeIndex previous = above.previous;
  const NodeIndex next = above.next;
  const bool continues = parent >= 0 && nodes_[parent].continuation == node;
  unlink(child);
  remove(node);
  link(child, parent, previous, next);
  if (continues) nodes_[parent].continuation = child;
  return true;
}

NodeIndex TreeTopology::take() noexcept {
  if (removed_.empty()) {
    assert(nodes_.size() < nodes_.capacity());
    nodes_.emplace_back();
    return NodeIndex(nodes_.size() - 1);
  }
  const NodeIndex node = removed_.back();
  removed_.pop_back();
  nodes_[node].branches = 0;
  return node;
}

void TreeTopology::link(NodeIndex node, NodeIndex parent, NodeIndex previous, NodeIndex next) noexcept {
  TopologyNode& self = nodes_[node];
  self.parent = parent;
  self.previous = previous;
  self.next = next;
  NodeIndex& first = parent >= 0 ? nodes_[parent].first_child : first_root_;
  NodeIndex& last = parent >= 0 ? nodes_[parent].last_child : last_root_;
  (previous >= 0 ? nodes_[previous].next : first) = node;
  (next >= 0 ? nodes_[next].previous : last) = node;
}

void TreeTopology::unlink(NodeIndex node) noexcept {
  const TopologyNode& self = nodes_[node];
  NodeIndex& first = self.parent >= 0 ? nodes_[self.parent].first_child : first_root_;
  NodeIndex& last = self.parent >= 0 ? nodes_[self.parent].last_child : last_root_;
  (self.previous >= 0 ? nodes_[self.previous].next : first) = self.next;
  (self.next >= 0 ? nodes_[self.next].previous : last) = self.previous;
}

}  // namespace espalier::detail
