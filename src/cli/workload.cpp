#include "cli/workload.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <limits>
#include <string_view>

#include "cli/input_error.hpp"

namespace espalier::cli {
namespace {

constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

/// Builds a tree and refuses to let it grow beyond what the library can number.
class TreeBuilder {
 public:
  /// @param nodes  how many there will be
  TreeBuilder(std::string name, std::int64_t nodes) : name_(std::move(name)) {
    if (nodes > kInt32Max) bad_input(name_, ": has ", nodes, " nodes, expected at most ", kInt32Max);
    expects_memory(nodes * std::int64_t(4 * sizeof(NodeSpec)), name_ + ": its " + std::to_string(nodes) + " nodes");
    tree_.nodes.reserve(std::size_t(nodes));
  }

  std::int32_t add(std::int64_t parent, std::int64_t tokens) {
    tokens_ += tokens;
    if (tokens_ > kInt32Max) bad_input(name_, ": has more than ", kInt32Max, " tokens");
    tree_.nodes.push_back({std::int32_t(parent), std::int32_t(tokens)});
    return std::int32_t(tree_.nodes.size()) - 1;
  }

  void add_row(std::int32_t node) { tree_.rows.push_back({node}); }

  /// Without rows so far, one row per leaf.
  TreeInput finish() {
    if (tree_.rows.empty()) add_leaf_rows(tree_);
    return std::move(tree_);
  }

