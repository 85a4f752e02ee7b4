// Random operations on trees that share a pool, against a plain model: every branch is a list of token identities.

#include <algorithm>
#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "espalier/error.hpp"
#include "espalier/kv_tree.hpp"

namespace espalier {
namespace {

using Identity = std::int64_t;  // of a token; no two tokens ever written share one

struct ModelBranch {
  BranchId id;
  std::vector<Identity> tokens;
};

std::vector<BranchId> ids_of(const std::vector<ModelBranch>& branches) {
  std::vector<BranchId> ids;
  for (const ModelBranch& branch : branches) ids.push_back(branch.id);
  return ids;
}

/// A tree and its model. Checks return what is wrong, empty where nothing is.
class TreeWithModel {
 public:
  TreeWithModel(const KvTree::Exec& exec, KvTree::Pool& pool)
      : block_tokens_(pool.config().block_tokens), tree_(exec, pool) {}

  // -- actions, random in everything

  void act(std::mt19937_64& random) {
    const auto below = [&](std::int64_t limit) { return std::int64_t(random() % std::uint64_t(limit)); };
    const std::int64_t kind = below(100);
    if (branches_.empty() || kind < 4) return root(below(4) == 0 ? 0 : below(6 * block_tokens_));
    if (kind < 50) return append(some(random), 1 + below(below(4) == 0 ? 3 * block_tokens_ : 2));
    if (kind < 56) return name_stale_branch(random);
    decide(random);
  }

  // -- checks

  [[nodiscard]] std::string check() {
    if (auto wrong = check_tokens(); !wrong.empty()) return wrong;
    if (auto wrong = check_snapshot(tree_.snapshot(), all_rows()); !wrong.empty()) return wrong;
    return check_joined(tree_.snapshot());
  }

  [[nodiscard]] std::string check_random_rows(std::mt19937_64& random) const {
    std::vector<BranchRow> rows;
    for (std::uint64_t count = random() % 7; count > 0 && !branches_.empty(); --count) {
      const ModelBranch& branch = branches_[random() % branches_.size()];
      rows.push_back({branch.id, std::int64_t(random() % (branch.tokens.size() + 1))});
    }
    return check_snapshot(tree_.snapshot(rows), rows);
  }

  /// One reference for each path that has a token in the block.
  void add_references(std::vector<std::int32_t>& references) const {
    for (const ModelBranch& branch : branches_) {
      std::set<std::int64_t> blocks;
      for (const Identity token : branch.tokens) blocks.insert(slot_of_.at(token) / block_tokens_);
      for (const std::int64_t block : blocks) ++references[std::size_t(block)];
    }
  }

  [[nodiscard]] std::size_t branches() const { return branches_.size(); }

 private:
  // A call that fails for want of blocks must change nothing; the model goes on as if it had not been made.
  template <class Call>
  bool succeeds(const Call& call) {
    const std::uint64_t version = tree_.version();
    try {
      call();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::capacity_exceeded || tree_.version() != version) throw;
      return false;
    }
    return true;
  }

  std::vector<Identity> new_tokens(std::int64_t count) {
    std::vector<Identity> tokens;
    for (; count > 0; --count) tokens.push_back(next_identity_++);
    return tokens;
  }

  void learn_slots(const ModelBranch& branch) {
    const auto slots = tree_.slots(branch.id, 0);
    for (std::size_t i = 0; i < branch.tokens.size() && i < slots.size(); ++i) {
      slot_of_.emplace(branch.tokens[i], slots[i]);  // keeps the slot where the token was first written
    }
  }

  std::vector<std::size_t> some(std::mt19937_64& random) const {
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < branches_.size(); ++i) indices.push_back(i);
    std::shuffle(indices.begin(), indices.end(), random);
    indices.resize(1 + random() % std::min<std::size_t>(indices.size(), random() % 2 == 0 ? 1 : 100));
    return indices;
  }

  void root(std::int64_t tokens) {
    BranchId id;
    if (!succeeds([&] { id = tree_.root(tokens); })) return;
    branches_.push_back({id, new_tokens(tokens)});
    learn_slots(branches_.back());
  }

