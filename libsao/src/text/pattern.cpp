// SPDX-License-Identifier: Apache-2.0
#include "text/pattern.h"

#include <fmt/format.h>

#include "base/utf8.h"

namespace sao::detail {

Pattern::Pattern(const JsonNode& node) {
  if (const auto string = node.find("String")) {
    string_ = string->string();
    if (string_.empty()) string->fail("a string that is not empty");
    return;
  }
  const JsonNode regex = node.at("Regex", "\"String\" or \"Regex\"");
  string_ = regex.string();
  regex_.emplace(string_, regex.where());
}

std::string Pattern::replace_all(std::string_view text, std::string_view content) const {
  std::string out;
  out.reserve(text.size());
  std::size_t done = 0;
  for_each_match(text, [&](const Regex::Match& match) {
    out += text.substr(done, match.begin - done);
    out += content;
    done = match.end;
  });
  out += text.substr(done);
  return out;
}

std::optional<std::string> Pattern::regex_source() const { return regex_ ? std::optional(string_) : std::nullopt; }

const std::string& component_type(const JsonNode& node) { return node.at("type", "the component's name").string(); }

void refuse_component(const JsonNode& node, std::string_view known) {
  node.at("type", "the component's name").fail(fmt::format("one of the supported: {}", known));
}

std::string parse_character(const JsonNode& node) {
  const std::string& text = node.string();
  if (text.empty() || character_length(text) != text.size()) node.fail("one character");
  return text;
}

}  // namespace sao::detail
