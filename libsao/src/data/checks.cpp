// SPDX-License-Identifier: Apache-2.0
#include "sao/data/checks.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace sao {
namespace {

/// A text, or ids, as something that compares.
struct Side {
  std::string text = {};  // roles and contents, each after its length
  TokenIds ids = {};
  bool blank = false;

  auto key() const { return std::tie(text, ids); }
  bool operator<(const Side& other) const { return key() < other.key(); }
  bool operator==(const Side& other) const { return key() == other.key(); }
};

Side side_of(const Messages& messages, const TokenIds& ids, bool has_text) {
  if (!has_text) return {.ids = ids, .blank = ids.empty()};
  Side side = {.blank = true};
  for (const Message& message : messages) {
    side.text += message.role + ':' + std::to_string(message.content.size()) + ':' + message.content + message.json;
  }
  // The last message is what is asked or answered.
  if (!messages.empty()) side.blank = messages.back().content.find_first_not_of(" \t\r\n\f\v") == std::string::npos;
  return side;
}

}  // namespace

PreferenceCheck check_preferences(std::span<const Preference> rows) {
  PreferenceCheck result = {.rows = static_cast<std::int64_t>(rows.size())};
  std::set<std::tuple<Side, Side, Side>> seen;
  for (const Preference& row : rows) {
    const bool has_text = !row.chosen.empty() || !row.rejected.empty();
    Side prompt = side_of(row.prompt, row.prompt_ids, has_text);
    Side chosen = side_of(row.chosen, row.chosen_ids, has_text);
    Side rejected = side_of(row.rejected, row.rejected_ids, has_text);
    if (prompt.blank) ++result.found["empty_prompt"];
    if (chosen.blank || rejected.blank) ++result.found["empty_response"];
    if (chosen == rejected) {
      ++result.found["identical"];
    } else if (seen.contains({prompt, rejected, chosen})) {
      ++result.found["contradiction"];
    }
    if (!seen.emplace(std::move(prompt), std::move(chosen), std::move(rejected)).second) ++result.found["duplicate"];
  }
  return result;
}

}  // namespace sao
