#pragma once
// Just enough of XML to find out whether a document is well-formed, and what its elements are.

#include <map>
#include <string>
#include <vector>

namespace espalier::test {

struct XmlElement {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;  ///< directly inside it
  int parent;        ///< its place in the list, -1 for the root

  /// Whether the attribute "class" holds this word.
  [[nodiscard]] bool has_class(const std::string& word) const;
};

/// All elements, in document order.
/// @throws std::runtime_error saying where the document is not well-formed
[[nodiscard]] std::vector<XmlElement> parse_xml(const std::string& document);

}  // namespace espalier::test
