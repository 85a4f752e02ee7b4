#pragma once
// Runs the tool as a user would, and says what came of it.

#include <filesystem>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace espalier::test {

struct Outcome {
  int exit_code;  ///< 128 + signal where one ended the tool
  std::string out;
  std::string err;
};

/// Runs `espalier` with these arguments.
[[nodiscard]] Outcome run_tool(const std::vector<std::string>& arguments);

/// What a file holds.
[[nodiscard]] std::string content_of(const std::string& path);

/// A document that the tool wrote.
[[nodiscard]] nlohmann::json parse_json(const std::string& text);

/// Checks that the tool ended with 2, nothing on stdout, and one line on stderr that holds all of these words.
void expects_refusal(const Outcome& outcome, std::initializer_list<std::string> words);

/// A folder of its own that goes with the object.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] std::string path(const std::string& name) const { return path_ / name; }

  /// @return the path of the file
  std::string write(const std::string& name, const std::string& content) const;

  /// Names of all files, sorted.
  [[nodiscard]] std::vector<std::string> files() const;

 private:
  std::filesystem::path path_;
};

/// The folder with real data; skips the test, saying so, where it is absent.
[[nodiscard]] std::string data_file(const std::string& name);

}  // namespace espalier::test
