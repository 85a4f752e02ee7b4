// Which kernel a plan is made for, and what attend() then runs. The program has kernels of its own: they count their calls
// and leave the work to the portable one.

#include <catch2/catch_test_macros.hpp>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "backends/portable/attend.hpp"
#include "espalier/validate.hpp"
#include "support/errors.hpp"
#include "support/problem.hpp"

namespace espalier::test {
namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;
using backend::FusedKernel;
using espalier::detail::AttendParams;

constexpr int kTilePairs = 12;
constexpr int kWorkers = 5;

struct Calls {
  int narrow = 0;
  int broad = 0;
  int append = 0;
  int stacks = 0;
  int settled = 0;  ///< of those
  int status = 0;   ///< what the next launch says
  bool spoils_lse = false;
};
Calls calls;

std::string runs() { return ""; }
std::string no_device() { return "there is no such device"; }

std::string takes_any_shape(const backend::Shape&) { return ""; }
std::string takes_head_dim_16(const backend::Shape& shape) {
  if (shape.head_dim != 16) return "head_dim is " + std::to_string(shape.head_dim) + ", expected 16";
  if (shape.block_tokens > 64) return "block_tokens is " + std::to_string(shape.block_tokens) + ", expected 1 to 64";
  return "";
}

std::string takes_any_params(const AttendParams&) { return ""; }
std::string takes_even_strides(const AttendParams& call) {
  return call.q_row_stride % 2 == 0 ? "" : "the row stride of q is odd";
}

backend::TileSize tile_size(const backend::Shape&) { return {kTilePairs, kWorkers}; }

template <int Calls::* kCount>
int attend_tiles(const AttendParams& call, backend::Stream stream) {
  CHECK(stream == nullptr);
  ++(calls.*kCount);
  if (calls.status == 0) portable::attend(Exec(), call);
  if (calls.spoils_lse && call.lse != nullptr) call.lse[0] += 1;
  return calls.status;
}

/// Leaves out as it is: no kernel of the CPU reads such plans.
int attend_stacks(const AttendParams& call, const espalier::detail::FusedPlanView& plan, std::int32_t q_rows,
                  bool is_settled, backend::Stream) {
  ++calls.stacks;
  calls.settled += is_settled ? 1 : 0;
  CHECK(plan.header->rows == 4);
  CHECK(q_rows == 4);
  CHECK(call.head_dim == 64);
  return calls.status;
}

int append_tokens(const espalier::detail::AppendParams& call, backend::Stream) {
  ++calls.append;
  if (calls.status == 0) portable::append(Exec(), call);
  return calls.status;
}

std::string status_text(int status) { return "status " + std::to_string(status); }

const std::vector<FusedKernel> kKernels = {
    {"test-absent", Exec::name(), backend::PlanForm::tiles, true, no_device, takes_any_shape, takes_any_params,
     tile_size, attend_tiles<&Calls::broad>, nullptr, nullptr, append_tokens, status_text},
    {"test-narrow", Exec::name(), backend::PlanForm::tiles, true, runs, takes_head_dim_16, takes_even_strides,
     tile_size, attend_tiles<&Calls::narrow>, nullptr, nullptr, append_tokens, status_text},
    {"test-broad", Exec::name(), backend::PlanForm::tiles, false, runs, takes_any_shape, takes_any_params, tile_size,
     attend_tiles<&Calls::broad>, nullptr, nullptr, nullptr, status_text},
    {"test-stacks", Exec::name(), backend::PlanForm::stacks, false, runs, takes_any_shape, takes_even_strides, nullptr,
     nullptr, attend_stacks, nullptr, nullptr, status_text},
    {"test-elsewhere", "Abacus", backend::PlanForm::tiles, true, runs, takes_any_shape, takes_any_params, tile_size,
     attend_tiles<&Calls::broad>, nullptr, nullptr, nullptr, status_text},
};

const Tree kTree{"siblings", {{-1, 30}, {0, 70}, {0, 12}, {2, 9}}, {{1}, {2}, {3}, {3, 4}}};

/// What attention through the library comes to.
struct Outcome {
  Calls calls;
  std::string wrong;
};

Outcome attend_and_check(int head_dim, Kernel kernel, const std::string& name, Setup setup = {}) {
  const HeadShape heads{6, 2, head_dim};
  const Inputs inputs = random_inputs<float>(kTree, heads, 3);
  setup.kernel = kernel;
  setup.kernel_name = name;
  calls = {};
  const Exec exec;
  Problem<Exec, float> problem(exec, kTree, heads, inputs, setup);
  problem.attend(exec);
  const Result result = problem.result(exec);
  return {calls, disagreement(result.out, result.lse, oracle_of(kTree, heads, inputs), heads, Scalar::f32,
                              tolerance_of(kTree, heads, inputs))};
}

PlanConfig config_of(int head_dim, Kernel kernel = Kernel::automatic, const std::string& name = "") {
  PlanConfig config;
  config.heads = {6, 2, head_dim};
  config.capacity.nodes = 4;
  config.capacity.rows = 4;
  config.kernel = kernel;
  config.kernel_name = name;
  return config;
}

std::string kernel_of(const PlanConfig& config) { return Plan<Exec>(Exec(), config).kernel().name; }

}  // namespace
}  // namespace espalier::test

