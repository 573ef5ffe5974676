// SPDX-License-Identifier: Apache-2.0
// The part of TOML that option files need: tables, dotted keys, strings, numbers, booleans, lists of these, comments.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sao::cli {

struct TomlEntry {
  std::string key = {};   ///< with dots: "train.loss.beta"
  std::string text = {};  ///< the value as one would give it on the command line; a list with commas between
  std::size_t line = 0;
};

/// Throws InputError "<where>:<line>: ..." for what is no TOML, a key that stands twice, dates and nested lists.
std::vector<TomlEntry> parse_toml(std::string_view text, const std::string& where);
std::vector<TomlEntry> read_toml(const std::filesystem::path& path);

}  // namespace sao::cli
