// What attend, append and merge refuse: with the values in the message, and with nothing written.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "support/errors.hpp"
#include "support/problem.hpp"

namespace espalier::test {
namespace {

template <class T>
using Rank2 = Kokkos::View<T**, Kokkos::LayoutRight, Kokkos::HostSpace>;
template <class T>
using Rank3 = Kokkos::View<T***, Kokkos::LayoutRight, Kokkos::HostSpace>;
template <class T>
using Rank4 = Kokkos::View<T****, Kokkos::LayoutRight, Kokkos::HostSpace>;
template <class T>
using Rank3Left = Kokkos::View<T***, Kokkos::LayoutLeft, Kokkos::HostSpace>;
template <class T>
using Rank4Left = Kokkos::View<T****, Kokkos::LayoutLeft, Kokkos::HostSpace>;

using Exec = Kokkos::DefaultHostExecutionSpace;

template <class View>
bool untouched(const View& view) {
  for (std::size_t i = 0; i < view.span(); ++i)
    if (view.data()[i] != 77.0f) return false;
  return true;
}

/// A small attention whose arguments can be spoiled one at a time.
struct AttendCase {
  Exec exec;
  HeadShape heads{6, 2, 8};
  Tree tree{"two leaves", {{-1, 5}, {0, 3}, {0, 2}}, {{1}, {2}}};
  TreeArrays<Exec> arrays{exec, snapshot_of(tree, 4)};
  Plan<Exec> plan = make_plan();
  Rank3<float> q{"q", 2, 6, 8}, out{"out", 2, 6, 8};
  Rank4<float> k{"k", 4, 4, 2, 8}, v{"v", 4, 4, 2, 8};
  Rank2<float> lse{"lse", 2, 6};

  AttendCase() {
    plan.update(exec, arrays);
    Kokkos::deep_copy(out, 77.0f);
    Kokkos::deep_copy(lse, 77.0f);
  }

  [[nodiscard]] Plan<Exec> make_plan() const {
    PlanConfig config;
    config.heads = heads;
    config.capacity.nodes = 3;
    config.capacity.rows = 2;
    return {exec, config};
  }

