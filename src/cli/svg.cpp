#include "cli/svg.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/text.hpp"

namespace espalier::cli::svg {
namespace {

std::string element(const std::string& name, const std::string& attributes, const std::string& tooltip) {
  if (tooltip.empty()) return "<" + name + attributes + "/>\n";
  return "<" + name + attributes + "><title>" + escaped(tooltip) + "</title></" + name + ">\n";
}

}  // namespace

std::string pixels(Tenths length) {
  const std::string whole = (length < 0 ? "-" : "") + std::to_string(std::abs(length) / 10);
  return length % 10 == 0 ? whole : whole + "." + std::to_string(std::abs(length) % 10);
}

std::vector<Box> outline_of(const std::vector<Box>& boxes) {
  // Along each line, the sides of boxes before it count +1, those behind it -1; what is left is the outline.
  struct Step {
    Tenths line, place;
    int change;
  };
  std::vector<Box> outline;
  const auto sweep = [&](std::vector<Step>& steps, const auto& add) {
    std::ranges::sort(
        steps, [](const Step& a, const Step& b) { return a.line != b.line ? a.line < b.line : a.place < b.place; });
    int sides = 0;
    for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
      sides += steps[i].change;
      if (sides != 0 && steps[i].place < steps[i + 1].place) add(steps[i].line, steps[i].place, steps[i + 1].place);
    }
  };
  std::vector<Step> vertical, horizontal;
  for (const Box& box : boxes) {
    vertical.insert(
        vertical.end(),
        {{box.left, box.top, 1}, {box.left, box.bottom, -1}, {box.right, box.top, -1}, {box.right, box.bottom, 1}});
    horizontal.insert(
        horizontal.end(),
        {{box.top, box.left, 1}, {box.top, box.right, -1}, {box.bottom, box.left, -1}, {box.bottom, box.right, 1}});
  }
  sweep(vertical, [&](Tenths x, Tenths top, Tenths bottom) { outline.push_back({x, x, top, bottom}); });
  sweep(horizontal, [&](Tenths y, Tenths left, Tenths right) { outline.push_back({left, right, y, y}); });
  return outline;
}

std::string escaped(const std::string& text) {
  // The JSON library knows what UTF-8 is, and writes control characters, most of which XML does not have, in words.
  const std::string json = nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string xml;
  for (const char c : json.substr(1, json.size() - 2)) {
    if (c == '&')
      xml += "&amp;";
    else if (c == '<')
      xml += "&lt;";
    else if (c == '>')
      xml += "&gt;";
    else if (c == '"')
      xml += "&quot;";
    else
      xml += c;
  }
  return xml;
}

std::string colour(double hue, double saturation, double lightness) {
  const double chroma = saturation * std::min(lightness, 1 - lightness);
  const auto channel = [&](double offset) {
    const double place = std::fmod(offset + hue / 30, 12);
    return int(std::lround(255 * (lightness - chroma * std::clamp(std::min(place - 3, 9 - place), -1.0, 1.0))));
  };
  return format("#%02x%02x%02x", channel(0), channel(8), channel(4));
}

std::string rectangle(const Box& box, const std::string& attributes, const std::string& tooltip) {
  return element("rect",
                 " x=\"" + pixels(box.left) + "\" y=\"" + pixels(box.top) + "\" width=\"" +
                     pixels(box.right - box.left) + "\" height=\"" + pixels(box.bottom - box.top) + "\"" + attributes,
                 tooltip);
}

std::string path(const std::vector<Box>& boxes, const std::string& attributes, const std::string& tooltip) {
  std::string steps;
  for (const Box& box : boxes) {
    const std::string width = pixels(box.right - box.left);
    steps += "M" + pixels(box.left) + " " + pixels(box.top);
    steps += "h" + width + "v" + pixels(box.bottom - box.top);
    steps += "h-" + width + "z";
  }
  return element("path", attributes + " d=\"" + steps + "\"", tooltip);
}

std::string lines(const std::vector<Box>& lines, const std::string& attributes) {
  std::string steps;
  for (const Box& line : lines) {
    steps += "M" + pixels(line.left) + " " + pixels(line.top);
    steps += line.top == line.bottom ? "h" + pixels(line.right - line.left) : "v" + pixels(line.bottom - line.top);
  }
  return element("path", attributes + " d=\"" + steps + "\"", "");
}

std::string line(Tenths x0, Tenths y0, Tenths x1, Tenths y1, const std::string& attributes) {
  return "<line x1=\"" + pixels(x0) + "\" y1=\"" + pixels(y0) + "\" x2=\"" + pixels(x1) + "\" y2=\"" + pixels(y1) +
         "\"" + attributes + "/>\n";
}

std::string text(Tenths x, Tenths y, const std::string& content, const std::string& attributes) {
  return "<text x=\"" + pixels(x) + "\" y=\"" + pixels(y) + "\"" + attributes + ">" + escaped(content) + "</text>\n";
}

}  // namespace espalier::cli::svg
