#pragma once

#include <cmath>

#include "support/problem.hpp"

namespace espalier::test {

/// What a kernel is called with to solve the problem.
template <class Exec, class Element>
espalier::detail::AttendParams params_of(const Problem<Exec, Element>& problem, const HeadShape& heads,
                                         const Setup& setup) {
  espalier::detail::AttendParams params{};
  params.plan = problem.plan().view();
  params.scalar = kScalarOf<Element>;
  params.query_heads = heads.query_heads;
  params.kv_heads = heads.kv_heads;
  params.head_dim = heads.head_dim;
  params.block_tokens = setup.block_tokens;
  params.scale = setup.options.scale != 0 ? setup.options.scale : 1 / std::sqrt(float(heads.head_dim));
  params.soft_cap = setup.options.soft_cap;
  params.q = problem.q().data();
  params.q_row_stride = std::int64_t(problem.q().stride(0));
  params.q_head_stride = std::int64_t(problem.q().stride(1));
  espalier::detail::set_cache(params, problem.cache());
  params.out = problem.out().data();
  params.out_row_stride = std::int64_t(problem.out().stride(0));
  params.out_head_stride = std::int64_t(problem.out().stride(1));
  if (setup.wants_lse) params.lse = problem.lse().data();
  params.lse_row_stride = std::int64_t(problem.lse().stride(0));
  return params;
}

}  // namespace espalier::test
