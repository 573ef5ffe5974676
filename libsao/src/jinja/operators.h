// SPDX-License-Identifier: Apache-2.0
// Python's operators and protocols on values, with Python's messages.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jinja/objects.h"

namespace sao::jinja {

std::string_view type_name(const Value& value);
/// "dict object", "jinja2.utils.Namespace object", "None".
std::string type_description(const Value& value);

bool truth(Runtime& runtime, const Value& value);
std::string str(Runtime& runtime, const Value& value);
std::string repr(Runtime& runtime, const Value& value);
std::string repr(std::string_view text);
std::string repr(double value);

bool equals(Runtime& runtime, const Value& a, const Value& b);
/// Python's `is`, as far as it is defined: scalars and strings by type and value.
bool identical(const Value& a, const Value& b);
/// `op` is "<", "<=", ">" or ">=".
bool compare(Runtime& runtime, std::string_view op, const Value& a, const Value& b);
bool contains(Runtime& runtime, const Value& container, const Value& item);
void require_hashable(Runtime& runtime, const Value& value);

/// `op` is "+", "-", "*", "/", "//", "%" or "**".
Value binary(Runtime& runtime, std::string_view op, const Value& a, const Value& b);
Value negative(const Value& value);
Value positive(const Value& value);
/// `a ~ b`
Value concatenate(Runtime& runtime, const std::vector<Value>& values);

/// The environment's getattr and getitem: each falls back to the other; undefined where neither finds anything.
Value get_attribute(Runtime& runtime, const Value& value, std::string_view name);
Value get_item(Runtime& runtime, const Value& value, const Value& key);
/// Python's value[start:stop:step]; None where a part is left out.
Value get_slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop, const Value& step);

std::unique_ptr<Iterator> iterate(const Value& value);
std::vector<Value> to_vector(Runtime& runtime, const Value& value);
std::int64_t length(Runtime& runtime, const Value& value);
Value call(Runtime& runtime, const Value& callee, Arguments& arguments);

/// html.escape of MarkupSafe; Markup stays as it is.
std::string escaped(Runtime& runtime, const Value& value);

/// Values for the parameters `names` of `function`, with nothing for those that are not given. Throws a TypeError for
/// too many, unknown or doubled arguments, and for one of the first `required` that is missing.
std::vector<std::optional<Value>> bind(std::string_view function, Arguments& arguments,
                                       std::initializer_list<std::string_view> names, std::size_t required = 0);

/// An argument that has to be an integer; `otherwise` where it is not given.
std::int64_t integer_or(const std::optional<Value>& value, std::int64_t otherwise);
bool truth_or(Runtime& runtime, const std::optional<Value>& value, bool otherwise);

}  // namespace sao::jinja