std::span<const espalier::backend::FusedKernel> espalier::backend::fused_kernels() { return test::kKernels; }

namespace espalier::test {
namespace {

TEST_CASE("kernels are listed with those of one execution space together, and why one does not run", "[kernel]") {
  std::string names;
  for (const KernelInfo& kernel : available_kernels()) {
    if (kernel.backend != Exec::name()) continue;
    names += kernel.name + (kernel.available ? " " : " (" + kernel.why_not + ") ");
  }
  CHECK(names == "test-absent (there is no such device) test-narrow test-broad test-stacks portable ");
}

TEST_CASE("a plan is made for the first kernel that fits, and says why for none", "[kernel][plan]") {
  CHECK(kernel_of(config_of(16)) == "test-narrow");
  const Plan<Exec> plan(Exec(), config_of(24));
  CHECK(plan.kernel().name == "portable");
  CHECK(plan.kernel().backend == Exec::name());
  CHECK(plan.kernel().why_not == "test-absent: there is no such device; test-narrow: head_dim is 24, expected 16");
  CHECK(kernel_of(config_of(24, Kernel::fused)) == "test-broad");  // which is never chosen unasked
  CHECK(kernel_of(config_of(16, Kernel::portable)) == "portable");
  CHECK(kernel_of(config_of(16, Kernel::automatic, "test-broad")) == "test-broad");
  CHECK(kernel_of(config_of(16, Kernel::automatic, "portable")) == "portable");
}

TEST_CASE("a plan refuses kernels that it cannot have", "[kernel][plan][error]") {
  const auto refused = [](ErrorCode code, const std::string& text, const PlanConfig& config) {
    return wrong_error(code, text, [&] { Plan<Exec>(Exec(), config); }) +
           wrong_error(code, text, [&] { (void)Plan<Exec>::required_capacity(snapshot_of(kTree, 16), config); });
  };
  CHECK(refused(ErrorCode::unsupported, "plan: kernel test-narrow cannot be used: head_dim is 24, expected 16",
                config_of(24, Kernel::automatic, "test-narrow")) == "");
  CHECK(refused(ErrorCode::invalid_argument,
                std::string("plan: kernel_name is 'test-elsewhere', expected one of those for ") + Exec::name() +
                    ": portable, test-absent, test-narrow, test-broad, test-stacks",
                config_of(16, Kernel::automatic, "test-elsewhere")) == "");
  CHECK(refused(ErrorCode::invalid_argument,
                "plan: kernel_name is 'test-broad', expected none where kernel is not automatic",
                config_of(16, Kernel::fused, "test-broad")) == "");
}

TEST_CASE("a plan is cut as its kernel wants it", "[kernel][plan]") {
  const Exec exec;
  PlanConfig config = config_of(16);
  config.strategy = PlanStrategy::node;
  Plan<Exec> plan(exec, config);
  CHECK(plan.config().workers == kWorkers);
  const TreeArrays<Exec> tree(exec, snapshot_of(kTree, 16));
  plan.update(exec, tree);
  exec.fence();
  CHECK(plan.view().tiles[0].row_end == kTilePairs / 3);  // three query heads for each KV head
  config.workers = 2;
  CHECK(Plan<Exec>(exec, config).config().workers == 2);
}

TEST_CASE("a plan refuses a tree that its kernel does not take", "[kernel][plan][error]") {
  const Exec exec;
  const TreeArrays<Exec> tree(exec, snapshot_of(kTree, 128));
  Plan<Exec> plan(exec, config_of(16));
  CHECK(wrong_error(ErrorCode::unsupported,
                    "plan: kernel test-narrow cannot take the tree: block_tokens is 128, expected 1 to 64; a plan with "
                    "PlanConfig::kernel = Kernel::portable takes any",
                    [&] { plan.update(exec, tree); }) == "");
  CHECK(wrong_error(ErrorCode::stale_plan, "plan: used before", [&] { (void)plan.rows(); }) == "");
}

TEST_CASE("attend runs the kernel of the plan", "[kernel][attend]") {
  const Outcome narrow = attend_and_check(16, Kernel::automatic, "");
  CHECK(narrow.wrong == "");
  CHECK(narrow.calls.narrow == 1);
  const Outcome broad = attend_and_check(24, Kernel::fused, "");
  CHECK(broad.wrong == "");
  CHECK(broad.calls.broad == 1);
  const Outcome portable = attend_and_check(16, Kernel::portable, "");
  CHECK(portable.wrong == "");
  CHECK(portable.calls.narrow + portable.calls.broad == 0);
}

TEST_CASE("the portable kernel runs a plan of tiles that was made for another", "[kernel][attend]") {
  Setup setup;
  setup.options.kernel = Kernel::portable;
  const Outcome outcome = attend_and_check(16, Kernel::fused, "", setup);
  CHECK(outcome.wrong == "");
  CHECK(outcome.calls.narrow == 0);
}

TEST_CASE("arrays that a kernel cannot take go to the portable one, unless the kernel was asked for",
          "[kernel][attend]") {
  Setup setup;
  setup.cache_layout = CacheLayout::padded;  // makes the row stride of q odd
  const Outcome outcome = attend_and_check(16, Kernel::automatic, "", setup);
  CHECK(outcome.wrong == "");
  CHECK(outcome.calls.narrow == 0);

  constexpr const char* kMessage =
      "attend: the plan was made for kernel test-narrow, which cannot take these arrays: the row stride of q is odd; a "
      "plan with PlanConfig::kernel = Kernel::portable takes any";
  const auto refused = [&](Kernel kernel, const std::string& name, Kernel option) {
    Setup asking = setup;
    asking.options.kernel = option;
    return wrong_error(ErrorCode::unsupported, kMessage, [&] { attend_and_check(16, kernel, name, asking); });
  };
  CHECK(refused(Kernel::fused, "", Kernel::automatic) == "");
  CHECK(refused(Kernel::automatic, "test-narrow", Kernel::automatic) == "");
  CHECK(refused(Kernel::automatic, "", Kernel::fused) == "");
}

TEST_CASE("a kernel that reads stacks gets its own plan, which no other kernel runs", "[kernel][plan][attend]") {
  const Exec exec;
  const HeadShape heads{6, 2, 64};
  const Inputs inputs = random_inputs<float16>(kTree, heads, 3);
  Setup setup;
  setup.kernel_name = "test-stacks";
  calls = {};
  Problem<Exec, float16> problem(exec, kTree, heads, inputs, setup);
  problem.attend(exec);
  CHECK(calls.stacks == 1);
  CHECK(calls.settled == 0);
  problem.attend(exec);
  CHECK(calls.settled == 1);
  problem.plan().grow(exec, problem.tree());
  problem.attend(exec);
  CHECK(calls.stacks == 3);
  CHECK(calls.settled == 1);
  calls.status = 77;
  CHECK(wrong_error(ErrorCode::backend_failure, "status 77", [&] { problem.attend(exec); }) == "");
  calls.status = 0;
  problem.attend(exec);
  CHECK(calls.settled == 2);  // the one that failed would have been, this one may not be
  CHECK(problem.plan().report(exec).rows == 4);
  CHECK(wrong_error(ErrorCode::unsupported, "plan: it was made for kernel test-stacks, whose tiles have another form",
                    [&] { (void)problem.plan().view(); }) == "");

  setup.options.kernel = Kernel::portable;
  Problem<Exec, float16> portable(exec, kTree, heads, inputs, setup);
  CHECK(
      wrong_error(ErrorCode::unsupported,
                  "attend: the plan was made for kernel test-stacks, the portable kernel cannot read it: make it with "
                  "PlanConfig::kernel = Kernel::portable",
                  [&] { portable.attend(exec); }) == "");
  setup.options.kernel = Kernel::automatic;
  setup.cache_layout = CacheLayout::padded;
  Problem<Exec, float16> padded(exec, kTree, heads, inputs, setup);
  CHECK(wrong_error(ErrorCode::unsupported,
                    "attend: the plan was made for kernel test-stacks, which cannot take these arrays: the row stride",
                    [&] { padded.attend(exec); }) == "");
  setup.strategy = PlanStrategy::node;
  CHECK(wrong_error(ErrorCode::unsupported,
                    "plan: kernel test-stacks cannot be used: the strategy is node, it takes automatic alone",
                    [&] { Problem<Exec, float16>(exec, kTree, heads, inputs, setup); }) == "");
  PlanConfig config = config_of(16);
  const Plan<Exec> tiles(exec, config);
  CHECK(wrong_error(ErrorCode::stale_plan, "plan: used before", [&] { (void)tiles.stack_view(); }) == "");
}

TEST_CASE("attend does not run a fused kernel on a plan of the portable one", "[kernel][attend][error]") {
  Setup setup;
  setup.options.kernel = Kernel::fused;
  CHECK(wrong_error(ErrorCode::unsupported,
                    "attend: the plan was made for the portable kernel: test-absent: there is no such device; "
                    "test-narrow: head_dim is 24, expected 16",
                    [&] { attend_and_check(24, Kernel::automatic, "", setup); }) == "");
  CHECK(wrong_error(ErrorCode::unsupported,
                    "attend: the plan was made for the portable kernel: its configuration asks for it",
                    [&] { attend_and_check(16, Kernel::portable, "", setup); }) == "");
}

TEST_CASE("a launch that fails is an error with the runtime's words", "[kernel][attend][error]") {
  const Exec exec;
  const HeadShape heads{6, 2, 16};
  Problem<Exec, float> problem(exec, kTree, heads, random_inputs<float>(kTree, heads, 3), Setup{});
  calls = {.status = 77};
  CHECK(wrong_error(ErrorCode::backend_failure, "attend: kernel test-narrow could not be launched: status 77",
                    [&] { problem.attend(exec); }) == "");
  const Kokkos::View<std::int64_t*, Kokkos::HostSpace> slots("slots", 1);
  const Kokkos::View<float***, Kokkos::LayoutRight, Kokkos::HostSpace> fresh("fresh", 1, 2, 16);
  CHECK(wrong_error(ErrorCode::backend_failure, "append: kernel test-narrow could not be launched: status 77",
                    [&] { append(exec, slots, fresh, fresh, problem.cache()); }) == "");
}

TEST_CASE("validate finds a kernel that is wrong, and runs only those it is asked for", "[kernel][validate]") {
  const auto validated = [](const std::string& name) {
    calls = {.spoils_lse = name == "test-b"};
    std::vector<KernelValidation> found = validate_kernels(Exec(), {.kernel = name, .quick = true});
    calls = {};
    REQUIRE(found.size() == 1);
    return found[0];
  };
  const KernelValidation wrong = validated("test-b");
  CHECK(wrong.kernel.name == "test-broad");
  CHECK(!wrong.passed());
  CHECK(wrong.wrong > 10);
  REQUIRE(wrong.faults.size() == 5);
  CHECK(wrong.faults[0].starts_with("lse of row 0, head 0 is "));
  CHECK(wrong.faults[0].find("heads of") != std::string::npos);

  const KernelValidation absent = validated("test-abs");
  CHECK(absent.passed());
  CHECK(absent.checked == 0);
  const KernelValidation narrow = validated("test-narrow");  // no problem has heads of 16
  CHECK(narrow.unsupported > 100);
  CHECK(!narrow.passed());
  CHECK(wrong_error(ErrorCode::invalid_argument, "validate: no kernel's name begins with 'test-c', there are for ",
                    [] { (void)validate_kernels(Exec(), {.kernel = "test-c"}); }) == "");
}

TEST_CASE("append runs the first kernel that runs here and has one", "[kernel][append]") {
  const Exec exec;
  calls = {};
  const Kokkos::View<std::int64_t*, Kokkos::HostSpace> slots("slots", 1);
  const Kokkos::View<float***, Kokkos::LayoutRight, Kokkos::HostSpace> fresh("fresh", 1, 2, 4);
  const Kokkos::View<float****, Kokkos::LayoutRight, Kokkos::HostSpace> k("k", 1, 1, 2, 4), v("v", 1, 1, 2, 4);
  Kokkos::deep_copy(fresh, 5.0f);
  append(exec, slots, fresh, fresh, KvCache{k, v});
  exec.fence();
  CHECK(calls.append == 1);
  CHECK(k(0, 0, 1, 3) == 5.0f);
}

}  // namespace
}  // namespace espalier::test
