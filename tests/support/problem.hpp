#pragma once
// One attention with all that it needs in the memory of an execution space, from arrays in node order on the host.
//
// Blocks of the cache are numbered at random, and everything that attention must not read is NaN: free blocks, free
// slots, padding between strides. Outputs begin as NaN.

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "espalier/attention.hpp"
#include "espalier/plan.hpp"
#include "espalier/tree_arrays.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"
#include "support/trees.hpp"

namespace espalier::test {

/// q [rows, query_heads, head_dim]; k and v [tokens, kv_heads, head_dim], tokens in node order.
struct Inputs {
  std::vector<float> q, k, v;
};

/// Normally distributed values that Element holds exactly; values of v have a mean other than zero.
template <class Element>
Inputs random_inputs(const Tree& tree, const HeadShape& heads, std::uint32_t seed, float q_magnitude = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::int64_t count, float magnitude, float mean) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = to_float(from_float<Element>(mean + magnitude * normal(random)));
    return values;
  };
  const std::int64_t row_size = std::int64_t(heads.query_heads) * heads.head_dim;
  const std::int64_t token_size = std::int64_t(heads.kv_heads) * heads.head_dim;
  const auto rows = static_cast<std::int64_t>(tree.rows.size());
  return {fill(rows * row_size, q_magnitude, 0), fill(tree.tokens() * token_size, 1, 0),
          fill(tree.tokens() * token_size, 1, 0.25f)};
}

/// k and v of a tree whose tokens came from those of another one.
inline Inputs moved(const Inputs& inputs, const std::vector<std::int64_t>& token_from, const HeadShape& heads) {
  Inputs result{inputs.q, {}, {}};
  const std::int64_t size = std::int64_t(heads.kv_heads) * heads.head_dim;
  for (const std::int64_t token : token_from) {
    result.k.insert(result.k.end(), inputs.k.begin() + token * size, inputs.k.begin() + (token + 1) * size);
    result.v.insert(result.v.end(), inputs.v.begin() + token * size, inputs.v.begin() + (token + 1) * size);
  }
  return result;
}

inline oracle::Result oracle_of(const Tree& tree, const HeadShape& heads, const Inputs& inputs,
                                const AttendOptions& options = {}) {
  if (tree.rows.empty()) return {};  // the oracle would take one row per leaf
  return oracle::attend(tree.nodes, tree.rows, heads, inputs.q, inputs.k, inputs.v, double(options.scale),
                        double(options.soft_cap));
}

inline Tolerance tolerance_of(const Tree& tree, const HeadShape& heads, const Inputs& inputs,
                              const AttendOptions& options = {}, double weight_unit = 0) {
  const auto longest = [&](const std::vector<float>& vectors) {
    double squared = 0;
    for (std::size_t i = 0; i < vectors.size(); i += static_cast<std::size_t>(heads.head_dim)) {
      double sum = 0;
      for (std::size_t d = i; d < i + static_cast<std::size_t>(heads.head_dim); ++d)
        sum += double(vectors[d]) * double(vectors[d]);
      squared = std::max(squared, sum);
    }
    return std::sqrt(squared);
  };
  double largest_value = 0;
  for (const float value : inputs.v) largest_value = std::max(largest_value, std::abs(double(value)));
  const double scale = options.scale != 0 ? std::abs(double(options.scale)) : 1 / std::sqrt(double(heads.head_dim));
  return tolerance_of(ErrorSources{.largest_score = scale * longest(inputs.q) * longest(inputs.k),
                                   .soft_cap = double(options.soft_cap),
                                   .largest_value = largest_value,
                                   .longest_path = double(tree.longest_path()),
                                   .weight_unit = weight_unit});
}

/// The weight_unit of a result that a fused kernel of a GPU may have computed: it rounds weights and partials to the
/// 16-bit type.
template <class Exec, class Element>
double fused_weight_unit() {
  constexpr bool kOnHost = bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Exec::memory_space>::accessible);
  if (kOnHost || std::is_same_v<Element, float>) return 0;
  return std::is_same_v<Element, float16> ? 0x1p-10 : 0x1p-7;
}

/// How the dimensions of the cache follow each other in memory.
enum class CacheLayout : std::uint8_t {
  tokens_first,  ///< [blocks, block_tokens, kv_heads, head_dim]
  heads_first,   ///< [blocks, kv_heads, block_tokens, head_dim]
  padded         ///< as tokens_first, with gaps after each head, token and block; q, out and lse have gaps as well
};

/// What must not change a result, and the options.
struct Setup {
  int block_tokens = 16;
  CacheLayout cache_layout = CacheLayout::tokens_first;
  TreeLayout tree_layout = TreeLayout::aligned;
  PlanStrategy strategy = PlanConfig{}.strategy;
  std::int32_t workers = 0;
  bool wants_lse = true;
  AttendOptions options = {};
  CutParams cuts = {};
  Kernel kernel = Kernel::automatic;  ///< that the plan is made for
  std::string kernel_name = {};
};

