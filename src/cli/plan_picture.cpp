#include "cli/plan_picture.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "cli/svg.hpp"
#include "cli/text.hpp"

namespace espalier::cli {
namespace {

using svg::Box;
using svg::Tenths;

constexpr Tenths kLeft = 640, kRight = 11600, kPictureWidth = 12000;  // of the plots
constexpr Tenths kTreeTop = 1000;
constexpr Tenths kLeastTreeHeight = 1400, kMostTreeHeight = 5600, kRowHeight = 140;
constexpr Tenths kWorkersHeight = 1100;
constexpr std::size_t kMostTiles = 1500;  // more are drawn worker by worker
constexpr std::size_t kMostBoxes = 8000;  // of tiles
constexpr std::size_t kMostNodes = 1500;  // outlines
constexpr std::int64_t kMostBars = 220;   // more workers share bars
constexpr const char* kBusiestColour = "#d62728";

/// Rows [row_begin, row_end) times the tokens from `token_begin` to `token_end`, counted from the root.
struct Piece {
  std::int64_t token_begin, token_end;
  std::int64_t row_begin, row_end;
};

// ------------------------------------------------------------------------------------------------------------- scales

/// Tokens from the root, along the width of the plot. Between neighbouring ends of nodes it is linear; stretches that
/// would be too narrow to see are widened, at the cost of the others.
class TokenAxis {
 public:
  /// @param breaks  where nodes begin and end
  explicit TokenAxis(std::vector<std::int64_t> breaks) : breaks_(std::move(breaks)) {
    breaks_.push_back(0);
    std::ranges::sort(breaks_);
    breaks_.erase(std::unique(breaks_.begin(), breaks_.end()), breaks_.end());
    if (breaks_.size() == 1) breaks_.push_back(1);  // no tokens at all
    const std::vector<double> widths = stretch_widths();
    at_.push_back(double(kLeft));
    for (const double width : widths) at_.push_back(at_.back() + width);
  }

  [[nodiscard]] Tenths operator()(std::int64_t token) const {
    const auto next = std::ranges::upper_bound(breaks_, token);
    if (next == breaks_.end()) return kRight;
    const auto i = std::size_t(next - breaks_.begin()) - 1;
    const double part = double(token - breaks_[i]) / double(breaks_[i + 1] - breaks_[i]);
    return std::llround(at_[i] + part * (at_[i + 1] - at_[i]));
  }

  [[nodiscard]] bool widens() const { return !widened_.empty(); }
  [[nodiscard]] std::int64_t end() const { return breaks_.back(); }

  /// The stretches that are wider than their tokens would have it.
  [[nodiscard]] const std::vector<std::pair<Tenths, Tenths>>& widened() const { return widened_; }

  /// Tokens to label: ends of nodes where stretches are widened, else round numbers.
  [[nodiscard]] std::vector<std::int64_t> ticks() const {
    constexpr Tenths kApart = 520;
    std::vector<std::int64_t> ticks;
    if (widened_.empty() && breaks_.size() > 12) {
      const std::int64_t step = round_step(end(), 10);
      for (std::int64_t token = 0; token <= end(); token += step) ticks.push_back(token);
      return ticks;
    }
    for (const std::int64_t token : breaks_)
      if (ticks.empty() || (*this)(token) - (*this)(ticks.back()) >= kApart) ticks.push_back(token);
    if (ticks.back() != end()) {
      if (ticks.size() > 1) ticks.pop_back();
      ticks.push_back(end());
    }
    return ticks;
  }

  /// 1, 2 or 5 times a power of ten, so that about `count` steps make `length`.
  [[nodiscard]] static std::int64_t round_step(std::int64_t length, std::int64_t count) {
    std::int64_t power = 1;
    while (power * 10 * count <= length) power *= 10;
    for (const std::int64_t factor : {1, 2, 5})
      if (power * factor * count >= length) return power * factor;
    return power * 10;
  }

