#include "espalier/kv_tree.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <ostream>
#include <string>
#include <utility>

#include "espalier/error.hpp"
#include "line_order.hpp"
#include "tree_topology.hpp"

namespace espalier {
namespace {

using detail::expects;
using detail::NodeIndex;
using detail::TopologyNode;
using detail::TreeTopology;

constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

/// Made once: nothing may allocate between a change of the pool and that of the tree.
const std::string wait_label = "espalier::KvTree: wait for the pool";

/// How messages name a branch; costs nothing until one is written.
struct Named {
  BranchId branch;
  friend std::ostream& operator<<(std::ostream& out, const Named& named) {
    return out << '(' << named.branch.index << ", generation " << named.branch.generation << ')';
  }
};

/// One place of the table of branches. Live branches form a list in order of creation.
struct Branch {
  NodeIndex tail = -1;  ///< the branch ends where this node ends; -1: not live
  std::uint32_t generation = 0;
  std::int32_t previous = -1;
  std::int32_t next = -1;
  std::uint64_t call = 0;  ///< last call that named the branch
};

/// Blocks and how many references each gains or loses.
struct ReferenceList {
  std::vector<BlockId> blocks;
  std::vector<std::int32_t> references;

  void clear() noexcept {
    blocks.clear();
    references.clear();
  }

  void reserve(std::size_t count) {
    blocks.reserve(count);
    references.reserve(count);
  }

