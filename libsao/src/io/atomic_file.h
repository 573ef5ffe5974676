// SPDX-License-Identifier: Apache-2.0
// A file under a temporary name that gets its own name once it is whole.
#pragma once

#include <filesystem>
#include <string_view>

namespace sao::detail {

/// Stands in the names of files and folders that have not got their own yet; these names begin with a dot.
inline constexpr std::string_view kTemporaryMark = ".sao-partial-";

/// Written piece by piece; commit() gives it its name. Without commit the destructor removes it.
class AtomicFile {
 public:
  /// Throws ResourceError when the temporary neighbour cannot be made.
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes);
  /// Flushes to disk and renames.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// "<what> <path>: <the system's reason for errno>" as a ResourceError.
[[noreturn]] void throw_system_error(std::string_view what, const std::filesystem::path& path, int error);

/// Writes all of `bytes`, whatever the system accepts at once. Returns 0 or errno.
int write_all(int descriptor, std::string_view bytes);

/// Makes a rename inside `folder` survive a power failure. Best effort: not every file system can.
void sync_folder(const std::filesystem::path& folder);

}  // namespace sao::detail