 private:
  /// Widths of the stretches between breaks: proportional to their tokens, but each at least `least`.
  [[nodiscard]] std::vector<double> stretch_widths() {
    constexpr std::size_t kMostWidened = 300;
    constexpr double kLeastWidth = 180;
    const std::size_t stretches = breaks_.size() - 1;
    const double width = double(kRight - kLeft);
    const double least = stretches > kMostWidened ? 0 : std::min(kLeastWidth, 0.6 * width / double(stretches));
    std::vector<double> widths(stretches, 0.0);
    std::vector<bool> is_widened(stretches, false);
    for (bool changed = true; changed;) {  // widening one narrows the others
      double free_width = width, free_tokens = 0;
      for (std::size_t i = 0; i < stretches; ++i)
        is_widened[i] ? free_width -= least : free_tokens += double(breaks_[i + 1] - breaks_[i]);
      changed = false;
      for (std::size_t i = 0; i < stretches; ++i) {
        widths[i] = is_widened[i] ? least : free_width * double(breaks_[i + 1] - breaks_[i]) / free_tokens;
        if (is_widened[i] || widths[i] >= least) continue;
        is_widened[i] = changed = true;
      }
    }
    double at = double(kLeft);
    for (std::size_t i = 0; i < stretches; at += widths[i++])
      if (is_widened[i]) widened_.emplace_back(std::llround(at), std::llround(at + widths[i]));
    return widths;
  }

  std::vector<std::int64_t> breaks_;
  std::vector<double> at_;  // [breaks]
  std::vector<std::pair<Tenths, Tenths>> widened_;
};

/// Rows in line order, down the height of the plot.
struct RowAxis {
  std::int64_t rows;

  [[nodiscard]] Tenths height() const { return std::clamp(rows * kRowHeight, kLeastTreeHeight, kMostTreeHeight); }
  [[nodiscard]] Tenths operator()(std::int64_t row) const {
    return kTreeTop + std::llround(double(height()) * double(row) / double(std::max<std::int64_t>(rows, 1)));
  }
};

// --------------------------------------------------------------------------------------------------------------- tiles

/// Joins boxes that touch or overlap along a whole side.
template <class Area, class Side>
void join(std::vector<Area>& areas, Side Area::* begin, Side Area::* end, Side Area::* across_begin,
          Side Area::* across_end) {
  std::ranges::sort(areas, [&](const Area& a, const Area& b) {
    return std::tie(a.*across_begin, a.*across_end, a.*begin, a.*end) <
           std::tie(b.*across_begin, b.*across_end, b.*begin, b.*end);
  });
  std::vector<Area> joined;
  for (const Area& area : areas) {
    if (!joined.empty() && joined.back().*across_begin == area.*across_begin &&
        joined.back().*across_end == area.*across_end && area.*begin <= joined.back().*end)
      joined.back().*end = std::max(joined.back().*end, area.*end);
    else
      joined.push_back(area);
  }
  areas = std::move(joined);
}

void join_pieces(std::vector<Piece>& pieces) {
  join(pieces, &Piece::row_begin, &Piece::row_end, &Piece::token_begin, &Piece::token_end);
  join(pieces, &Piece::token_begin, &Piece::token_end, &Piece::row_begin, &Piece::row_end);
}

void join_boxes(std::vector<Box>& boxes) {
  join(boxes, &Box::top, &Box::bottom, &Box::left, &Box::right);
  join(boxes, &Box::left, &Box::right, &Box::top, &Box::bottom);
}

/// What is drawn in one colour with one tooltip: a tile, or all tiles of a worker.
struct Shape {
  std::int32_t worker;
  bool masked;
  std::vector<Box> boxes;
  std::string tooltip;
};

class PlanPicture {
 public:
  PlanPicture(const std::string& name, const TreeSnapshot& tree, const PlanContents& plan)
      : name_(name), tree_(tree), plan_(plan), path_begin_(path_begins(tree)), tokens_(breaks()), rows_{tree.rows()} {
    busiest_ = plan.busiest_worker();
    kv_head_ = drawn_kv_head();
    for (std::size_t t = 0; t < plan.tiles.size(); ++t)
      if (plan.tiles[t].kv_head == kv_head_) tiles_.push_back(t);
    by_worker_ = tiles_.size() > kMostTiles;
  }

  std::string draw() {
    std::vector<Shape> shapes = by_worker_ ? shapes_of_workers() : shapes_of_tiles();
    const std::size_t left_out = drop_small_boxes(shapes);
    const Tenths axis = kTreeTop + rows_.height();
    const Tenths workers_top = axis + 1330;
    const Tenths height = workers_top + kWorkersHeight + 500;
    std::string text = opening(height);
    text += title(left_out);
    text += tree_plot(shapes);
    text += token_axis(axis);
    text += row_axis();
    text += legend(axis + 620, shapes);
    text += worker_plot(workers_top);
    return text + "</svg>\n";
  }

