// SPDX-License-Identifier: Apache-2.0
// The template language Jinja2, as transformers runs the chat templates of checkpoints.
//   const sao::jinja::Template greeting("Hello {{ name | title }}!");
//   std::string text = greeting.render(sao::jinja::Value::dict({{"name", "ada"}}));
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "sao/base/error.h"
#include "sao/jinja/value.h"

namespace sao::jinja {

/// What went wrong in a template: `<name>: line 3: <message>`.
class TemplateError : public InputError {
 public:
  TemplateError(const std::string& name, std::string kind, int line, std::string message);

  /// The exception's class in Python: "TemplateSyntaxError", "UndefinedError", "TypeError", "TemplateError" (the one of
  /// raise_exception), ...; "Unsupported" for what this implementation leaves out, "LimitError" for a limit below.
  const std::string& kind() const { return kind_; }
  int line() const { return line_; }
  /// Python's own words, where it has some.
  const std::string& message() const { return message_; }

 private:
  std::string kind_;
  int line_;
  std::string message_;
};

/// What one rendering may cost; templates come with checkpoints from strangers.
struct Limits {
  std::int64_t steps = 20'000'000;    ///< operations; about a second
  std::int64_t memory = 256LL << 20;  ///< bytes of all values made, the output among them
};

struct Settings {
  Limits limits = {};
  /// The time that strftime_now tells, in local time; nothing is the present.
  std::optional<std::chrono::system_clock::time_point> now = {};
  /// Writing out what is undefined fails, as with Jinja2's StrictUndefined; else it is the empty text.
  bool strict_undefined = false;
};

/// A parsed template; a value, copies share. Safe to use from many threads.
///
/// Follows: Jinja2 3.1's ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True) with loop controls,
/// `{% generation %}`, raise_exception, strftime_now and tojson as transformers sets them up. All statements but those
/// that need other files or change escaping (extends, include, import, from, autoescape); all tests; all filters and
/// methods but those for HTML, randomness and bytes, which are refused by name.
class Template {
 public:
  /// Parses; `name` stands in front of errors. Throws TemplateError.
  explicit Template(std::string_view source, std::string name = "template");

  /// The text for `variables`, a dict. Throws TemplateError.
  std::string render(const Value& variables, const Settings& settings = {}) const;

  const std::string& source() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace sao::jinja
