#include "espalier/device_order.hpp"

#include <algorithm>
#include <cstddef>

#include "derivation.hpp"
#include "espalier/error.hpp"
#include "line.hpp"

namespace espalier {
namespace {

using detail::expects;
using namespace derive;

struct Described : Line {
  const std::int32_t* first_block;  // [max_nodes]
  const std::int32_t* block_table;
  std::int64_t block_table_entries;

  KOKKOS_FUNCTION std::int64_t offender(Fault fault, std::int64_t place) const {
    switch (fault) {
      case Fault::parent: return parent[place];
      case Fault::tokens: return tokens[place];
      case Fault::place: return first_block[place];
      case Fault::row_node: return row_node[place];
      case Fault::row_visible: return row_visible[place];
      case Fault::block_capacity: return status->blocks;
      case Fault::token_total: return status->tokens;
      default: return 0;
    }
  }
};

struct Reset {
  static constexpr const char* kLabel = "espalier::DeviceOrder::reset";
  using Always = void;
  KOKKOS_FUNCTION static std::int32_t items(const Described&) { return 1; }
  KOKKOS_FUNCTION static void run(const Described& c, std::int32_t) {
    c.status->reset();
    c.status->nodes = c.max_nodes;
  }
};

/// Finds what is wrong; nodes are leaves at first.
struct Check {
  static constexpr const char* kLabel = "espalier::DeviceOrder::check";
  using Always = void;
  KOKKOS_FUNCTION static std::int32_t items(const Described& c) { return c.max_nodes > c.rows ? c.max_nodes : c.rows; }

  KOKKOS_FUNCTION static void run(const Described& c, std::int32_t i) {
    if (i < c.max_nodes) check_node(c, i);
    if (i < c.rows) {
      const std::int32_t node = c.row_node[i];
      if (node < 0 || node >= c.max_nodes) {
        c.status->report(Fault::row_node, i);
      } else if (c.row_visible != nullptr && (c.row_visible[i] < -1 || c.row_visible[i] > c.tokens[node])) {
        c.status->report(Fault::row_visible, i);
      }
    }
  }

 private:
  KOKKOS_FUNCTION static void check_node(const Described& c, std::int32_t node) {
    const std::int32_t parent = c.parent[node], tokens = c.tokens[node];  // loads that do not wait for each other
    const std::int32_t first_block = c.first_block[node], first_offset = c.first_offset[node];
    c.hops_a[node] = {c.leave(node), 1};
    if (parent < -1 || parent >= node) c.status->report(Fault::parent, node);
    if (tokens < 0) c.status->report(Fault::tokens, node);
    if (tokens <= 0) return;
    const bool is_valid = 0 <= first_offset && first_offset < c.block_tokens && first_block >= 0 &&
                          first_block + c.blocks_for(first_offset, tokens) <= c.block_table_entries;
    if (!is_valid) c.status->report(Fault::place, node);
  }
};

/// Nodes by parent; siblings stay in order.
struct SiblingOrder {
  static constexpr const char* kLabel = "espalier::DeviceOrder::siblings";
  static constexpr std::int32_t kWhich = std::int32_t(Sorted::siblings);
  KOKKOS_FUNCTION static std::int32_t items(const Described& c) { return c.max_nodes; }
  KOKKOS_FUNCTION static std::uint64_t key(const Described& c, std::int32_t node) {
    return std::uint64_t(std::int64_t(c.parent[node]) + 1);
  }
};

/// The tour goes from a parent to its first child, from there to the next sibling, from the last one back.
struct Link {
  static constexpr const char* kLabel = "espalier::DeviceOrder::link";
  KOKKOS_FUNCTION static std::int32_t items(const Described& c) { return c.max_nodes; }

  KOKKOS_FUNCTION static void run(const Described& c, std::int32_t place) {
    const SortBuffer sorted = Sorting<SiblingOrder>::result(c);
    const std::int32_t node = sorted.items[place];
    const std::int32_t parent = c.parent[node];
    const bool is_first = place == 0 || sorted.keys[place - 1] != sorted.keys[place];
    const bool is_last = place + 1 == c.max_nodes || sorted.keys[place + 1] != sorted.keys[place];
    if (is_first && parent >= 0) c.hops_a[parent] = {node, 1};
    c.hops_a[c.leave(node)] = {!is_last ? sorted.items[place + 1] : parent >= 0 ? c.leave(parent) : kNone, 0};
  }
};

/// Each node's entries of the block table.
struct NodeBlocks {
  static constexpr const char* kLabel = "espalier::DeviceOrder::block_table";
  static constexpr bool kKnownBefore = true;
  KOKKOS_FUNCTION static std::int32_t items(const Described& c) { return c.max_nodes; }

