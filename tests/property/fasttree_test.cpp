// FastTree's assignments against its published rule, written down a second time: for lists of children and a queue,
// without any of the library's orders. And small cases that were worked out by hand.

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_vector.hpp>
#include <queue>
#include <random>
#include <sstream>

#include "espalier/fasttree.hpp"
#include "espalier/plan.hpp"
#include "support/errors.hpp"
#include "support/execution_spaces.hpp"
#include "support/trees.hpp"

namespace espalier::test {
namespace {

using Catch::Matchers::Equals;

/// A tree as the published rule sees it. Rows of a node are those of its whole subtree.
struct PublishedTree {
  std::vector<int> parent, tokens, rows, own_rows;
  std::vector<std::vector<int>> children;
};

PublishedTree published(const TreeSnapshot& snapshot) {
  PublishedTree tree{snapshot.parent, snapshot.tokens, std::vector<int>(snapshot.parent.size()),
                     std::vector<int>(snapshot.parent.size()), std::vector<std::vector<int>>(snapshot.parent.size())};
  for (const int node : snapshot.row_node) {
    ++tree.own_rows[std::size_t(node)];
    for (int above = node; above >= 0; above = snapshot.parent[std::size_t(above)]) ++tree.rows[std::size_t(above)];
  }
  for (std::size_t node = 0; node < tree.parent.size(); ++node)
    if (tree.parent[node] >= 0) tree.children[std::size_t(tree.parent[node])].push_back(int(node));
  return tree;
}

struct Published {
  double alpha, beta, gamma;
  double group;
  int TSQ[2], TSK[2];

  [[nodiscard]] double Cmm(int nQ, int nK) const {
    const int p = nQ > TSQ[1] ? 0 : 1;
    const int missing = (TSQ[p] - nQ % TSQ[p]) % TSQ[p];
    // Stored before they are added: some compilers fuse otherwise, and the reference is not.
    volatile const double padQ = alpha * missing * group * nK;
    volatile const double padK = beta * std::max(0, TSK[p] - nK) * nQ * group;
    return padQ + padK;
  }

