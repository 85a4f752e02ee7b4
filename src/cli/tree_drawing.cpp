#include "cli/tree_drawing.hpp"

#include <vector>

namespace espalier::cli {
namespace {

class Drawing {
 public:
  explicit Drawing(const TreeSnapshot& tree) : tree_(tree), children_(tree.parent.size()) {
    for (std::size_t node = 0; node < tree.parent.size(); ++node)
      if (tree.parent[node] >= 0) children_[std::size_t(tree.parent[node])].push_back(node);
  }

  /// Writes the subtree; the first line continues the one that is open, further lines begin with `margin`.
  void draw(std::size_t node, const std::string& margin) {
    const std::string label = std::to_string(tree_.tokens[node]);
    lines.back() += label;
    const std::vector<std::size_t>& children = children_[node];
    const std::string below = margin + std::string(label.size() + 1, ' ');
    for (std::size_t i = 0; i < children.size(); ++i) {
      const bool last = i + 1 == children.size();
      if (i == 0)
        lines.back() += last ? " --- " : " -+- ";
      else
        lines.push_back(below + (last ? " `- " : " +- "));
      draw(children[i], below + (last ? "    " : " |  "));
    }
  }

  std::vector<std::string> lines;

 private:
  const TreeSnapshot& tree_;
  std::vector<std::vector<std::size_t>> children_;
};

}  // namespace

std::string draw_tree(const TreeSnapshot& tree, const std::string& indent, int most_lines) {
  Drawing drawing(tree);
  for (std::size_t node = 0; node < tree.parent.size(); ++node) {
    if (tree.parent[node] >= 0) continue;
    drawing.lines.emplace_back();
    drawing.draw(node, "");
  }
  std::string text;
  const auto lines = int(drawing.lines.size());
  for (int line = 0; line < std::min(lines, most_lines); ++line)
    text += indent + drawing.lines[std::size_t(line)] + "\n";
  if (lines > most_lines) text += indent + "... and " + std::to_string(lines - most_lines) + " more leaves\n";
  return text;
}

}  // namespace espalier::cli
