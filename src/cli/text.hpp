#pragma once
// Numbers and progress for people.

#include <cstdint>
#include <string>

namespace espalier::cli {

/// "12,345"
[[nodiscard]] std::string with_commas(std::int64_t number);

/// printf into a string.
[[nodiscard, gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

/// "93.1 %": what part of `whole` is not `part`.
[[nodiscard]] std::string saved_percent(double part, double whole);

/// "12.3 us", "1.23 ms", "4.56 s"
[[nodiscard]] std::string readable_time(double microseconds);

/// A line of a report on stdout: what, its value, and a remark.
void print_line(const char* what, const std::string& value, const std::string& remark = "");

/// A bar on stderr while something long runs; nothing where stderr is no terminal.
class ProgressBar {
 public:
  /// @param unit  what is counted: "requests"
  ProgressBar(std::int64_t total, std::string unit);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void show(std::int64_t done);

 private:
  std::int64_t total_;
  std::string unit_;
  bool on_terminal_;
  std::int64_t shown_ = -1;  // in thousandths
};

}  // namespace espalier::cli
