// Page tables from arbitrary bytes: BlockTableReader must give the tree of the map of maps, or say what is wrong, and
// must touch nothing beside its arrays (run it with AddressSanitizer).

#include <Kokkos_Core.hpp>
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "espalier/block_tables.hpp"
#include "espalier/error.hpp"
#include "fuzz_target.hpp"
#include "support/block_table_model.hpp"
#include "support/device_tree.hpp"

namespace espalier {
namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;

/// Numbers from bytes; zeros behind their end.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  [[nodiscard]] bool empty() const { return size_ == 0; }
  std::int32_t below(std::int32_t end) { return std::int32_t(take<std::uint8_t>()) % end; }

  template <class T>
  T take() {
    T value{};
    const std::size_t bytes = size_ < sizeof(T) ? size_ : sizeof(T);
    if (bytes > 0) std::memcpy(&value, data_, bytes);
    data_ += bytes;
    size_ -= bytes;
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

struct Input {
  test::HostTables tables;
  std::int32_t max_blocks = 0, gap = 0;
  TreeCapacity capacity{};

  explicit Input(Bytes bytes) {
    tables.block_tokens = 1 + bytes.below(20);
    const std::int32_t sequences = bytes.below(24);
    max_blocks = bytes.below(12) + (bytes.below(8) == 0 ? 150 : 0);
    gap = bytes.below(3);
    tables.pool_blocks = bytes.below(200);
    capacity = {2 * sequences - bytes.below(8), sequences + bytes.below(2), bytes.below(250)};
    if (capacity.nodes < 0) capacity.nodes = 0;
    const bool wild = bytes.below(4) == 0;
    for (std::int32_t s = 0; s < sequences; ++s) {
      // A row begins as an earlier one does: tables that share nothing are dull.
      std::vector<std::int32_t> row(static_cast<std::size_t>(max_blocks));
      const std::int32_t model = bytes.below(s + 1), shared = bytes.below(max_blocks + 1);
      for (std::int32_t i = 0; i < max_blocks; ++i) {
        std::int32_t& block = row[std::size_t(i)];
        if (i < shared && model < s) {
          block = tables.blocks[std::size_t(model)][std::size_t(i)];
        } else if (bytes.empty()) {
          block = (s * 37 + i) % (tables.pool_blocks > 0 ? tables.pool_blocks : 1);
        } else {
          block = wild && bytes.below(16) == 0 ? bytes.take<std::int32_t>() : bytes.take<std::uint8_t>();
        }
      }
      tables.blocks.push_back(std::move(row));
      tables.lengths.push_back(wild && bytes.below(16) == 0 ? bytes.take<std::int32_t>()
                                                            : std::int32_t(bytes.take<std::uint16_t>()) %
                                                                  (max_blocks * tables.block_tokens + 1));
    }
  }

  [[nodiscard]] bool is_valid() const {
    for (std::int32_t s = 0; s < tables.sequences(); ++s) {
      if (tables.lengths[std::size_t(s)] < 0 || tables.lengths[std::size_t(s)] > max_blocks * tables.block_tokens)
        return false;
      for (std::int32_t i = 0; i < tables.blocks_of(s); ++i) {
        const std::int32_t block = tables.blocks[std::size_t(s)][std::size_t(i)];
        if (block < 0 || block >= tables.pool_blocks) return false;
      }
    }
    return true;
  }
};

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::cerr << "page tables: " << what << std::endl;
  std::abort();
}

void check(const Input& input) {
  static const Exec exec;
  const std::int32_t sequences = input.tables.sequences();
  const auto stride = std::size_t(input.max_blocks + input.gap);
  std::vector<std::int32_t> entries(std::size_t(sequences) * stride, -9);
  for (std::size_t s = 0; s < std::size_t(sequences); ++s)
    std::ranges::copy(input.tables.blocks[s], entries.begin() + std::ptrdiff_t(s * stride));
  BlockTables<Exec> tables;
  tables.blocks = decltype(tables.blocks)(
      entries.data(), Kokkos::LayoutStride(std::size_t(sequences), stride, std::size_t(input.max_blocks), 1));
  tables.lengths = decltype(tables.lengths)(input.tables.lengths.data(), std::size_t(sequences));
  tables.block_tokens = input.tables.block_tokens;

  BlockTableReader<Exec> reader(exec, {sequences, input.tables.pool_blocks});
  TreeArrays<Exec> tree(exec, input.capacity);
  ErrorCode error{};
  bool failed = false;
  try {
    reader.update(exec, tables, tree);
    static_cast<void>(reader.report(exec));
  } catch (const Error& thrown) {
    failed = true;
    error = thrown.code();
  }
  if (!input.is_valid()) {
    if (sequences > 0 && input.capacity.nodes == 0) return;  // refused before anything ran
    expect(failed && error == ErrorCode::invalid_argument, "tables that are wrong were not refused");
    expect(test::device_counts(tree)[0] == 1 && test::device_counts(tree)[3] == 0, "a refused tree is not empty");
    return;
  }
  const TreeSnapshot expected = tree_of(input.tables);
  const bool fits =
      expected.nodes() <= input.capacity.nodes && std::int32_t(expected.block_table.size()) <= input.capacity.blocks;
  expect(failed != fits, fits ? "a tree that fits was refused" : "a tree that does not fit was taken");
  if (failed) {
    expect(error == ErrorCode::capacity_exceeded, "the wrong error");
  } else {
    const std::string difference = test::difference(tree, expected);
    expect(difference.empty(), difference);
  }
}

}  // namespace
}  // namespace espalier

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Kokkos::ScopeGuard kokkos(
      Kokkos::InitializationSettings().set_disable_warnings(true).set_num_threads(1));
  espalier::check(espalier::Input({data, size}));
  return 0;
}

std::vector<std::string> espalier::fuzz::first_inputs() {
  std::vector<std::string> inputs;
  for (std::uint32_t seed = 1; seed <= 40; ++seed) {
    std::mt19937 random(seed);
    std::string input;
    for (std::uint32_t i = 20 + seed * 20; i > 0; --i) input += char(random() % (seed % 2 == 0 ? 256 : 24));
    input[1] = char(2 + random() % 20);  // some sequences,
    input[2] = char(1 + random() % 11);  // some blocks,
    input[5] = char(199);                // and ids that mostly are blocks
    inputs.push_back(std::move(input));
  }
  return inputs;
}