  void append(const std::vector<std::size_t>& indices, std::int64_t tokens) {
    std::vector<BranchId> ids;
    for (const std::size_t index : indices) ids.push_back(branches_[index].id);
    std::set<std::int64_t> taken = live_slots();
    if (!succeeds([&] { tree_.append(ids, tokens); })) return;
    for (const std::size_t index : indices) {
      ModelBranch& branch = branches_[index];
      // The slot behind the last token, where the block has one and nobody took it: or else a new block.
      const std::int64_t next = branch.tokens.empty() ? 0 : slot_of_.at(branch.tokens.back()) + 1;
      const bool continues = next % block_tokens_ != 0 && taken.insert(next).second;
      const std::int64_t first = tree_.slots(branch.id, std::ssize(branch.tokens))[0];
      if (continues ? first != next : first % block_tokens_ != 0) throw std::logic_error("a branch grew elsewhere");
      const auto added = new_tokens(tokens);
      branch.tokens.insert(branch.tokens.end(), added.begin(), added.end());
      learn_slots(branch);
    }
  }

  [[nodiscard]] std::set<std::int64_t> live_slots() const {
    std::set<std::int64_t> slots;
    for (const ModelBranch& branch : branches_) {
      for (const Identity token : branch.tokens) slots.insert(slot_of_.at(token));
    }
    return slots;
  }

  void decide(std::mt19937_64& random) {
    BranchDecision decision;
    std::vector<ModelBranch> created;
    const bool crowded = branches_.size() > 14;
    for (std::uint64_t forks = random() % (crowded ? 1 : 4); forks > 0; --forks) {
      const ModelBranch& branch = branches_[random() % branches_.size()];
      const auto count = std::int32_t(random() % 3);
      const bool at_end = random() % 2 == 0;
      const std::size_t at = at_end ? branch.tokens.size() : random() % (branch.tokens.size() + 1);
      decision.forks.push_back({branch.id, count, at_end ? kBranchEnd : std::int64_t(at)});
      for (std::int32_t copy = 0; copy < count; ++copy) {
        created.push_back({{}, {branch.tokens.begin(), branch.tokens.begin() + std::ptrdiff_t(at)}});
      }
    }
    if (random() % 2 == 0) {
      auto pruned = some(random);
      if (!crowded) pruned.resize(std::min<std::size_t>(pruned.size(), 3));
      std::sort(pruned.rbegin(), pruned.rend());
      for (const std::size_t index : pruned) {
        decision.prunes.push_back(branches_[index].id);
        stale_.push_back(branches_[index].id);
        branches_.erase(branches_.begin() + std::ptrdiff_t(index));
      }
    }
    const auto ids = tree_.apply(decision);
    if (ids.size() != created.size()) throw std::logic_error("apply returned another number of branches");
    for (std::size_t i = 0; i < ids.size(); ++i) branches_.push_back({ids[i], std::move(created[i].tokens)});
  }

  void name_stale_branch(std::mt19937_64& random) {
    if (stale_.empty()) return;
    const BranchId stale = stale_[random() % stale_.size()];
    const BranchId live = branches_[0].id;
    const std::uint64_t version = tree_.version();
    bool refused = false;
    try {
      switch (random() % 4) {
        case 0: tree_.append(std::vector<BranchId>{live, stale}, 3); break;
        case 1: tree_.apply({{{live, 2, 0}, {stale, 1}}, {}}); break;
        case 2: tree_.apply({{{live, 2, 0}}, {live, stale}}); break;
        default: (void)tree_.snapshot(std::vector<BranchRow>{{live}, {stale}}); break;
      }
    } catch (const Error& error) {
      refused = error.code() == ErrorCode::invalid_argument;
    }
    if (!refused || tree_.version() != version) throw std::logic_error("a stale branch was accepted");
  }

  [[nodiscard]] std::vector<BranchRow> all_rows() const {
    std::vector<BranchRow> rows;
    for (const ModelBranch& branch : branches_) rows.push_back({branch.id, std::int64_t(branch.tokens.size())});
    return rows;
  }

  [[nodiscard]] std::vector<std::int64_t> slots_of(const std::vector<Identity>& tokens, std::size_t count) const {
    std::vector<std::int64_t> slots;
    for (std::size_t i = 0; i < count; ++i) slots.push_back(slot_of_.at(tokens[i]));
    return slots;
  }

