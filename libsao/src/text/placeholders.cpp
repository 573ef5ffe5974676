// SPDX-License-Identifier: Apache-2.0
#include "sao/text/placeholders.h"

#include <fmt/format.h>

#include <algorithm>

#include "sao/base/error.h"

namespace sao {
namespace {

bool is_name_character(char c) { return (c >= 'a' && c <= 'z') || c == '_'; }

/// The end of the place that starts at `begin` (just past its closing brace), or `begin` when none starts there.
std::size_t place_end(std::string_view text, std::size_t begin) {
  if (text[begin] != '{') return begin;
  std::size_t end = begin + 1;
  while (end < text.size() && is_name_character(text[end])) ++end;
  return end > begin + 1 && end < text.size() && text[end] == '}' ? end + 1 : begin;
}

std::string listed(std::span<const std::string_view> names) {
  std::string text;
  for (std::string_view name : names) text += fmt::format("{}{{{}}}", text.empty() ? "" : ", ", name);
  return text.empty() ? "none" : text;
}

}  // namespace

std::string fill_placeholders(std::string_view text, std::span<const PlaceholderValue> values) {
  std::string filled;
  filled.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = place_end(text, at);
    if (end > at) {
      const std::string_view name = text.substr(at + 1, end - at - 2);
      const auto value = std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == name; });
      filled += value == values.end() ? text.substr(at, end - at) : value->second;
      at = end;
    } else {
      filled += text[at++];
    }
  }
  return filled;
}

std::vector<std::string> placeholder_names(std::string_view text) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = place_end(text, at);
    if (end > at) {
      std::string name(text.substr(at + 1, end - at - 2));
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
      at = end;
    } else {
      ++at;
    }
  }
  return names;
}

void check_placeholders(std::string_view where, std::string_view text, std::span<const std::string_view> required,
                        std::span<const std::string_view> optional) {
  const std::vector<std::string> names = placeholder_names(text);
  for (std::string_view name : required) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      throw InputError(fmt::format("{}: no {{{}}} in it, expected the places {}", where, name, listed(required)));
    }
  }
  for (const std::string& name : names) {
    const auto is_name = [&](std::string_view known) { return known == name; };
    if (std::none_of(required.begin(), required.end(), is_name) &&
        std::none_of(optional.begin(), optional.end(), is_name)) {
      std::vector<std::string_view> known(required.begin(), required.end());
      known.insert(known.end(), optional.begin(), optional.end());
      throw InputError(fmt::format("{}: unknown place {{{}}}, expected {}", where, name, listed(known)));
    }
  }
}

}  // namespace sao
