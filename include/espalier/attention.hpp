#pragma once

#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "espalier/error.hpp"
#include "espalier/plan.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// How scores are made, and by which kernel.
struct AttendOptions {
  float scale = 0;     ///< score = scale * q.k; 0: 1 / sqrt(head_dim)
  float soft_cap = 0;  ///< score = soft_cap * tanh(score / soft_cap); 0: none
  /// automatic: the plan's (PlanConfig::kernel), or the portable one where that is not what the plan was asked for and it
  /// cannot take these arrays; portable: any plan of tiles; fused: the plan's, which must be fused.
  Kernel kernel = Kernel::automatic;
};

/// K and V of one layer, [blocks, block_tokens, kv_heads, head_dim] each, any strides but a unit last one.
template <class View>
struct KvCache {
  View k;
  View v;
};

template <class View>
KvCache(View, View) -> KvCache<View>;

namespace detail {

template <ExecutionSpace Exec>
void attend(const Exec& exec, const Plan<Exec>& plan, AttendParams params, Kernel kernel);
template <ExecutionSpace Exec>
void append(const Exec& exec, const AppendParams& params);
template <ExecutionSpace Exec>
void merge(const Exec& exec, const MergeParams& params);

/// A View that Exec can reach, of the given rank, with elements of a supported type and a contiguous last dimension.
template <class View, class Exec, int kRank>
concept ElementView =
    Kokkos::is_view<View>::value && (View::rank() == kRank) && ScalarElement<typename View::non_const_value_type> &&
    bool(Kokkos::SpaceAccessibility<Exec, typename View::memory_space>::accessible);

template <class View>
void expects_unit_stride(const View& view, const char* function, const char* name) {
  constexpr int kLast = int(View::rank()) - 1;
  expects(view.stride(kLast) == 1 || view.extent(kLast) <= 1, ErrorCode::invalid_argument, function, ": ", name,
          " has stride ", view.stride(kLast), " in its last dimension, expected 1");
}

template <class View>
void expects_extent(const View& view, int dimension, std::int64_t expected, const char* function, const char* name,
                    const char* meaning) {
  expects(std::int64_t(view.extent(dimension)) == expected, ErrorCode::invalid_argument, function, ": ", name,
          " has extent ", view.extent(dimension), " in dimension ", dimension, ", expected ", expected, " (", meaning,
          ")");
}

template <class View>
void expects_extent_at_least(const View& view, int dimension, std::int64_t least, const char* function,
                             const char* name, const char* meaning) {
  expects(std::int64_t(view.extent(dimension)) >= least, ErrorCode::invalid_argument, function, ": ", name,
          " has extent ", view.extent(dimension), " in dimension ", dimension, ", expected at least ", least, " (",
          meaning, ")");
}

template <class View>
void expects_cache(const KvCache<View>& cache, int block_tokens, const HeadShape& heads, const char* function) {
  const auto expects_half = [&](const View& view, const char* name) {
    expects_extent(view, 1, block_tokens, function, name, "tokens of a block");
    expects_extent(view, 2, heads.kv_heads, function, name, "KV heads");
    expects_extent(view, 3, heads.head_dim, function, name, "head dimension");
    expects_unit_stride(view, function, name);
  };
  expects_half(cache.k, "k");
  expects_half(cache.v, "v");
  expects_extent(cache.v, 0, std::int64_t(cache.k.extent(0)), function, "v", "blocks of k");
}

/// Enters the cache into AppendParams or AttendParams.
template <class Params, class View>
void set_cache(Params& params, const KvCache<View>& cache) {
  params.k = cache.k.data();
  params.k_block_stride = std::int64_t(cache.k.stride(0));
  params.k_token_stride = std::int64_t(cache.k.stride(1));
  params.k_head_stride = std::int64_t(cache.k.stride(2));
  params.v = cache.v.data();
  params.v_block_stride = std::int64_t(cache.v.stride(0));
  params.v_token_stride = std::int64_t(cache.v.stride(1));
  params.v_head_stride = std::int64_t(cache.v.stride(2));
}

}  // namespace detail

/// Writes K and V of new tokens into their slots. Enqueued on the instance; allocates nothing, waits for nothing.
/// @param slots  [tokens]  read; int64, in the memory of Exec: slot = block * block_tokens + place in the block. Slots
///               are not checked: they must come from the tree that owns the blocks. A negative slot is skipped.
/// @param k_new  [tokens, kv_heads, head_dim]  read; v_new alike
/// @param cache  [blocks, block_tokens, kv_heads, head_dim]  written
/// @throws Error{invalid_argument} if the shapes disagree
template <ExecutionSpace Exec, class Slots, class NewView, class CacheView>
  requires detail::ElementView<NewView, Exec, 3> && detail::ElementView<CacheView, Exec, 4> &&
           std::same_as<typename NewView::non_const_value_type, typename CacheView::value_type>
