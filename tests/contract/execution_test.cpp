// What a caller may rely on: work goes to the given instance alone; nothing on the way of a decode step waits, allocates
// or copies behind one's back; all that the library starts or allocates says so by its label.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <sstream>

#include "contract/kokkos_events.hpp"
#include "espalier/espalier.hpp"
#include "plan/stacks/stack_plan.hpp"
#include "support/instances.hpp"
#include "support/problem.hpp"
#include "support/sanitized.hpp"
#include "support/spaces_and_elements.hpp"

namespace espalier::test {
namespace {

using Kind = KokkosEvent::Kind;

bool has_our_name(const std::string& label) { return label.starts_with("espalier::"); }

/// Memory that Kokkos keeps for itself, such as the scratch memory of teams.
bool is_of_kokkos(const std::string& label) { return label.starts_with("Kokkos::"); }

/// What is wrong with the events of a call that may only start kernels. The instances of some execution spaces, such as
/// OpenMP, cannot be told apart: there this says only that no other execution space was used.
template <class Exec>
std::string wrong_events(const Exec& exec, const std::vector<KokkosEvent>& events) {
  std::ostringstream wrong;
  const std::uint32_t device = Kokkos::Tools::Experimental::device_id(exec);
  for (const KokkosEvent& event : events)
    if (event.kind != Kind::kernel || event.device != device || !has_our_name(event.label))
      wrong << event << " (the instance is device " << device << ")\n";
  if (events.empty()) wrong << "nothing happened";
  return wrong.str();
}

template <class Exec, class Body>
std::string wrong_events_of(const Exec& exec, const Body& body) {
  body();  // warm: what is done once, such as scratch memory, is done
  exec.fence();
  const std::vector<KokkosEvent> events = events_of(body);
  exec.fence();
  return wrong_events(exec, events);
}

TEMPLATE_LIST_TEST_CASE("the recorder hears kernels, fences, allocations and copies", "[contract]", ExecutionSpaces) {
  const TestType exec;
  std::vector<KokkosEvent> events = events_of([&] {
    Kokkos::View<int*, TestType> view("a view", 10), other("another view", 10);
    Kokkos::parallel_for("a kernel", Kokkos::RangePolicy<TestType>(exec, 0, 10), KOKKOS_LAMBDA(int i) { view(i) = i; });
    Kokkos::deep_copy(exec, other, view);
    exec.fence("a fence");
  });
  const auto heard = [&](Kind kind, const std::string& label) {
    return std::any_of(events.begin(), events.end(),
                       [&](const KokkosEvent& event) { return event.kind == kind && event.label == label; });
  };
  CHECK(heard(Kind::allocation, "a view"));
  CHECK(heard(Kind::kernel, "a kernel"));
  CHECK(heard(Kind::deep_copy, "another view"));
  CHECK(heard(Kind::fence, "a fence"));
  CHECK(heard(Kind::deallocation, "a view"));
  const std::size_t count = events.size();
  exec.fence("unheard");
  CHECK(KokkosEvents::heard().size() == count);
}

TEMPLATE_LIST_TEST_CASE("update, grow and attend start kernels on the given instance and do nothing else", "[contract]",
                        SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const HeadShape heads{8, 2, 32};
  Tree tree = random_forest(7);
  // Wide enough for kernels: a CPU plans a small tree in the calling thread.
  for (int leaf = 0; leaf < 2500; ++leaf) {
    tree.rows.push_back({static_cast<std::int32_t>(tree.nodes.size()), -1});
    tree.nodes.push_back({0, 1});
  }
  const Inputs inputs = random_inputs<Element>(tree, heads, 7);
  for (const Exec& exec : instances<Exec>())
    for (const PlanStrategy strategy : kPlanStrategies)
      for (const Kernel kernel : {Kernel::automatic, Kernel::portable}) {
        if (!takes_case(kScalarOf<Element>, static_cast<std::size_t>(strategy))) break;
        INFO(name_of(strategy) << ", " << name_of(kScalarOf<Element>));
        Setup setup;
        setup.strategy = strategy;
        setup.options.kernel = kernel;
        Problem<Exec, Element> problem(exec, tree, heads, inputs, setup);
        CHECK(wrong_events_of(exec, [&] { problem.plan().update(exec, problem.tree()); }) == "");
        CHECK(wrong_events_of(exec, [&] { problem.plan().grow(exec, problem.tree()); }) == "");
        CHECK(wrong_events_of(exec, [&] { problem.attend(exec); }) == "");
        if (problem.plan().kernel().name == "portable") break;  // asking for it by name plans the same
      }
}

TEMPLATE_LIST_TEST_CASE("a plan of stacks starts kernels on the given instance and does nothing else", "[contract]",
                        ExecutionSpaces) {
  const TreeSnapshot snapshot = snapshot_of(random_forest(7), 16);
  PlanConfig config;
  config.heads = {8, 2, 32};
  config.scalar = Scalar::bf16;
  config.workers = 8;
  for (const TestType& exec : instances<TestType>()) {
    config.capacity = plan::StackPlan<TestType>::required_capacity(snapshot, config, exec);
    plan::StackPlan<TestType> plan(exec, config);
    const TreeArrays<TestType> arrays(exec, snapshot);
    for (const plan::StackRunner runner : {plan::StackRunner::one_team, plan::StackRunner::device})
      CHECK(wrong_events_of(exec, [&] { plan.update(exec, arrays.view(), runner); }) == "");
    // A CPU plans a small tree, and lengthens it, in the calling thread.
    plan.grow(exec, arrays.view());
    exec.fence();
    const std::vector<KokkosEvent> events = events_of([&] { plan.grow(exec, arrays.view()); });
    exec.fence();
    CHECK((events.empty() || wrong_events(exec, events) == ""));
  }
}

TEMPLATE_LIST_TEST_CASE("the first attention allocates nothing either", "[contract]", SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const Exec exec;
  // Larger heads in each round, so that scratch memory of the round before does not suffice.
  for (const int head_dim : {32, 128, 256}) {
    const HeadShape heads{4, 2, head_dim};
    const Tree tree = random_forest(8);
    Problem<Exec, Element> problem(exec, tree, heads, random_inputs<Element>(tree, heads, 8), Setup{});
    exec.fence();
    const std::vector<KokkosEvent> events = events_of([&] { problem.attend(exec); });
    exec.fence();
    CHECK(wrong_events(exec, events) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("append and merge start kernels on the given instance and do nothing else", "[contract]",
                        SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  using Memory = typename Exec::memory_space;
  const Kokkos::View<Element***, Kokkos::LayoutRight, Memory> fresh("fresh", 6, 2, 32), partial("partial", 6, 2, 32);
  const Kokkos::View<Element***, Kokkos::LayoutRight, Memory> out("out", 3, 2, 32);
  const KvCache cache{Kokkos::View<Element****, Kokkos::LayoutRight, Memory>("k", 4, 4, 2, 32),
                      Kokkos::View<Element****, Kokkos::LayoutRight, Memory>("v", 4, 4, 2, 32)};
  const Kokkos::View<float**, Kokkos::LayoutRight, Memory> partial_lse("partial_lse", 6, 2), lse("lse", 3, 2);
  const auto slots = to_view<Exec>(std::vector<std::int64_t>{1, 9, -1, 15, 4, 0});
  const auto row_begin = to_view<Exec>(std::vector<std::int32_t>{0, 1, 1, 6});
  for (const Exec& exec : instances<Exec>()) {
    CHECK(wrong_events_of(exec, [&] { append(exec, slots, fresh, fresh, cache); }) == "");
    CHECK(wrong_events_of(exec, [&] { merge(exec, partial, partial_lse, row_begin, out, lse); }) == "");
  }
}

TEMPLATE_LIST_TEST_CASE("a pool's operations start kernels on the given instance and do nothing else", "[contract]",
                        ExecutionSpaces) {
  using Ids = Kokkos::View<BlockId*, typename TestType::memory_space>;
  for (const TestType& exec : instances<TestType>())
    for (const std::int32_t count : {1, 10, 3000}) {
      INFO(count << " blocks");
      BlockPool<TestType> pool(exec, {10000, 16});
      const Ids ids("ids", std::size_t(count)), others("others", std::size_t(count));
      const auto twice = to_view<TestType>(std::vector<std::int32_t>(std::size_t(count), 2));
      pool.acquire(exec, ids);
      CHECK(wrong_events_of(exec, [&] { pool.acquire(exec, others); }) == "");
      CHECK(wrong_events_of(exec, [&] { pool.retain(exec, ids); }) == "");
      CHECK(wrong_events_of(exec, [&] { pool.retain(exec, ids, twice); }) == "");
      CHECK(wrong_events_of(exec, [&] { pool.release(exec, ids, twice); }) == "");
      CHECK(wrong_events_of(exec, [&] { pool.release(exec, ids); }) == "");
      CHECK(wrong_events_of(exec, [&] { pool.clear_error(exec); }) == "");
      CHECK(pool.stats(exec).error.fault == PoolFault::none);
      CHECK(pool.stats(exec).used == 3 * count);  // `ids` still has a reference
    }
}

TEMPLATE_LIST_TEST_CASE("uploading a tree waits for nothing and allocates nothing", "[contract]", ExecutionSpaces) {
  const TreeSnapshot small = snapshot_of(random_forest(9), 16);
  const TreeSnapshot large = snapshot_of(random_forest(12), 16);
  const auto larger = [](std::size_t a, std::size_t b) { return std::int32_t(std::max(a, b)); };
  for (const TestType& exec : instances<TestType>()) {
    TreeArrays<TestType> arrays(
        exec, {larger(small.parent.size(), large.parent.size()), larger(small.row_node.size(), large.row_node.size()),
               larger(small.block_table.size(), large.block_table.size())});
    arrays.upload(exec, small);
    arrays.upload(exec, large);
    exec.fence();
    const std::vector<KokkosEvent> events = events_of([&] { arrays.upload(exec, small); });
    exec.fence();
    const std::uint32_t device = Kokkos::Tools::Experimental::device_id(exec);
    for (const KokkosEvent& event : events) {
      INFO(event << " (the instance is device " << device << ")");
      CHECK((event.kind == Kind::kernel || event.kind == Kind::deep_copy));
      if (event.kind == Kind::kernel) CHECK(event.device == device);
      CHECK(has_our_name(event.label));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("whatever the library starts or allocates begins with espalier::", "[contract]",
                        SpacesAndElements) {
  using Exec = typename TestType::Exec;
  using Element = typename TestType::Element;
  const Exec exec;
  const HeadShape heads{8, 2, 256};
  const Tree tree = random_forest(13);
  const TreeSnapshot snapshot = snapshot_of(tree, 16);
  const auto ids = Kokkos::View<BlockId*, typename Exec::memory_space>("ids", 5);
  const std::vector<KokkosEvent> events = events_of([&] {
    BlockPool<Exec> pool(exec, {100, 16});
    pool.acquire(exec, ids);
    pool.release(exec, ids);
    static_cast<void>(pool.stats(exec));
    static_cast<void>(pool.free_blocks(exec));
    TreeArrays<Exec> arrays(exec, snapshot);
    arrays.upload(exec, snapshot);
    for (const PlanStrategy strategy : kPlanStrategies) {
      PlanConfig config;
      config.heads = heads;
      config.scalar = kScalarOf<Element>;
      config.strategy = strategy;
      config.capacity = Plan<Exec>::required_capacity(snapshot, config);
      Plan<Exec> plan(exec, config);
      plan.update(exec, arrays);
      static_cast<void>(plan.report(exec));
    }
    const Kokkos::DefaultHostExecutionSpace host;
    BlockPool<Kokkos::DefaultHostExecutionSpace> host_pool(host, {100, 16});
    KvTree kv_tree(host, host_pool);
    const BranchId root = kv_tree.root(40);
    const std::vector<BranchId> forks = kv_tree.fork(root, 2);
    kv_tree.append(forks, 20);
    kv_tree.split(root, 10, 1);
    kv_tree.prune(root);
    arrays = TreeArrays<Exec>(exec, kv_tree.snapshot());
  });
  std::size_t kernels = 0, allocations = 0;
  for (const KokkosEvent& event : events) {
    if (event.kind != Kind::kernel && event.kind != Kind::allocation) continue;
    ++(event.kind == Kind::kernel ? kernels : allocations);
    INFO(event);
    CHECK((has_our_name(event.label) || (event.kind == Kind::allocation && is_of_kokkos(event.label))));
  }
  CHECK(kernels > 10);
  CHECK(allocations > 10);
}

}  // namespace
}  // namespace espalier::test
