// SPDX-License-Identifier: Apache-2.0
#include "sao/io/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "io/atomic_file.h"
#include "sao/base/error.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kTemporaryMark = ".sao-partial-";

/// ".<name>.sao-partial-<process>-<number>" beside `path`.
fs::path temporary_neighbour(const fs::path& path) {
  static std::atomic<unsigned> next{0};
  return path.parent_path() /
         fmt::format(".{}{}{}-{}", path.filename().string(), kTemporaryMark, ::getpid(), next.fetch_add(1));
}

fs::path without_trailing_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

fs::path parent_or_here(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// Devices, pipes and what /dev/stdout stands for: renaming over these would destroy them.
bool is_stream(const fs::path& path) {
  const fs::file_status status = fs::status(path);
  if (fs::exists(status) && !fs::is_regular_file(status)) return true;
  const std::string absolute = fs::absolute(path).lexically_normal().string();
  return fs::exists(status) && (absolute.starts_with("/dev/") || absolute.starts_with("/proc/")) &&
         fs::is_symlink(path);
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

/// Calls `each` with the pieces of the file.
template <class Each>
void for_each_piece(const fs::path& path, Each&& each) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    throw InputError(fmt::format("{}: {}, expected a file that can be read", path.string(), std::strerror(errno)));
  }
  std::vector<char> buffer(1 << 20);
  for (;;) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      throw InputError(fmt::format("{}: {}, expected a file that can be read", path.string(), std::strerror(errno)));
    }
    if (count == 0) return;
    each(std::string_view(buffer.data(), static_cast<std::size_t>(count)));
  }
}

constexpr std::uint64_t kFnvOffset = 0xCBF29CE484222325ULL;

std::uint64_t fnv1a(std::uint64_t hash, std::string_view bytes) {
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3ULL;
  return hash;
}

}  // namespace

namespace detail {

void throw_system_error(std::string_view what, const fs::path& path, int error) {
  throw ResourceError(fmt::format("{} {}: {}", what, path.string(), std::strerror(error)));
}

int write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return 0;
}

void sync_folder(const fs::path& folder) {
  const Descriptor handle(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (handle.get() >= 0) ::fsync(handle.get());
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  constexpr mode_t kMode = 0666;  // the umask takes away from it
  if (fs::is_directory(path_)) throw_system_error("cannot write", path_, EISDIR);
  if (is_stream(path_)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw_system_error("cannot write", path_, errno);
    return;
  }
  temporary_ = temporary_neighbour(path_);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
  if (descriptor_ < 0) throw_system_error("cannot write", path_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  if (const int error = write_all(descriptor_, bytes)) throw_system_error("cannot write", path_, error);
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS) throw_system_error("cannot write", path_, errno);
  if (!temporary_.empty() && ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw_system_error("cannot write", path_, errno);
  }
  ::close(std::exchange(descriptor_, -1));
  sync_folder(parent_or_here(path_));
}

}  // namespace detail

