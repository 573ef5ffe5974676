// SPDX-License-Identifier: Apache-2.0
// Python's two ways to format text, and its JSON.
#pragma once

#include <string>

#include "jinja/objects.h"

namespace sao::jinja {

/// `format % values`
Value percent_format(Runtime& runtime, const Value& format, const Value& values);
/// `format.format(...)`; attributes and items in fields are those that a template may see.
Value brace_format(Runtime& runtime, const Value& format, const Arguments& arguments);

/// `'%.{precision}f'`, whose last digit is rounded as the number's exact value says.
std::string fixed(double value, int precision);

struct JsonStyle {
  bool ascii_only = false;
  std::optional<std::string> indent = {};  ///< before each level of a line of its own; nothing is one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
/// json.dumps
std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

}  // namespace sao::jinja
