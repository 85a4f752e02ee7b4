#pragma once
// A folder with a tree and its arrays, ready for `espalier attend`.

#include <cstdint>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "espalier/types.hpp"
#include "support/trees.hpp"
#include "tool.hpp"

namespace espalier::test {

/// The tree as JSON.
[[nodiscard]] std::string json_of(const Tree& tree);

/// The tree as FastTree writes it; rows are left to the reader.
[[nodiscard]] std::string fasttree_of(const Tree& tree);

class AttendCase {
 public:
  /// Random arrays for a tree with these many rows and tokens.
  AttendCase(std::int64_t rows, std::int64_t tokens, const HeadShape& heads, const std::string& type = "<f4");

  [[nodiscard]] const Folder& folder() const { return folder_; }
  [[nodiscard]] const Array& q() const { return q_; }
  [[nodiscard]] const Array& k() const { return k_; }
  [[nodiscard]] const Array& v() const { return v_; }

  /// `espalier attend TREE --q ... --out out.npy --lse lse.npy` and further arguments.
  [[nodiscard]] Outcome run(const std::string& tree, const std::vector<std::string>& further = {}) const;

  [[nodiscard]] Array out() const { return array_of(folder_.path("out.npy")); }
  [[nodiscard]] Array lse() const { return array_of(folder_.path("lse.npy")); }

  /// Runs on input that is wrong, and checks that it is refused with these words and that nothing is written.
  void refuses(const std::string& tree, std::initializer_list<std::string> words,
               const std::vector<std::string>& further = {}) const;

 private:
  Folder folder_;
  Array q_, k_, v_;
};

}  // namespace espalier::test
