#pragma once
// Decoding without a model: the tree of live branches, a layer whose K, V and q stand in for a model's, and the check
// of its attention against the oracle.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cli/layer.hpp"
#include "cli/options.hpp"
#include "cli/random.hpp"
#include "cli/stopwatch.hpp"
#include "espalier/kv_tree.hpp"
#include "espalier/plan.hpp"
#include "espalier/tree_arrays.hpp"
#include "support/oracle.hpp"

namespace espalier::cli {

/// Vectors that the identity of a token picks, so that whoever knows what a branch has read can recompute its attention
/// without the tree, its blocks or its slots.
template <ScalarElement Element>
class TokenVectors {
 public:
  /// @param size  elements of one vector
  TokenVectors(std::size_t size, std::uint64_t seed, float spread) : size_(size), values_(kDistinct * size) {
    Random random(seed);
    for (Element& value : values_) value = from_float<Element>(spread * random.normal());
  }

  [[nodiscard]] std::span<const Element> operator[](std::uint64_t token) const {
    return std::span(values_).subspan(std::size_t(token % kDistinct) * size_, size_);
  }

 private:
  static constexpr std::size_t kDistinct = 1021;
  std::size_t size_;
  std::vector<Element> values_;  // [kDistinct, size]
};

/// How far out and lse are from the oracle's. A result that is not a number stays one here, and is no good error.
struct StepError {
  double out = 0;  ///< largest of all rows, by norm: |out - truth| / |truth|
  double lse = 0;  ///< largest absolute difference
  std::int64_t rows = 0;
  std::int64_t longest_path = 0;  ///< tokens

  void include(const StepError& other) {
    out = std::isnan(other.out) || other.out > out ? other.out : out;
    lse = std::isnan(other.lse) || other.lse > lse ? other.lse : lse;
    rows += other.rows;
    longest_path = std::max(longest_path, other.longest_path);
  }

  [[nodiscard]] double allowed(Scalar scalar) const { return tolerance(scalar, longest_path); }
  [[nodiscard]] bool good(Scalar scalar) const { return out <= allowed(scalar); }
};

struct StepTime {
  double plan_ms = 0;
  double attend_ms = 0;
  [[nodiscard]] double total_ms() const { return plan_ms + attend_ms; }
};

template <ScalarElement Element>
class DecodeSession {
 public:
  using Exec = Kokkos::DefaultExecutionSpace;

  /// @throws InputError if this machine's memory cannot hold the cache
  DecodeSession(const Exec& exec, const HeadShape& heads, std::int64_t blocks, int block_tokens, std::uint64_t seed,
                const std::optional<CostModel>& cost_model)
      : pool_(Kokkos::DefaultHostExecutionSpace(), pool_config(heads, blocks, block_tokens)),
        tree_(Kokkos::DefaultHostExecutionSpace(), pool_),
        layer_(exec, heads, std::int32_t(blocks), block_tokens),
        k_(std::size_t(heads.kv_heads * heads.head_dim), mix(seed, 1), 1.0f),
        v_(std::size_t(heads.kv_heads * heads.head_dim), mix(seed, 2), 1.0f),
        q_(std::size_t(heads.query_heads * heads.head_dim), mix(seed, 3), 1.5f),
        cost_model_(cost_model) {}

  // -- queries

  [[nodiscard]] const KvTree& tree() const { return tree_; }
  [[nodiscard]] PoolStats pool_stats() const { return pool_.stats(Kokkos::DefaultHostExecutionSpace()); }
  [[nodiscard]] std::int64_t free_blocks() const { return pool_.free_blocks(Kokkos::DefaultHostExecutionSpace()); }
  [[nodiscard]] std::int64_t used_blocks() const { return pool_.config().blocks - free_blocks(); }

  // -- the tree's actions; the session also keeps what every branch has read

  BranchId root() {
    const BranchId branch = tree_.root(0);
    histories_[key_of(branch)] = {};
    return branch;
  }

  /// `count` new branches that share the first `at_token` tokens.
  std::vector<BranchId> fork(BranchId branch, std::int32_t count, std::int64_t at_token = kBranchEnd) {
    return apply({{{branch, count, at_token}}, {}});
  }

