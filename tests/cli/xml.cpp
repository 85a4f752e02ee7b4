#include "xml.hpp"

#include <cctype>
#include <stdexcept>

namespace espalier::test {
namespace {

class Parser {
 public:
  explicit Parser(const std::string& document) : rest_(document) {}

  std::vector<XmlElement> run() {
    while (at_ < rest_.size()) {
      if (rest_[at_] != '<')
        read_text();
      else if (rest_.compare(at_, 2, "</") == 0)
        close();
      else
        open();
    }
    expects(!elements_.empty() && open_.empty(), "the root to be closed");
    return elements_;
  }

 private:
  void expects(bool holds, const std::string& what) const {
    if (!holds) throw std::runtime_error("byte " + std::to_string(at_) + ": expected " + what);
  }

  std::string name() {
    const std::size_t begin = at_;
    while (at_ < rest_.size() && (std::isalnum(static_cast<unsigned char>(rest_[at_])) != 0 || rest_[at_] == '-' ||
                                  rest_[at_] == '_' || rest_[at_] == ':'))
      ++at_;
    expects(at_ > begin, "a name");
    return rest_.substr(begin, at_ - begin);
  }

  void skip(const std::string& word) {
    expects(rest_.compare(at_, word.size(), word) == 0, "'" + word + "'");
    at_ += word.size();
  }

  void skip_space() {
    while (at_ < rest_.size() && std::isspace(static_cast<unsigned char>(rest_[at_])) != 0) ++at_;
  }

  /// Characters up to one of `ends`, entities resolved.
  std::string characters(const std::string& ends) {
    std::string text;
    while (at_ < rest_.size() && ends.find(rest_[at_]) == std::string::npos) {
      const auto byte = static_cast<unsigned char>(rest_[at_]);
      expects(byte >= 0x20 || byte == '\n' || byte == '\t', "no control character");
      expects(rest_[at_] != '<', "no '<'");
      if (rest_[at_] != '&') {
        text += rest_[at_++];
        continue;
      }
      const std::size_t end = rest_.find(';', at_);
      expects(end != std::string::npos, "an entity that ends");
      const std::string entity = rest_.substr(at_, end + 1 - at_);
      const std::map<std::string, char> known{{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}};
      expects(known.contains(entity), "a known entity");
      text += known.at(entity);
      at_ = end + 1;
    }
    return text;
  }

  void read_text() {
    const std::string text = characters("<");
    if (open_.empty())
      expects(text.find_first_not_of(" \n") == std::string::npos, "no text outside the root");
    else
      elements_[std::size_t(open_.back())].text += text;
  }

  void open() {
    skip("<");
    expects(elements_.empty() || !open_.empty(), "one root");
    XmlElement element{name(), {}, "", open_.empty() ? -1 : open_.back()};
    for (skip_space(); rest_[at_] != '>' && rest_[at_] != '/'; skip_space()) {
      const std::string attribute = name();
      skip("=\"");
      expects(element.attributes.emplace(attribute, characters("\"")).second, "each attribute once");
      skip("\"");
      expects(rest_[at_] == ' ' || rest_[at_] == '>' || rest_[at_] == '/', "a space between attributes");
    }
    elements_.push_back(std::move(element));
    if (rest_[at_] == '/')
      skip("/>");
    else {
      skip(">");
      open_.push_back(int(elements_.size()) - 1);
    }
  }

  void close() {
    skip("</");
    expects(!open_.empty() && name() == elements_[std::size_t(open_.back())].name, "the name that was opened last");
    skip(">");
    open_.pop_back();
  }

  const std::string& rest_;
  std::size_t at_ = 0;
  std::vector<XmlElement> elements_;
  std::vector<int> open_;
};

}  // namespace

bool XmlElement::has_class(const std::string& word) const {
  const auto found = attributes.find("class");
  return found != attributes.end() && (" " + found->second + " ").find(" " + word + " ") != std::string::npos;
}

std::vector<XmlElement> parse_xml(const std::string& document) { return Parser(document).run(); }

}  // namespace espalier::test