  /// Every token lies where it was first written, and no two live tokens lie in one slot: so the slots of two branches
  /// are the same on their shared prefix and nowhere else.
  [[nodiscard]] std::string check_tokens() const {
    if (tree_.branches() != ids_of(branches_)) return "the live branches differ";
    std::unordered_map<std::int64_t, Identity> token_in;
    std::int64_t unshared = 0;
    for (const ModelBranch& branch : branches_) {
      if (!tree_.is_live(branch.id)) return "a live branch is not";
      if (tree_.tokens(branch.id) != std::ssize(branch.tokens)) return "the length of a branch differs";
      if (tree_.slots(branch.id, 0) != slots_of(branch.tokens, branch.tokens.size())) return "a token has moved";
      const std::int64_t last = std::ssize(branch.tokens) / 2;
      if (tree_.last_slots({&branch.id, 1}, last) != tree_.slots(branch.id, std::ssize(branch.tokens) - last)) {
        return "last_slots and slots differ";
      }
      for (const Identity token : branch.tokens) {
        if (token_in.emplace(slot_of_.at(token), token).first->second != token) return "two tokens lie in one slot";
      }
      unshared += std::ssize(branch.tokens);
    }
    if (tree_.stored_tokens() != std::ssize(token_in)) return "stored_tokens differs";
    if (tree_.unshared_tokens() != unshared) return "unshared_tokens differs";
    return "";
  }

  /// The path of every row, read from the arrays alone, gives the slots of the branch's first tokens.
  [[nodiscard]] std::string check_snapshot(const TreeSnapshot& tree, const std::vector<BranchRow>& rows) const {
    if (tree.rows() != std::ssize(rows)) return "the snapshot has another number of rows";
    std::vector<std::set<std::int32_t>> rows_below(std::size_t(tree.nodes()));
    std::size_t entries = 0;
    for (std::int32_t node = 0; node < tree.nodes(); ++node) {
      // Preorder: the parent is the node before or an ancestor of it.
      std::int32_t ancestor = node - 1;
      while (ancestor >= 0 && ancestor != tree.parent[node]) ancestor = tree.parent[ancestor];
      if (ancestor != tree.parent[node]) return "the nodes are not in depth-first order";
      if (tree.first_block[node] != std::ssize(tree.block_table) && tree.first_block[node] != std::int32_t(entries)) {
        return "the block table has gaps";
      }
      std::int32_t last = node;  // the last node that descends from this one
      while (last + 1 < tree.nodes() && tree.parent[last + 1] >= node) ++last;
      if (tree.subtree_end[node] != last + 1) return "the end of a subtree differs";
      const std::int32_t slots = tree.first_offset[node] + tree.tokens[node];
      entries += std::size_t((slots + block_tokens_ - 1) / block_tokens_);
    }
    if (entries != tree.block_table.size()) return "the block table has another size";

    std::set<std::int32_t> indices;
    for (std::int32_t row = 0; row < tree.rows(); ++row) {
      if (row > 0 && std::tuple(tree.row_node[row - 1], tree.row_visible[row - 1], tree.row_index[row - 1]) >=
                         std::tuple(tree.row_node[row], tree.row_visible[row], tree.row_index[row])) {
        return "the rows are not in order";
      }
      std::vector<std::int64_t> slots;
      std::int32_t visible = tree.row_visible[row];
      if (visible < 0 || visible > tree.tokens[tree.row_node[row]]) return "a row sees tokens that do not exist";
      for (std::int32_t node = tree.row_node[row]; node >= 0; node = tree.parent[node]) {
        rows_below[node].insert(row);
        for (std::int32_t token = visible; token-- > 0;) {
          const std::int32_t place = tree.first_offset[node] + token;
          const auto block =
              std::int64_t(tree.block_table[std::size_t(tree.first_block[node] + place / block_tokens_)]);
          slots.push_back(block * block_tokens_ + place % block_tokens_);
        }
        if (tree.parent[node] >= 0) visible = tree.tokens[tree.parent[node]];
      }
      std::reverse(slots.begin(), slots.end());
      const BranchRow& wanted = rows[std::size_t(tree.row_index[row])];
      const auto& tokens = std::find_if(branches_.begin(), branches_.end(), [&](const ModelBranch& branch) {
                             return branch.id == wanted.branch;
                           })->tokens;
      if (slots != slots_of(tokens, std::size_t(wanted.tokens))) return "a row does not see its path";
      indices.insert(tree.row_index[row]);
    }
    if (std::ssize(indices) != tree.rows()) return "a row is missing";
    for (std::int32_t node = 0; node < tree.nodes(); ++node) {
      if (rows_below[node].empty()) return "a node without rows was not left out";
      if (*rows_below[node].begin() != tree.row_begin[node] || *rows_below[node].rbegin() + 1 != tree.row_end[node] ||
          std::ssize(rows_below[node]) != tree.row_end[node] - tree.row_begin[node]) {
        return "the interval of rows below a node differs";
      }
    }
    return "";
  }

