// SPDX-License-Identifier: Apache-2.0
// JSON Lines in, JSON Lines out.
#pragma once

#include <sao/base/tokens.h>
#include <sao/io/files.h>
#include <sao/text/chat.h>

#include <functional>
#include <memory>
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
  /// Token ids; not negative.
  TokenIds ids(const std::string& name) const;
  Messages messages(const std::string& name) const;
  /// What a row gives to the chat template besides messages: the lists `tools` and `documents`, and the fields of
  /// `chat_template_kwargs` (the names of TRL's datasets).
  jinja::Value::Fields template_variables() const;
  /// A string (one user turn) or messages. Throws when it is blank or has no messages.
  Messages conversation(const std::string& name) const;

 private:
  const nlohmann::ordered_json& get(const std::string& name, std::string_view expected) const;
  [[noreturn]] void fail(const std::string& name, std::string_view expected) const;

  nlohmann::ordered_json object_;
};

/// Calls `each` with every row of a file ("-": the standard input). All rows are read before anything is written: a bad
/// line stops the command with nothing done.
void for_each_row(const std::string& path, const std::function<void(const Row&)>& each);

/// Whether there are only blanks.
bool is_blank(std::string_view text);

/// Lines as they come, to the standard output or to a file that gets its name when all are there.
class Output {
 public:
  /// "-" or an empty path is the standard output. Throws ResourceError where a file cannot be made.
  explicit Output(const std::string& path);
  ~Output();
  /// Throws ResourceError when the row could not be written.
  void write(const nlohmann::ordered_json& row);
  /// The same for text that is no row.
  void write_text(const std::string& text);
  /// To be called at the end; without it no file stays. Throws as write does.
  void finish();

 private:
  std::unique_ptr<AtomicFile> file_;  // none: the standard output
};

}  // namespace sao::cli
