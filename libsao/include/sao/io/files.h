// SPDX-License-Identifier: Apache-2.0
// Whole files that appear at once, and files that only grow.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace sao {

/// The whole file as bytes. Throws InputError naming the path when it cannot be read or is larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = 1ULL << 32);

/// Writes `bytes` to a temporary neighbour, flushes it to disk and renames it to `path`: the file
/// appears whole or not at all. Throws ResourceError naming the path and the system's reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The same for a file that is written piece by piece: commit() gives it its name; without it the destructor removes
/// what there is. A device or a pipe is written to directly.
class AtomicFile {
 public:
  /// Throws ResourceError when the temporary neighbour cannot be made.
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Throws ResourceError naming the path and the system's reason.
  void write(std::string_view bytes);
  /// Flushes to disk and renames. Throws as write does.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// Fills a new folder beside `folder` with `fill`, then gives it the name `folder`. A folder that has this name is
/// removed with everything in it; where the file system can swap names, there is one of the two at every moment, else
/// remove_unfinished brings the old one back. When `fill` throws, nothing stays behind. Throws ResourceError when the
/// folder cannot be made.
void write_folder_atomically(const std::filesystem::path& folder,
                             const std::function<void(const std::filesystem::path& temporary)>& fill);

/// Removes, in `folder` and below it, the temporary files and folders of what stands above that a killed process
/// left behind; a folder that was being replaced is put back where the new one had not yet got its name. Only for a
/// folder that nobody else is writing to.
void remove_unfinished(const std::filesystem::path& folder);

/// FNV-1a 64 of a file's bytes as 16 hex digits: a fingerprint for manifests, not a cryptographic hash.
std::string fingerprint_file(const std::filesystem::path& path);
/// The same of bytes in memory.
std::string fingerprint(std::string_view bytes);

/// A file of lines that only grows. Opening it drops an unfinished last line, which a crash may have left.
class AppendFile {
 public:
  /// Makes the file where there is none. Throws ResourceError when it cannot be opened for writing.
  explicit AppendFile(const std::filesystem::path& path);
  ~AppendFile();
  AppendFile(AppendFile&&) noexcept;
  AppendFile& operator=(AppendFile&&) noexcept;

  /// Appends `line` and a newline in one write. Throws ResourceError (disk full, ...; what was written of the line is
  /// taken back) or InputError (a newline inside `line`).
  void append(std::string_view line);
  /// Flushes to disk.
  void sync();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sao