 private:
  static std::vector<std::int64_t> path_begins(const TreeSnapshot& tree) {
    std::vector<std::int64_t> begins(tree.parent.size(), 0);
    for (std::size_t node = 0; node < begins.size(); ++node)
      if (const auto parent = std::size_t(tree.parent[node]); tree.parent[node] >= 0)
        begins[node] = begins[parent] + tree.tokens[parent];
    return begins;
  }

  [[nodiscard]] std::vector<std::int64_t> breaks() const {
    std::vector<std::int64_t> breaks;
    for (std::size_t node = 0; node < path_begin_.size(); ++node)
      if (tree_.row_begin[node] < tree_.row_end[node]) breaks.push_back(path_begin_[node] + tree_.tokens[node]);
    return breaks;
  }

  /// Where the busiest worker has most of its work.
  [[nodiscard]] std::int16_t drawn_kv_head() const {
    std::vector<double> us(std::size_t(plan_.config.heads.kv_heads), 0.0);
    for (std::size_t t = 0; t < plan_.tiles.size(); ++t)
      if (plan_.tile_worker[t] == busiest_) us[std::size_t(plan_.tiles[t].kv_head)] += plan_.tile_us[t];
    return std::int16_t(std::ranges::max_element(us) - us.begin());
  }

  /// What the rows of a tile see of its tokens.
  void add_pieces(const detail::Tile& tile, std::vector<Piece>& pieces) const {
    std::int64_t left = tile.tokens;
    for (std::int32_t s = tile.segment_begin; s < tile.segment_end; ++s) {
      const detail::Segment& segment = plan_.segments[std::size_t(s)];
      const std::int64_t skip = s == tile.segment_begin ? tile.skip : 0;
      const std::int64_t tokens = std::min(segment.tokens - skip, left);
      left -= tokens;
      const std::int64_t path = path_begin_[std::size_t(segment.node)];
      const std::int64_t begin = segment.node_token + skip, end = begin + tokens;
      const std::int32_t first = std::max(tile.row_begin, segment.row_begin);
      const std::int32_t last = std::min(tile.row_end, segment.row_end);
      std::int32_t row = first;
      for (; row < std::min(last, segment.own_row_end); ++row)
        if (const std::int64_t seen = std::min<std::int64_t>(end, tree_.row_visible[std::size_t(row)]); seen > begin)
          pieces.push_back({path + begin, path + seen, row, row + 1});
      if (row < last && tokens > 0) pieces.push_back({path + begin, path + end, row, last});
    }
  }

  [[nodiscard]] Box box_of(const Piece& piece) const {
    return {tokens_(piece.token_begin), tokens_(piece.token_end), rows_(piece.row_begin), rows_(piece.row_end)};
  }

  [[nodiscard]] std::vector<Shape> shapes_of_tiles() const {
    std::vector<Shape> shapes;
    for (const std::size_t t : tiles_) {
      const detail::Tile& tile = plan_.tiles[t];
      std::vector<Piece> pieces;
      add_pieces(tile, pieces);
      join_pieces(pieces);
      double seen = 0;
      for (const Piece& piece : pieces)
        seen += double(piece.token_end - piece.token_begin) * double(piece.row_end - piece.row_begin);
      const std::int64_t rows = tile.row_end - tile.row_begin;
      std::string tooltip = format("tile %zu, worker %d; ", t, plan_.tile_worker[t]) + with_commas(tile.tokens) +
                            " tokens, rows " + with_commas(tile.row_begin) + " to " + with_commas(tile.row_end) +
                            ", KV head " + std::to_string(tile.kv_head) + "; " + readable_time(plan_.tile_us[t]);
      if (tile.masked != 0)
        tooltip += format("; masked: %.0f %% of it is seen", 100 * seen / (double(rows) * tile.tokens));
      Shape shape{plan_.tile_worker[t], tile.masked != 0, {}, std::move(tooltip)};
      for (const Piece& piece : pieces) shape.boxes.push_back(box_of(piece));
      shapes.push_back(std::move(shape));
    }
    return shapes;
  }

