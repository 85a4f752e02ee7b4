#include "espalier/validate.hpp"

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <random>

#include "compare.hpp"
#include "espalier/attention.hpp"
#include "espalier/error.hpp"

namespace espalier {

using detail::expects;

namespace validate {
namespace {

constexpr std::size_t kMostFaults = 5;  // described for each kernel

/// q [rows, query_heads, head_dim]; k and v [tokens, kv_heads, head_dim], tokens in node order.
struct Inputs {
  std::vector<float> q, k, v;
};

template <class Element>
Inputs random_inputs(const Case& it, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::size_t vectors, float mean) {
    std::vector<float> values(vectors * std::size_t(it.heads.head_dim));
    for (float& value : values) value = to_float(from_float<Element>(mean + normal(random)));
    return values;
  };
  std::size_t tokens = 0;
  for (const NodeSpec& node : it.tree.nodes) tokens += std::size_t(node.tokens);
  const auto kv_heads = std::size_t(it.heads.kv_heads);
  return {fill(it.tree.rows.size() * std::size_t(it.heads.query_heads), 0), fill(tokens * kv_heads, 0),
          fill(tokens * kv_heads, 0.25f)};
}

double largest_norm(const std::vector<float>& vectors, int head_dim) {
  double largest = 0;
  for (std::size_t i = 0; i < vectors.size(); i += std::size_t(head_dim)) {
    double sum = 0;
    for (std::size_t d = i; d < i + std::size_t(head_dim); ++d) sum += double(vectors[d]) * double(vectors[d]);
    largest = std::max(largest, std::sqrt(sum));
  }
  return largest;
}

/// An array with gaps, in the memory of Exec, that holds NaN where nothing is set.
template <class Exec, class Element, int kRank>
class Array {
 public:
  /// @param order  dimensions from the slowest to the fastest, the last of which is the last one
  Array(std::array<std::size_t, kRank> extents, std::array<int, kRank> order, int gap) {
    std::size_t stride = 1;
    for (int i = kRank - 1; i >= 0; --i) {
      const auto dimension = std::size_t(order[std::size_t(i)]);
      layout_.dimension[dimension] = extents[dimension];
      layout_.stride[dimension] = stride;
      stride = stride * extents[dimension] + (i == kRank - 1 ? std::size_t(gap) : 0);
    }
    memory_ = decltype(memory_)("espalier::validate::array", stride);
    host_ = Kokkos::create_mirror_view(memory_);
    clear();
  }

  /// All NaN again.
  void clear() {
    Kokkos::deep_copy(host_, from_float<Element>(std::numeric_limits<float>::quiet_NaN()));
    Kokkos::deep_copy(memory_, host_);
  }

  template <class... Index>
  Element& at(Index... index) {
    std::size_t place = 0, dimension = 0;
    ((place += std::size_t(index) * layout_.stride[dimension++]), ...);
    return host_(place);
  }

  void upload() { Kokkos::deep_copy(memory_, host_); }
  void download() { Kokkos::deep_copy(host_, memory_); }

  [[nodiscard]] auto view() const {
    using Data = std::conditional_t<kRank == 2, Element**, std::conditional_t<kRank == 3, Element***, Element****>>;
    return Kokkos::View<Data, Kokkos::LayoutStride, typename Exec::memory_space,
                        Kokkos::MemoryTraits<Kokkos::Unmanaged>>(memory_.data(), layout_);
  }

