// Tree files and workload names from arbitrary bytes: a tree that holds what it promises, or an InputError of one line.

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>

#include "cli/input_error.hpp"
#include "cli/tree_file.hpp"
#include "cli/workload.hpp"
#include "fuzz_target.hpp"

namespace espalier {
namespace {

using cli::InputError;
using cli::TreeInput;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::cerr << "tree files: " << what << std::endl;
  std::abort();
}

void check_tree(const TreeInput& tree) {
  expect(!tree.nodes.empty(), "a tree without nodes");
  for (std::size_t node = 0; node < tree.nodes.size(); ++node) {
    expect(tree.nodes[node].parent >= -1 && tree.nodes[node].parent < std::int64_t(node), "a parent behind its child");
    expect(tree.nodes[node].tokens >= 0, "a negative number of tokens");
  }
  for (const RowSpec& row : tree.rows) {
    expect(row.node >= 0 && row.node < std::ssize(tree.nodes), "a row at no node");
    expect(row.visible >= -1 && row.visible <= tree.nodes[std::size_t(row.node)].tokens, "a row that sees too much");
  }
  if (tree.tokens() < 1'000'000) static_cast<void>(make_snapshot(tree.nodes, tree.rows, 16));
}

template <class Read>
void check_reader(const Read& read) {
  try {
    check_tree(read());
  } catch (const InputError& error) {
    const std::string message = error.what();
    expect(!message.empty() && message.find('\n') == std::string::npos, "a message that is not one line: " + message);
  }
}

/// A workload may be as large as the machine's memory: names of small ones only. A name with control characters is
/// repeated in the message as it is.
bool is_small_workload(const std::string& text) {
  int digits = 0;
  for (const char letter : text) {
    if (std::iscntrl(static_cast<unsigned char>(letter)) != 0) return false;
    digits = std::isdigit(static_cast<unsigned char>(letter)) ? digits + 1 : 0;
    if (digits > 3) return false;
  }
  return text.size() < 40 && cli::names_workload(text);
}

const std::string& file_name() {
  static const struct File {
    std::string name = "/tmp/espalier_fuzz_" + std::to_string(getpid());
    ~File() { std::remove(name.c_str()); }
  } file;
  return file.name;
}

}  // namespace
}  // namespace espalier

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace espalier;
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::ofstream(file_name(), std::ios::binary) << text;
  check_reader([] { return cli::read_tree(file_name()); });
  if (is_small_workload(text)) check_reader([&] { return cli::make_workload(text); });
  return 0;
}

std::vector<std::string> espalier::fuzz::first_inputs() {
  return {
      R"({"nodes": [{"parent": -1, "tokens": 128}, {"parent": 0, "tokens": 64}, {"parent": 0, "tokens": 70}]})",
      R"({"nodes": [{"parent": -1, "tokens": 3}], "rows": [{"node": 0, "visible": 2}, {"node": 0}]})",
      R"({"nodes": [{"parent": -1, "tokens": 0}, {"parent": -1, "tokens": 2147483647}], "rows": [{"node": 1}]})",
      "4\n-1 0 4000 2\n0 1 200 0\n0 2 200 1\n2 3 7 0\n",
      "1\n-1 0 0 0",
      "layers:1,4,16/100,10,5",
      "star:100,8,20",
      "beam:100,4,3,10",
      "tot:100,3,8,20,5",
      "tokens:100,32",
      "tokens:100,64,2",
      "eagle:2,100,4,5",
      "",
  };
}
