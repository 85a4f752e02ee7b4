#include "espalier/kv_tree.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "state.hpp"

namespace espalier {

using detail::Branch;
using detail::expects;
using detail::Named;

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
