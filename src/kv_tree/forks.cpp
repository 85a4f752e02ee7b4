// KvTree: forks, splits and prunes, all by one way to change who references what.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "state.hpp"

namespace espalier {

using detail::expects;
using detail::kInt32Max;
using detail::Named;
using detail::NodeIndex;
using detail::TopologyNode;

void KvTree::Impl::expects_forks(std::span<const BranchFork> forks, const char* function) const {
  std::int64_t total = live_branches;
  for (const BranchFork& fork : forks) {
    const std::int64_t tokens = tokens_of(expects_live(fork.branch, function));
    expects(fork.count >= 0, ErrorCode::invalid_argument, function, ": count is ", fork.count, " for branch ",
            Named{fork.branch}, ", expected 0 or more");
    expects(fork.at_token == kBranchEnd || (0 <= fork.at_token && fork.at_token <= tokens), ErrorCode::invalid_argument,
            function, ": at_token is ", fork.at_token, " for branch ", Named{fork.branch}, ", expected 0 .. ", tokens);
    total += fork.count;
  }
  expects(total <= kInt32Max, ErrorCode::capacity_exceeded, function, ": the tree would have ", total,
          " branches, expected at most 2^31 - 1");
}

/// The node in which the fork's branches end, cut out of a longer one where necessary.
NodeIndex KvTree::Impl::fork_node(const BranchFork& fork, std::vector<NodeIndex>& cuts) {
  const NodeIndex tail = branches[fork.branch.index].tail;
  if (fork.at_token == kBranchEnd) return tail;
  const NodeIndex node = topology.find(tail, fork.at_token);
  if (topology[node].end == fork.at_token) return node;
  const NodeIndex upper = topology.split(node, fork.at_token - topology[node].begin());
  cuts.push_back(upper);
  return upper;
}

/// Adds to the number of branches of every node of a path; the number itself changes later.
void KvTree::Impl::count_change(NodeIndex tail, std::int32_t by, std::vector<NodeIndex>& changed) {
  for (NodeIndex node = tail; node >= 0; node = topology[node].parent) {
    TopologyNode& self = topology[node];
    if (self.call != call) {
      self.call = call;
      self.change = 0;
      changed.push_back(node);
    }
    self.change += by;
  }
}

/// Removes the nodes that no branch needs any more, from the end of a path upwards.
void KvTree::Impl::remove_unused_nodes(NodeIndex tail) noexcept {
  NodeIndex node = tail;
  while (node >= 0 && topology[node].branches == 0 && topology[node].first_child < 0) {
    const NodeIndex parent = topology[node].parent;
    stored_tokens -= topology[node].tokens;
    topology.remove(node);
    node = parent;
  }
}

std::vector<BranchId> KvTree::Impl::change(std::span<const BranchFork> forks, std::span<const BranchId> prunes,
                                           const char* function) {
  ++call;
  expects_forks(forks, function);
  for (const BranchId prune : prunes) expects_once(prune, function);
  std::int64_t created_count = 0;
  for (const BranchFork& fork : forks) created_count += fork.count;
  if (created_count == 0 && prunes.empty()) return {};

  // Whatever can throw comes first. Of this only the cuts change the tree, and they are undone.
  std::vector<BranchId> created;
  created.reserve(std::size_t(created_count));
  reserve_branches(created_count);
  topology.reserve(std::ssize(forks));
  auto& [fork_nodes, prune_tails, cuts, changed, gained, lost, growths, new_lists, acquired] = work;
  for (auto* list : {&fork_nodes, &prune_tails, &cuts, &changed}) list->clear();
  gained.clear();
  lost.clear();
  fork_nodes.reserve(forks.size());
  prune_tails.reserve(prunes.size());
  cuts.reserve(forks.size());
  try {
    for (const BranchFork& fork : forks) fork_nodes.push_back(fork.count > 0 ? fork_node(fork, cuts) : -1);
    for (const BranchId prune : prunes) prune_tails.push_back(branches[prune.index].tail);
    for (std::size_t i = 0; i < forks.size(); ++i) count_change(fork_nodes[i], forks[i].count, changed);
    for (const NodeIndex tail : prune_tails) count_change(tail, -1, changed);
    for (const NodeIndex node : changed) {
      const std::int32_t change = topology[node].change;
      if (change > 0) gained.add(topology[node].own_blocks(), change);
      if (change < 0) lost.add(topology[node].own_blocks(), -change);
    }
    retain_and_release(gained, lost);
  } catch (...) {
    for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) topology.join(*cut);
    throw;
  }

  for (const NodeIndex node : changed) topology[node].branches += topology[node].change;
  for (std::size_t i = 0; i < forks.size(); ++i) {
    for (std::int32_t copy = 0; copy < forks[i].count; ++copy) created.push_back(add_branch(fork_nodes[i]));
  }
  for (const BranchId prune : prunes) remove_branch(prune.index);
  for (const NodeIndex tail : prune_tails) remove_unused_nodes(tail);
  for (const NodeIndex node : changed) topology.join(node);
  ++version;
  return created;
}

}  // namespace espalier