 private:
  Kokkos::LayoutStride layout_;
  Kokkos::View<Element*, typename Exec::memory_space> memory_;
  decltype(Kokkos::create_mirror_view(memory_)) host_;
};

/// A case in the memory of Exec.
template <class Exec, class Element>
class Bench {
 public:
  Bench(const Exec& exec, const Case& it, const Inputs& inputs)
      : exec_(exec),
        case_(it),
        snapshot_(make_snapshot(it.tree.nodes, it.tree.rows, it.block_tokens, it.layout)),
        order_(shuffled_blocks()),
        tree_(exec, shuffled(snapshot_)),
        k_(cache_extents(), cache_order(), it.gap),
        v_(cache_extents(), cache_order(), it.gap),
        q_(row_extents(), {0, 1, 2}, it.gap),
        out_(row_extents(), {0, 1, 2}, it.gap),
        lse_({it.tree.rows.size(), std::size_t(it.heads.query_heads)}, {0, 1}, 0) {
    const HeadShape& heads = it.heads;
    const std::vector<std::int64_t> slots = slots_in_node_order(it.tree.nodes, it.block_tokens, it.layout);
    std::size_t from = 0;
    for (const std::int64_t slot : slots)
      for (int head = 0; head < heads.kv_heads; ++head)
        for (int d = 0; d < heads.head_dim; ++d, ++from) {
          const std::int32_t block = order_[std::size_t(slot / it.block_tokens)];
          k_.at(block, slot % it.block_tokens, head, d) = from_float<Element>(inputs.k[from]);
          v_.at(block, slot % it.block_tokens, head, d) = from_float<Element>(inputs.v[from]);
        }
    from = 0;
    for (std::size_t row = 0; row < it.tree.rows.size(); ++row)
      for (int head = 0; head < heads.query_heads; ++head)
        for (int d = 0; d < heads.head_dim; ++d, ++from) q_.at(row, head, d) = from_float<Element>(inputs.q[from]);
    k_.upload();
    v_.upload();
    q_.upload();
  }

  /// @throws Error{unsupported} if the kernel does not take the case
  [[nodiscard]] Result attend(const std::string& kernel, PlanStrategy strategy) {
    PlanConfig config;
    config.heads = case_.heads;
    config.scalar = case_.scalar;
    config.strategy = strategy;
    config.kernel_name = kernel;
    config.capacity = Plan<Exec>::required_capacity(snapshot_, config, exec_);
    Plan<Exec> plan(exec_, config);
    plan.update(exec_, tree_);
    out_.clear();
    lse_.clear();
    const AttendOptions options{.scale = case_.scale, .soft_cap = case_.soft_cap};
    espalier::attend(exec_, plan, q_.view(), KvCache{k_.view(), v_.view()}, out_.view(),
                     case_.wants_lse ? lse_.view() : decltype(lse_.view()){}, options);
    exec_.fence("espalier::validate: the result is there");
    out_.download();
    lse_.download();
    Result result;
    for (std::size_t row = 0; row < case_.tree.rows.size(); ++row)
      for (int head = 0; head < case_.heads.query_heads; ++head) {
        for (int d = 0; d < case_.heads.head_dim; ++d) result.out.push_back(to_float(out_.at(row, head, d)));
        if (case_.wants_lse) result.lse.push_back(lse_.at(row, head));
      }
    return result;
  }

 private:
  /// Blocks lie anywhere in the cache, which has two more.
  [[nodiscard]] std::vector<std::int32_t> shuffled_blocks() const {
    std::int32_t blocks = 0;
    for (const BlockId block : snapshot_.block_table) blocks = std::max(blocks, std::int32_t(block) + 1);
    std::vector<std::int32_t> order(std::size_t(blocks) + 2);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 random(std::uint32_t(order.size()));
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    return order;
  }
  [[nodiscard]] TreeSnapshot shuffled(TreeSnapshot snapshot) const {
    for (BlockId& block : snapshot.block_table) block = BlockId{order_[std::size_t(block)]};
    return snapshot;
  }
  [[nodiscard]] std::array<std::size_t, 4> cache_extents() const {
    return {order_.size(), std::size_t(case_.block_tokens), std::size_t(case_.heads.kv_heads),
            std::size_t(case_.heads.head_dim)};
  }
  [[nodiscard]] std::array<int, 4> cache_order() const {
    return case_.order == CacheOrder::tokens_first ? std::array{0, 1, 2, 3} : std::array{0, 2, 1, 3};
  }
  [[nodiscard]] std::array<std::size_t, 3> row_extents() const {
    return {case_.tree.rows.size(), std::size_t(case_.heads.query_heads), std::size_t(case_.heads.head_dim)};
  }