  /// Boxes on whole pixels, joined, so that thousands of tiny tiles become a few areas.
  [[nodiscard]] std::vector<Shape> shapes_of_workers() const {
    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < tiles_.size();) {
      const std::int32_t worker = plan_.tile_worker[tiles_[i]];
      std::vector<Piece> pieces[2];  // of tiles without and with a mask
      std::int64_t count[2] = {0, 0};
      for (; i < tiles_.size() && plan_.tile_worker[tiles_[i]] == worker; ++i) {
        const detail::Tile& tile = plan_.tiles[tiles_[i]];
        add_pieces(tile, pieces[tile.masked]);
        ++count[tile.masked];
      }
      for (const int masked : {0, 1})
        if (count[masked] > 0)
          shapes.push_back({worker, masked != 0, whole_boxes_of(pieces[masked]),
                            format("worker %d: ", worker) + with_commas(count[masked]) +
                                (masked != 0 ? " masked" : "") + " tiles of KV head " + std::to_string(kv_head_) +
                                "; all its tiles take " + readable_time(plan_.worker_us[std::size_t(worker)])});
    }
    return shapes;
  }

  /// On whole pixels, at least one in each direction.
  [[nodiscard]] std::vector<Box> whole_boxes_of(std::vector<Piece>& pieces) const {
    join_pieces(pieces);
    const auto whole = [](Tenths length) { return (length + 5) / 10 * 10; };
    std::vector<Box> boxes;
    for (const Piece& piece : pieces) {
      const Box box = box_of(piece);
      const Tenths left = whole(box.left), top = whole(box.top);
      boxes.push_back({left, std::max(whole(box.right), left + 10), top, std::max(whole(box.bottom), top + 10)});
    }
    join_boxes(boxes);
    return boxes;
  }

  /// Keeps the largest boxes.
  /// @return how many are dropped
  static std::size_t drop_small_boxes(std::vector<Shape>& shapes) {
    struct Place {
      Tenths area;
      std::size_t shape, box;
    };
    std::vector<Place> places;
    for (std::size_t s = 0; s < shapes.size(); ++s)
      for (std::size_t b = 0; b < shapes[s].boxes.size(); ++b) {
        const Box& box = shapes[s].boxes[b];
        places.push_back({(box.right - box.left) * (box.bottom - box.top), s, b});
      }
    if (places.size() <= kMostBoxes) return 0;
    std::ranges::stable_sort(places, std::ranges::greater{}, &Place::area);
    for (std::size_t i = kMostBoxes; i < places.size(); ++i) {
      Box& box = shapes[places[i].shape].boxes[places[i].box];
      box.right = box.left;
    }
    for (Shape& shape : shapes) std::erase_if(shape.boxes, [](const Box& box) { return box.right == box.left; });
    return places.size() - kMostBoxes;
  }

  /// Neighbours differ; no worker has the colour of the busiest one.
  [[nodiscard]] std::string colour_of(std::int32_t worker) const {
    if (worker == busiest_) return kBusiestColour;
    const double turn = std::fmod(worker * 0.618034, 1.0);
    return svg::colour(40 + 280 * turn, 0.5, worker % 2 == 0 ? 0.72 : 0.6);
  }

  // -- parts of the picture

  [[nodiscard]] static std::string opening(Tenths height) {
    const std::string size = svg::pixels(kPictureWidth) + "\" height=\"" + svg::pixels(height);
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size + "\" viewBox=\"0 0 " +
           svg::pixels(kPictureWidth) + " " + svg::pixels(height) +
           "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222222\">\n"
           "<defs><pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
           "patternTransform=\"rotate(45)\"><rect width=\"1.4\" height=\"6\" fill=\"#222222\" fill-opacity=\"0.55\"/>"
           "</pattern></defs>\n" +
           svg::rectangle({0, kPictureWidth, 0, height}, " fill=\"#ffffff\"");
  }