std::string read_file(const fs::path& path, std::uint64_t max_bytes) {
  std::string bytes;
  for_each_piece(path, [&](std::string_view piece) {
    if (bytes.size() + piece.size() > max_bytes) {
      throw InputError(fmt::format("{}: larger than {} bytes, expected at most that", path.string(), max_bytes));
    }
    bytes += piece;
  });
  return bytes;
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  detail::AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_folder_atomically(const fs::path& folder, const std::function<void(const fs::path& temporary)>& fill) {
  const fs::path target = without_trailing_slash(folder);
  const fs::path temporary = temporary_neighbour(target);
  const fs::path old = temporary_neighbour(target);
  std::error_code error;
  if (fs::exists(target) && !fs::is_directory(target)) detail::throw_system_error("cannot write", target, ENOTDIR);
  fs::create_directories(parent_or_here(target), error);
  if (error || !fs::create_directory(temporary, error)) {
    detail::throw_system_error("cannot make", target, error ? error.value() : EEXIST);
  }
  try {
    fill(temporary);
    detail::sync_folder(temporary);
    const bool replaces = fs::exists(target);
    if (replaces) fs::rename(target, old);
    fs::rename(temporary, target, error);
    if (error) {
      if (replaces) fs::rename(old, target);
      detail::throw_system_error("cannot make", target, error.value());
    }
    fs::remove_all(old, error);
    detail::sync_folder(parent_or_here(target));
  } catch (const fs::filesystem_error& failure) {
    fs::remove_all(temporary, error);
    detail::throw_system_error("cannot make", target, failure.code().value());
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
}

void remove_unfinished(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(folder, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with('.') || name.find(kTemporaryMark) == std::string::npos) continue;
    found.push_back(entry->path());
    entry.disable_recursion_pending();
  }
  for (const fs::path& path : found) fs::remove_all(path, error);
}

std::string fingerprint_file(const fs::path& path) {
  std::uint64_t hash = kFnvOffset;
  for_each_piece(path, [&](std::string_view piece) { hash = fnv1a(hash, piece); });
  return fmt::format("{:016x}", hash);
}

std::string fingerprint(std::string_view bytes) { return fmt::format("{:016x}", fnv1a(kFnvOffset, bytes)); }

struct AppendFile::Impl {
  fs::path path;
  Descriptor descriptor;
  std::uint64_t size = 0;

  Impl(const fs::path& file, int opened) : path(file), descriptor(opened) {}

  /// Cuts what stands after the last newline.
  void drop_unfinished_line() {
    std::array<char, 1 << 16> buffer;
    while (size > 0) {
      const std::uint64_t begin = size - std::min<std::uint64_t>(size, buffer.size());
      const std::size_t length = static_cast<std::size_t>(size - begin);
      const ssize_t count = ::pread(descriptor.get(), buffer.data(), length, static_cast<off_t>(begin));
      if (count < 0 && errno == EINTR) continue;
      if (count != static_cast<ssize_t>(length))
        detail::throw_system_error("cannot read", path, count < 0 ? errno : EIO);
      const std::string_view piece(buffer.data(), length);
      const std::size_t newline = piece.rfind('\n');
      if (newline != std::string_view::npos) {
        size = begin + newline + 1;
        return;
      }
      size = begin;
    }
  }

  void cut_to_size() {
    if (::ftruncate(descriptor.get(), static_cast<off_t>(size)) != 0) {
      detail::throw_system_error("cannot write", path, errno);
    }
  }
};

AppendFile::AppendFile(const fs::path& path) {
  constexpr mode_t kMode = 0666;
  impl_ = std::make_unique<Impl>(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, kMode));
  if (impl_->descriptor.get() < 0) detail::throw_system_error("cannot write", path, errno);
  struct stat status = {};
  if (::fstat(impl_->descriptor.get(), &status) != 0) detail::throw_system_error("cannot read", path, errno);
  if (!S_ISREG(status.st_mode)) return;  // a pipe or a terminal has no unfinished line
  impl_->size = static_cast<std::uint64_t>(status.st_size);
  impl_->drop_unfinished_line();
  if (impl_->size != static_cast<std::uint64_t>(status.st_size)) impl_->cut_to_size();
}

AppendFile::~AppendFile() = default;
AppendFile::AppendFile(AppendFile&&) noexcept = default;
AppendFile& AppendFile::operator=(AppendFile&&) noexcept = default;

void AppendFile::append(std::string_view line) {
  if (line.find('\n') != std::string_view::npos) {
    throw InputError(fmt::format("{}: a line that holds a newline, expected one line", impl_->path.string()));
  }
  std::string bytes(line);
  bytes += '\n';
  if (const int error = detail::write_all(impl_->descriptor.get(), bytes)) {
    const int ignored = ::ftruncate(impl_->descriptor.get(), static_cast<off_t>(impl_->size));
    static_cast<void>(ignored);  // the next open drops the torn line too
    detail::throw_system_error("cannot write", impl_->path, error);
  }
  impl_->size += bytes.size();
}

void AppendFile::sync() {
  if (::fsync(impl_->descriptor.get()) != 0 && errno != EINVAL && errno != EROFS) {
    detail::throw_system_error("cannot write", impl_->path, errno);
  }
}

}  // namespace sao
