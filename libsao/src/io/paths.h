// SPDX-License-Identifier: Apache-2.0
// std::filesystem's questions without its exceptions: what cannot be looked at (a loop of links, a name too long, a
// folder closed to us) counts as not there, and opening it says why.
#pragma once

#include <filesystem>
#include <system_error>

namespace sao::detail {

inline bool exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

inline bool is_folder(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

}  // namespace sao::detail