struct Result {
  std::vector<float> out;  ///< [rows, query_heads, head_dim]
  std::vector<float> lse;  ///< [rows, query_heads]; empty where it was not wanted
  friend bool operator==(const Result&, const Result&) = default;
};

/// Elements of a multi-dimensional array with any strides in the memory of Exec, and their copy on the host.
template <class Exec, class Element, int kRank>
class StridedArray {
 public:
  using Extents = std::array<std::size_t, kRank>;
  using DataType = std::conditional_t<kRank == 2, Element**, std::conditional_t<kRank == 3, Element***, Element****>>;
  using View = Kokkos::View<DataType, Kokkos::LayoutStride, typename Exec::memory_space,
                            Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  /// @param order  dimensions from the slowest to the fastest; the last one must be the fastest
  /// @param gap    elements left free behind each run of a dimension but the last
  StridedArray(Extents extents, std::array<int, kRank> order, std::size_t gap) : extents_(extents) {
    std::size_t stride = 1;
    for (int i = kRank - 1; i >= 0; --i) {
      strides_[std::size_t(order[std::size_t(i)])] = stride;
      stride = stride * extents[std::size_t(order[std::size_t(i)])] + gap;
    }
    memory_ = decltype(memory_)("test::array", stride);
    host_ = Kokkos::create_mirror_view(memory_);
    for (std::size_t i = 0; i < stride; ++i) host_(i) = from_float<Element>(kNaN);
    upload();
  }

  [[nodiscard]] View view() const {
    Kokkos::LayoutStride layout;
    for (int i = 0; i < kRank; ++i) {
      layout.dimension[i] = extents_[std::size_t(i)];
      layout.stride[i] = strides_[std::size_t(i)];
    }
    return View(memory_.data(), layout);
  }

  [[nodiscard]] Element& at(const Extents& index) {
    std::size_t place = 0;
    for (std::size_t i = 0; i < kRank; ++i) place += index[i] * strides_[i];
    return host_(place);
  }

  void upload() { Kokkos::deep_copy(memory_, host_); }

  /// All elements in order of their indices, as floats.
  /// @throws std::logic_error if a gap between them is not NaN any more
  [[nodiscard]] std::vector<float> download() {
    Kokkos::deep_copy(host_, memory_);
    std::size_t elements = 1;
    for (const std::size_t extent : extents_) elements *= extent;
    std::vector<float> values;
    values.reserve(elements);
    Extents index{};
    std::size_t written = 0;
    for (std::size_t i = 0; i < elements; ++i) {
      values.push_back(to_float(at(index)));
      written += !std::isnan(values.back());
      for (std::size_t dimension = kRank; dimension-- > 0;) {
        if (++index[dimension] < extents_[dimension]) break;
        index[dimension] = 0;
      }
    }
    for (std::size_t i = 0; i < host_.extent(0); ++i) written -= !std::isnan(to_float(host_(i)));
    if (written != 0) throw std::logic_error("a gap between elements was written");
    return values;
  }

 private:
  static constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  Extents extents_;
  Extents strides_{};
  Kokkos::View<Element*, typename Exec::memory_space> memory_;
  decltype(Kokkos::create_mirror_view(memory_)) host_;
};

/// An attention that is ready to run.
template <class ExecutionSpace, class ScalarType>
class Problem {
 public:
  using Exec = ExecutionSpace;
  using Element = ScalarType;

  Problem(const Exec& exec, const Tree& tree, const HeadShape& heads, const Inputs& inputs, const Setup& setup)
      : setup_(setup),
        snapshot_(snapshot_of(tree, setup.block_tokens, setup.tree_layout)),
        block_ids_(shuffled_blocks(tree)),
        tree_(exec, with_block_ids(snapshot_)),
        plan_(exec, config(heads)),
        k_(cache_array(heads)),
        v_(cache_array(heads)),
        q_({tree.rows.size(), std::size_t(heads.query_heads), std::size_t(heads.head_dim)}, {0, 1, 2}, gap()),
        out_({tree.rows.size(), std::size_t(heads.query_heads), std::size_t(heads.head_dim)}, {0, 1, 2}, gap()),
        lse_({tree.rows.size(), std::size_t(heads.query_heads)}, {0, 1}, gap()) {
    fill(tree, heads, inputs);
    plan_.update(exec, tree_);
  }

  void attend(const Exec& exec) {
    using LseView = typename StridedArray<Exec, float, 2>::View;
    espalier::attend(exec, plan_, q_.view(), KvCache{k_.view(), v_.view()}, out_.view(),
                     setup_.wants_lse ? lse_.view() : LseView{}, setup_.options);
  }

