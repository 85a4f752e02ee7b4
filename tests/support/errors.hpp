#pragma once

#include <string>

#include "espalier/error.hpp"

namespace espalier::test {

/// "" if the call throws Error{code} whose message has this text in it; else what happened instead.
template <class Call>
std::string wrong_error(ErrorCode code, const std::string& text, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    if (error.code() != code) return "another code: " + message;
    if (message.find(text) == std::string::npos) return "another message: " + message;
    return "";
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "no exception";
}

}  // namespace espalier::test
