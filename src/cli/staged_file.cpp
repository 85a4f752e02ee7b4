#include "cli/staged_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "cli/input_error.hpp"

namespace espalier::cli {
namespace fs = std::filesystem;

StagedFile::StagedFile(const std::string& path) : path_(path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    if (!fs::is_regular_file(path, ignored))
      bad_input(path, ": is there and is no regular file, expected one to write");
    path_ = fs::canonical(path);  // a link stays one
  }
  staging_path_ = path_ + ".partial-" + std::to_string(getpid());
  errno = 0;
  stream_.open(staging_path_, std::ios::binary | std::ios::trunc);
  if (!stream_) {
    const std::string reason = std::strerror(errno);
    staging_path_.clear();
    bad_input(path, ": cannot be written: ", reason);
  }
}

StagedFile::~StagedFile() {
  stream_.close();
  std::error_code ignored;
  if (!staging_path_.empty()) fs::remove(staging_path_, ignored);
}

void StagedFile::commit() {
  errno = 0;
  stream_.close();
  if (!stream_) bad_input(path_, ": cannot be written: ", std::strerror(errno));
  std::error_code error;
  fs::rename(staging_path_, path_, error);
  if (error) bad_input(path_, ": cannot be written: ", error.message());
  staging_path_.clear();
}

}  // namespace espalier::cli
