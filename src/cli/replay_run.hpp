#pragma once
// What a replay does with each kind of trace. Both end with no branch alive.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/decode_session.hpp"
#include "cli/input_error.hpp"
#include "cli/text.hpp"
#include "cli/trace.hpp"

namespace espalier::cli {

struct ReplayOptions {
  HeadShape heads;
  PlanStrategy strategy = PlanStrategy::sequence;  ///< of shared attention
  std::optional<CostModel> cost_model = {};        ///< none: that of the device
  int block_tokens = 16;
  std::int64_t cache_tokens = 8 << 20;  ///< of the pool that chat requests live in
  std::int32_t live = 512;              ///< chat requests that stay in the cache
  std::int64_t attend_every = 0;        ///< chat requests, or steps of a tree of thoughts; 0: never
  std::uint64_t seed = 1;
};

/// How much was shared. A moment is a step of a tree of thoughts, or the arrival of a chat request.
struct Sharing {
  std::int64_t moments = 0;
  double stored_sum = 0, unshared_sum = 0;  ///< tokens, over all moments
  std::int64_t peak_stored = 0, peak_unshared = 0, peak_blocks = 0, peak_unshared_blocks = 0;
  std::int32_t peak_branches = 0;

  /// @param blocks  in use
  void observe(const KvTree& tree, std::int64_t blocks) {
    ++moments;
    stored_sum += double(tree.stored_tokens());
    unshared_sum += double(tree.unshared_tokens());
    if (tree.unshared_tokens() <= peak_unshared) return;
    const int block_tokens = tree.pool().config().block_tokens;
    const std::vector<BranchId> branches = tree.branches();
    peak_stored = tree.stored_tokens();
    peak_unshared = tree.unshared_tokens();
    peak_blocks = blocks;
    peak_unshared_blocks = 0;
    for (const BranchId branch : branches)
      peak_unshared_blocks += (tree.tokens(branch) + block_tokens - 1) / block_tokens;
    peak_branches = std::int32_t(branches.size());
  }

  /// Joins another trace: sums add up, the larger peak stays.
  void include(const Sharing& other) {
    const Sharing& larger = other.peak_unshared > peak_unshared ? other : *this;
    const Sharing sums{moments + other.moments, stored_sum + other.stored_sum, unshared_sum + other.unshared_sum};
    *this = larger;
    moments = sums.moments;
    stored_sum = sums.stored_sum;
    unshared_sum = sums.unshared_sum;
  }
};

/// Sampled attention: all rows of a step, planned and attended with both strategies.
struct Samples {
  std::int64_t steps = 0;
  std::int64_t rows = 0;
  double shared_ms = 0, sequence_ms = 0;  ///< sums, planning included
  StepError error;                        ///< of the rows that were checked

  static constexpr std::int32_t kCheckedRows = 2;  // of each step: the oracle is slow

  template <class Session>
  void take(Session& session, std::span<const BranchRow> sampled_rows, PlanStrategy strategy) {
    session.begin_step(sampled_rows);
    const double sequence = session.attend(PlanStrategy::sequence).total_ms();
    const double shared = session.attend(strategy).total_ms();
    error.include(session.check(kCheckedRows));
    ++steps;
    rows += std::int64_t(sampled_rows.size());
    if (steps == 1) return;  // the first step warms up
    sequence_ms += sequence;
    shared_ms += shared;
  }
};

struct ChatResult {
  Sharing sharing;
  Samples samples;
  std::int64_t input_tokens = 0, output_tokens = 0;
  std::int64_t found_tokens = 0;  ///< of the input: prefixes that live requests had
  std::int64_t early_prunes = 0;  ///< requests that left because the pool was full
  PoolStats pool{};               ///< at the end
};

struct ThoughtResult {
  std::string name;
  Sharing sharing;
  std::int64_t thoughts = 0;
  std::int64_t blocks_at_end = 0;  ///< still in use when every branch was pruned
};

// -------------------------------------------------------------------------------------------------------------- chat

/// A request that is in the cache.
struct LiveRequest {
  const ChatRequest* request;
  BranchId branch;

  /// Leading input tokens that both have.
  [[nodiscard]] std::int64_t common_tokens(const ChatRequest& other) const {
    const auto& ids = request->block_ids;
    const auto [end, other_end] = std::ranges::mismatch(ids, other.block_ids);
    return std::min({(end - ids.begin()) * kTraceBlockTokens, request->input_tokens, other.input_tokens});
  }
};

template <ScalarElement Element>
class ChatReplay {
 public:
  ChatReplay(const ReplayOptions& options, std::span<const ChatRequest> requests)
      : options_(options),
        requests_(requests),
        session_(typename DecodeSession<Element>::Exec(), options.heads, blocks_for(options, requests),
                 options.block_tokens, options.seed, options.cost_model) {}