  [[nodiscard]] std::string title(std::size_t left_out) const {
    constexpr std::size_t kLongestName = 90;
    const PlanReport& report = plan_.report;
    const HeadShape& heads = plan_.config.heads;
    std::int64_t tokens = 0;
    for (const std::int32_t node_tokens : tree_.tokens) tokens += node_tokens;
    const std::string name = name_.size() > kLongestName ? name_.substr(0, kLongestName) + "..." : name_;
    std::string text = svg::text(
        kLeft, 280,
        name + ": strategy " + name_of(plan_.config.strategy) + ", predicted " + readable_time(report.predicted_us),
        " font-size=\"17\" font-weight=\"bold\"");
    text +=
        svg::text(kLeft, 500,
                  format("%d query and %d KV heads of %d, %s; ", heads.query_heads, heads.kv_heads, heads.head_dim,
                         name_of(plan_.config.scalar)) +
                      with_commas(report.nodes) + " nodes, " + with_commas(report.rows) + " rows, " +
                      with_commas(tokens) + " tokens; " + with_commas(report.tiles) + " tiles on " +
                      with_commas(report.workers) + " workers, " + format("imbalance %.1f %%", 100 * report.imbalance));
    std::string note = "Drawn: KV head " + std::to_string(kv_head_) + " of " + std::to_string(heads.kv_heads) +
                       (heads.kv_heads > 1 ? "; all are cut alike" : "") +
                       (by_worker_ ? "; tiles worker by worker, for there are many" : "");
    if (left_out > 0) note += "; " + with_commas(std::int64_t(left_out)) + " of the smallest pieces are left out";
    if (const std::int64_t small = nodes_without_outline(); small > 0)
      note += "; " + with_commas(small) + (small == 1 ? " node is" : " nodes are") + " too small for an outline";
    return text + svg::text(kLeft, 690, note, " fill=\"#666666\"");
  }

  [[nodiscard]] std::string tree_plot(const std::vector<Shape>& shapes) const {
    // Crisp: the edges of neighbours would otherwise both be pale, and thousands of thin tiles a haze.
    std::string text = "<g class=\"tiles\" shape-rendering=\"crispEdges\">\n";
    std::vector<Box> hatched;
    for (const Shape& shape : shapes) {
      const std::string attributes = std::string(" class=\"tile") + (shape.worker == busiest_ ? " busiest" : "") +
                                     "\" fill=\"" + colour_of(shape.worker) + "\"";
      text += svg::path(shape.boxes, attributes, shape.tooltip);
      if (shape.masked) hatched.insert(hatched.end(), shape.boxes.begin(), shape.boxes.end());
    }
    text += "</g>\n";
    const std::string over_tiles = " pointer-events=\"none\"";
    if (!hatched.empty()) text += svg::path(hatched, " class=\"masked\" fill=\"url(#hatch)\"" + over_tiles);
    if (!by_worker_)
      text += svg::lines(cuts_between(shapes), " class=\"cuts\" stroke=\"#ffffff\" stroke-width=\"2.4\"" + over_tiles);
    const auto nodes = outlined_nodes();
    std::vector<Box> outlines(nodes.size());
    std::ranges::transform(nodes, outlines.begin(), [](const auto& node) { return node.second; });
    text += svg::path(outlines, " class=\"nodes\" fill=\"none\" stroke=\"#222222\"" + over_tiles);
    text += "<g class=\"node-tokens\" font-size=\"11\" pointer-events=\"none\">\n";
    for (const auto& [node, box] : nodes) text += node_label(tree_.tokens[node], box);
    return text + "</g>\n";
  }

  /// The outlines of shapes that are large enough for one.
  [[nodiscard]] static std::vector<Box> cuts_between(const std::vector<Shape>& shapes) {
    constexpr Tenths kLeast = 50;
    std::vector<Box> cuts;
    for (const Shape& shape : shapes) {
      if (shape.boxes.empty()) continue;
      const Tenths left = std::ranges::min(shape.boxes, {}, &Box::left).left;
      const Tenths right = std::ranges::max(shape.boxes, {}, &Box::right).right;
      const Tenths top = std::ranges::min(shape.boxes, {}, &Box::top).top;
      const Tenths bottom = std::ranges::max(shape.boxes, {}, &Box::bottom).bottom;
      if (right - left < kLeast || bottom - top < kLeast) continue;
      const std::vector<Box> outline = svg::outline_of(shape.boxes);
      cuts.insert(cuts.end(), outline.begin(), outline.end());
    }
    std::ranges::sort(cuts);
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    return cuts;
  }