  const Exec& exec_;
  const Case& case_;
  TreeSnapshot snapshot_;
  std::vector<std::int32_t> order_;
  TreeArrays<Exec> tree_;
  Array<Exec, Element, 4> k_, v_;
  Array<Exec, Element, 3> q_, out_;
  Array<Exec, float, 2> lse_;
};

/// All kernels and strategies on one case.
template <class Exec, class Element>
void run_case(const Exec& exec, const Case& it, std::uint32_t seed, std::vector<KernelValidation>& kernels) {
  const Inputs inputs = random_inputs<Element>(it, seed);
  const oracle::Result expected = oracle::attend(it.tree.nodes, it.tree.rows, it.heads, inputs.q, inputs.k, inputs.v,
                                                 double(it.scale), double(it.soft_cap));
  double largest_value = 0;
  for (const float value : inputs.v) largest_value = std::max(largest_value, std::abs(double(value)));
  const double scale = it.scale != 0 ? std::abs(double(it.scale)) : 1 / std::sqrt(double(it.heads.head_dim));
  const double largest_score =
      scale * largest_norm(inputs.q, it.heads.head_dim) * largest_norm(inputs.k, it.heads.head_dim);

  Bench<Exec, Element> bench(exec, it, inputs);
  const Result by_portable = bench.attend("portable", PlanStrategy::automatic);
  for (KernelValidation& validation : kernels) {
    if (!validation.kernel.available) continue;
    for (const PlanStrategy strategy : kPlanStrategies) {
      std::optional<Result> result;
      try {
        result = bench.attend(validation.kernel.name, strategy);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
        ++validation.unsupported;
        continue;
      }
      const Comparison comparison = compare(*result, expected, it, largest_value, largest_score);
      ++validation.checked;
      validation.largest_error = std::max(validation.largest_error, comparison.error);
      validation.largest_share = std::max(validation.largest_share, comparison.share);
      validation.largest_difference = std::max(validation.largest_difference, difference(result->out, by_portable.out));
      if (comparison.fault.empty()) continue;
      ++validation.wrong;
      if (validation.faults.size() < kMostFaults)
        validation.faults.push_back(comparison.fault + " (" + describe(it) + ", strategy " + name_of(strategy) + ")");
    }
  }
}

}  // namespace
}  // namespace validate

template <ExecutionSpace Exec>
std::vector<KernelValidation> validate_kernels(const Exec& exec, const ValidateOptions& options) {
  std::vector<KernelValidation> kernels;
  std::string names;
  for (const KernelInfo& kernel : available_kernels()) {
    if (kernel.backend != Exec::name()) continue;
    names += (names.empty() ? "" : ", ") + kernel.name;
    const bool is_wanted = options.kernel.empty() ? !kernel.emulated : kernel.name.starts_with(options.kernel);
    if (!is_wanted) continue;
    kernels.emplace_back();
    kernels.back().kernel = kernel;
  }
  expects(!kernels.empty(), ErrorCode::invalid_argument, "validate: no kernel's name begins with '", options.kernel,
          "', there are for ", Exec::name(), ": ", names);
  const Exec other = Kokkos::Experimental::partition_space(exec, 1)[0];
  const std::vector<validate::Case> cases = validate::make_cases(options.quick, options.seed);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const validate::Case& it = cases[i];
    const Exec& instance = i % 2 == 0 ? other : exec;
    const auto seed = options.seed + std::uint32_t(i);
    switch (it.scalar) {
      case Scalar::f32: validate::run_case<Exec, float>(instance, it, seed, kernels); break;
      case Scalar::f16: validate::run_case<Exec, float16>(instance, it, seed, kernels); break;
      case Scalar::bf16: validate::run_case<Exec, bfloat16>(instance, it, seed, kernels); break;
    }
    if (options.progress) options.progress(std::int32_t(i) + 1, std::int32_t(cases.size()));
  }
  return kernels;
}

#define ESPALIER_INSTANTIATE(Exec) \
  template std::vector<KernelValidation> validate_kernels<Exec>(const Exec&, const ValidateOptions&);
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
