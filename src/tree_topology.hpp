#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/types.hpp"

namespace espalier::detail {

/// Place of a node in a TreeTopology, or -1.
using NodeIndex = std::int32_t;

struct TopologyNode {
  NodeIndex parent = -1;
  NodeIndex first_child = -1;
  NodeIndex last_child = -1;
  NodeIndex previous = -1;      ///< sibling, or root
  NodeIndex next = -1;          ///< sibling, or root
  NodeIndex continuation = -1;  ///< the child that goes on in this node's partly filled last block
  std::int32_t tails = 0;       ///< live branches that end here
  std::int32_t branches = 0;    ///< live branches that end here or below; -1: the node was removed
  std::int32_t change = 0;      ///< of `branches`, by the call under way
  std::int32_t first_offset = 0;
  std::uint64_t call = 0;  ///< last call that had to do with the node
  std::int64_t tokens = 0;
  std::int64_t end = 0;         ///< tokens of the path from the root to the node's end
  std::vector<BlockId> blocks;  ///< of all its tokens; where first_offset > 0 the first one is the parent's last

  [[nodiscard]] std::int64_t begin() const { return end - tokens; }

  /// The blocks whose references this node answers for: each block of a path is owned by one node of it.
  [[nodiscard]] std::span<const BlockId> own_blocks() const {
    return std::span(blocks).subspan(first_offset > 0 ? 1 : 0);
  }
};

/// The nodes of a KvTree and how they hang together. Knows no branches (only how many there are) and no pool.
///
/// Slots behind the end of a node can be filled by one child alone, its continuation: so the nodes that use a block are
/// a chain, each the continuation of the one before. Roots begin a block of their own. A node without tokens is a root.
class TreeTopology {
 public:
  explicit TreeTopology(int block_tokens) : block_tokens_(block_tokens) {}

  // -- queries

  [[nodiscard]] const TopologyNode& operator[](NodeIndex node) const { return nodes_[node]; }
  [[nodiscard]] TopologyNode& operator[](NodeIndex node) { return nodes_[node]; }
  [[nodiscard]] NodeIndex first_root() const { return first_root_; }
  [[nodiscard]] std::int32_t nodes() const { return std::int32_t(nodes_.size() - removed_.size()); }
  [[nodiscard]] std::int32_t node_limit() const { return std::int32_t(nodes_.size()); }  ///< above every NodeIndex

  /// Free slots behind the node's last token in its last block.
  [[nodiscard]] int room(NodeIndex node) const;

  /// The node of the path to `tail` that holds token number `tokens`, counted from 1; the path's root for 0.
  [[nodiscard]] NodeIndex find(NodeIndex tail, std::int64_t tokens) const;

  // -- actions; only those that say so can throw, and then nothing has changed

  /// Makes room for `count` more nodes. Throws std::bad_alloc.
  void reserve(std::int64_t count);

  /// Makes room for `nodes` nodes in all, each with a list of `node_blocks` blocks. Throws std::bad_alloc.
  void reserve(std::int64_t nodes, std::int64_t node_blocks);

  /// An empty list with room for so many blocks: one that a removed node had, where reserve kept it. Throws
  /// std::bad_alloc.
  [[nodiscard]] std::vector<BlockId> take_list(std::size_t blocks);

  /// A new node without tokens, the last child of `parent` (-1: the last root). Needs reserve.
  NodeIndex add(NodeIndex parent) noexcept;

  /// Removes a node without children.
  void remove(NodeIndex node) noexcept;

  /// Cuts a node behind its first `tokens` tokens, and returns the new node above the cut; the node itself keeps what
  /// lies below, its children and its tails. Needs reserve. Throws std::bad_alloc.
  NodeIndex split(NodeIndex node, std::int64_t tokens);

  /// Joins a node in which no branch ends with its only child, where their tokens lie in consecutive slots of one block
  /// list; the child is the node that remains. Undoes a split without allocating.
  /// Returns false where the two must remain, or memory does not suffice to join them.
  bool join(NodeIndex node) noexcept;

 private:
  NodeIndex take() noexcept;  // a node that hangs nowhere yet
  void link(NodeIndex node, NodeIndex parent, NodeIndex previous, NodeIndex next) noexcept;
  void unlink(NodeIndex node) noexcept;

  int block_tokens_;
  NodeIndex first_root_ = -1;
  NodeIndex last_root_ = -1;
  std::vector<TopologyNode> nodes_;
  std::vector<NodeIndex> removed_;                 // to be used again, capacity for all of nodes_
  std::vector<std::vector<BlockId>> spare_lists_;  // empty, with room; no more of them than its own capacity
};

}  // namespace espalier::detail
