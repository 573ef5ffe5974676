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

#include "io/json.h"
#include "sao/base/error.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

constexpr const char* kLock = ".lock";
constexpr const char* kManifest = "manifest.json";

/// Takes away the field with the dotted name, where it is there.
void erase_field(detail::Json& value, std::string_view name) {
  detail::Json* object = &value;
  for (;;) {
    const std::size_t dot = name.find('.');
    const std::string key(name.substr(0, dot));
    if (!object->is_object() || !object->contains(key)) return;
    if (dot == std::string_view::npos) {
      object->erase(key);
      return;
    }
    object = &(*object)[key];
    name.remove_prefix(dot + 1);
  }
}

bool holds_files(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != kLock) return true;
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

RunFolder::RunFolder(const fs::path& folder, const RunFolderOptions& options) : impl_(std::make_unique<Impl>()) {
  constexpr mode_t kMode = 0666;
  impl_->path = folder;
  std::error_code error;
  const bool existed = fs::exists(folder);
  if (existed && !fs::is_directory(folder)) {
    throw InputError(fmt::format("{}: not a folder, expected a run folder", folder.string()));
  }
  if (existed && !options.resume && holds_files(folder)) {
    throw InputError(
        fmt::format("{}: not empty, expected a new folder; give --resume to continue the run in it", folder.string()));
  }
  if (existed && holds_files(folder) && !fs::exists(folder / kManifest)) {
    throw InputError(
        fmt::format("{}: holds files but no {}, expected the folder of a run", folder.string(), kManifest));
  }
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

void RunFolder::fix_manifest(std::string_view manifest_json, const std::vector<std::string>& ignored) {
  const fs::path path = impl_->path / kManifest;
  if (!fs::exists(path)) {
    write_file_atomically(path, manifest_json);
    return;
  }
  detail::Json saved = detail::parse_json_object(read_file(path), path.string());
  detail::Json now = detail::parse_json_object(manifest_json, "manifest");
  for (const std::string& name : ignored) {
    erase_field(saved, name);
    erase_field(now, name);
  }
  const std::vector<std::string> differences = detail::json_differences(saved, now, "in the run", "now");
  if (differences.empty()) return;
  throw InputError(fmt::format("{}: {}; resume with the run's own settings and inputs, or start a new folder",
                               path.string(), fmt::join(differences, "; ")));
}

}  // namespace sao
