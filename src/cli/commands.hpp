#pragma once
// The subcommands. To add one: a file with its add_ function, a line here, and a line in main.cpp's list.

#include <functional>

namespace CLI {
class App;
}

namespace espalier::cli {

/// What a subcommand does when its options have been read. Returns the exit code: 0, or 1 where a check failed; bad input
/// is thrown as InputError.
using Command = std::function<int()>;

[[nodiscard]] Command add_attend(CLI::App& app);
[[nodiscard]] Command add_calibrate(CLI::App& app);
[[nodiscard]] Command add_demo(CLI::App& app);
[[nodiscard]] Command add_info(CLI::App& app);
[[nodiscard]] Command add_plan(CLI::App& app);
[[nodiscard]] Command add_replay(CLI::App& app);
[[nodiscard]] Command add_validate(CLI::App& app);

}  // namespace espalier::cli
