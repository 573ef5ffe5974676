// SPDX-License-Identifier: Apache-2.0
// What the files of this room share: temporary names, and the system's errors as ours.
#pragma once

#include <filesystem>
#include <string_view>

namespace sao::detail {

/// Stands in the names of files and folders that have not got their own yet; these names begin with a dot.
inline constexpr std::string_view kTemporaryMark = ".sao-partial-";

/// "<what> <path>: <the system's reason for errno>" as a ResourceError.
[[noreturn]] void throw_system_error(std::string_view what, const std::filesystem::path& path, int error);

/// Writes all of `bytes`, whatever the system accepts at once. Returns 0 or errno.
int write_all(int descriptor, std::string_view bytes);

/// Makes a rename inside `folder` survive a power failure. Best effort: not every file system can.
void sync_folder(const std::filesystem::path& folder);

}  // namespace sao::detail
