#include "cli/text.hpp"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>

namespace espalier::cli {

std::string with_commas(std::int64_t number) {
  std::string digits = std::to_string(number);
  const std::size_t sign = number < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > sign + 3;) digits.insert(at -= 3, ",");
  return digits;
}

std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string saved_percent(double part, double whole) {
  return format("%.1f %%", whole > 0 ? 100 * (1 - part / whole) : 0.0);
}

std::string readable_time(double microseconds) {
  if (microseconds < 1e3) return format("%.1f us", microseconds);
  if (microseconds < 1e6) return format("%.2f ms", microseconds * 1e-3);
  return format("%.2f s", microseconds * 1e-6);
}

void print_line(const char* what, const std::string& value, const std::string& remark) {
  const std::string line = format("  %-30s %14s   ", what, value.c_str()) + remark;
  std::printf("%s\n", line.substr(0, line.find_last_not_of(' ') + 1).c_str());
}

ProgressBar::ProgressBar(std::int64_t total, std::string unit)
    : total_(total), unit_(std::move(unit)), on_terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (on_terminal_ && shown_ >= 0) std::fputs("\r\033[K", stderr);
}

void ProgressBar::show(std::int64_t done) {
  if (!on_terminal_ || total_ <= 0 || done * 1000 / total_ == shown_) return;
  shown_ = done * 1000 / total_;
  constexpr std::int64_t kWidth = 40;
  std::string bar(std::size_t(kWidth), '.');
  bar.replace(0, std::size_t(kWidth * done / total_), std::size_t(kWidth * done / total_), '#');
  std::fprintf(stderr, "\r[%s] %s of %s %s", bar.c_str(), with_commas(done).c_str(), with_commas(total_).c_str(),
               unit_.c_str());
  std::fflush(stderr);
}

}  // namespace espalier::cli
