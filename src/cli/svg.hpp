#pragma once
// Elements of an SVG picture as text. Lengths are whole tenths of a pixel: the same numbers give the same bytes anywhere.

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

namespace espalier::cli::svg {

using Tenths = std::int64_t;

struct Box {
  Tenths left, right, top, bottom;
  friend bool operator==(const Box&, const Box&) = default;  // nvcc does not make it from <=> alone
  friend auto operator<=>(const Box&, const Box&) = default;
};

/// "12", "12.5"
[[nodiscard]] std::string pixels(Tenths length);

/// The lines around an area that is made of boxes, none of which overlap: not those where two boxes touch.
[[nodiscard]] std::vector<Box> outline_of(const std::vector<Box>& boxes);

/// Text between tags or in attributes. Bytes that are no UTF-8 become U+FFFD.
[[nodiscard]] std::string escaped(const std::string& text);

/// The colour of a hue in degrees, saturation and lightness from 0 to 1: "#1f77b4".
[[nodiscard]] std::string colour(double hue, double saturation, double lightness);

/// @param attributes  further ones, beginning with a space, or nothing
[[nodiscard]] std::string rectangle(const Box& box, const std::string& attributes, const std::string& tooltip = "");
[[nodiscard]] std::string path(const std::vector<Box>& boxes, const std::string& attributes,
                               const std::string& tooltip = "");
/// One path of all lines: boxes without a width or without a height.
[[nodiscard]] std::string lines(const std::vector<Box>& lines, const std::string& attributes);
[[nodiscard]] std::string line(Tenths x0, Tenths y0, Tenths x1, Tenths y1, const std::string& attributes = "");
[[nodiscard]] std::string text(Tenths x, Tenths y, const std::string& content, const std::string& attributes = "");

}  // namespace espalier::cli::svg