  KOKKOS_FUNCTION static const std::int32_t* source(const Described& c, std::int32_t node) {
    return c.block_table + c.first_block[node];
  }
  KOKKOS_FUNCTION static std::int32_t length(const Described& c, std::int32_t node) {
    return std::int32_t(c.blocks_of(node));
  }
  KOKKOS_FUNCTION static std::int32_t place(const Described& c, std::int32_t node) {
    return c.tokens[node] == 0 ? kNowhere : c.target.first_block[Jump::position(c, node)];
  }
};

struct OrderSteps : Program<Each<Reset>, Each<Check>, Sorting<SiblingOrder>::Steps, Each<Link>, LineSteps<NodeBlocks>> {
};

template <class View>
void expects_extent(const View& view, std::size_t extent, const char* name, const char* what) {
  expects(view.extent(0) == extent, ErrorCode::invalid_argument, "DeviceOrder::update: ", name, " has ", view.extent(0),
          " entries, expected ", extent, ", one for each ", what);
}

}  // namespace

template <ExecutionSpace Exec>
struct DeviceOrder<Exec>::Impl {
  std::int32_t max_nodes;
  std::int32_t max_rows;
  Derivation<Exec> derivation;

  Impl(const Exec& exec, std::int32_t nodes, std::int32_t rows)
      : max_nodes(nodes), max_rows(rows), derivation(exec, nodes, std::max(nodes, rows)) {}
};

template <ExecutionSpace Exec>
DeviceOrder<Exec>::DeviceOrder(const Exec& exec, std::int32_t nodes, std::int32_t rows) {
  constexpr std::int32_t kMost = 1 << 30;
  expects(nodes >= 0 && nodes <= kMost, ErrorCode::invalid_argument, "DeviceOrder: the capacity of nodes is ", nodes,
          ", expected 0 .. ", kMost);
  expects(rows >= 0 && rows <= kMost, ErrorCode::invalid_argument, "DeviceOrder: the capacity of rows is ", rows,
          ", expected 0 .. ", kMost);
  impl_ = std::make_unique<Impl>(exec, nodes, rows);
}

template <ExecutionSpace Exec>
DeviceOrder<Exec>::~DeviceOrder() = default;

template <ExecutionSpace Exec>
DeviceOrder<Exec>::DeviceOrder(DeviceOrder&&) noexcept = default;

template <ExecutionSpace Exec>
DeviceOrder<Exec>& DeviceOrder<Exec>::operator=(DeviceOrder&&) noexcept = default;

template <ExecutionSpace Exec>
void DeviceOrder<Exec>::update(const Exec& exec, const DeviceTree<Exec>& described, int block_tokens,
                               TreeArrays<Exec>& tree) {
  const std::size_t nodes = described.parent.extent(0);
  const std::size_t rows = described.row_node.extent(0);
  expects_extent(described.tokens, nodes, "tokens", "node");
  expects_extent(described.first_block, nodes, "first_block", "node");
  expects_extent(described.first_offset, nodes, "first_offset", "node");
  if (described.row_visible.extent(0) > 0) expects_extent(described.row_visible, rows, "row_visible", "row");
  expects_block_tokens("DeviceOrder::update", block_tokens);
  expects(nodes <= std::size_t(impl_->max_nodes), ErrorCode::capacity_exceeded, "DeviceOrder::update: the tree has ",
          nodes, " nodes, the capacity is ", impl_->max_nodes);
  expects(rows <= std::size_t(impl_->max_rows), ErrorCode::capacity_exceeded, "DeviceOrder::update: the tree has ",
          rows, " rows, the capacity is ", impl_->max_rows);
  expects(nodes > 0 || rows == 0, ErrorCode::invalid_argument, "DeviceOrder::update: there are ", rows,
          " rows, but no nodes");

  Described c{};
  c.block_table_entries = std::int64_t(described.block_table.extent(0));
  static_cast<Line&>(c) = impl_->derivation.begin(tree, std::int32_t(nodes), std::int32_t(nodes), std::int32_t(rows),
                                                  block_tokens, {.block_table_entries = c.block_table_entries});
  c.parent = described.parent.data();
  c.tokens = described.tokens.data();
  c.first_offset = described.first_offset.data();
  c.row_node = described.row_node.data();
  c.row_visible = described.row_visible.data();
  c.first_block = described.first_block.data();
  c.block_table = described.block_table.data();
  if (described.row_visible.extent(0) == 0) c.row_visible = nullptr;

  run_and_copy<OrderSteps, NodeBlocks>(exec, "espalier::DeviceOrder::update", std::int64_t(std::max(nodes, rows)), c);
}

template <ExecutionSpace Exec>
DerivedTree DeviceOrder<Exec>::report(const Exec& exec) const {
  return impl_->derivation.checked(impl_->derivation.status(exec, "DeviceOrder::report"), "DeviceOrder::update");
}

#define ESPALIER_INSTANTIATE(Exec) template class DeviceOrder<Exec>;
#include "instantiate.inc"
#undef ESPALIER_INSTANTIATE

}  // namespace espalier
