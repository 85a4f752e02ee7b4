#pragma once
// Reading JSON that a person wrote: every mistake is named by its place. For .cpp files only: it includes the library.

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

namespace espalier::cli {

using Json = nlohmann::json;

/// A value of a document, and how to say where it is: "tree.json: nodes[3].tokens".
struct JsonPlace {
  const Json& value;
  std::string place;

  [[nodiscard]] JsonPlace at(const std::string& key) const { return {value.at(key), join(key)}; }
  [[nodiscard]] JsonPlace at(std::size_t entry) const {
    return {value[entry], place + "[" + std::to_string(entry) + "]"};
  }
  [[nodiscard]] bool has(const std::string& key) const { return value.contains(key); }

 private:
  [[nodiscard]] std::string join(const std::string& key) const {
    return place + (place.ends_with(':') ? " " : ".") + key;
  }
};

/// @param name  what messages call the text: a file, or a line of one
/// @throws InputError naming line and column, also for a key that one object has twice
[[nodiscard]] Json parse_json(const std::string& name, const std::string& text);

/// An object with all of the required keys and no keys but these.
void expects_object(const JsonPlace& json, std::initializer_list<const char*> required,
                    std::initializer_list<const char*> optional = {});

/// An array with at least `least` entries.
void expects_array(const JsonPlace& json, std::size_t least = 0);

/// An integer from `least` to `most`; fractions, exponents and numbers that do not fit are refused.
/// @param meaning  appended to what was expected: ", a node above"
[[nodiscard]] std::int64_t integer_at(const JsonPlace& json, std::int64_t least, std::int64_t most,
                                      const std::string& meaning = "");

/// A number from `least` to `most`.
[[nodiscard]] double number_at(const JsonPlace& json, double least, double most, const std::string& meaning = "");

[[nodiscard]] bool boolean_at(const JsonPlace& json);

}  // namespace espalier::cli
