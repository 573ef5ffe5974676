// SPDX-License-Identifier: Apache-2.0
// What targets share: one input as several files, and the errors that are answers.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/error.h"

namespace sao::fuzz {

/// Stands between the parts of an input.
inline constexpr std::string_view kSeparator = "\n=====\n";

/// `count` parts, the last with all that is left; empty ones where the input has fewer.
inline std::vector<std::string_view> parts(std::string_view input, std::size_t count) {
  std::vector<std::string_view> found(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t end = i + 1 < count ? input.find(kSeparator) : std::string_view::npos;
    found[i] = input.substr(0, end);
    if (end == std::string_view::npos) break;
    input.remove_prefix(end + kSeparator.size());
  }
  return found;
}

/// A folder of this process, which goes with it.
class Folder {
 public:
  Folder() {
    // Thousands of small files: in memory where the system has a folder for that.
    const std::filesystem::path memory = "/dev/shm";
    const std::filesystem::path place =
        std::filesystem::exists(memory) ? memory : std::filesystem::temp_directory_path();
    std::string pattern = (place / "sao-fuzz-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& path() const { return path_; }

  /// Writes the file; an empty text is no file.
  std::filesystem::path write(const std::string& name, std::string_view text) const {
    const std::filesystem::path file = path_ / name;
    if (text.empty()) {
      std::filesystem::remove(file);
    } else {
      std::ofstream(file, std::ios::binary | std::ios::trunc)
          .write(text.data(), static_cast<std::streamsize>(text.size()));
    }
    return file;
  }

 private:
  std::filesystem::path path_;
};

/// Runs `work`; true when it did not refuse the input.
template <class Work>
bool accepted(Work&& work) {
  try {
    work();
    return true;
  } catch (const InputError&) {
  } catch (const ResourceError&) {
  }
  return false;
}

/// For what must hold of every input that was accepted.
inline void expect(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

}  // namespace sao::fuzz
