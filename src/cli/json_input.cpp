#include "cli/json_input.hpp"

#include <algorithm>
#include <set>
#include <vector>

#include "cli/input_error.hpp"

namespace espalier::cli {
namespace {

/// A value as it stands in the document, cut to a length that fits a message.
std::string excerpt(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 40) text = text.substr(0, 37) + "...";
  return text;
}

}  // namespace

Json parse_json(const std::string& name, const std::string& text) {
  std::vector<std::set<std::string>> keys;  // of every object that is open
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      bad_input(name, ": the key ", excerpt(value), " is there twice in one object");
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ...": what follows the number is for people.
    const std::string what = error.what();
    const std::size_t bracket = what.find("] ");
    bad_input(name, ": malformed JSON: ", bracket == std::string::npos ? what : what.substr(bracket + 2));
  }
}

void expects_object(const JsonPlace& json, std::initializer_list<const char*> required,
                    std::initializer_list<const char*> optional) {
  if (!json.value.is_object()) bad_input(json.place, " is ", excerpt(json.value), ", expected an object { ... }");
  for (const char* key : required)
    if (!json.has(key)) bad_input(json.place, " has no \"", key, "\"");
  for (const auto& [key, value] : json.value.items()) {
    const auto is_key = [&key = key](const char* known) { return key == known; };
    if (std::none_of(required.begin(), required.end(), is_key) &&
        std::none_of(optional.begin(), optional.end(), is_key)) {
      std::string known;
      for (const auto& list : {required, optional})
        for (const char* name : list) (known += known.empty() ? "\"" : ", \"") += std::string(name) + "\"";
      bad_input(json.place, " has the unknown key ", excerpt(Json(key)), ", expected ", known);
    }
  }
}

void expects_array(const JsonPlace& json, std::size_t least) {
  if (!json.value.is_array()) bad_input(json.place, " is ", excerpt(json.value), ", expected an array [ ... ]");
  if (json.value.size() < least)
    bad_input(json.place, " has ", json.value.size(), " entries, expected at least ", least);
}

std::int64_t integer_at(const JsonPlace& json, std::int64_t least, std::int64_t most, const std::string& meaning) {
  const bool fits = json.value.is_number_integer() &&
                    !(json.value.is_number_unsigned() && json.value.get<std::uint64_t>() > std::uint64_t(most));
  if (const std::int64_t integer = fits ? json.value.get<std::int64_t>() : 0;
      fits && integer >= least && integer <= most)
    return integer;
  bad_input(json.place, " is ", excerpt(json.value), ", expected an integer from ", least, " to ", most, meaning);
}

double number_at(const JsonPlace& json, double least, double most, const std::string& meaning) {
  if (json.value.is_number())
    if (const auto number = json.value.get<double>(); number >= least && number <= most) return number;
  bad_input(json.place, " is ", excerpt(json.value), ", expected a number from ", least, " to ", most, meaning);
}

bool boolean_at(const JsonPlace& json) {
  if (!json.value.is_boolean()) bad_input(json.place, " is ", excerpt(json.value), ", expected true or false");
  return json.value.get<bool>();
}

}  // namespace espalier::cli