  template <class... Arguments>
  std::string refused(ErrorCode code, const std::string& text, const Arguments&... arguments) {
    const std::string wrong = wrong_error(code, text, [&] { attend(exec, arguments...); });
    exec.fence();
    return untouched(out) && untouched(lse) ? wrong : "something was written; " + wrong;
  }
};

TEST_CASE("attend refuses shapes that are not those of the plan", "[attend][error]") {
  AttendCase c;
  constexpr ErrorCode kInvalid = ErrorCode::invalid_argument;
  const KvCache cache{c.k, c.v};

  CHECK(c.refused(kInvalid, "attend: q has extent 3 in dimension 0, expected 2 (rows of the plan)", c.plan,
                  Rank3<float>("q", 3, 6, 8), cache, c.out, c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: q has extent 5 in dimension 1, expected 6 (query heads of the plan)", c.plan,
                  Rank3<float>("q", 2, 5, 8), cache, c.out, c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: q has extent 16 in dimension 2, expected 8 (head dimension of the plan)", c.plan,
                  Rank3<float>("q", 2, 6, 16), cache, c.out, c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: q has stride 12 in its last dimension, expected 1", c.plan,
                  Rank3Left<float>("q", 2, 6, 8), cache, c.out, c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: out has extent 1 in dimension 0, expected 2 (as q)", c.plan, c.q, cache,
                  Rank3<float>("out", 1, 6, 8), c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: out has extent 7 in dimension 1, expected 6 (as q)", c.plan, c.q, cache,
                  Rank3<float>("out", 2, 7, 8), c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: out has extent 9 in dimension 2, expected 8 (as q)", c.plan, c.q, cache,
                  Rank3<float>("out", 2, 6, 9), c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: out has stride 12 in its last dimension, expected 1", c.plan, c.q, cache,
                  Rank3Left<float>("out", 2, 6, 8), c.lse) == "");
  CHECK(c.refused(kInvalid, "attend: lse has extent 1 in dimension 0, expected 2 (rows of the plan)", c.plan, c.q,
                  cache, c.out, Rank2<float>("lse", 1, 6)) == "");
  CHECK(c.refused(kInvalid, "attend: lse has extent 2 in dimension 1, expected 6 (query heads of the plan)", c.plan,
                  c.q, cache, c.out, Rank2<float>("lse", 2, 2)) == "");
  CHECK(c.refused(kInvalid, "attend: lse has stride 2 in its last dimension, expected 1", c.plan, c.q, cache, c.out,
                  Kokkos::View<float**, Kokkos::LayoutLeft, Kokkos::HostSpace>("lse", 2, 6)) == "");
}

TEST_CASE("attend refuses a cache that is not that of the plan", "[attend][error]") {
  AttendCase c;
  constexpr ErrorCode kInvalid = ErrorCode::invalid_argument;
  const auto refused = [&](const std::string& text, const auto& k, const auto& v) {
    return c.refused(kInvalid, text, c.plan, c.q, KvCache{k, v}, c.out, c.lse);
  };
  CHECK(refused("attend: k has extent 8 in dimension 1, expected 4 (tokens of a block)", Rank4<float>("k", 4, 8, 2, 8),
                c.v) == "");
  CHECK(refused("attend: k has extent 3 in dimension 2, expected 2 (KV heads)", Rank4<float>("k", 4, 4, 3, 8), c.v) ==
        "");
  CHECK(refused("attend: v has extent 6 in dimension 2, expected 2 (KV heads)", c.k, Rank4<float>("v", 4, 4, 6, 8)) ==
        "");
  CHECK(refused("attend: v has extent 4 in dimension 3, expected 8 (head dimension)", c.k,
                Rank4<float>("v", 4, 4, 2, 4)) == "");
  CHECK(refused("attend: v has extent 5 in dimension 0, expected 4 (blocks of k)", c.k,
                Rank4<float>("v", 5, 4, 2, 8)) == "");
  CHECK(refused("attend: k has stride 32 in its last dimension, expected 1", Rank4Left<float>("k", 4, 4, 2, 8),
                Rank4Left<float>("v", 4, 4, 2, 8)) == "");
}

TEST_CASE("attend refuses elements of another type than the plan's", "[attend][error]") {
  AttendCase c;
  const KvCache cache{Rank4<float16>("k", 4, 4, 2, 8), Rank4<float16>("v", 4, 4, 2, 8)};
  CHECK(c.refused(ErrorCode::invalid_argument, "attend: q is f16, the plan expects f32", c.plan,
                  Rank3<float16>("q", 2, 6, 8), cache, Rank3<float16>("out", 2, 6, 8), c.lse) == "");
}

TEST_CASE("attend refuses a plan that was never updated", "[attend][error]") {
  AttendCase c;
  const Plan<Exec> fresh = c.make_plan();
  CHECK(c.refused(ErrorCode::stale_plan, "plan: used before its first update", fresh, c.q, KvCache{c.k, c.v}, c.out,
                  c.lse) == "");
}

TEST_CASE("attend refuses a soft cap below 0 or NaN", "[attend][error]") {
  AttendCase c;
  const KvCache cache{c.k, c.v};
  CHECK(c.refused(ErrorCode::invalid_argument, "attend: soft_cap is -2.5, expected 0 or more", c.plan, c.q, cache,
                  c.out, c.lse, AttendOptions{.soft_cap = -2.5f}) == "");
  CHECK(c.refused(ErrorCode::invalid_argument, "attend: soft_cap is nan", c.plan, c.q, cache, c.out, c.lse,
                  AttendOptions{.soft_cap = std::numeric_limits<float>::quiet_NaN()}) == "");
}

TEST_CASE("attend refuses a fused kernel where none is compiled in", "[attend][error]") {
  const std::vector<KernelInfo> kernels = available_kernels();
  if (kernels.size() > 1) SKIP("this build has other kernels than the portable one");
  AttendCase c;
  CHECK(
      c.refused(ErrorCode::unsupported,
                std::string("attend: the plan was made for the portable kernel: no fused kernel is compiled in for ") +
                    Exec::name(),
                c.plan, c.q, KvCache{c.k, c.v}, c.out, c.lse, AttendOptions{.kernel = Kernel::fused}) == "");
}

TEST_CASE("an error of attend names the place in the library", "[attend][error]") {
  AttendCase c;
  try {
    attend(c.exec, c.plan, Rank3<float>("q", 3, 6, 8), KvCache{c.k, c.v}, c.out, c.lse);
    FAIL("no exception");
  } catch (const Error& error) {
    CHECK(std::string(error.where().file_name()).find("attention.hpp") != std::string::npos);
    CHECK(error.where().line() > 0);
  }
}

TEST_CASE("append refuses shapes that disagree", "[append][error]") {
  const Exec exec;
  constexpr ErrorCode kInvalid = ErrorCode::invalid_argument;
  const Kokkos::View<std::int64_t*, Kokkos::HostSpace> slots("slots", 3);
  const Rank3<float> good_new("new", 3, 2, 8);
  const Rank4<float> good_k("k", 4, 4, 2, 8), good_v("v", 4, 4, 2, 8);
  Kokkos::deep_copy(good_k, 77.0f);
  Kokkos::deep_copy(good_v, 77.0f);
  const auto refused = [&](const std::string& text, const auto& k_new, const auto& v_new, const auto& k,
                           const auto& v) {
    const std::string wrong = wrong_error(kInvalid, text, [&] { append(exec, slots, k_new, v_new, KvCache{k, v}); });
    exec.fence();
    return untouched(good_k) && untouched(good_v) ? wrong : "something was written; " + wrong;
  };
  CHECK(refused("append: k_new has extent 2 in dimension 0, expected 3 (slots)", Rank3<float>("new", 2, 2, 8), good_new,
                good_k, good_v) == "");
  CHECK(refused("append: v_new has extent 1 in dimension 1, expected 2 (KV heads of the cache)", good_new,
                Rank3<float>("new", 3, 1, 8), good_k, good_v) == "");
  CHECK(refused("append: v_new has extent 7 in dimension 2, expected 8 (head dimension of the cache)", good_new,
                Rank3<float>("new", 3, 2, 7), good_k, good_v) == "");
  CHECK(refused("append: k_new has stride 6 in its last dimension, expected 1", Rank3Left<float>("new", 3, 2, 8),
                Rank3Left<float>("new", 3, 2, 8), good_k, good_v) == "");
  CHECK(refused("append: v has extent 3 in dimension 2, expected 2 (KV heads)", good_new, good_new, good_k,
                Rank4<float>("v", 4, 4, 3, 8)) == "");
  CHECK(refused("append: v has extent 2 in dimension 1, expected 4 (tokens of a block)", good_new, good_new, good_k,
                Rank4<float>("v", 4, 2, 2, 8)) == "");
  CHECK(refused("append: v has extent 3 in dimension 0, expected 4 (blocks of k)", good_new, good_new, good_k,
                Rank4<float>("v", 3, 4, 2, 8)) == "");
  CHECK(refused("append: k has stride 32 in its last dimension, expected 1", good_new, good_new,
                Rank4Left<float>("k", 4, 4, 2, 8), Rank4Left<float>("v", 4, 4, 2, 8)) == "");
}

TEST_CASE("merge refuses shapes that disagree", "[merge][error]") {
  const Exec exec;
  const Rank3<float> good_partial("partial", 5, 3, 8), good_out("out", 2, 3, 8);
  const Rank2<float> good_partial_lse("partial_lse", 5, 3), good_lse("lse", 2, 3);
  const Kokkos::View<std::int32_t*, Kokkos::HostSpace> good_begin("row_begin", 3), short_begin("row_begin", 2);
  Kokkos::deep_copy(good_out, 77.0f);
  Kokkos::deep_copy(good_lse, 77.0f);
  const auto refused = [&](const std::string& text, const auto& partial, const auto& partial_lse, const auto& begin,
                           const auto& out, const auto& lse) {
    const std::string wrong =
        wrong_error(ErrorCode::invalid_argument, text, [&] { merge(exec, partial, partial_lse, begin, out, lse); });
    exec.fence();
    return untouched(good_out) && untouched(good_lse) ? wrong : "something was written; " + wrong;
  };
  CHECK(refused("merge: row_begin has extent 2 in dimension 0, expected 3 (rows of out + 1)", good_partial,
                good_partial_lse, short_begin, good_out, good_lse) == "");
  CHECK(refused("merge: partial_out has extent 4 in dimension 1, expected 3 (query heads of out)",
                Rank3<float>("partial", 5, 4, 8), good_partial_lse, good_begin, good_out, good_lse) == "");
  CHECK(refused("merge: partial_out has extent 9 in dimension 2, expected 8 (head dimension of out)",
                Rank3<float>("partial", 5, 3, 9), good_partial_lse, good_begin, good_out, good_lse) == "");
  CHECK(refused("merge: partial_lse has extent 4 in dimension 0, expected 5 (partials)", good_partial,
                Rank2<float>("partial_lse", 4, 3), good_begin, good_out, good_lse) == "");
  CHECK(refused("merge: partial_lse has extent 1 in dimension 1, expected 3 (query heads of out)", good_partial,
                Rank2<float>("partial_lse", 5, 1), good_begin, good_out, good_lse) == "");
  CHECK(refused("merge: lse has extent 1 in dimension 0, expected 2 (rows of out)", good_partial, good_partial_lse,
                good_begin, good_out, Rank2<float>("lse", 1, 3)) == "");
  CHECK(refused("merge: lse has extent 4 in dimension 1, expected 3 (query heads of out)", good_partial,
                good_partial_lse, good_begin, good_out, Rank2<float>("lse", 2, 4)) == "");
  CHECK(refused("merge: partial_out has stride 15 in its last dimension, expected 1",
                Rank3Left<float>("partial", 5, 3, 8), good_partial_lse, good_begin, good_out, good_lse) == "");
  CHECK(refused("merge: out has stride 6 in its last dimension, expected 1", good_partial, good_partial_lse, good_begin,
                Rank3Left<float>("out", 2, 3, 8), good_lse) == "");
}

}  // namespace
}  // namespace espalier::test