  std::vector<BranchId> apply(const BranchDecision& decision) {
    std::vector<BranchId> created = tree_.apply(decision);
    auto next = created.begin();
    for (const BranchFork& fork : decision.forks)
      for (std::int32_t copy = 0; copy < fork.count; ++copy)
        histories_[key_of(*next++)] = first_tokens(histories_.at(key_of(fork.branch)), fork.at_token);
    for (const BranchId branch : decision.prunes) histories_.erase(key_of(branch));
    return created;
  }

  void prune(BranchId branch) { apply({{}, {branch}}); }

  /// The next tokens of the branch are those of a run with this identity: the same run gives the same K and V.
  void begin_run(BranchId branch, std::uint64_t run) { histories_.at(key_of(branch)).push_back({run, 0}); }

  /// Lengthens branches by the next tokens of their runs, and writes their K and V.
  void append(std::span<const BranchId> branches, std::int64_t tokens) {
    tree_.append(branches, tokens);
    std::vector<std::int64_t> slots;
    std::vector<std::uint64_t> identities;
    for (const BranchId branch : branches) {
      const std::int64_t end = tree_.tokens(branch);
      const std::vector<std::int64_t> own = tree_.slots(branch, end - tokens, end);
      slots.insert(slots.end(), own.begin(), own.end());
      Run& run = histories_.at(key_of(branch)).back();
      for (std::int64_t token = 0; token < tokens; ++token)
        identities.push_back(mix(run.identity, std::uint64_t(run.tokens + token)));
      run.tokens += tokens;
    }
    layer_.append(slots, [&](std::size_t token, Element* k, Element* v) {
      std::ranges::copy(k_[identities[token]], k);
      std::ranges::copy(v_[identities[token]], v);
    });
  }

  // -- one step of attention

  /// Takes the query of each row, and puts the tree in the device's memory.
  void begin_step(std::span<const BranchRow> rows) {
    rows_.assign(rows.begin(), rows.end());
    layer_.set_queries(std::int32_t(rows_.size()),
                       [&](std::int32_t row, Element* q) { std::ranges::copy(q_[query_of(std::size_t(row))], q); });
    snapshot_ = tree_.snapshot(rows_);
    const auto need = TreeCapacity{snapshot_.nodes(), snapshot_.rows(), std::int32_t(snapshot_.block_table.size())};
    if (!arrays_ || need.nodes > arrays_->capacity().nodes || need.rows > arrays_->capacity().rows ||
        need.blocks > arrays_->capacity().blocks)
      arrays_ = std::make_unique<TreeArrays<Exec>>(
          layer_.exec(), TreeCapacity{with_room(need.nodes), with_room(need.rows), with_room(need.blocks)});
    arrays_->upload(layer_.exec(), snapshot_);
    layer_.exec().fence("espalier::cli: the tree is on the device");
  }

  /// Plans and attends the step.
  StepTime attend(PlanStrategy strategy) {
    const Exec& exec = layer_.exec();
    Plan<Exec>& plan = plan_for(strategy);
    exec.fence("espalier::cli: before a measurement");
    Stopwatch watch;
    plan.update(exec, *arrays_);
    exec.fence("espalier::cli: the plan is made");
    const double plan_ms = watch.restart();
    layer_.attend(plan);
    exec.fence("espalier::cli: the step is done");
    return {plan_ms, watch.elapsed_ms()};
  }

  /// What the last plan of this strategy does; throws if it did not fit.
  [[nodiscard]] PlanReport report(PlanStrategy strategy) const { return plans_.at(strategy).report(layer_.exec()); }

  /// Compares the last results with the oracle's over private copies of each row's path.
  /// @param most_rows  rows to check, spread evenly
  [[nodiscard]] StepError check(std::int32_t most_rows) const {
    const std::vector<float> out = layer_.out(), lse = layer_.lse();
    const auto rows = std::int32_t(rows_.size());
    const std::int32_t checked = std::min(rows, most_rows);
    StepError error;
    for (std::int32_t i = 0; i < checked; ++i)
      error.include(check_row(std::size_t(std::int64_t(i) * rows / checked), out, lse));
    return error;
  }

 private:
  /// Consecutive tokens of a branch with one source: a prompt, a thought, a block of a chat.
  struct Run {
    std::uint64_t identity;
    std::int64_t tokens;
  };
  using History = std::vector<Run>;

