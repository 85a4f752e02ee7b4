#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <memory>

#include "espalier/detail/fused_plan.hpp"
#include "espalier/plan.hpp"

namespace espalier::plan {

/// Who makes a plan: all write the same.
enum class StackRunner : std::uint8_t {
  by_size,     ///< one thread of a CPU or one team of a GPU for small trees, the whole device for large ones
  one_thread,  ///< the calling thread, on a CPU
  one_team,    ///< all that orders the tiles in one team
  device       ///< a kernel for each step
};

/// The plan of the fused sm_90 kernels: tiles of stacks in lists for each worker, and merge lists by blocks of 16 pairs.
/// stacks/context.hpp says what a stack is, and backends/cuda/sm90/README.md what the kernels make of it.
///
/// Of PlanConfig it uses heads, scalar (16-bit types), capacity and workers (0: one for each multiprocessor of a GPU); the
/// capacities mean
///   segments  FusedSegments                          0: nodes + 32 * rows
///   tiles                                            0: kv_heads * (nodes + rows) + workers, where a row's group is up to 128
///   partials  as (row, KV head): `group` pairs each  0: kv_heads * 16 * rows + 256 * workers / group
/// The bound of merge entries follows from them: 9 for each tile (128 pairs touch 9 blocks of 16), 8 for each list.
template <ExecutionSpace Exec>
class StackPlan {
 public:
  /// Allocates all that the plan will ever need.
  /// @throws Error{invalid_argument} for a head shape, capacity or worker count that makes no sense
  StackPlan(const Exec& exec, const PlanConfig& config);
  ~StackPlan();
  StackPlan(StackPlan&&) noexcept;
  StackPlan& operator=(StackPlan&&) noexcept;

  /// The configuration, with the defaults filled in.
  [[nodiscard]] const PlanConfig& config() const;

  /// The capacity that planning this tree takes; computed on the host.
  /// @throws Error{invalid_argument} as the constructor, Error{capacity_exceeded} for a plan that no capacity can hold
  [[nodiscard]] static PlanCapacity required_capacity(const TreeSnapshot& snapshot, const PlanConfig& config,
                                                      const Exec& exec = Exec{});

  /// Plans the tree; enqueued on the instance. Waits for nothing, allocates nothing, and can be captured.
  /// @throws Error{capacity_exceeded} if the tree has more nodes or rows than the plan's capacity. Capacities that only
  /// the device can check are reported by report(): such a plan has no tiles.
  void update(const Exec& exec, const detail::TreeView& tree, StackRunner runner = StackRunner::by_size);

  /// Brings the plan up to date with longer nodes, as Plan::grow: one small kernel. Nodes without tokens do not grow.
  /// @throws Error{stale_plan} before the first update, or if the tree has another number of nodes or rows
  void grow(const Exec& exec, const detail::TreeView& tree);

  /// Plain pointers, for kernels.
  /// @throws Error{stale_plan} before the first update
  [[nodiscard]] detail::FusedPlanView view() const;

  /// Waits for the instance and describes the plan; times by the costs of stacks/costs.hpp.
  /// @throws Error{stale_plan} before the first update, Error{capacity_exceeded} if the last update did not fit,
  /// naming each capacity that was exceeded, its value and the need
  [[nodiscard]] PlanReport report(const Exec& exec) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::plan
