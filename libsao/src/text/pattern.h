// SPDX-License-Identifier: Apache-2.0
// {"String": "..."} and {"Regex": "..."} of tokenizer.json.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "text/json_node.h"
#include "text/regex.h"

namespace sao::detail {

class Pattern {
 public:
  /// Throws InputError naming the field.
  explicit Pattern(const JsonNode& node);

  /// Calls `each` with the matches in `text`, valid UTF-8, in order; none is empty.
  template <class Each>
  void for_each_match(std::string_view text, Each&& each) const {
    if (!regex_) {
      for (std::size_t at = 0; (at = text.find(string_, at)) != text.npos; at += string_.size())
        each(Regex::Match{at, at + string_.size()});
      return;
    }
    Regex::Finder finder(*regex_, text);
    for (Regex::Match match; finder.next(match);) each(match);
  }
  template <class Each>
  void for_first_match(std::string_view text, Each&& each) const {
    if (!regex_) {
      if (const std::size_t at = text.find(string_); at != text.npos) each(Regex::Match{at, at + string_.size()});
      return;
    }
    Regex::Finder finder(*regex_, text);
    if (Regex::Match match; finder.next(match)) each(match);
  }
  std::string replace_all(std::string_view text, std::string_view content) const;

  /// The regular expression as it is written; nothing of a string.
  std::optional<std::string> regex_source() const;

 private:
  std::string string_;  // what is looked for, or the regular expression
  std::optional<Regex> regex_;
};

/// The component's "type".
const std::string& component_type(const JsonNode& node);
/// Throws InputError: the component is none of the `known` ones.
[[noreturn]] void refuse_component(const JsonNode& node, std::string_view known);
/// One character of valid UTF-8, or InputError.
std::string parse_character(const JsonNode& node);

}  // namespace sao::detail
