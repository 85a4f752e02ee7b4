#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "espalier/cost_model.hpp"
#include "espalier/detail/fused_plan.hpp"
#include "espalier/fasttree.hpp"
#include "espalier/kernels.hpp"
#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// How the line of tokens is cut into tiles.
enum class PlanStrategy : std::uint8_t {
  sequence,        ///< one tile per row's whole path (FlashAttention): reads a shared token once per row
  sequence_split,  ///< each row's path in equal chunks (Flash-Decoding): more tiles where rows are few
  node,            ///< one tile per node and row interval (DeFT-Node): reads every token once for all its rows
  node_chunk,      ///< nodes cut in chunks of equal length (DeFT-Node-Chunk)
  flatten,         ///< the line of all nodes in equal chunks, masked (DeFT-Flatten)
  fasttree,        ///< short nodes copied into their children where that pads less (FastTree; see fasttree.hpp)
  automatic        ///< groups of nodes chosen by the cost model, cut so that all workers have the same to do
};

inline constexpr PlanStrategy kPlanStrategies[] = {
    PlanStrategy::sequence, PlanStrategy::sequence_split, PlanStrategy::node,     PlanStrategy::node_chunk,
    PlanStrategy::flatten,  PlanStrategy::fasttree,       PlanStrategy::automatic};

[[nodiscard]] const char* name_of(PlanStrategy strategy);

/// The strategy of that name, if there is one.
[[nodiscard]] std::optional<PlanStrategy> strategy_from_name(std::string_view name);

/// Numbers of the strategies that have some. A chunk of 0 is chosen at each update: an equal share of all tokens for
/// two tiles per worker, a multiple of 64, but not shorter than given here.
struct CutParams {
  std::int32_t sequence_chunk =
      0;  ///< sequence_split: tokens of a tile; at least 128 by choice, the tokens of all rows shared
  std::int32_t node_chunk = 0;  ///< node_chunk: tokens of a tile; at least 512 by choice, the tokens of the tree shared
  std::int32_t flatten_chunk = 0;  ///< flatten: likewise
  FastTreeParams fasttree;
};

/// The largest plan that fits; memory is allocated once. Where a number may be 0 it is chosen from the others; for the fused
/// sm_90 kernels, which have tiles of another form: nodes + 32 * rows segments, kv_heads * (nodes + rows) + workers tiles.
struct PlanCapacity {
  std::int32_t nodes = 0;
  std::int32_t rows = 0;
  std::int32_t segments = 0;  ///< 0: nodes + 16 * rows
  std::int32_t tiles = 0;     ///< over all KV heads; 0: kv_heads * 2 * (nodes + rows) + 4 * workers
  std::int32_t partials = 0;  ///< sum over tiles of their rows; 0: kv_heads * 16 * rows + 4 * workers
};

/// What a plan is made for and how it is cut.
struct PlanConfig {
  HeadShape heads;
  Scalar scalar = Scalar::f32;
  PlanCapacity capacity{};
  PlanStrategy strategy = PlanStrategy::automatic;
  std::int32_t workers = 0;                  ///< 0: chosen for the kernel
  std::optional<CostModel> cost_model = {};  ///< none: default_cost_model of the execution space
  CutParams cuts = {};
  /// The kernel that the plan is made for, since each wants tiles of its own. `automatic`: the fastest that the
  /// execution space, the heads, the scalar and the strategy allow.
  Kernel kernel = Kernel::automatic;
  std::string kernel_name = {};  ///< where `kernel` is automatic: none, or the one of available_kernels() it must be
};

namespace backend {
struct FusedKernel;
}

/// What a plan will do. Bytes and operations are those of one attention over one layer.
struct PlanReport {
  std::int32_t nodes;
  std::int32_t rows;
  std::int32_t segments;
  std::int32_t tiles;
  std::int32_t workers;
  std::int32_t partials;     ///< (row, KV head) results that tiles produce
  std::int32_t merged_rows;  ///< (row, KV head) pairs with more than one partial
  double kv_bytes;           ///< K and V that tiles read, shared reads counted once per tile
  double unique_kv_bytes;    ///< K and V of the tree, each token once
  double flops;              ///< multiplications and additions of both products, masked ones not counted
  double imbalance;          ///< predicted_us over what it were if all that runs together had the same to do, minus 1
  double predicted_us;       ///< time of the attention by the cost model; a thread of a CPU runs 16 workers, one after
                             ///< another, on a GPU all workers run together
};

