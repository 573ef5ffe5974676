// SPDX-License-Identifier: Apache-2.0
// JSON Lines: one record a line, errors with the line's number.
//   for (const sao::Persona& p : sao::read_jsonl<sao::Persona>("personas.jsonl")) ...
// A record type T takes part by two functions found by argument-dependent lookup:
//   std::string to_json_line(const T&);            // no newline
//   void from_json_line(std::string_view, T&);     // throws InputError that names the field
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/error.h"

namespace sao {

/// Calls `each` with every non-blank line. An InputError thrown by `each` gets "<path>:<line>: " in front. A file that
/// is one JSON list gives its elements, a line each ("<path>: row <number>: "). A path of "-" is the standard input.
/// Throws InputError when the file cannot be read, and for Parquet, Arrow and compressed files, with the command that
/// converts them.
void for_each_line(const std::filesystem::path& path, const std::function<void(std::string_view line)>& each);

/// All records of a file, in order.
template <class T>
std::vector<T> read_jsonl(const std::filesystem::path& path) {
  std::vector<T> records;
  for_each_line(path, [&](std::string_view line) { from_json_line(line, records.emplace_back()); });
  return records;
}

/// All records as one JSON Lines text, for write_file_atomically.
template <class T>
std::string to_jsonl(const std::vector<T>& records) {
  std::string text;
  for (const T& record : records) {
    text += to_json_line(record);
    text += '\n';
  }
  return text;
}

}  // namespace sao
