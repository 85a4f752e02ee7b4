#pragma once

#include <string>

namespace espalier::cli {

/// The processor that the default execution space runs on.
[[nodiscard]] std::string device_name();

}  // namespace espalier::cli