void append(const Exec& exec, const Slots& slots, const NewView& k_new, const NewView& v_new,
            const KvCache<CacheView>& cache) {
  using Element = typename CacheView::value_type;
  static_assert(std::same_as<typename Slots::non_const_value_type, std::int64_t>, "slots are int64");
  const HeadShape heads{int(cache.k.extent(2)), int(cache.k.extent(2)), int(cache.k.extent(3))};
  detail::expects_cache(cache, int(cache.k.extent(1)), heads, "append");
  const auto expects_new = [&](const NewView& view, const char* name) {
    detail::expects_extent(view, 0, std::int64_t(slots.extent(0)), "append", name, "slots");
    detail::expects_extent(view, 1, heads.kv_heads, "append", name, "KV heads of the cache");
    detail::expects_extent(view, 2, heads.head_dim, "append", name, "head dimension of the cache");
    detail::expects_unit_stride(view, "append", name);
  };
  expects_new(k_new, "k_new");
  expects_new(v_new, "v_new");
  detail::AppendParams params{};
  params.scalar = kScalarOf<Element>;
  params.tokens = std::int32_t(slots.extent(0));
  params.kv_heads = heads.kv_heads;
  params.head_dim = heads.head_dim;
  params.block_tokens = std::int32_t(cache.k.extent(1));
  params.slots = slots.data();
  params.k_new = k_new.data();
  params.k_new_token_stride = std::int64_t(k_new.stride(0));
  params.k_new_head_stride = std::int64_t(k_new.stride(1));
  params.v_new = v_new.data();
  params.v_new_token_stride = std::int64_t(v_new.stride(0));
  params.v_new_head_stride = std::int64_t(v_new.stride(1));
  detail::set_cache(params, cache);
  detail::append(exec, params);
}

/// Exact attention of every row over its root-to-node path:
///   out = sum_t exp(score_t - lse) v_t,  lse = log sum_t exp(score_t),  score_t = soft_cap(scale * q.k_t).
/// Enqueued on the instance; allocates nothing, waits for nothing. The same plan and inputs give the same bits.
/// @param q      [rows, query_heads, head_dim]  read; rows as the caller of the tree numbers them
/// @param cache  [blocks, block_tokens, kv_heads, head_dim]  read, at the slots of the plan's tree alone
/// @param out    like q, written; 0 where the path is empty
/// @param lse    [rows, query_heads] float, written: natural log, -inf where the path is empty; a View without data: none
/// @throws Error{invalid_argument} if shapes or types disagree with the plan, Error{stale_plan} before its first
/// update, Error{unsupported} if the plan's kernel is not the one that the options ask for, or cannot take these arrays
/// (alignment, strides), Error{backend_failure} if the vendor's runtime refuses a launch
/// Method: Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022 (tiles); Yao et al. 2024 (trees).
template <ExecutionSpace Exec, class QueryView, class CacheView, class OutView, class LseView>
  requires detail::ElementView<QueryView, Exec, 3> && detail::ElementView<CacheView, Exec, 4> &&
           detail::ElementView<OutView, Exec, 3>
void attend(const Exec& exec, const Plan<Exec>& plan, const QueryView& q, const KvCache<CacheView>& cache,
            const OutView& out, const LseView& lse, AttendOptions options = {}) {
  using Element = typename OutView::value_type;
  static_assert(std::same_as<typename QueryView::non_const_value_type, Element> &&
                    std::same_as<typename CacheView::non_const_value_type, Element>,
                "q, k, v and out have one element type");
  static_assert(std::same_as<typename LseView::value_type, float>, "lse is float");
  const PlanConfig& config = plan.config();
  const HeadShape& heads = config.heads;
  detail::expects(config.scalar == kScalarOf<Element>, ErrorCode::invalid_argument, "attend: q is ",
                  name_of(kScalarOf<Element>), ", the plan expects ", name_of(config.scalar));
  detail::expects_extent(q, 0, plan.rows(), "attend", "q", "rows of the plan");
  detail::expects_extent(q, 1, heads.query_heads, "attend", "q", "query heads of the plan");
  detail::expects_extent(q, 2, heads.head_dim, "attend", "q", "head dimension of the plan");
  detail::expects_unit_stride(q, "attend", "q");
  for (int dimension = 0; dimension < 3; ++dimension)
    detail::expects_extent(out, dimension, std::int64_t(q.extent(dimension)), "attend", "out", "as q");
  detail::expects_unit_stride(out, "attend", "out");
  detail::expects_cache(cache, plan.block_tokens(), heads, "attend");
  const bool wants_lse = lse.data() != nullptr;
  if (wants_lse) {
    detail::expects_extent(lse, 0, plan.rows(), "attend", "lse", "rows of the plan");
    detail::expects_extent(lse, 1, heads.query_heads, "attend", "lse", "query heads of the plan");
    detail::expects_unit_stride(lse, "attend", "lse");
  }
  detail::expects(options.soft_cap >= 0, ErrorCode::invalid_argument, "attend: soft_cap is ", options.soft_cap,
                  ", expected 0 or more");

  detail::AttendParams params{};
  params.scalar = config.scalar;
  params.query_heads = heads.query_heads;
  params.kv_heads = heads.kv_heads;
  params.head_dim = heads.head_dim;
  params.block_tokens = plan.block_tokens();
  params.scale = options.scale != 0 ? options.scale : 1 / std::sqrt(float(heads.head_dim));
  params.soft_cap = options.soft_cap;
  params.q = q.data();
  params.q_row_stride = std::int64_t(q.stride(0));
  params.q_head_stride = std::int64_t(q.stride(1));
  detail::set_cache(params, cache);
  params.out = out.data();
  params.out_row_stride = std::int64_t(out.stride(0));
  params.out_head_stride = std::int64_t(out.stride(1));
  params.lse = wants_lse ? lse.data() : nullptr;
  params.lse_row_stride = wants_lse ? std::int64_t(lse.stride(0)) : 0;
  detail::attend(exec, plan, params, options.kernel);
}