  /// The largest nodes, with their boxes, in line order.
  [[nodiscard]] std::vector<std::pair<std::size_t, Box>> outlined_nodes() const {
    constexpr Tenths kLeastHeight = 30, kLeastWidth = 20;
    std::vector<std::pair<std::size_t, Box>> nodes;
    for (std::size_t node = 0; node < path_begin_.size(); ++node) {
      const Box box = box_of(
          {path_begin_[node], path_begin_[node] + tree_.tokens[node], tree_.row_begin[node], tree_.row_end[node]});
      if (box.bottom - box.top >= kLeastHeight && box.right - box.left >= kLeastWidth) nodes.emplace_back(node, box);
    }
    if (nodes.size() <= kMostNodes) return nodes;
    std::ranges::stable_sort(nodes, [](const auto& a, const auto& b) {
      return a.second.bottom - a.second.top > b.second.bottom - b.second.top;
    });
    nodes.resize(kMostNodes);
    return nodes;
  }

  [[nodiscard]] std::int64_t nodes_without_outline() const {
    std::int64_t seen = 0;
    for (std::size_t node = 0; node < path_begin_.size(); ++node)
      seen += tree_.tokens[node] > 0 && tree_.row_begin[node] < tree_.row_end[node] ? 1 : 0;
    return seen - std::ssize(outlined_nodes());
  }

  /// How many tokens a node has, where there is room for it.
  [[nodiscard]] static std::string node_label(std::int64_t tokens, const Box& box) {
    const std::string label = with_commas(tokens);
    const Tenths width = 70 * Tenths(label.size()) + 60;
    if (box.right - box.left < width + 60 || box.bottom - box.top < 170) return "";
    const Tenths top = box.top + 20;
    return svg::rectangle({box.left + 30, box.left + 30 + width, top, top + 140},
                          " rx=\"2\" fill=\"#ffffff\" fill-opacity=\"0.8\"") +
           svg::text(box.left + 60, top + 110, label);
  }

  [[nodiscard]] std::string token_axis(Tenths top) const {
    std::string text = svg::line(kLeft, top + 40, kRight, top + 40, " stroke=\"#222222\"");
    for (const auto& [begin, end] : tokens_.widened())
      text += svg::line(begin, top + 40, end, top + 40, " stroke=\"#e08b00\" stroke-width=\"4\"");
    for (const std::int64_t token : tokens_.ticks()) {
      const Tenths x = tokens_(token);
      text += svg::line(x, top + 40, x, top + 90, " stroke=\"#222222\"");
      text += svg::text(x, top + 210, with_commas(token), " text-anchor=\"middle\"");
    }
    const std::string what =
        std::string("tokens from the root") + (tokens_.widens() ? " (thick: stretches drawn wider than they are)" : "");
    return text + svg::text((kLeft + kRight) / 2, top + 390, what, " text-anchor=\"middle\" fill=\"#666666\"");
  }

  [[nodiscard]] std::string row_axis() const {
    std::string text = svg::line(kLeft - 40, kTreeTop, kLeft - 40, kTreeTop + rows_.height(), " stroke=\"#222222\"");
    const std::int64_t step = TokenAxis::round_step(std::max<std::int64_t>(rows_.rows, 1), rows_.height() / 400);
    for (std::int64_t row = 0; row <= rows_.rows; row += step) {
      text += svg::line(kLeft - 90, rows_(row), kLeft - 40, rows_(row), " stroke=\"#222222\"");
      text += svg::text(kLeft - 110, rows_(row) + 40, with_commas(row), " text-anchor=\"end\"");
    }
    return text + svg::text(kLeft - 40, kTreeTop - 100, "rows", " text-anchor=\"end\" fill=\"#666666\"");
  }

  [[nodiscard]] std::string legend(Tenths top, const std::vector<Shape>& shapes) const {
    std::string text;
    Tenths x = kLeft;
    const auto add = [&](const std::string& fill, const std::string& meaning) {
      text += svg::rectangle({x, x + 180, top, top + 120},
                             " stroke=\"#222222\" stroke-width=\"0.5\" fill=\"" + fill + "\"");
      text += svg::text(x + 250, top + 105, meaning);
      x += 250 + 66 * Tenths(meaning.size()) + 250;
    };
    add("none", "node, with its tokens");
    add(colour_of(other_worker()), by_worker_ ? "tiles of a worker" : "tile, in its worker's colour");
    const double over = plan_.worker_us[std::size_t(busiest_)] / std::max(plan_.mean_worker_us(), 1e-9) - 1;
    add(kBusiestColour, format("the busiest worker, %d: %.1f %% above the mean", busiest_, std::max(100 * over, 0.0)));
    if (std::ranges::any_of(shapes, &Shape::masked)) add("url(#hatch)", "masked tile: also computes what no row sees");
    return text;
  }