  /// Which nodes take a copy of their parent's KV.
  [[nodiscard]] std::vector<std::uint8_t> walk(const PublishedTree& tree) const {
    std::vector<int> L = tree.tokens;
    std::vector<std::uint8_t> takes_copy(L.size(), 0);
    std::queue<int> queue;
    for (std::size_t node = 0; node < L.size(); ++node)
      if (tree.parent[node] < 0) queue.push(int(node));
    for (; !queue.empty(); queue.pop()) {
      const auto v = std::size_t(queue.front());
      int nQv = tree.rows[v];
      for (const int child : tree.children[v]) {
        const auto l = std::size_t(child);
        const int nQl = tree.rows[l];
        volatile const double Cred = gamma * nQl;
        const double split_k = Cmm(nQv, L[v]) + Cmm(nQl, L[l]) + Cred;
        const double split_q = Cmm(nQv - nQl, L[v]) + Cmm(nQl, L[l] + L[v]);
        if (split_k > split_q) {
          takes_copy[l] = 1;
          nQv -= nQl;
          L[l] += L[v];
        }
        queue.push(child);
      }
    }
    return takes_copy;
  }
};

FastTreeAssignments by_the_published_rule(const TreeSnapshot& snapshot, const HeadShape& heads,
                                          const FastTreeParams& params) {
  const PublishedTree tree = published(snapshot);
  Published rule{params.alpha,
                 params.beta,
                 params.gamma,
                 double(heads.group()),
                 {params.tile_rows[0] > 0 ? params.tile_rows[0] : std::max(1, 64 / heads.group()),
                  params.tile_rows[1] > 0 ? params.tile_rows[1] : std::max(1, 16 / heads.group())},
                 {params.tile_tokens[0], params.tile_tokens[1]}};
  int split[2] = {params.split_tokens[0], params.split_tokens[0]};

  FastTreeAssignments result{};
  const auto evaluate = [&] {
    result.takes_copy = rule.walk(tree);
    result.rows.assign(tree.parent.size(), 0);
    result.tokens.assign(tree.parent.size(), 0);
    std::int64_t par[2] = {0, 0};
    for (std::size_t node = 0; node < tree.parent.size(); ++node) {
      result.rows[node] = tree.own_rows[node];
      for (const int child : tree.children[node])
        if (!result.takes_copy[std::size_t(child)]) result.rows[node] += tree.rows[std::size_t(child)];
      result.tokens[node] = tree.tokens[node];
      for (auto above = int(node); result.takes_copy[std::size_t(above)];) {
        above = tree.parent[std::size_t(above)];
        result.tokens[node] += tree.tokens[std::size_t(above)];
      }
      const int p = result.rows[node] > rule.TSQ[1] ? 0 : 1;
      par[p] += std::int64_t((result.rows[node] + rule.TSQ[p] - 1) / rule.TSQ[p]) *
                ((result.tokens[node] + split[p] - 1) / split[p]);
    }
    return std::pair{par[0] * heads.kv_heads, par[1] * heads.kv_heads};
  };
  for (int round = 0; round < 3; ++round) {
    const auto [par0, par1] = evaluate();
    if (round == 0) {
      const bool falls0 = 0 < par0 && par0 < params.enough_tiles[0];
      const bool falls1 = 0 < par1 && par1 < params.enough_tiles[1];
      if (falls0) split[0] = params.split_tokens[1];
      if (falls1) split[1] = params.split_tokens[1];
      if (!falls0 && !falls1) break;
    } else if (round == 1) {
      if (0 < par0 && par0 < params.enough_tiles_then[0]) {
        rule.TSQ[0] = rule.TSQ[1];
        rule.TSK[0] = rule.TSK[1];
      } else if (0 < par1 && par1 < params.enough_tiles_then[1]) {
        rule.TSQ[1] = rule.TSQ[0];
        rule.TSK[1] = rule.TSK[0];
      } else {
        break;
      }
    }
  }
  for (int p = 0; p < 2; ++p) {
    result.tile_rows[p] = rule.TSQ[p];
    result.tile_tokens[p] = rule.TSK[p];
    result.split_tokens[p] = split[p];
  }
  return result;
}

void check_assignments(const TreeSnapshot& snapshot, const HeadShape& heads, const FastTreeParams& params) {
  const FastTreeAssignments found = fasttree_assignments(snapshot, heads, params);
  const FastTreeAssignments expected = by_the_published_rule(snapshot, heads, params);
  CHECK_THAT(found.takes_copy, Equals(expected.takes_copy));
  CHECK_THAT(found.rows, Equals(expected.rows));
  CHECK_THAT(found.tokens, Equals(expected.tokens));
  for (int p = 0; p < 2; ++p) {
    CHECK(found.tile_rows[p] == expected.tile_rows[p]);
    CHECK(found.tile_tokens[p] == expected.tile_tokens[p]);
    CHECK(found.split_tokens[p] == expected.split_tokens[p]);
  }
}

/// layers:S0,S1,.../L0,L1,...: S_i nodes of L_i tokens on level i, node j of a level under node floor(j * above / S_i).
TreeSnapshot layers(const std::string& name) {
  const auto numbers = [](const std::string& list) {
    std::vector<int> values;
    std::istringstream text(list);
    for (std::string value; std::getline(text, value, ',');) values.push_back(std::stoi(value));
    return values;
  };
  const std::size_t slash = name.find('/');
  const std::vector<int> sizes = numbers(name.substr(0, slash));
  const std::vector<int> tokens = numbers(name.substr(slash + 1));
  std::vector<NodeSpec> nodes;
  int above = 0;  // first node of the level above
  for (std::size_t level = 0; level < sizes.size(); ++level) {
    const auto first = int(nodes.size());
    for (int j = 0; j < sizes[level]; ++j)
      nodes.push_back(
          {level == 0 ? -1 : above + int(std::int64_t(j) * sizes[level - 1] / sizes[level]), tokens[level]});
    above = first;
  }
  return make_snapshot(nodes, {}, 16);
}

TEST_CASE("fasttree takes the copies that the published rule takes, in thousands of random forests", "[fasttree]") {
  for (std::uint32_t seed = 0; seed < 5000; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](int end) { return int(random() % std::uint32_t(end)); };
    std::vector<NodeSpec> nodes;
    const int most_tokens = 1 << below(11);
    for (int node = 0, count = 1 + below(300); node < count; ++node)
      nodes.push_back({node == 0 || below(50) == 0 ? -1 : below(2) == 0 ? node - 1 : below(node), below(most_tokens)});
    std::vector<RowSpec> rows;
    if (seed % 2 == 0)
      for (int row = 0, count = 1 + below(200); row < count; ++row) rows.push_back({below(int(nodes.size()))});
    const int kv_heads = 1 << below(4);
    const HeadShape heads{kv_heads * (1 + below(below(2) == 0 ? 8 : 70)), kv_heads, 64};
    FastTreeParams params;
    if (seed % 3 == 0) {
      params.gamma = below(3) == 0 ? 1e6 : 0.01 * below(1000);
      for (int p = 0; p < 2; ++p) {
        params.tile_rows[p] = 1 + below(70);
        params.tile_tokens[p] = 1 + below(130);
        params.split_tokens[p] = 1 + below(1000);
        params.enough_tiles[p] = below(1000);
        params.enough_tiles_then[p] = below(1000);
      }
    }
    INFO("forest of seed " << seed << ", " << heads.query_heads << " query heads, " << kv_heads << " KV heads");
    check_assignments(make_snapshot(nodes, rows, 16), heads, params);
  }
}

TEST_CASE("fasttree takes the copies that the published rule takes, in the workloads of the published measurements",
          "[fasttree]") {
  for (const char* name :
       {"1,1024/2048,32", "1,16,64/1024,256,32", "1,10/4096,416", "1,20/4000,200", "1,256/2048,64", "1,256/256,32",
        "1,256/6000,16", "1,4,16,512/1024,256,128,32", "1,4,16,64,256,1024/256,32,256,64,32,256", "1,64/20000,16",
        "1,8,16,32,64,256,1024/256,128,64,32,32,32,32", "1,8,512/32,2048,256", "2,8,16,256/256,256,32,32", "256/1024",
        "8,16,32,256/512,512,256,32", "1,64/20000,32"})
    for (const HeadShape& heads : {HeadShape{16, 1, 128}, {32, 8, 128}, {32, 32, 128}, {64, 8, 128}}) {
      INFO("layers:" << name << ", " << heads.query_heads << "/" << heads.kv_heads);
      check_assignments(layers(name), heads, {});
    }
}

TEST_CASE("fasttree shares a prompt of ten tokens, and copies one of a single token where tiles have one row",
          "[fasttree]") {
  // One query head: a tile of 16 rows lacks 14 where it holds both branches, and 15 where it holds one.
  // 10 tokens before branches of 500: the first branch costs
  //   split K  0.66 * 14 * 10 + 0.33 * 22 * 2 + 0.66 * 15 * 500 + 0.1 = 5057.02
  //   split Q  0.66 * 15 * 10 + 0.33 * 22 * 1 + 0.66 * 15 * 510       = 5155.26, dearer: no copy, and so the second.
  const HeadShape one{1, 1, 64};
  const FastTreeAssignments shared = fasttree_assignments(layers("1,2/10,500"), one);
  CHECK_THAT(shared.takes_copy, Equals(std::vector<std::uint8_t>{0, 0, 0}));
  CHECK_THAT(shared.rows, Equals(std::vector<std::int32_t>{2, 1, 1}));
  CHECK_THAT(shared.tokens, Equals(std::vector<std::int32_t>{10, 500, 500}));

  // With tiles of one row nothing is padded but tokens, and a prompt of one token has 31 missing:
  //   split K  0.33 * 31 * 2 + 0.33 * 0 + 0.1 = 20.56,  split Q  0.33 * 31 * 1 = 10.23: a copy.
  //   Then     0.33 * 31 * 1 + 0.1 = 10.33                        0            : another; nobody is left at the prompt.
  FastTreeParams params;
  params.tile_rows[0] = params.tile_rows[1] = 1;
  const FastTreeAssignments copied = fasttree_assignments(layers("1,2/1,500"), one, params);
  CHECK_THAT(copied.takes_copy, Equals(std::vector<std::uint8_t>{0, 1, 1}));
  CHECK_THAT(copied.rows, Equals(std::vector<std::int32_t>{0, 1, 1}));
  CHECK_THAT(copied.tokens, Equals(std::vector<std::int32_t>{1, 501, 501}));
}

TEST_CASE("fasttree joins a chain in its leaf, but not across a row that ends on the way", "[fasttree]") {
  const HeadShape one{1, 1, 64};
  const std::vector<NodeSpec> chain{{-1, 40}, {0, 50}, {1, 60}, {2, 70}};
  const FastTreeAssignments joined = fasttree_assignments(make_snapshot(chain, {}, 16), one);
  CHECK_THAT(joined.takes_copy, Equals(std::vector<std::uint8_t>{0, 1, 1, 1}));
  CHECK_THAT(joined.rows, Equals(std::vector<std::int32_t>{0, 0, 0, 1}));
  CHECK_THAT(joined.tokens, Equals(std::vector<std::int32_t>{40, 90, 150, 220}));

  // A row at node 1: nodes 0 and 1 have two rows, and node 2 takes no copy of their 90 tokens,
  //   since 0.66 * 14 * 90 + 0.66 * 15 * 60 + 0.1 = 1425.7 is less than 0.66 * 15 * 90 + 0.66 * 15 * 150 = 2376.
  const std::vector<RowSpec> rows{{3}, {1}};
  const FastTreeAssignments broken = fasttree_assignments(make_snapshot(chain, rows, 16), one);
  CHECK_THAT(broken.takes_copy, Equals(std::vector<std::uint8_t>{0, 1, 0, 1}));
  CHECK_THAT(broken.rows, Equals(std::vector<std::int32_t>{0, 2, 0, 1}));
  CHECK_THAT(broken.tokens, Equals(std::vector<std::int32_t>{40, 90, 60, 130}));
}

TEST_CASE("fasttree splits finer where a phase has too few tiles, and then changes its tiles", "[fasttree]") {
  // 64 rows of one head read 2,048 tokens: 1 * 2 tiles of phase 0, which are fewer than 132: it splits by 128. Its 16
  // tiles are too few still: phase 0 takes tiles of 16 rows.
  const FastTreeAssignments few = fasttree_assignments(layers("1,64/2048,200"), {1, 1, 64});
  CHECK(few.split_tokens[0] == 128);
  CHECK(few.split_tokens[1] == 128);  // 64 tiles of phase 1, fewer than 528
  CHECK(few.tile_rows[0] == 16);
  CHECK(few.tile_rows[1] == 16);
  // With 300 KV heads there are 600 and 19,200.
  const FastTreeAssignments many = fasttree_assignments(layers("1,64/2048,200"), {300, 300, 64});
  CHECK(many.split_tokens[0] == 1024);
  CHECK(many.split_tokens[1] == 1024);
  CHECK(many.tile_rows[0] == 64);
  CHECK(many.tile_rows[1] == 16);
  // Ten branches without a prompt are 10 tiles of phase 1 and none of phase 0: phase 1 takes the tiles of phase 0.
  const FastTreeAssignments flat = fasttree_assignments(layers("10/100"), {1, 1, 64});
  CHECK(flat.split_tokens[0] == 1024);
  CHECK(flat.split_tokens[1] == 128);
  CHECK(flat.tile_rows[1] == 64);
}

TEST_CASE("fasttree tiles scale with the group, down to one row", "[fasttree]") {
  FastTreeParams params;
  params.enough_tiles[0] = params.enough_tiles[1] = 0;
  for (const auto& [group, large, small] : {std::tuple{1, 64, 16}, {4, 16, 4}, {3, 21, 5}, {16, 4, 1}, {100, 1, 1}}) {
    const FastTreeAssignments found = fasttree_assignments(layers("1,2/10,10"), {group, 1, 64}, params);
    CHECK(found.tile_rows[0] == large);
    CHECK(found.tile_rows[1] == small);
  }
}

TEST_CASE("fasttree of no nodes, no rows, and nodes that no row sees", "[fasttree]") {
  CHECK(fasttree_assignments(make_snapshot({}, {}, 16), {4, 1, 64}).rows.empty());
  for (const Tree& tree : named_trees()) {
    INFO(tree.name);
    check_assignments(snapshot_of(tree, 16), {8, 2, 64}, {});
  }
}

TEMPLATE_LIST_TEST_CASE("the fasttree plan has the tiles that the assignments promise", "[fasttree]", ExecutionSpaces) {
  const TestType exec;
  for (const char* name :
       {"1,16,64/1024,256,32", "1,4,16,64,256,1024/256,32,256,64,32,256", "8,16,32,256/512,512,256,32"}) {
    INFO(name);
    const TreeSnapshot snapshot = layers(name);
    PlanConfig config;
    config.heads = {32, 8, 128};
    config.strategy = PlanStrategy::fasttree;
    config.capacity = Plan<TestType>::required_capacity(snapshot, config);
    Plan<TestType> plan(exec, config);
    const TreeArrays<TestType> arrays(exec, snapshot);
    plan.update(exec, arrays);
    const FastTreeAssignments found = fasttree_assignments(snapshot, config.heads);
    std::int64_t partials = 0;
    for (std::size_t node = 0; node < found.rows.size(); ++node) {
      const int p = found.rows[node] > found.tile_rows[1] ? 0 : 1;
      partials +=
          std::int64_t(found.rows[node]) * ((found.tokens[node] + found.split_tokens[p] - 1) / found.split_tokens[p]);
    }
    CHECK(plan.report(exec).partials == partials * config.heads.kv_heads);
  }
}

TEST_CASE("fasttree refuses parameters that make no sense", "[fasttree][error]") {
  const TreeSnapshot snapshot = layers("1,2/10,10");
  const auto refused = [&](const std::string& text, const auto& spoil) {
    FastTreeParams params;
    HeadShape heads{8, 2, 64};
    spoil(params, heads);
    return wrong_error(ErrorCode::invalid_argument, text,
                       [&] { static_cast<void>(fasttree_assignments(snapshot, heads, params)); });
  };
  CHECK(refused("fasttree_assignments: query_heads is 7, expected a positive multiple of kv_heads 2",
                [](FastTreeParams&, HeadShape& heads) { heads.query_heads = 7; }) == "");
  CHECK(refused("fasttree_assignments: fasttree beta is nan, expected a finite number",
                [](FastTreeParams& params, HeadShape&) { params.beta = std::nan(""); }) == "");
  CHECK(refused("fasttree_assignments: fasttree tile_rows[1] is -1, expected 0 to",
                [](FastTreeParams& params, HeadShape&) { params.tile_rows[1] = -1; }) == "");
  CHECK(refused("fasttree_assignments: fasttree tile_tokens[0] is 0, expected 1 to",
                [](FastTreeParams& params, HeadShape&) { params.tile_tokens[0] = 0; }) == "");
  CHECK(refused("fasttree_assignments: fasttree split_tokens[1] is 0, expected 1 to",
                [](FastTreeParams& params, HeadShape&) { params.split_tokens[1] = 0; }) == "");
}

}  // namespace
}  // namespace espalier::test
