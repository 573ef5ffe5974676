// SPDX-License-Identifier: Apache-2.0
// The methods of Python's str, list, tuple and dict.
#pragma once

#include <optional>
#include <string_view>

#include "jinja/objects.h"

namespace sao::jinja {

/// The method of `self` by its name; an undefined that fails when it is used, for those that change their object.
std::optional<Value> string_attribute(Runtime& runtime, const Value& self, std::string_view name);
std::optional<Value> sequence_attribute(Runtime& runtime, const Value& self, std::string_view name);
std::optional<Value> dict_attribute(Runtime& runtime, const Value& self, std::string_view name);

/// str.strip, lstrip, rstrip: `chars` are blanks where there are none.
std::string_view strip(std::string_view text, bool left, bool right, std::optional<std::string_view> chars = {});
/// The lines of str.splitlines.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends = false);
/// str.replace; all where `count` is negative.
std::string replace(Runtime& runtime, std::string_view text, std::string_view old, std::string_view with,
                    std::int64_t count);
/// str.join
Value join(Runtime& runtime, const Value& separator, const std::vector<Value>& items);
Value center(Runtime& runtime, const Value& text, std::int64_t width, char32_t fill = U' ');
/// str.upper, lower, capitalize
Value upper(Runtime& runtime, const Value& text);
Value lower(Runtime& runtime, const Value& text);
Value capitalize(Runtime& runtime, const Value& text);
bool is_lower(std::string_view text);
bool is_upper(std::string_view text);
/// The values of `text.rsplit(separator, 1)[0]`.
std::string_view before_last(std::string_view text, std::string_view separator);

}  // namespace sao::jinja
