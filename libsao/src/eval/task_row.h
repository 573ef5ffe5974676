// SPDX-License-Identifier: Apache-2.0
// One row of a benchmark, its templates rendered.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "sao/eval/task.h"
#include "sao/jinja/template.h"

namespace sao::detail {

struct TaskRow {
  Json json = {};  ///< as it stands in the file
  TaskKind kind = TaskKind::kMultipleChoice;
  bool chat = false;
  Messages messages = {};  ///< the question; one of the user where it is a text
  std::vector<std::string> choices = {};
  std::size_t right = 0;
  std::vector<bool> truths = {};
  std::vector<std::string> contexts = {};  ///< partial contexts, one for each choice
  std::string continuation = {};           ///< of all of them
  std::vector<std::string> answers = {};
  std::string text = {};
  std::string counted_text = {};

  const std::string& question() const { return messages.back().content; }
  /// As an example for other rows.
  const std::string& example_question() const { return contexts.empty() ? question() : contexts[right]; }
  const std::string& example_answer() const;
};

class RowReader {
 public:
  /// Throws InputError: a template that cannot be parsed.
  explicit RowReader(const TaskOptions& options);
  /// Throws InputError naming the field.
  TaskRow read(std::string_view line) const;

 private:
  void read_question(const Json& row, const jinja::Value& variables, TaskRow& result) const;
  std::vector<std::string> read_choices(const Json& row, const jinja::Value& variables) const;
  void read_target(const Json& row, const jinja::Value& variables, TaskRow& result) const;

  const TaskOptions& options_;
  std::optional<jinja::Template> text_;
  std::optional<jinja::Template> target_;
  std::vector<jinja::Template> choices_;  // of a list
  std::vector<std::string> choices_path_;
};

}  // namespace sao::detail
