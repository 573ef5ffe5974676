// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/run_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "io/atomic_file.h"
#include "io/json.h"
#include "sao/base/error.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

constexpr const char* kLock = ".lock";
constexpr const char* kManifest = "manifest.json";

/// Whether there is more than what a process leaves that is killed before it has written the manifest.
bool holds_files(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != kLock && name.find(detail::kTemporaryMark) == std::string::npos) return true;
  }
  return false;
}

}  // namespace

struct RunFolder::Impl {
  fs::path path;
  int lock = -1;

  ~Impl() {
    if (lock >= 0) ::close(lock);
  }
};

void RunFolder::check(const fs::path& folder, const RunFolderOptions& options) {
  std::error_code error;
  fs::path present = fs::absolute(folder).lexically_normal();  // the part of the path that is there already
  while (!fs::exists(present, error) && present.has_relative_path()) present = present.parent_path();
  const bool existed = fs::exists(folder, error);
  if (existed && !fs::is_directory(folder)) {
    throw InputError(fmt::format("{}: not a folder, expected a run folder", folder.string()));
  }
  if (!fs::is_directory(present)) {
    throw ResourceError(fmt::format("cannot make {}: {} is no folder", folder.string(), present.string()));
  }
  if (::access(present.c_str(), W_OK | X_OK) != 0) {
    throw ResourceError(fmt::format("cannot write {}: {}", present.string(), std::strerror(errno)));
  }
  if (existed && !options.resume && holds_files(folder)) {
    throw InputError(
        fmt::format("{}: not empty, expected a new folder; give --resume to continue the run in it", folder.string()));
  }
  if (existed && holds_files(folder) && !fs::exists(folder / kManifest)) {
    throw InputError(
        fmt::format("{}: holds files but no {}, expected the folder of a run", folder.string(), kManifest));
  }
}

RunFolder::RunFolder(const fs::path& folder, const RunFolderOptions& options) : impl_(std::make_unique<Impl>()) {
  constexpr mode_t kMode = 0666;
  check(folder, options);
  impl_->path = folder;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw ResourceError(fmt::format("cannot make {}: {}", folder.string(), error.message()));
  impl_->lock = ::open((folder / kLock).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kMode);
  if (impl_->lock < 0) {
    throw ResourceError(fmt::format("cannot write {}: {}", (folder / kLock).string(), std::strerror(errno)));
  }
  if (::flock(impl_->lock, LOCK_EX | LOCK_NB) != 0) {
    throw ResourceError(
        fmt::format("{}: another process works in this folder; wait for it or stop it", folder.string()));
  }
  remove_unfinished(folder);
}

RunFolder::~RunFolder() = default;
RunFolder::RunFolder(RunFolder&&) noexcept = default;
RunFolder& RunFolder::operator=(RunFolder&&) noexcept = default;

const fs::path& RunFolder::path() const { return impl_->path; }

fs::path RunFolder::round(std::int64_t number) const {
  const fs::path folder = impl_->path / fmt::format("round-{}", number);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw ResourceError(fmt::format("cannot make {}: {}", folder.string(), error.message()));
  return folder;
}

void RunFolder::fix_manifest(std::string_view manifest_json) {
  const fs::path path = impl_->path / kManifest;
  if (!fs::exists(path)) {
    write_file_atomically(path, manifest_json);
    return;
  }
  const detail::Json saved = detail::parse_json_object(read_file(path), path.string());
  const detail::Json now = detail::parse_json_object(manifest_json, "manifest");
  const std::vector<std::string> differences = detail::json_differences(saved, now, "in the run", "now");
  if (differences.empty()) return;
  throw InputError(fmt::format("{}: {}; resume with the run's own settings and inputs, or start a new folder",
                               path.string(), fmt::join(differences, "; ")));
}

}  // namespace sao
