// SPDX-License-Identifier: Apache-2.0
// Templates with named places: "Here is {name}." A place is `{word}` of lower-case letters and underscores; every other
// brace is ordinary text.
//   fill_placeholders("Hello, {name}!", {{"name", "{name}"}})   // "Hello, {name}!": inserted text is never looked at
//   again
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sao {

/// A place's name and the text that goes there.
using PlaceholderValue = std::pair<std::string_view, std::string_view>;

/// `text` with every place whose name is among `values` filled, in one pass from left to right.
/// Places of other names stay as they are.
std::string fill_placeholders(std::string_view text, std::span<const PlaceholderValue> values);

/// The names of the places in `text`, in the order of their first appearance, each once.
std::vector<std::string> placeholder_names(std::string_view text);

/// Throws InputError that starts with `where` when `text` lacks a place that is `required`, or has one that is neither
/// required nor `optional`.
void check_placeholders(std::string_view where, std::string_view text, std::span<const std::string_view> required,
                        std::span<const std::string_view> optional = {});

}  // namespace sao
