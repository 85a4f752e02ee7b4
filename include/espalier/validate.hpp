#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "espalier/kernels.hpp"
#include "espalier/types.hpp"

namespace espalier {

/// What one kernel made of the attentions that it was given.
struct KernelValidation {
  KernelInfo kernel;
  std::int32_t checked = 0;         ///< attentions that it ran: one for each case and strategy that it supports
  std::int32_t unsupported = 0;     ///< attentions that it does not support
  std::int32_t wrong = 0;           ///< attentions whose result is not what it should be
  double largest_error = 0;         ///< |out - oracle| / |oracle| over all rows of an attention, the largest of all
  double largest_share = 0;         ///< the largest error as a share of what is allowed; above 1 is wrong
  double largest_difference = 0;    ///< |out - portable| / |portable|, where the portable kernel ran the same case
  std::vector<std::string> faults;  ///< what is wrong with the first few, each with the case that shows it

  /// It ran at least one attention, and all that it ran were right; or it cannot run here.
  [[nodiscard]] bool passed() const { return wrong == 0 && (checked > 0 || !kernel.available); }
};

struct ValidateOptions {
  std::string kernel = {};  ///< kernels whose names begin with this; none: all that are not emulated
  bool quick = false;       ///< few cases of each kind: enough to see that everything runs, and for slow tools
  std::uint32_t seed = 1;   ///< of the inputs, and of which sizes meet which trees
  std::function<void(std::int32_t done, std::int32_t all)> progress = {};  ///< called after each case
};

/// Runs every kernel of an execution space over a sweep of small problems, and compares with attention in double precision
/// on the host, and with the portable kernel. The sweep: trees in levels, stars, token trees, ragged forests, several
/// roots, empty nodes, rows that see part of their node; groups of 1, 4, 5 and 8 query heads; head sizes, types, blocks of 1
/// to 256 tokens, layouts of the cache, strategies, soft caps, scales, with and without lse; every other case on an instance
/// of its own. Memory that no kernel may read holds NaN.
///
/// Allowed are the rounding of the output to its type, that of 16-bit weights and partials, and that of float arithmetic,
/// by norm and for each element. Waits for the instance.
/// @return  one for each kernel that was asked for, as available_kernels() orders them
/// @throws Error{invalid_argument} if no kernel of the execution space has such a name
template <ExecutionSpace Exec>
[[nodiscard]] std::vector<KernelValidation> validate_kernels(const Exec& exec, const ValidateOptions& options = {});

}  // namespace espalier