  /// Why a tall bar need not be a bad cut.
  [[nodiscard]] std::string at_a_time() const {
    const int together = plan_.workers_at_a_time();
    if (together >= plan_.report.workers) return "all run at a time";
    return std::to_string(together) + (together == 1 ? " runs" : " run") + " at a time, and the next where one ends";
  }

  /// One that has work, and is not the busiest; whichever else if there is none.
  [[nodiscard]] std::int32_t other_worker() const {
    for (std::int32_t worker = 0; worker < std::ssize(plan_.worker_us); ++worker)
      if (worker != busiest_ && plan_.worker_us[std::size_t(worker)] > 0) return worker;
    return busiest_ == 0 ? 1 : 0;
  }

  /// A bar for each worker, or for the busiest one of a few neighbours.
  [[nodiscard]] std::string worker_plot(Tenths top) const {
    const auto workers = std::int64_t(plan_.worker_us.size());
    const std::int64_t bars = std::min(workers, kMostBars);
    const double most = std::max(plan_.worker_us[std::size_t(busiest_)], 1e-9), mean = plan_.mean_worker_us();
    const Tenths bottom = top + kWorkersHeight;
    const auto x = [&](std::int64_t bar) { return kLeft + (kRight - kLeft) * bar / bars; };
    const auto y = [&](double us) { return bottom - std::llround(double(kWorkersHeight) * us / most); };
    std::string text = svg::text(kLeft, top - 120,
                                 "predicted time of each worker, all KV heads; " + at_a_time() +
                                     std::string(bars < workers ? " (each bar: the busiest of its neighbours)" : ""),
                                 " fill=\"#666666\"");
    for (std::int64_t bar = 0; bar < bars; ++bar) {
      const auto first = std::size_t(bar * workers / bars), end = std::size_t((bar + 1) * workers / bars);
      const auto begin = plan_.worker_us.begin();
      const auto worker =
          std::size_t(std::max_element(begin + std::ptrdiff_t(first), begin + std::ptrdiff_t(end)) - begin);
      const double us = plan_.worker_us[worker];
      const Tenths gap = std::min<Tenths>(20, (x(bar + 1) - x(bar)) / 5);
      const std::string attributes = std::string(" class=\"worker") +
                                     (std::int32_t(worker) == busiest_ ? " busiest" : "") + "\" fill=\"" +
                                     colour_of(std::int32_t(worker)) + "\"";
      text += svg::rectangle({x(bar), x(bar + 1) - gap, y(us), bottom}, attributes,
                             "worker " + std::to_string(worker) + ": " + readable_time(us));
    }
    text += svg::line(kLeft, bottom, kRight, bottom, " stroke=\"#222222\"");
    const std::int64_t step = TokenAxis::round_step(workers, 20);
    for (std::int64_t worker = 0; worker < workers; worker += step) {
      const std::int64_t bar = worker * bars / workers;
      text += svg::text((x(bar) + x(bar + 1)) / 2, bottom + 170, with_commas(worker), " text-anchor=\"middle\"");
    }
    text += svg::text((kLeft + kRight) / 2, bottom + 360, "worker", " text-anchor=\"middle\" fill=\"#666666\"");
    text += svg::line(kLeft, y(mean), kRight, y(mean), " stroke=\"#222222\" stroke-dasharray=\"6 4\"");
    const std::string mean_label = "mean " + readable_time(mean) + ", busiest " + readable_time(most);
    return text + svg::text(kRight, top - 120, mean_label, " text-anchor=\"end\"");
  }

  const std::string& name_;
  const TreeSnapshot& tree_;
  const PlanContents& plan_;
  std::vector<std::int64_t> path_begin_;  // [nodes]  tokens above the node
  TokenAxis tokens_;
  RowAxis rows_;
  std::int32_t busiest_ = 0;
  std::int16_t kv_head_ = 0;
  std::vector<std::size_t> tiles_;  // those of kv_head_
  bool by_worker_ = false;
};

}  // namespace

std::string draw_plan(const std::string& name, const TreeSnapshot& tree, const PlanContents& plan) {
  return PlanPicture(name, tree, plan).draw();
}

}  // namespace espalier::cli