  static PoolConfig pool_config(const HeadShape& heads, std::int64_t blocks, int block_tokens) {
    Layer<Element>::expects_room(heads, blocks, block_tokens);
    return {std::int32_t(blocks), block_tokens};
  }

  static std::uint64_t key_of(BranchId branch) {
    return std::uint64_t(std::uint32_t(branch.index)) << 32 | branch.generation;
  }

  static std::int32_t with_room(std::int32_t need) { return need + need / 2; }

  static History first_tokens(const History& history, std::int64_t tokens) {
    History first;
    for (const Run& run : history) {
      if (tokens == 0) break;
      first.push_back({run.identity, std::min(run.tokens, tokens)});
      tokens -= first.back().tokens;
    }
    return first;
  }

  /// The query of a row depends on what its branch is about to continue.
  [[nodiscard]] std::uint64_t query_of(std::size_t row) const {
    const BranchId branch = rows_[row].branch;
    const History& history = histories_.at(key_of(branch));
    return mix(history.empty() ? 0 : history.back().identity, std::uint64_t(tree_.tokens(branch)));
  }

  Plan<Exec>& plan_for(PlanStrategy strategy) {
    PlanConfig config;
    config.heads = layer_.heads();
    config.scalar = kScalarOf<Element>;
    config.strategy = strategy;
    config.cost_model = cost_model_;
    const PlanCapacity need = Plan<Exec>::required_capacity(snapshot_, config);
    const auto existing = plans_.find(strategy);
    if (existing != plans_.end()) {
      const PlanCapacity& room = existing->second.config().capacity;
      if (need.nodes <= room.nodes && need.rows <= room.rows && need.segments <= room.segments &&
          need.tiles <= room.tiles && need.partials <= room.partials)
        return existing->second;
    }
    config.capacity = {with_room(need.nodes), with_room(need.rows), with_room(need.segments), with_room(need.tiles),
                       with_room(need.partials)};
    return plans_.insert_or_assign(strategy, Plan<Exec>(layer_.exec(), config)).first->second;
  }

  [[nodiscard]] StepError check_row(std::size_t row, const std::vector<float>& out,
                                    const std::vector<float>& lse) const {
    std::vector<float> q, k, v;
    const auto add = [](std::vector<float>& to, std::span<const Element> from) {
      for (const Element element : from) to.push_back(to_float(element));
    };
    std::vector<NodeSpec> path{{-1, 0}};
    for (const Run& run : first_tokens(histories_.at(key_of(rows_[row].branch)), rows_[row].tokens)) {
      for (std::int64_t token = 0; token < run.tokens; ++token) {
        add(k, k_[mix(run.identity, std::uint64_t(token))]);
        add(v, v_[mix(run.identity, std::uint64_t(token))]);
      }
      path[0].tokens += std::int32_t(run.tokens);
    }
    add(q, q_[query_of(row)]);
    const oracle::Result truth = oracle::attend(path, std::vector<RowSpec>{}, layer_.heads(), q, k, v);
    double difference2 = 0, truth2 = 0;
    for (std::size_t i = 0; i < truth.out.size(); ++i) {
      const double difference = double(out[row * truth.out.size() + i]) - truth.out[i];
      difference2 += difference * difference;
      truth2 += truth.out[i] * truth.out[i];
    }
    StepError error{std::sqrt(difference2 / truth2), 0, 1, path[0].tokens};
    for (std::size_t i = 0; i < truth.lse.size(); ++i)
      error.include({0, std::abs(double(lse[row * truth.lse.size() + i]) - truth.lse[i])});
    return error;
  }

  KvTree::Pool pool_;
  KvTree tree_;
  Layer<Element> layer_;
  TokenVectors<Element> k_, v_, q_;
  std::optional<CostModel> cost_model_;
  std::unordered_map<std::uint64_t, History> histories_;
  std::vector<BranchRow> rows_;  // of the step
  TreeSnapshot snapshot_;
  std::unique_ptr<TreeArrays<Exec>> arrays_;  // of the first step on
  std::map<PlanStrategy, Plan<Exec>> plans_;
};

}  // namespace espalier::cli
