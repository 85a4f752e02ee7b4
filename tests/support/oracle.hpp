#pragma once
// What attention over a tree means, in double precision: no plan, no blocks, no library. Every kernel answers to it.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

namespace espalier::oracle {

struct Result {
  std::vector<double> out;  ///< [rows, query_heads, head_dim]
  std::vector<double> lse;  ///< [rows, query_heads], natural log; -inf where the path is empty, and out is 0
};

/// out = sum_t exp(score_t - lse) v_t,  lse = log sum_t exp(score_t),  score_t = soft_cap(scale * q.k_t),
/// over the tokens t of each row's root-to-node path.
///
/// Nodes and Rows are vectors of NodeSpec and RowSpec, Heads is a HeadShape, or anything with the same members.
/// @param rows      empty: one row per leaf, in node order
/// @param q         [rows, query_heads, head_dim]
/// @param k         [tokens, kv_heads, head_dim], the tokens of all nodes one after another in node order; v alike
/// @param scale     0: 1 / sqrt(head_dim)
/// @param soft_cap  0: none
template <class Nodes, class Rows, class Heads>
Result attend(const Nodes& nodes, Rows rows, const Heads& heads, std::span<const float> q, std::span<const float> k,
              std::span<const float> v, double scale = 0, double soft_cap = 0) {
  const std::size_t query_heads = std::size_t(heads.query_heads), kv_heads = std::size_t(heads.kv_heads);
  const std::size_t head_dim = std::size_t(heads.head_dim), group = query_heads / kv_heads;
  std::vector<std::size_t> first(nodes.size() + 1, 0);  // where the tokens of each node begin
  std::vector<bool> leaf(nodes.size(), true);
  for (std::size_t node = 0; node < nodes.size(); ++node) {
    first[node + 1] = first[node] + std::size_t(nodes[node].tokens);
    if (nodes[node].parent >= 0) leaf[std::size_t(nodes[node].parent)] = false;
  }
  if (rows.empty())
    for (std::size_t node = 0; node < nodes.size(); ++node)
      if (leaf[node]) rows.push_back({static_cast<decltype(rows[0].node)>(node), -1});
  if (q.size() != rows.size() * query_heads * head_dim || k.size() != first.back() * kv_heads * head_dim ||
      v.size() != k.size())
    throw std::invalid_argument("oracle: q, k and v do not have the shapes of the tree");
  if (scale == 0) scale = 1 / std::sqrt(double(head_dim));

  Result result{std::vector<double>(q.size(), 0), std::vector<double>(rows.size() * query_heads)};
  for (std::size_t row = 0; row < rows.size(); ++row) {
    std::vector<std::size_t> path;  // the tokens that the row sees
    for (auto node = rows[row].node; node >= 0; node = nodes[std::size_t(node)].parent) {
      const std::size_t begin = first[std::size_t(node)], end = first[std::size_t(node) + 1];
      const bool all = node != rows[row].node || rows[row].visible < 0;
      for (std::size_t token = begin; token < (all ? end : begin + std::size_t(rows[row].visible)); ++token)
        path.push_back(token);
    }
    for (std::size_t head = 0; head < query_heads; ++head) {
      const std::size_t at = row * query_heads + head;
      std::vector<double> score(path.size(), 0);
      double peak = -std::numeric_limits<double>::infinity(), weight = 0;
      for (std::size_t i = 0; i < path.size(); ++i) {
        const float* key = &k[(path[i] * kv_heads + head / group) * head_dim];
        for (std::size_t d = 0; d < head_dim; ++d) score[i] += double(q[at * head_dim + d]) * double(key[d]);
        score[i] *= scale;
        if (soft_cap > 0) score[i] = soft_cap * std::tanh(score[i] / soft_cap);
        peak = std::max(peak, score[i]);
      }
      for (const double s : score) weight += std::exp(s - peak);
      for (std::size_t i = 0; i < path.size(); ++i) {
        const float* value = &v[(path[i] * kv_heads + head / group) * head_dim];
        const double share = std::exp(score[i] - peak) / weight;
        for (std::size_t d = 0; d < head_dim; ++d) result.out[at * head_dim + d] += share * double(value[d]);
      }
      result.lse[at] = path.empty() ? peak : peak + std::log(weight);
    }
  }
  return result;
}

}  // namespace espalier::oracle
