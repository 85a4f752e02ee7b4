#pragma once
// Whether an attention on a stream may read its plan before the launch in front of it has ended.

#include <cstdint>
#include <mutex>

#include "backends/backend.hpp"

namespace espalier::plan {

using backend::kNoCapture;
using backend::kUnknownCapture;

/// A plan is settled on a stream where an attention there has waited for everything in front of it since the plan was
/// made: whatever comes later on that stream finds the plan in memory. Until then the launch in front may be the one that
/// writes the plan.
///
/// What was enqueued while the stream was captured runs later, if ever, so it settles the plan for the rest of that capture
/// alone. What a graph contains begins when all in front of the graph has ended, so a plan that is settled outside is also
/// settled in a capture.
class Settled {
 public:
  /// The plan is made anew, or its state is not known.
  void forget() {
    const std::lock_guard lock(mutex_);
    is_known_ = false;
  }

  /// An attention is about to be enqueued on the stream.
  /// @param capture_of  () -> the number of the capture that the stream is in; asked only where it matters
  /// @returns whether the plan was settled there before; if not, the attention has to wait, and it is settled from then on
  template <class CaptureOf>
  bool enter(const void* stream, const CaptureOf& capture_of) {
    const std::lock_guard lock(mutex_);
    const bool same_stream = is_known_ && stream == stream_;
    if (same_stream && capture_ == kNoCapture) return true;
    const std::uint64_t capture = capture_of();
    const bool was_settled = same_stream && capture == capture_ && capture != kUnknownCapture;
    is_known_ = true;
    stream_ = stream;
    capture_ = capture;
    return was_settled;
  }

 private:
  std::mutex mutex_;
  bool is_known_ = false;
  const void* stream_ = nullptr;
  std::uint64_t capture_ = kNoCapture;
};

}  // namespace espalier::plan