  ChatResult run() {
    ProgressBar progress(std::int64_t(requests_.size()), "requests");
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      admit(i);
      result_.sharing.observe(session_.tree(), session_.used_blocks());
      if (options_.attend_every > 0 && (i + 1) % std::size_t(options_.attend_every) == 0) sample();
      progress.show(std::int64_t(i) + 1);
    }
    while (!live_.empty()) prune_oldest();
    result_.pool = session_.pool_stats();
    return result_;
  }

 private:
  /// The whole cache, or all that a small trace can fill.
  static std::int64_t blocks_for(const ReplayOptions& options, std::span<const ChatRequest> requests) {
    std::int64_t most = 0;
    for (const ChatRequest& request : requests)
      most += (request.input_tokens + request.output_tokens) / options.block_tokens + 2;
    return std::min(most, options.cache_tokens / options.block_tokens);
  }

  /// Stores a request's input behind the longest prefix that is there already, then its output.
  void admit(std::size_t number) {
    const ChatRequest& request = requests_[number];
    std::int64_t found = 0;
    const LiveRequest* source = nullptr;
    for (const LiveRequest& live : live_)  // among equals the most recent
      if (const std::int64_t common = live.common_tokens(request); common > 0 && common >= found) {
        found = common;
        source = &live;
      }
    const BranchId branch = source == nullptr ? session_.root() : session_.fork(source->branch, 1, found)[0];
    if (std::int64_t(live_.size()) >= options_.live) prune_oldest();
    const std::int64_t missing = request.input_tokens - found + request.output_tokens;
    const std::int64_t blocks = missing / options_.block_tokens + 2;
    for (; session_.free_blocks() < blocks && !live_.empty(); ++result_.early_prunes) prune_oldest();
    if (session_.free_blocks() < blocks)
      bad_input("request ", number + 1, " has ", request.input_tokens + request.output_tokens,
                " tokens, expected that they fit into the cache of --cache-tokens ", options_.cache_tokens);
    session_.begin_run(branch, mix(options_.seed, 2 * number));
    session_.append(std::span(&branch, 1), request.input_tokens - found);
    session_.begin_run(branch, mix(options_.seed, 2 * number + 1));
    session_.append(std::span(&branch, 1), request.output_tokens);
    live_.push_back({&request, branch});
    result_.input_tokens += request.input_tokens;
    result_.output_tokens += request.output_tokens;
    result_.found_tokens += found;
  }

  void prune_oldest() {
    session_.prune(live_.front().branch);
    live_.pop_front();
  }

  void sample() {
    std::vector<BranchRow> rows;
    rows.reserve(live_.size());
    for (const LiveRequest& live : live_) rows.push_back({live.branch});
    result_.samples.take(session_, rows, options_.strategy);
  }

  ReplayOptions options_;
  std::span<const ChatRequest> requests_;
  DecodeSession<Element> session_;
  std::deque<LiveRequest> live_;  // oldest first
  ChatResult result_;
};

// -------------------------------------------------------------------------------------------------- trees of thoughts

template <ScalarElement Element>
class ThoughtReplay {
 public:
  ThoughtReplay(const ReplayOptions& options, std::span<const ThoughtTrace> traces)
      : options_(options),
        traces_(traces),
        session_(typename DecodeSession<Element>::Exec(), options.heads, blocks_for(traces, options.block_tokens),
                 options.block_tokens, options.seed, options.cost_model) {}

  /// One result per trace.
  std::vector<ThoughtResult> run() {
    std::int64_t steps = 0, done = 0;
    for (const ThoughtTrace& trace : traces_) steps += last_step(trace);
    ProgressBar progress(steps, "steps");
    std::vector<ThoughtResult> results;
    for (const ThoughtTrace& trace : traces_) {
      begin(trace);
      for (std::int64_t step = 1; step <= last_step(trace); ++step) {
        if (growing_.empty()) step = next_ == by_first_step_.size() ? last_step(trace) : first_step_of_next();
        decode(step);
        progress.show(done + step);
      }
      done += last_step(trace);
      for (const BranchId branch : session_.tree().branches()) session_.prune(branch);
      results.push_back({trace.name, sharing_, std::int64_t(trace.thoughts.size()), session_.used_blocks()});
    }
    return results;
  }

  [[nodiscard]] const Samples& samples() const { return samples_; }
  [[nodiscard]] PoolStats pool_stats() const { return session_.pool_stats(); }

 private:
  /// Enough for every thought of the largest trace at once.
  static std::int64_t blocks_for(std::span<const ThoughtTrace> traces, int block_tokens) {
    std::int64_t most = 1;
    for (const ThoughtTrace& trace : traces) {
      std::int64_t blocks = 1;
      for (const Thought& thought : trace.thoughts) blocks += thought.tokens / block_tokens + 2;
      most = std::max(most, blocks);
    }
    return most;
  }

