#pragma once

#include <chrono>

namespace espalier::cli {

/// Measures wall time in milliseconds.
class Stopwatch {
 public:
  /// Time since construction or the last restart.
  [[nodiscard]] double elapsed_ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
  }

  double restart() {
    const double elapsed = elapsed_ms();
    start_ = std::chrono::steady_clock::now();
    return elapsed;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace espalier::cli
