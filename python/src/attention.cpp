#include "espalier/attention.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <string_view>
#include <utility>

#include "arrays.hpp"
#include "bind.hpp"
#include "objects.hpp"

namespace espalier::python {
namespace {

using namespace nb::literals;

Kernel kernel_of(std::string_view name) {
  const auto kernel = kernel_from_name(name);
  detail::expects(kernel.has_value(), ErrorCode::invalid_argument, "kernel is '", name,
                  "', expected 'automatic', 'portable' or 'fused'");
  return *kernel;
}

/// K or V, [blocks, block_tokens, kv_heads, head_dim], or [tokens, kv_heads, head_dim] seen as blocks; the last block
/// may then be partly outside of the array, where no slot of a tree lies.
template <class T, class Array>
StridedView<T, 4> cache_view(const Array& array, int block_tokens, const char* function, const char* name) {
  if (array.ndim() == 4) return view_of<T, 4>(array, function, name);
  detail::expects(array.ndim() == 3, ErrorCode::invalid_argument, function, ": ", name, " has ", array.ndim(),
                  " dimensions, expected 4, or 3 for tokens that lie one after another");
  const auto tokens = view_of<T, 3>(array, function, name);
  const auto length = std::size_t(block_tokens);
  const Kokkos::LayoutStride layout((tokens.extent(0) + length - 1) / length, length * tokens.stride(0), length,
                                    tokens.stride(0), tokens.extent(1), tokens.stride(1), tokens.extent(2),
                                    tokens.stride(2));
  return StridedView<T, 4>(tokens.data(), layout);
}

StridedView<float, 2> lse_view(const std::optional<OutArray>& lse, const char* function) {
  return lse ? view_of<float, 2>(*lse, function, "lse") : StridedView<float, 2>();
}

void append_tokens(const InArray& slots, const InArray& k_new, const InArray& v_new, const OutArray& k,
                   const OutArray& v, std::uintptr_t stream) {
  const auto slot_list = list_of<const std::int64_t>(slots, "append", "slots");
  with_element(scalar_of(k.dtype(), "append", "k"), [&](auto element) {
    using T = typename decltype(element)::type;
    const auto k_tokens = view_of<const T, 3>(k_new, "append", "k_new");
    const auto v_tokens = view_of<const T, 3>(v_new, "append", "v_new");
    const KvCache<StridedView<T, 4>> cache{cache_view<T>(k, 1, "append", "k"), cache_view<T>(v, 1, "append", "v")};
    launch(stream, [&](const Exec& exec) { append(exec, slot_list, k_tokens, v_tokens, cache); });
  });
}

void attend_tree(PlanObject& self, const InArray& q, const InArray& k, const InArray& v, const OutArray& out,
                 const std::optional<OutArray>& lse, float scale, float soft_cap, const char* kernel,
                 std::uintptr_t stream) {
  const Plan<Exec>& plan = *self.plan;
  const AttendOptions options{scale, soft_cap, kernel_of(kernel)};
  const auto lse_rows = lse_view(lse, "attend");
  with_element(scalar_of(q.dtype(), "attend", "q"), [&](auto element) {
    using T = typename decltype(element)::type;
    const auto queries = view_of<const T, 3>(q, "attend", "q");
    const auto results = view_of<T, 3>(out, "attend", "out");
    const KvCache<StridedView<const T, 4>> cache{cache_view<const T>(k, plan.block_tokens(), "attend", "k"),
                                                 cache_view<const T>(v, plan.block_tokens(), "attend", "v")};
    launch(stream, [&](const Exec& exec) { attend(exec, plan, queries, cache, results, lse_rows, options); });
  });
}

void merge_partials(const InArray& partial_out, const InArray& partial_lse, const InArray& row_begin,
                    const OutArray& out, const std::optional<OutArray>& lse, std::uintptr_t stream) {
  const auto partial_weights = view_of<const float, 2>(partial_lse, "merge", "partial_lse");
  const auto begins = list_of<const std::int32_t>(row_begin, "merge", "row_begin");
  const auto lse_rows = lse_view(lse, "merge");
  with_element(scalar_of(out.dtype(), "merge", "out"), [&](auto element) {
    using T = typename decltype(element)::type;
    const auto partials = view_of<const T, 3>(partial_out, "merge", "partial_out");
    const auto results = view_of<T, 3>(out, "merge", "out");
    launch(stream, [&](const Exec& exec) { merge(exec, partials, partial_weights, begins, results, lse_rows); });
  });
}

}  // namespace

void bind_attention(nb::module_& m) {
  m.def(
      "append", &append_tokens, "slots"_a, "k_new"_a, "v_new"_a, "k"_a.noconvert(), "v"_a.noconvert(), nb::kw_only(),
      "stream"_a = 0,
      R"(Writes K and V of new tokens into their slots. Enqueued on the stream; copies nothing else, waits for nothing.

slots  int64 [tokens]                read; from the tree that owns the blocks: they are not checked. A negative slot is
                                     skipped
k_new  [tokens, kv_heads, head_dim]  read; v_new alike
k      [blocks, block_tokens, kv_heads, head_dim], or [tokens, kv_heads, head_dim]  written; v alike

Raises ValueError if shapes, types or devices disagree.)");

  m.def("attend", &attend_tree, "plan"_a, "q"_a, "k"_a, "v"_a, "out"_a.noconvert(), "lse"_a.noconvert() = nb::none(),
        nb::kw_only(), "scale"_a = 0.0F, "soft_cap"_a = 0.0F, "kernel"_a = "automatic", "stream"_a = 0,
        R"(Exact attention of every row over its root-to-node path:

  out = sum_t exp(score_t - lse) v_t,  lse = log sum_t exp(score_t),  score_t = soft_cap(scale * q.k_t)

Enqueued on the stream; allocates nothing, waits for nothing. The same plan and inputs give the same bits.

plan      after update()
q         [rows, query_heads, head_dim]  read; rows as the caller of the tree numbers them
k         [blocks, block_tokens, kv_heads, head_dim], or [tokens, kv_heads, head_dim]  read at the slots of the tree
          alone; v alike
out       like q, written; 0 where the path is empty
lse       f32 [rows, query_heads], written: natural log, -inf where the path is empty; None: not wanted
scale     0: 1 / sqrt(head_dim)
soft_cap  score = soft_cap * tanh(score / soft_cap); 0: none
kernel    'automatic': the plan's; 'portable' or 'fused': the plan must be for that one
stream    a CUDA or HIP stream as an integer; 0 on a CPU build

Raises ValueError if shapes, types or devices disagree with the plan, StalePlanError before its first update,
NotImplementedError if no kernel (or not the chosen one) can do this.)");

  m.def("merge", &merge_partials, "partial_out"_a, "partial_lse"_a, "row_begin"_a, "out"_a.noconvert(),
        "lse"_a.noconvert() = nb::none(), nb::kw_only(), "stream"_a = 0,
        R"(Combines the partial results of each row into its final one:

  lse = log sum_p exp(lse_p),  out = sum_p exp(lse_p - lse) out_p

partial_out  [partials, query_heads, head_dim]  read; each partial's own normalised output
partial_lse  f32 [partials, query_heads]        read; natural log, -inf marks an empty partial
row_begin    int32 [rows + 1]                   read; partials of row r are row_begin[r] .. row_begin[r + 1]
out          [rows, query_heads, head_dim]      written; 0 where every partial is empty
lse          f32 [rows, query_heads]            written; None: not wanted

Raises ValueError if shapes, types or devices disagree.)");
  m.def(
      "dtype_of", [](const InArray& array) { return name_of(scalar_of(array.dtype(), "dtype_of", "array")); },
      "array"_a,
      "The name that a PlanConfig has for the elements of an array: 'f32', 'f16' or 'bf16'. Raises ValueError.");
  nb::class_<WrappedArray>(m, "Array", R"(An array that was asked for its memory once; array() makes it.)");
  m.def(
      "array", [](nb::ndarray<> array) { return WrappedArray(std::move(array)); }, "array"_a.noconvert(),
      "Wraps an array once, zero-copy, so that later calls need not ask it for its memory again. The result keeps\n"
      "the memory alive, and may be given to every function here in place of the array.");
}

}  // namespace espalier::python