  /// No two nodes are left that could be one: nodes are maximal runs.
  [[nodiscard]] std::string check_joined(const TreeSnapshot& tree) const {
    if (tree.nodes() != tree_.nodes()) return "nodes() counts nodes that no branch needs";
    std::vector<int> children(std::size_t(tree.nodes()), 0);
    std::vector<int> rows(std::size_t(tree.nodes()), 0);
    for (const std::int32_t parent : tree.parent) {
      if (parent >= 0) ++children[std::size_t(parent)];
    }
    for (const std::int32_t node : tree.row_node) ++rows[std::size_t(node)];
    for (std::int32_t node = 0; node < tree.nodes(); ++node) {
      const std::int32_t parent = tree.parent[node];
      if (parent < 0) continue;
      if (tree.tokens[node] == 0) return "a node below a root has no tokens";
      if (children[std::size_t(parent)] != 1 || rows[std::size_t(parent)] != 0) continue;
      const bool block_is_full = (tree.first_offset[parent] + tree.tokens[parent]) % block_tokens_ == 0;
      if (tree.tokens[parent] == 0 || block_is_full || tree.first_offset[node] != 0) return "two nodes could be one";
    }
    return "";
  }

  int block_tokens_;
  KvTree tree_;
  std::vector<ModelBranch> branches_;  // in order of creation
  std::vector<BranchId> stale_;
  std::unordered_map<Identity, std::int64_t> slot_of_;
  Identity next_identity_ = 0;
};

}  // namespace

TEST_CASE("trees that share a pool do what a model of private lists does", "[kv_tree][property]") {
  const KvTree::Exec exec;
  for (const std::uint64_t seed : {1, 2, 3, 4, 5, 6, int(Catch::getSeed() & 0x7fffffff)}) {
    std::mt19937_64 random(seed);
    const int block_tokens = std::vector<int>{1, 2, 3, 4, 7, 16}[random() % 6];
    const auto blocks = std::int32_t(20 + random() % 200);  // small enough to run out at times
    CAPTURE(seed, block_tokens, blocks);
    KvTree::Pool pool(exec, {blocks, block_tokens});
    {
      TreeWithModel first(exec, pool);
      TreeWithModel second(exec, pool);
      for (int step = 0; step < 700; ++step) {
        TreeWithModel& tree = random() % 3 == 0 ? second : first;
        tree.act(random);
        std::string wrong = tree.check();
        if (wrong.empty()) wrong = tree.check_random_rows(random);

        // Counts are the references of live paths: what is referenced is not free, and the rest is.
        std::vector<std::int32_t> references(std::size_t(blocks), 0);
        first.add_references(references);
        second.add_references(references);
        const PoolStats stats = pool.stats(exec);
        for (std::int32_t block = 0; block < blocks && wrong.empty(); ++block) {
          if (pool.counts()(block) != references[block]) wrong = "the references of a block differ";
        }
        if (stats.free != std::count(references.begin(), references.end(), 0)) wrong = "free blocks differ";
        if (stats.error.fault != PoolFault::none) wrong = std::string("pool: ") + name_of(stats.error.fault);
        if (!wrong.empty()) {
          CAPTURE(step);
          FAIL(wrong);
        }
      }
    }
    REQUIRE(pool.stats(exec).free == blocks);
  }
}

}  // namespace espalier