/// Tiles, their workers and the merge lists, for one tree on one device.
///
/// Capacities are fixed at construction; update() allocates nothing and waits for nothing. The plan also owns the
/// partial results of attend(), so one plan serves one attention at a time (the layers of a model, one after another).
template <ExecutionSpace Exec>
class Plan {
 public:
  /// @throws Error{invalid_argument} for a head shape, capacity or worker count that makes no sense, or a kernel_name that
  /// no kernel has; Error{unsupported} if the kernel that the configuration asks for cannot do this
  Plan(const Exec& exec, const PlanConfig& config);
  ~Plan();
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;

  /// The configuration, with the defaults filled in.
  [[nodiscard]] const PlanConfig& config() const;

  /// The kernel that attend() will run, and where that is the portable one though a fused one would have been welcome,
  /// why not (`why_not`).
  [[nodiscard]] const KernelInfo& kernel() const;

  /// The capacity that planning this tree with `config.strategy` takes; computed on the host. The instance, the one that
  /// the plan will be made for, only chooses the workers when `config.workers` is 0.
  /// @throws Error as the constructor, Error{capacity_exceeded} for a plan that no capacity can hold
  [[nodiscard]] static PlanCapacity required_capacity(const TreeSnapshot& snapshot, const PlanConfig& config,
                                                      const Exec& exec = Exec{});

  /// Plans the tree; enqueued on the instance. The tree's arrays must stay alive and unchanged until the attentions
  /// that use this plan have run.
  /// @throws Error{unsupported} if the plan's kernel does not take the tree's block_tokens
  /// @throws Error{capacity_exceeded} if the tree has more nodes or rows than the plan's capacity. Capacities that only
  /// the device can check (segments, tiles, partials) are reported by report(): such a plan has no tiles.
  void update(const Exec& exec, const TreeArrays<Exec>& tree);

  /// Brings the plan up to date with a tree that has the same nodes and rows as in the last update, but longer ones:
  /// nodes may have gained tokens, and rows that saw all of their node still do. One small kernel, nothing else, so that
  /// a captured graph of grow, append and attend stays valid while the tree grows. Tiles only get longer: call update
  /// every few dozen tokens for a fresh balance, and whenever a branch is forked or pruned or begins a node.
  /// @throws Error{stale_plan} before the first update, or if the tree has another number of nodes or rows
  void grow(const Exec& exec, const TreeArrays<Exec>& tree);

  /// Waits for the instance and describes the plan.
  /// @throws Error{stale_plan} before the first update, Error{capacity_exceeded} if the last update did not fit,
  /// naming each capacity that was exceeded, its value and the need
  [[nodiscard]] PlanReport report(const Exec& exec) const;

  /// Plain pointers, for kernels.
  /// @throws Error{stale_plan} before the first update, Error{unsupported} if the plan's kernel reads stack_view()
  [[nodiscard]] detail::PlanView view() const;

  /// The same for kernels that read tiles of stacks; asking a plan without them is an error of the program.
  [[nodiscard]] detail::FusedPlanView stack_view() const;

  /// For attend(), of stack_view(), before it enqueues on a stream: whether it may read the plan before the launch in front
  /// has ended (plan/settled.hpp). False: it has to wait. forget_stream() where it could not be enqueued after all.
  [[nodiscard]] bool enter_stream(void* stream, std::uint64_t (*capture_of)(void*)) const;
  void forget_stream() const;

  /// The fused kernel that the plan was made for, null for the portable one; and whether it must be that kernel. For
  /// attend().
  [[nodiscard]] const backend::FusedKernel* fused_kernel() const;
  [[nodiscard]] bool is_kernel_asked_for() const;

  /// Rows and block_tokens of the tree of the last update.
  [[nodiscard]] std::int32_t rows() const;
  [[nodiscard]] int block_tokens() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier
