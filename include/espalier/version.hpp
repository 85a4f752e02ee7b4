#pragma once

#include <string_view>

namespace espalier {

/// The version of the compiled library, such as "0.1.0".
[[nodiscard]] std::string_view version() noexcept;

}  // namespace espalier