 private:
  std::string name_;
  TreeInput tree_;
  std::int64_t tokens_ = 0;
};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0;;) {
    const std::size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

/// Comma-separated integers from 1 to 2^31 - 1.
std::vector<std::int64_t> integers(const std::string& name, std::string_view text) {
  std::vector<std::int64_t> values;
  for (const std::string_view field : split(text, ',')) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
    if (error != std::errc{} || end != field.data() + field.size() || value < 1 || value > kInt32Max)
      bad_input(name, ": field ", values.size() + 1, " of '", text, "' is '", field,
                "', expected an integer from 1 to ", kInt32Max);
    values.push_back(value);
  }
  return values;
}

TreeInput make_layers(const std::string& name, std::string_view fields) {
  const std::vector<std::string_view> halves = split(fields, '/');
  if (halves.size() != 2) bad_input(name, ": expected layers:S0,S1,.../L0,L1,... (nodes of each level / their tokens)");
  const std::vector<std::int64_t> sizes = integers(name, halves[0]), lengths = integers(name, halves[1]);
  if (sizes.size() != lengths.size())
    bad_input(name, ": has ", sizes.size(), " level sizes and ", lengths.size(), " lengths, expected as many of each");
  std::int64_t nodes = 0;
  for (const std::int64_t size : sizes) nodes += size;
  TreeBuilder tree(name, nodes);
  std::int64_t above = 0;  // first node of the level above
  for (std::size_t level = 0; level < sizes.size(); ++level) {
    const std::int64_t previous = level == 0 ? 0 : sizes[level - 1];
    for (std::int64_t j = 0; j < sizes[level]; ++j)
      tree.add(level == 0 ? -1 : above + j * previous / sizes[level], lengths[level]);
    above += previous;
  }
  return tree.finish();
}

using Fields = std::vector<std::int64_t>;

TreeInput make_star(const std::string& name, const Fields& fields) {
  const std::int64_t prompt = fields[0], branches = fields[1], tokens = fields[2];
  TreeBuilder tree(name, 1 + branches);
  tree.add(-1, prompt);
  for (std::int64_t branch = 0; branch < branches; ++branch) tree.add(0, tokens);
  return tree.finish();
}

/// Beams in order of quality: at each step the better half is forked until there are W again, and the rest is pruned.
/// What is left after D steps: W leaves, about half as many nodes on the level above, and so on up to a chain.
TreeInput make_beam(const std::string& name, const Fields& fields) {
  const std::int64_t prompt = fields[0], width = fields[1], steps = fields[2], tokens = fields[3];
  const std::int64_t better = (width + 1) / 2;
  std::vector<std::int64_t> live{width};  // of each level, deepest first: the nodes that have live beams below
  while (std::int64_t(live.size()) < steps && live.back() > 1) live.push_back((live.back() - 1) * better / width + 1);
  const std::int64_t chain = steps - std::int64_t(live.size());
  std::int64_t nodes = 1 + chain;
  for (const std::int64_t level : live) nodes += level;
  TreeBuilder tree(name, nodes);
  std::int64_t above = tree.add(-1, prompt);  // first node of the level above
  for (std::int64_t step = 0; step < chain; ++step) above = tree.add(above, tokens);
  for (std::size_t level = live.size(); level-- > 0;) {
    const bool one_parent = level + 1 == live.size();
    const std::int64_t first = std::int64_t(above) + (one_parent ? 1 : live[level + 1]);
    for (std::int64_t j = 0; j < live[level]; ++j) tree.add(one_parent ? above : above + j * better / width, tokens);
    above = first;
  }
  return tree.finish();
}

TreeInput make_tot(const std::string& name, const Fields& fields) {
  const std::int64_t prompt = fields[0], survivors = fields[1], leaves = fields[2];
  TreeBuilder tree(name, 1 + survivors + leaves);
  std::int32_t tail = tree.add(-1, prompt);
  for (std::int64_t level = 0; level < survivors; ++level) tail = tree.add(tail, fields[3]);
  for (std::int64_t leaf = 0; leaf < leaves; ++leaf) tree.add(tail, fields[4]);
  return tree.finish();
}

TreeInput make_eagle(const std::string& name, const Fields& fields) {
  const std::int64_t prompts = fields[0], prompt = fields[1], drafts = fields[2], tokens = fields[3];
  TreeBuilder tree(name, product_of({prompts, 1 + drafts}, name + ": its number of nodes"));
  for (std::int64_t copy = 0; copy < prompts; ++copy) {
    const std::int32_t root = tree.add(-1, prompt);
    for (std::int64_t draft = 0; draft < drafts; ++draft) tree.add(root, tokens);
  }
  return tree.finish();
}

// ---------------------------------------------------------------------------------------- speculative token trees

/// Medusa's published tree of 63 drafts, mc_sim_7b_63: each word lists the child taken at every level.
constexpr std::array<std::string_view, 63> kMedusa64 = {
    "0",  "00",  "1",   "01",  "2",    "000", "10",  "02",  "3",   "03",  "4",   "04",  "20",   "05",  "001", "5",
    "06", "6",   "07",  "010", "11",   "7",   "08",  "002", "30",  "09",  "8",   "9",   "100",  "020", "12",  "003",
    "40", "21",  "004", "005", "0000", "011", "006", "030", "50",  "13",  "007", "008", "009",  "60",  "040", "14",
    "70", "012", "200", "31",  "22",   "80",  "050", "15",  "101", "021", "90",  "060", "0001", "16",  "070"};

/// Parents of the drafts; 0 is the last committed token, draft i is i + 1.
std::vector<std::int32_t> parents_of(const std::array<std::string_view, 63>& paths) {
  std::vector<std::int32_t> parents;
  for (const std::string_view path : paths) {
    const auto above = std::find(paths.begin(), paths.end(), path.substr(0, path.size() - 1));
    parents.push_back(path.size() == 1 ? 0 : std::int32_t(above - paths.begin()) + 1);
  }
  return parents;
}

/// A tree in breadth-first order in which every node of level i has `children[i]` children, cut at `drafts`.
std::vector<std::int32_t> regular_parents(const std::vector<int>& children, std::size_t drafts) {
  std::vector<std::int32_t> parents;
  std::int32_t first = 0, end = 1;  // nodes of the level above
  for (const int count : children) {
    for (std::int32_t parent = first; parent < end; ++parent)
      for (int child = 0; child < count && parents.size() < drafts; ++child) parents.push_back(parent);
    first = end;
    end = std::int32_t(parents.size()) + 1;
  }
  return parents;
}

std::vector<std::int32_t> draft_parents(const std::string& name, std::int64_t nodes) {
  switch (nodes) {
    case 32: return regular_parents({4, 2, 2, 2}, 31);
    case 64: return parents_of(kMedusa64);
    case 96: return regular_parents({4, 3, 3, 3}, 95);
    case 128: return regular_parents({5, 4, 4, 4}, 127);
    case 256: return regular_parents({6, 5, 5, 4}, 255);
    default: bad_input(name, ": a token tree of ", nodes, " nodes is not known, expected 32, 64, 96, 128 or 256");
  }
}

TreeInput make_tokens(const std::string& name, const Fields& fields) {
  const std::int64_t context_tokens = fields[0], tree_nodes = fields[1], copies = fields.size() > 2 ? fields[2] : 1;
  const std::vector<std::int32_t> parents = draft_parents(name, tree_nodes);
  TreeBuilder tree(name, product_of({copies, 1 + tree_nodes}, name + ": its number of nodes"));
  for (std::int64_t copy = 0; copy < copies; ++copy) {
    const std::int32_t committed = tree.add(tree.add(-1, context_tokens), 1);
    tree.add_row(committed);
    for (const std::int32_t parent : parents) tree.add_row(tree.add(committed + parent, 1));
  }
  return tree.finish();
}

// ---------------------------------------------------------------------------------------------------- the list of all

struct Workload {
  std::string_view name;
  std::string_view fields;
  std::size_t least, most;  // number of fields; 0: `layers`, which splits its own
  TreeInput (*make)(const std::string& name, const Fields& fields);
  std::string_view meaning;
};

constexpr Workload kWorkloads[] = {
    {"layers", "S0,S1,.../L0,L1,...", 0, 0, nullptr, "S_i nodes of L_i tokens on level i (FastTree, PAT)"},
    {"star", "P,B,T", 3, 3, make_star, "a prompt of P tokens, B branches of T tokens (few-shot prompting)"},
    {"beam", "P,W,D,T", 4, 4, make_beam, "a prompt of P tokens, W beams over D steps of T tokens"},
    {"tot", "P,L,W,S,C", 5, 5, make_tot, "a prompt of P, L survivors of S, W leaves of C tokens (tree of thoughts)"},
    {"tokens", "P,N[,COPIES]", 2, 3, make_tokens, "a context of P tokens and Medusa's token tree of N nodes"},
    {"eagle", "F,P,K,T", 4, 4, make_eagle, "F prompts of P tokens, each with K drafts of T tokens"},
};

}  // namespace