/// Combines the partial results of each row into its final one:
///   lse = log sum_p exp(lse_p),  out = sum_p exp(lse_p - lse) out_p.
/// @param partial_out  [partials, query_heads, head_dim]  read; each partial's own normalised output
/// @param partial_lse  [partials, query_heads] float      read; natural log, -inf marks an empty partial
/// @param row_begin    [rows + 1] int32                   read; partials of row r are row_begin(r) .. row_begin(r + 1)
/// @param out          [rows, query_heads, head_dim]      written; 0 where every partial is empty
/// @param lse          [rows, query_heads] float          written; a View without data: none
/// @throws Error{invalid_argument} if the shapes disagree
/// Method: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
template <ExecutionSpace Exec, class PartialView, class PartialLseView, class RowView, class OutView, class LseView>
  requires detail::ElementView<PartialView, Exec, 3> && detail::ElementView<OutView, Exec, 3>
void merge(const Exec& exec, const PartialView& partial_out, const PartialLseView& partial_lse,
           const RowView& row_begin, const OutView& out, const LseView& lse) {
  using Element = typename OutView::value_type;
  static_assert(std::same_as<typename PartialView::non_const_value_type, Element>,
                "partial_out and out have one element type");
  static_assert(std::same_as<typename PartialLseView::non_const_value_type, float> &&
                    std::same_as<typename LseView::value_type, float>,
                "partial_lse and lse are float");
  static_assert(std::same_as<typename RowView::non_const_value_type, std::int32_t>, "row_begin is int32");
  detail::expects_extent(row_begin, 0, std::int64_t(out.extent(0)) + 1, "merge", "row_begin", "rows of out + 1");
  detail::expects_extent(partial_out, 1, std::int64_t(out.extent(1)), "merge", "partial_out", "query heads of out");
  detail::expects_extent(partial_out, 2, std::int64_t(out.extent(2)), "merge", "partial_out", "head dimension of out");
  detail::expects_extent(partial_lse, 0, std::int64_t(partial_out.extent(0)), "merge", "partial_lse", "partials");
  detail::expects_extent(partial_lse, 1, std::int64_t(out.extent(1)), "merge", "partial_lse", "query heads of out");
  detail::expects_unit_stride(partial_out, "merge", "partial_out");
  detail::expects_unit_stride(partial_lse, "merge", "partial_lse");
  detail::expects_unit_stride(out, "merge", "out");
  const bool wants_lse = lse.data() != nullptr;
  if (wants_lse) {
    detail::expects_extent(lse, 0, std::int64_t(out.extent(0)), "merge", "lse", "rows of out");
    detail::expects_extent(lse, 1, std::int64_t(out.extent(1)), "merge", "lse", "query heads of out");
    detail::expects_unit_stride(lse, "merge", "lse");
  }
  detail::MergeParams params{};
  params.scalar = kScalarOf<Element>;
  params.rows = std::int32_t(out.extent(0));
  params.query_heads = std::int32_t(out.extent(1));
  params.head_dim = std::int32_t(out.extent(2));
  params.partial_out = partial_out.data();
  params.partial_out_row_stride = std::int64_t(partial_out.stride(0));
  params.partial_out_head_stride = std::int64_t(partial_out.stride(1));
  params.partial_lse = partial_lse.data();
  params.partial_lse_row_stride = std::int64_t(partial_lse.stride(0));
  params.row_begin = row_begin.data();
  params.out = out.data();
  params.out_row_stride = std::int64_t(out.stride(0));
  params.out_head_stride = std::int64_t(out.stride(1));
  params.lse = wants_lse ? lse.data() : nullptr;
  params.lse_row_stride = wants_lse ? std::int64_t(lse.stride(0)) : 0;
  detail::merge(exec, params);
}

}  // namespace espalier
