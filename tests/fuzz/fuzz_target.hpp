#pragma once
// What a fuzz target is: libFuzzer's entry point, and inputs to begin with for a driver without libFuzzer.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// Runs the code under test on one input. Ends the program by an exception or a signal if something is wrong.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace espalier::fuzz {

/// Inputs that random ones are made from.
[[nodiscard]] std::vector<std::string> first_inputs();

}  // namespace espalier::fuzz