  static std::int32_t last_step(const ThoughtTrace& trace) {
    std::int32_t last = 0;
    for (const Thought& thought : trace.thoughts) last = std::max(last, thought.last_step);
    return last;
  }

  /// Puts the prompts into the tree.
  void begin(const ThoughtTrace& trace) {
    trace_ = &trace;
    sharing_ = {};
    ++trace_number_;
    branches_.assign(trace.thoughts.size(), {});
    unborn_.assign(trace.thoughts.size(), 0);
    by_first_step_.clear();
    for (std::size_t id = 0; id < trace.thoughts.size(); ++id) {
      const Thought& thought = trace.thoughts[id];
      if (thought.parent < 0) {
        branches_[id] = session_.root();
        start(id);
        session_.append(std::span(&branches_[id], 1), thought.tokens);
      } else {
        ++unborn_[std::size_t(thought.parent)];
        by_first_step_.push_back(id);
      }
    }
    std::ranges::stable_sort(by_first_step_, {}, [&](std::size_t id) { return trace.thoughts[id].first_step; });
    next_ = 0;
    growing_.clear();
  }

  [[nodiscard]] std::int64_t first_step_of_next() const { return trace_->thoughts[by_first_step_[next_]].first_step; }

  void start(std::size_t id) { session_.begin_run(branches_[id], mix(mix(options_.seed, trace_number_), id)); }

  /// Thoughts begin, thoughts end, and every growing one gets a token.
  void decode(std::int64_t step) {
    while (next_ < by_first_step_.size() && first_step_of_next() <= step) fork_next(step);
    prune_ended(step);
    if (growing_.empty()) return;
    std::vector<BranchId> branches;
    branches.reserve(growing_.size());
    for (const std::size_t id : growing_) branches.push_back(branches_[id]);
    session_.append(branches, 1);
    sharing_.observe(session_.tree(), session_.used_blocks());
    if (options_.attend_every > 0 && ++step_number_ % options_.attend_every == 0) {
      std::vector<BranchRow> rows;
      rows.reserve(branches.size());
      for (const BranchId branch : branches) rows.push_back({branch});
      samples_.take(session_, rows, options_.strategy);
    }
  }

  /// Forks the thoughts that begin off their parents, up to one whose parent begins here as well (it has no tokens). A
  /// parent whose children all exist is pruned.
  void fork_next(std::int64_t step) {
    const std::vector<Thought>& thoughts = trace_->thoughts;
    BranchDecision decision;
    std::vector<std::size_t> born;
    for (; next_ < by_first_step_.size() && first_step_of_next() <= step; ++next_) {
      const std::size_t id = by_first_step_[next_];
      const auto parent = std::size_t(thoughts[id].parent);
      if (std::ranges::find(born, parent) != born.end()) break;
      born.push_back(id);
      decision.forks.push_back({branches_[parent], 1});
      if (--unborn_[parent] == 0) decision.prunes.push_back(branches_[parent]);
    }
    const std::vector<BranchId> created = session_.apply(decision);
    for (std::size_t i = 0; i < born.size(); ++i) {
      branches_[born[i]] = created[i];
      start(born[i]);
      growing_.push_back(born[i]);
    }
  }

  /// Thoughts that have ended stop growing; those without children are pruned.
  void prune_ended(std::int64_t step) {
    BranchDecision decision;
    std::erase_if(growing_, [&](std::size_t id) {
      if (trace_->thoughts[id].last_step >= step) return false;
      if (is_childless(id)) decision.prunes.push_back(branches_[id]);
      return true;
    });
    if (!decision.prunes.empty()) session_.apply(decision);
  }

  [[nodiscard]] bool is_childless(std::size_t id) const {
    return std::ranges::none_of(trace_->thoughts, [&](const Thought& t) { return t.parent == std::int32_t(id); });
  }

  ReplayOptions options_;
  std::span<const ThoughtTrace> traces_;
  DecodeSession<Element> session_;
  Samples samples_;
  std::int64_t step_number_ = 0;  // over all traces

  // of the trace under way
  const ThoughtTrace* trace_ = nullptr;
  std::uint64_t trace_number_ = 0;
  Sharing sharing_;
  std::vector<BranchId> branches_;          // [thoughts]
  std::vector<std::int32_t> unborn_;        // [thoughts]  children that are still to come
  std::vector<std::size_t> by_first_step_;  // thoughts that are no prompts
  std::size_t next_ = 0;                    // of by_first_step_
  std::vector<std::size_t> growing_;
};

}  // namespace espalier::cli