  /// Waits for the instance.
  [[nodiscard]] Result result(const Exec& exec) {
    exec.fence("test::result");
    return {out_.download(), setup_.wants_lse ? lse_.download() : std::vector<float>{}};
  }

  [[nodiscard]] const TreeSnapshot& snapshot() const { return snapshot_; }
  [[nodiscard]] TreeArrays<Exec>& tree() { return tree_; }
  [[nodiscard]] Plan<Exec>& plan() { return plan_; }
  [[nodiscard]] const Plan<Exec>& plan() const { return plan_; }
  [[nodiscard]] auto q() const { return q_.view(); }
  [[nodiscard]] auto out() const { return out_.view(); }
  [[nodiscard]] auto lse() const { return lse_.view(); }
  [[nodiscard]] auto cache() const { return KvCache{k_.view(), v_.view()}; }

 private:
  [[nodiscard]] std::size_t gap() const { return setup_.cache_layout == CacheLayout::padded ? 5 : 0; }

  [[nodiscard]] PlanConfig config(const HeadShape& heads) const {
    PlanConfig config;
    config.heads = heads;
    config.scalar = kScalarOf<Element>;
    config.strategy = setup_.strategy;
    config.workers = setup_.workers;
    config.cuts = setup_.cuts;
    config.kernel = setup_.kernel;
    config.kernel_name = setup_.kernel_name;
    config.capacity = Plan<Exec>::required_capacity(snapshot_, config);
    return config;
  }

  /// Where each block of the snapshot lies in the cache, which has a few more.
  [[nodiscard]] std::vector<std::int32_t> shuffled_blocks(const Tree& tree) const {
    std::int64_t blocks = 3;
    for (const std::int64_t slot : slots_in_node_order(tree.nodes, setup_.block_tokens, setup_.tree_layout))
      blocks = std::max(blocks, slot / setup_.block_tokens + 4);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(blocks));
    std::iota(ids.begin(), ids.end(), 0);
    std::mt19937 random(7);
    std::shuffle(ids.begin(), ids.end(), random);
    return ids;
  }

  [[nodiscard]] TreeSnapshot with_block_ids(TreeSnapshot snapshot) const {
    for (BlockId& block : snapshot.block_table) block = BlockId{block_ids_[std::size_t(block)]};
    return snapshot;
  }

  [[nodiscard]] StridedArray<Exec, Element, 4> cache_array(const HeadShape& heads) const {
    const std::array<int, 4> order = setup_.cache_layout == CacheLayout::heads_first ? std::array<int, 4>{0, 2, 1, 3}
                                                                                     : std::array<int, 4>{0, 1, 2, 3};
    return {
        {block_ids_.size(), std::size_t(setup_.block_tokens), std::size_t(heads.kv_heads), std::size_t(heads.head_dim)},
        order,
        gap()};
  }

  void fill(const Tree& tree, const HeadShape& heads, const Inputs& inputs) {
    const auto head_dim = std::size_t(heads.head_dim);
    const std::vector<std::int64_t> slots = slots_in_node_order(tree.nodes, setup_.block_tokens, setup_.tree_layout);
    for (std::size_t i = 0; i < inputs.k.size(); ++i) {
      const std::size_t d = i % head_dim, head = i / head_dim % std::size_t(heads.kv_heads);
      const auto slot = std::size_t(slots[i / head_dim / std::size_t(heads.kv_heads)]);
      const auto block = std::size_t(block_ids_[slot / std::size_t(setup_.block_tokens)]);
      const std::size_t offset = slot % std::size_t(setup_.block_tokens);
      k_.at({block, offset, head, d}) = from_float<Element>(inputs.k[i]);
      v_.at({block, offset, head, d}) = from_float<Element>(inputs.v[i]);
    }
    for (std::size_t i = 0; i < inputs.q.size(); ++i) {
      const std::size_t row_and_head = i / head_dim;
      q_.at({row_and_head / std::size_t(heads.query_heads), row_and_head % std::size_t(heads.query_heads),
             i % head_dim}) = from_float<Element>(inputs.q[i]);
    }
    k_.upload();
    v_.upload();
    q_.upload();
  }

  Setup setup_;
  TreeSnapshot snapshot_;
  std::vector<std::int32_t> block_ids_;
  TreeArrays<Exec> tree_;
  Plan<Exec> plan_;
  StridedArray<Exec, Element, 4> k_, v_;
  StridedArray<Exec, Element, 3> q_, out_;
  StridedArray<Exec, float, 2> lse_;
};

/// The result of one attention.
template <class Element, class Exec>
Result attend(const Exec& exec, const Tree& tree, const HeadShape& heads, const Inputs& inputs,
              const Setup& setup = {}) {
  Problem<Exec, Element> problem(exec, tree, heads, inputs, setup);
  problem.attend(exec);
  return problem.result(exec);
}

}  // namespace espalier::test
