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

#include "base/fnv.h"
#include "io/atomic_file.h"
#include "sao/base/error.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

using detail::kTemporaryMark;
constexpr std::string_view kReplacedMark = ".sao-replaced-";  // a folder on its way out, whole until then

/// ".<name><mark><process>-<number>" beside `path`, another name each time. A process of an earlier container may have
/// left a file of that name: its maker goes on to the next.
fs::path neighbour(const fs::path& path, std::string_view mark) {
  static std::atomic<unsigned> next{0};
  return path.parent_path() / fmt::format(".{}{}{}-{}", path.filename().string(), mark, ::getpid(), next.fetch_add(1));
}

fs::path without_trailing_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

fs::path parent_or_here(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// Devices, pipes and what /dev/stdout stands for: renaming over these would destroy them.
bool is_stream(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return false;
  if (!fs::is_regular_file(status)) return true;
  const std::string absolute = fs::absolute(path, error).lexically_normal().string();
  return (absolute.starts_with("/dev/") || absolute.starts_with("/proc/")) && fs::is_symlink(path, error);
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

/// A new folder beside `target`, under a temporary name.
fs::path make_temporary_folder(const fs::path& target) {
  constexpr mode_t kMode = 0777;  // the umask takes away from it
  for (;;) {
    fs::path temporary = neighbour(target, kTemporaryMark);
    if (::mkdir(temporary.c_str(), kMode) == 0) return temporary;
    if (errno != EEXIST) detail::throw_system_error("cannot make", target, errno);
  }
}

/// Gives the folder `fresh` the name `target`; returns where what had that name is now.
fs::path replace_folder(const fs::path& fresh, const fs::path& target) {
#ifdef RENAME_EXCHANGE
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) return fresh;
#endif
  // The file system cannot swap names: between the two renames remove_unfinished knows how to go back.
  const fs::path old = neighbour(target, kReplacedMark);
  if (::rename(target.c_str(), old.c_str()) != 0) detail::throw_system_error("cannot replace", target, errno);
  if (::rename(fresh.c_str(), target.c_str()) == 0) return old;
  const int error = errno;
  ::rename(old.c_str(), target.c_str());
  detail::throw_system_error("cannot make", target, error);
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

}  // namespace detail

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  constexpr mode_t kMode = 0666;  // the umask takes away from it
  std::error_code error;
  if (fs::is_directory(path_, error)) detail::throw_system_error("cannot write", path_, EISDIR);
  if (is_stream(path_)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (descriptor_ < 0) detail::throw_system_error("cannot write", path_, errno);
    return;
  }
  do {
    temporary_ = neighbour(path_, kTemporaryMark);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) detail::throw_system_error("cannot write", path_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  if (const int error = detail::write_all(descriptor_, bytes)) detail::throw_system_error("cannot write", path_, error);
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS)
    detail::throw_system_error("cannot write", path_, errno);
  if (!temporary_.empty() && ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    detail::throw_system_error("cannot write", path_, errno);
  }
  ::close(std::exchange(descriptor_, -1));
  detail::sync_folder(parent_or_here(path_));
}

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
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_folder_atomically(const fs::path& folder, const std::function<void(const fs::path& temporary)>& fill) {
  const fs::path target = without_trailing_slash(folder);
  std::error_code error;
  const fs::file_status status = fs::status(target, error);
  if (fs::exists(status) && !fs::is_directory(status)) detail::throw_system_error("cannot write", target, ENOTDIR);
  fs::create_directories(parent_or_here(target), error);
  if (error) detail::throw_system_error("cannot make", target, error.value());
  const fs::path temporary = make_temporary_folder(target);
  try {
    fill(temporary);
    detail::sync_folder(temporary);
    if (::rename(temporary.c_str(), target.c_str()) != 0) {  // fails where there is more than an empty folder
      if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR)
        detail::throw_system_error("cannot make", target, errno);
      fs::remove_all(replace_folder(temporary, target), error);
    }
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
    if (!name.starts_with('.')) continue;
    if (name.find(kTemporaryMark) == std::string::npos && name.find(kReplacedMark) == std::string::npos) continue;
    found.push_back(entry->path());
    entry.disable_recursion_pending();
  }
  for (const fs::path& path : found) {
    // A folder that was replaced goes back where the new one did not get its name.
    const std::string name = path.filename().string();
    const std::size_t mark = name.find(kReplacedMark);
    if (mark != std::string::npos) {
      const fs::path target = path.parent_path() / name.substr(1, mark - 1);
      if (!fs::exists(fs::symlink_status(target, error))) {
        fs::rename(path, target, error);
        continue;
      }
    }
    fs::remove_all(path, error);
  }
}

std::string fingerprint_file(const fs::path& path) {
  std::uint64_t hash = detail::kFnvOffset;
  for_each_piece(path, [&](std::string_view piece) { hash = detail::fnv1a(piece, hash); });
  return fmt::format("{:016x}", hash);
}

std::string fingerprint(std::string_view bytes) { return fmt::format("{:016x}", detail::fnv1a(bytes)); }

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
