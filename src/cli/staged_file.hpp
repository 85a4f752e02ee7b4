#pragma once
// Output files that are there in full or not at all.

#include <fstream>
#include <string>

namespace espalier::cli {

/// A file that is written under another name beside its own and gets its own by commit(). Removed without that.
class StagedFile {
 public:
  /// @throws InputError if the file cannot be made, or `path` is there and is no regular file
  explicit StagedFile(const std::string& path);
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  [[nodiscard]] std::ostream& stream() { return stream_; }

  /// @throws InputError if anything could not be written
  void commit();

 private:
  std::string path_;
  std::string staging_path_;
  std::ofstream stream_;
};

}  // namespace espalier::cli