  void add(std::span<const BlockId> ids, std::int32_t each) {
    blocks.insert(blocks.end(), ids.begin(), ids.end());
    references.insert(references.end(), ids.size(), each);
  }
};

/// How one branch of an append grows.
struct Growth {
  std::int32_t branch;
  bool in_own_node;  ///< its tail node belongs to it alone
  bool continues;    ///< a new node, which begins behind the tail's last token in the same block
  std::int64_t new_blocks;
};

}  // namespace

struct KvTree::Impl {
  Impl(const Exec& instance, Pool& shared_pool)
      : exec(instance), pool(shared_pool), topology(shared_pool.config().block_tokens) {}
  ~Impl() { release_everything(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  [[nodiscard]] int block_tokens() const { return pool.config().block_tokens; }

  // -- branches

  [[nodiscard]] bool is_live(BranchId id) const noexcept {
    return 0 <= id.index && id.index < std::ssize(branches) && branches[id.index].tail >= 0 &&
           branches[id.index].generation == id.generation;
  }

  const Branch& expects_live(BranchId id, const char* function) const {
    expects(is_live(id), ErrorCode::invalid_argument, function, ": branch ", Named{id}, " is not live");
    return branches[id.index];
  }

  /// Also that the call under way names the branch for the first time.
  Branch& expects_once(BranchId id, const char* function) {
    expects_live(id, function);
    Branch& branch = branches[id.index];
    expects(branch.call != call, ErrorCode::invalid_argument, function, ": branch ", Named{id}, " is named twice");
    branch.call = call;
    return branch;
  }

  [[nodiscard]] BranchId id_of(std::int32_t index) const { return {index, branches[index].generation}; }
  [[nodiscard]] std::int64_t tokens_of(const Branch& branch) const { return topology[branch.tail].end; }

  void reserve_branches(std::int64_t count) {
    const std::int64_t more = count - std::int64_t(unused_branches.size());
    if (more <= 0) return;
    const std::size_t need = branches.size() + std::size_t(more);
    expects(std::int64_t(need) <= kInt32Max, ErrorCode::capacity_exceeded, "KvTree: ", need,
            " branches, expected at most 2^31 - 1");
    if (need > branches.capacity()) branches.reserve(std::max(need, 2 * branches.capacity()));
    unused_branches.reserve(branches.capacity());
  }

  /// Needs reserve_branches.
  BranchId add_branch(NodeIndex tail) noexcept {
    std::int32_t index;
    if (unused_branches.empty()) {
      index = std::int32_t(branches.size());
      branches.emplace_back();
    } else {
      index = unused_branches.back();
      unused_branches.pop_back();
    }
    Branch& branch = branches[index];
    branch.tail = tail;
    branch.previous = last_branch;
    branch.next = -1;
    (last_branch >= 0 ? branches[last_branch].next : first_branch) = index;
    last_branch = index;
    ++live_branches;
    unshared_tokens += tokens_of(branch);
    ++topology[tail].tails;
    return id_of(index);
  }

  void remove_branch(std::int32_t index) noexcept {
    Branch& branch = branches[index];
    --topology[branch.tail].tails;
    unshared_tokens -= tokens_of(branch);
    --live_branches;
    (branch.previous >= 0 ? branches[branch.previous].next : first_branch) = branch.next;
    (branch.next >= 0 ? branches[branch.next].previous : last_branch) = branch.previous;
    branch.tail = -1;
    // A place whose generations are used up is never used again, so that no old id can become valid.
    if (++branch.generation != std::numeric_limits<std::uint32_t>::max()) unused_branches.push_back(index);
  }

  // -- blocks

  /// @throws Error{capacity_exceeded} unless the pool has that many free blocks
  void expects_free(std::int64_t count, const char* function) const {
    if (count == 0) return;
    const std::int32_t free = pool.free_blocks(exec);
    expects(count <= free, ErrorCode::capacity_exceeded, function, ": needs ", count, " blocks of ", block_tokens(),
            " tokens, the pool has ", free, " free of ", pool.config().blocks);
  }

  /// Needs expects_free. Throws std::bad_alloc. The result is good until the next call.
  [[nodiscard]] std::span<const BlockId> acquire(std::int64_t count) {
    work.acquired.resize(static_cast<std::size_t>(count));
    if (count == 0) return {};
    pool.acquire(exec, Pool::BlockIds(work.acquired.data(), work.acquired.size()));
    exec.fence(wait_label);
    return work.acquired;
  }

  void retain(const ReferenceList& list) {
    if (list.blocks.empty()) return;
    pool.retain(exec, Pool::ConstBlockIds(list.blocks.data(), list.blocks.size()),
                Pool::ConstReferences(list.references.data(), list.references.size()));
    exec.fence(wait_label);
  }

  void release(const ReferenceList& list) {
    if (list.blocks.empty()) return;
    pool.release(exec, Pool::ConstBlockIds(list.blocks.data(), list.blocks.size()),
                 Pool::ConstReferences(list.references.data(), list.references.size()));
    exec.fence(wait_label);
  }

  /// Both or none. A launch that cannot allocate throws and has changed nothing.
  void retain_and_release(const ReferenceList& gained, const ReferenceList& lost) {
    retain(gained);
    try {
      release(lost);
    } catch (...) {
      release(gained);
      throw;
    }
  }

  /// For the destructor: needs no memory of its own.
  void release_everything() {
    std::array<BlockId, 256> blocks;
    std::array<std::int32_t, 256> references;
    for (NodeIndex node = 0; node < topology.node_limit(); ++node) {
      if (topology[node].branches <= 0) continue;
      references.fill(topology[node].branches);
      std::span<const BlockId> rest = topology[node].own_blocks();
      while (!rest.empty()) {
        const std::size_t count = std::min(rest.size(), blocks.size());
        std::copy_n(rest.begin(), count, blocks.begin());
        pool.release(exec, Pool::ConstBlockIds(blocks.data(), count), Pool::ConstReferences(references.data(), count));
        exec.fence(wait_label);
        rest = rest.subspan(count);
      }
    }
  }

  // -- forks and prunes

  std::vector<BranchId> change(std::span<const BranchFork> forks, std::span<const BranchId> prunes,
                               const char* function);
  void expects_forks(std::span<const BranchFork> forks, const char* function) const;
  NodeIndex fork_node(const BranchFork& fork, std::vector<NodeIndex>& cuts);
  void count_change(NodeIndex tail, std::int32_t by, std::vector<NodeIndex>& changed);
  void remove_unused_nodes(NodeIndex tail) noexcept;

  // -- growth

  BranchId root(std::int64_t tokens);
  void append(std::span<const BranchId> ids, std::int64_t tokens);
  [[nodiscard]] std::int64_t blocks_for(std::int64_t tokens) const;
  Growth plan_growth(BranchId id, std::int64_t tokens);
  void reserve_blocks(const Growth& growth);
  [[nodiscard]] std::vector<BlockId> begin_blocks(const Growth& growth);
  void lengthen(NodeIndex node, std::int64_t tokens) noexcept;
  NodeIndex add_own_node(const Growth& growth, std::vector<BlockId> blocks) noexcept;

  // -- slots, snapshots

  void write_slots(NodeIndex tail, std::int64_t begin, std::span<std::int64_t> slots) const;
  void last_slots(std::span<const BranchId> ids, std::int64_t tokens, std::span<std::int64_t> slots) const;
  void snapshot(std::span<const BranchRow> rows, TreeSnapshot& snapshot) const;
  void add_to_line(NodeIndex node, std::int32_t position_of_parent, TreeSnapshot& snapshot) const;

  void reserve(const KvTreeCapacity& capacity);

  /// What actions work on; kept, so that they need not allocate it again.
  struct Work {
    std::vector<NodeIndex> fork_nodes, prune_tails, cuts, changed;
    ReferenceList gained, lost;
    std::vector<Growth> growths;
    std::vector<std::vector<BlockId>> new_lists;
    std::vector<BlockId> acquired;
  };

  /// Likewise for snapshots.
  struct SnapshotWork {
    std::vector<std::int32_t> position;  // of each node in the line
    std::vector<NodeIndex> row_nodes;
    std::vector<detail::PlacedRow> placed;
  };

  Exec exec;
  Pool& pool;
  TreeTopology topology;
  Work work;
  mutable SnapshotWork snapshot_work;
  std::vector<Branch> branches;
  std::vector<std::int32_t> unused_branches;  // capacity for all of branches
  std::int32_t first_branch = -1;
  std::int32_t last_branch = -1;
  std::int32_t live_branches = 0;
  std::int64_t stored_tokens = 0;
  std::int64_t unshared_tokens = 0;
  std::uint64_t version = 0;
  std::uint64_t call = 0;  // number of the action under way: marks what it has met
};

// -------------------------------------------------------------------------------------------------- forks and prunes

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

// ------------------------------------------------------------------------------------------------------------ growth

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

// --------------------------------------------------------------------------------------------------- slots, snapshots

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

// ----------------------------------------------------------------------------------------------------- the public face

KvTree::KvTree(const Exec& exec, Pool& pool) : impl_(std::make_unique<Impl>(exec, pool)) {}
KvTree::~KvTree() = default;
KvTree::KvTree(KvTree&&) noexcept = default;
KvTree& KvTree::operator=(KvTree&&) noexcept = default;

bool KvTree::is_live(BranchId branch) const noexcept { return impl_->is_live(branch); }

std::vector<BranchId> KvTree::branches() const {
  std::vector<BranchId> live;
  live.reserve(std::size_t(impl_->live_branches));
  for (std::int32_t index = impl_->first_branch; index >= 0; index = impl_->branches[index].next) {
    live.push_back(impl_->id_of(index));
  }
  return live;
}

std::int64_t KvTree::tokens(BranchId branch) const {
  return impl_->tokens_of(impl_->expects_live(branch, "KvTree::tokens"));
}

std::int32_t KvTree::nodes() const { return impl_->topology.nodes(); }
std::int64_t KvTree::stored_tokens() const { return impl_->stored_tokens; }
std::int64_t KvTree::unshared_tokens() const { return impl_->unshared_tokens; }
const KvTree::Pool& KvTree::pool() const { return impl_->pool; }
std::uint64_t KvTree::version() const { return impl_->version; }

std::vector<std::int64_t> KvTree::slots(BranchId branch, std::int64_t begin, std::int64_t end) const {
  const Branch& self = impl_->expects_live(branch, "KvTree::slots");
  const std::int64_t length = impl_->tokens_of(self);
  if (end == kBranchEnd) end = length;
  expects(0 <= begin && begin <= end && end <= length, ErrorCode::invalid_argument, "KvTree::slots: tokens ", begin,
          " .. ", end, " of branch ", Named{branch}, ", which has ", length);
  std::vector<std::int64_t> slots(std::size_t(end - begin));
  impl_->write_slots(self.tail, begin, slots);
  return slots;
}

std::vector<std::int64_t> KvTree::last_slots(std::span<const BranchId> branches, std::int64_t tokens) const {
  expects(tokens >= 0, ErrorCode::invalid_argument, "KvTree::last_slots: tokens is ", tokens, ", expected 0 or more");
  std::int64_t shortest = branches.empty() ? tokens : kBranchEnd;  // nothing is allocated for what will be refused
  for (const BranchId branch : branches)
    shortest = std::min(shortest, impl_->tokens_of(impl_->expects_live(branch, "KvTree::last_slots")));
  std::vector<std::int64_t> slots(tokens <= shortest ? branches.size() * std::size_t(tokens) : 0);
  impl_->last_slots(branches, tokens, slots);
  return slots;
}

void KvTree::last_slots(std::span<const BranchId> branches, std::int64_t tokens, std::span<std::int64_t> slots) const {
  impl_->last_slots(branches, tokens, slots);
}

TreeSnapshot KvTree::snapshot() const {
  std::vector<BranchRow> rows;
  rows.reserve(std::size_t(impl_->live_branches));
  for (const BranchId branch : branches()) rows.push_back({branch});
  return snapshot(rows);
}

TreeSnapshot KvTree::snapshot(std::span<const BranchRow> rows) const {
  TreeSnapshot snapshot;
  impl_->snapshot(rows, snapshot);
  return snapshot;
}

void KvTree::snapshot(std::span<const BranchRow> rows, TreeSnapshot& snapshot) const {
  impl_->snapshot(rows, snapshot);
}

void KvTree::reserve(const KvTreeCapacity& capacity) { impl_->reserve(capacity); }

BranchId KvTree::root(std::int64_t tokens) { return impl_->root(tokens); }

std::vector<BranchId> KvTree::fork(BranchId branch, std::int32_t count) {
  const BranchFork fork{branch, count};
  return impl_->change({&fork, 1}, {}, "KvTree::fork");
}

std::vector<BranchId> KvTree::split(BranchId branch, std::int64_t at_token, std::int32_t count) {
  const BranchFork fork{branch, count, at_token};
  return impl_->change({&fork, 1}, {}, "KvTree::split");
}

void KvTree::append(BranchId branch, std::int64_t tokens) { impl_->append({&branch, 1}, tokens); }

void KvTree::append(std::span<const BranchId> branches, std::int64_t tokens) { impl_->append(branches, tokens); }

void KvTree::prune(BranchId branch) { impl_->change({}, {&branch, 1}, "KvTree::prune"); }

std::vector<BranchId> KvTree::apply(const BranchDecision& decision) {
  return impl_->change(decision.forks, decision.prunes, "KvTree::apply");
}

}  // namespace espalier
