// SPDX-License-Identifier: Apache-2.0
// JSON Lines in, JSON Lines out.
#pragma once

#include <sao/base/tokens.h>
#include <sao/text/chat.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sao::cli {

/// One line of input: fields by name, with InputErrors that say what was found and expected.
class Row {
 public:
  explicit Row(std::string_view line);

  bool has(const std::string& name) const;
  std::string text(const std::string& name) const;
  std::optional<bool> find_bool(const std::string& name) const;
  std::vector<std::string> texts(const std::string& name) const;
  /// The place of a field in `choices`: given as such (0 is the first) or as the text of one of them.
  std::size_t index_of(const std::string& name, const std::vector<std::string>& choices) const;
  /// Token ids; not negative.
  TokenIds ids(const std::string& name) const;
  Messages messages(const std::string& name) const;
  /// A string (one user turn) or messages. Throws when it is blank or has no messages.
  Messages conversation(const std::string& name) const;

 private:
  const nlohmann::json& get(const std::string& name, std::string_view expected) const;
  [[noreturn]] void fail(const std::string& name, std::string_view expected) const;

  nlohmann::json object_;
};

/// Calls `each` with every row of a file ("-": the standard input). All rows are read before anything is written: a bad
/// line stops the command with nothing done.
void for_each_row(const std::string& path, const std::function<void(const Row&)>& each);

/// Lines to the standard output as they come, or to a file that appears when all are there.
class Output {
 public:
  /// "-" or an empty path is the standard output.
  explicit Output(std::string path);
  void write(const nlohmann::ordered_json& row);
  /// To be called at the end. Throws ResourceError when something could not be written.
  void finish();

 private:
  std::string path_;
  std::string pending_;
};

}  // namespace sao::cli
