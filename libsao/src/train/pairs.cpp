// SPDX-License-Identifier: Apache-2.0
#include "sao/train/pairs.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sao/base/error.h"

namespace sao {
namespace {

bool starts_with(const TokenIds& ids, const TokenIds& prefix) {
  return ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin());
}

// What the model itself would have sampled after the prompt: from the end of the header to the end of the turn.
TokenIds response_ids(const ChatTokenizer& text, const Messages& prompt, const Messages& response,
                      const TokenIds& prompt_ids) {
  Messages whole = prompt;
  whole.insert(whole.end(), response.begin(), response.end());
  TokenIds ids = text.encode_chat(whole);
  if (starts_with(ids, prompt_ids)) {
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt_ids.size()));
    const auto last_end = std::find(ids.rbegin(), ids.rend(), text.turn_end_id());
    ids.erase(last_end.base(), ids.end());  // what the template writes after the turn
    if (!ids.empty()) return ids;
  }
  // The border merged into one token: the ids of the response alone.
  ids = text.encode_text(response.back().content, /*special_tokens=*/false);
  ids.push_back(text.turn_end_id());
  return ids;
}

TokenIds plain_response_ids(const ChatTokenizer& text, const std::string& prompt, const std::string& response,
                            const TokenIds& prompt_ids) {
  TokenIds ids = text.encode_text(prompt + response);
  if (starts_with(ids, prompt_ids)) {
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt_ids.size()));
  } else {
    ids = text.encode_text(response, /*special_tokens=*/false);
  }
  const auto eos = text.tokenizer().eos_id();
  if (!eos) throw InputError("the tokenizer has no eos token, expected one to end plain-text responses");
  if (ids.empty() || ids.back() != *eos) ids.push_back(*eos);
  return ids;
}

TokenPair tokenize_pair(const Preference& row, const std::optional<ChatTokenizer>& text) {
  TokenPair pair{.p = row.p, .weight = row.weight, .id = row.id};
  if (!row.prompt_ids.empty()) {
    pair.prompt = row.prompt_ids;
    pair.chosen = row.chosen_ids;
    pair.rejected = row.rejected_ids;
    return pair;
  }
  if (!text) throw InputError("no ids, expected prompt_ids, chosen_ids and rejected_ids, or a tokenizer for the text");
  if (row.plain_text) {
    const auto content = [](const Messages& messages) {
      return messages.empty() ? std::string() : messages[0].content;
    };
    const std::string prompt = content(row.prompt);
    pair.prompt = text->encode_text(prompt);
    // An empty response stays empty, so that it is dropped and counted.
    const std::string chosen = content(row.chosen), rejected = content(row.rejected);
    if (!chosen.empty()) pair.chosen = plain_response_ids(*text, prompt, chosen, pair.prompt);
    if (!rejected.empty()) pair.rejected = plain_response_ids(*text, prompt, rejected, pair.prompt);
    return pair;
  }
  for (const Messages* side : {&row.chosen, &row.rejected}) {
    if (side->empty() || side->back().role != "assistant") {
      throw InputError(fmt::format("{} ends with {}, expected a message of the assistant",
                                   side == &row.chosen ? "chosen" : "rejected",
                                   side->empty() ? "nothing" : "role \"" + side->back().role + '"'));
    }
  }
  pair.prompt = text->encode_chat(row.prompt, {.add_generation_prompt = true});
  if (!row.chosen.back().content.empty()) pair.chosen = response_ids(*text, row.prompt, row.chosen, pair.prompt);
  if (!row.rejected.back().content.empty()) {
    pair.rejected = response_ids(*text, row.prompt, row.rejected, pair.prompt);
  }
  return pair;
}

}  // namespace

std::vector<TokenPair> tokenize_pairs(std::span<const Preference> rows, const std::optional<ChatTokenizer>& text) {
  std::vector<TokenPair> pairs;
  pairs.reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    try {
      pairs.push_back(tokenize_pair(rows[i], text));
    } catch (const InputError& e) {
      throw InputError(rows[i].id.empty() ? fmt::format("preference row {}: {}", i + 1, e.what())
                                          : fmt::format("preference \"{}\": {}", rows[i].id, e.what()));
    }
  }
  return pairs;
}

PairSelection select_pairs(std::vector<TokenPair> pairs, std::int64_t max_length) {
  PairSelection selection;
  for (TokenPair& pair : pairs) {
    const auto longest =
        static_cast<std::int64_t>(pair.prompt.size() + std::max(pair.chosen.size(), pair.rejected.size()));
    const char* reason = pair.prompt.empty()                            ? "empty_prompt"
                         : pair.chosen.empty() || pair.rejected.empty() ? "empty_response"
                         : pair.chosen == pair.rejected                 ? "identical"
                         : max_length > 0 && longest > max_length       ? "too_long"
                                                                        : nullptr;
    if (reason == nullptr) {
      selection.pairs.push_back(std::move(pair));
    } else {
      ++selection.dropped[reason];
    }
  }
  return selection;
}

}  // namespace sao