std::int64_t TreeInput::tokens() const {
  std::int64_t sum = 0;
  for (const NodeSpec& node : nodes) sum += node.tokens;
  return sum;
}

bool names_workload(const std::string& text) {
  const std::size_t colon = text.find(':');
  return colon != std::string::npos && colon > 0 &&
         std::all_of(text.begin(), text.begin() + std::ptrdiff_t(colon), [](char c) { return c >= 'a' && c <= 'z'; });
}

TreeInput make_workload(const std::string& name) {
  const std::size_t colon = name.find(':');
  const std::string_view kind = std::string_view(name).substr(0, colon);
  const std::string_view fields = std::string_view(name).substr(std::min(colon, name.size() - 1) + 1);
  for (const Workload& workload : kWorkloads) {
    if (kind != workload.name) continue;
    if (workload.make == nullptr) return make_layers(name, fields);
    const std::vector<std::int64_t> values = integers(name, fields);
    if (values.size() < workload.least || values.size() > workload.most)
      bad_input(name, ": has ", values.size(), " fields, expected ", workload.name, ":", workload.fields);
    return workload.make(name, values);
  }
  std::string known;
  for (const Workload& workload : kWorkloads) (known += known.empty() ? "" : ", ") += std::string(workload.name) + ":";
  bad_input(name, ": no such file or workload, expected a file or one of ", known);
}

std::string describe_workloads() {
  std::string text;
  for (const Workload& workload : kWorkloads) {
    std::string line = "  " + std::string(workload.name) + ":" + std::string(workload.fields);
    line.resize(std::max<std::size_t>(line.size() + 2, 30), ' ');
    text += line + std::string(workload.meaning) + "\n";
  }
  return text;
}

void add_leaf_rows(TreeInput& tree) {
  std::vector<bool> has_child(tree.nodes.size(), false);
  for (const NodeSpec& node : tree.nodes)
    if (node.parent >= 0) has_child[std::size_t(node.parent)] = true;
  for (std::size_t node = 0; node < tree.nodes.size(); ++node)
    if (!has_child[node]) tree.rows.push_back({std::int32_t(node)});
}

}  // namespace espalier::cli
