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

std::size_t common_prefix(const TokenIds& a, const TokenIds& b) {
  const auto differ =
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())), b.begin());
  return static_cast<std::size_t>(differ.first - a.begin());
}

TokenIds from(const TokenIds& ids, std::size_t begin) {
  return {ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end()};
}

Messages joined(const Messages& prompt, const Messages& response) {
  Messages whole = prompt;
  whole.insert(whole.end(), response.begin(), response.end());
  return whole;
}

TokenId eos_of(const ChatTokenizer& text) {
  const auto eos = text.tokenizer().eos_id();
  if (!eos) throw InputError("the tokenizer has no eos token, expected one to end responses");
  return *eos;
}

// A prompt with its responses, empty ones left empty: they are dropped and counted.
struct Tokens {
  TokenIds prompt = {};
  std::vector<TokenIds> responses = {};
};

// What the model itself would have sampled: from the end of the header to the end of the turn.
TokenIds clean_response(const ChatTokenizer& text, const Messages& prompt, const Messages& response,
                        const TokenIds& prompt_ids) {
  TokenIds ids = text.encode_chat(joined(prompt, response));
  if (starts_with(ids, prompt_ids)) {
    ids = from(ids, prompt_ids.size());
    const auto last_end = std::find(ids.rbegin(), ids.rend(), text.turn_end_id());
    ids.erase(last_end.base(), ids.end());  // what the template writes after the turn
    if (!ids.empty()) return ids;
  }
  // The border merged into one token: the ids of the response alone.
  ids = text.encode_text(response.back().content, /*special_tokens=*/false);
  ids.push_back(text.turn_end_id());
  return ids;
}

Tokens clean_tokens(const ChatTokenizer& text, const Messages& prompt, const std::vector<Messages>& responses) {
  Tokens tokens{.prompt = text.encode_chat(prompt, {.add_generation_prompt = true})};
  for (const Messages& response : responses) {
    tokens.responses.push_back(response.back().content.empty() ? TokenIds{}
                                                               : clean_response(text, prompt, response, tokens.prompt));
  }
  return tokens;
}

// The prompt ends where it stops being the beginning of every whole.
Tokens split_at_common_prefix(TokenIds prompt, const std::vector<TokenIds>& wholes) {
  std::size_t length = prompt.size();
  for (const TokenIds& whole : wholes) {
    if (!whole.empty()) length = std::min(length, common_prefix(prompt, whole));
  }
  prompt.resize(length);
  Tokens tokens{.prompt = std::move(prompt)};
  for (const TokenIds& whole : wholes) tokens.responses.push_back(whole.empty() ? TokenIds{} : from(whole, length));
  return tokens;
}

Tokens trl_tokens(const ChatTokenizer& text, const Messages& prompt, const std::vector<Messages>& responses) {
  std::vector<TokenIds> wholes;
  for (const Messages& response : responses) {
    wholes.push_back(response.back().content.empty() ? TokenIds{} : text.encode_chat(joined(prompt, response)));
  }
  return split_at_common_prefix(text.encode_chat(prompt, {.add_generation_prompt = true}), wholes);
}

// What the template writes for the response, header and turn's end included.
std::string rendered_response(const ChatTokenizer& text, const Messages& prompt, const std::string& prompt_text,
                              const Messages& response) {
  const std::string whole = text.render(joined(prompt, response));
  if (whole.starts_with(prompt_text)) return whole.substr(prompt_text.size());
  std::string alone = text.render(response);  // the template writes a prompt otherwise when it is answered
  if (const auto bos = text.tokenizer().bos_id()) {
    const std::string bos_text = text.tokenizer().decode(TokenIds{*bos});
    if (alone.starts_with(bos_text)) alone.erase(0, bos_text.size());
  }
  return alone;
}

Tokens simpo_tokens(const ChatTokenizer& text, const Messages& prompt, const std::vector<Messages>& responses) {
  const TokenId eos = eos_of(text);
  const std::string prompt_text = text.render(prompt);
  std::vector<TokenIds> wholes;
  for (const Messages& response : responses) {
    wholes.emplace_back();
    if (response.back().content.empty()) continue;
    wholes.back() = text.encode_text(prompt_text + rendered_response(text, prompt, prompt_text, response), false);
    if (wholes.back().back() != eos) wholes.back().push_back(eos);
  }
  TokenIds prompt_ids = text.encode_text(prompt_text, false);
  const auto bos = text.tokenizer().bos_id();
  if (bos && (prompt_ids.empty() || prompt_ids.front() != *bos)) {
    prompt_ids.insert(prompt_ids.begin(), *bos);
    for (TokenIds& whole : wholes) {
      if (!whole.empty()) whole.insert(whole.begin(), *bos);
    }
  }
  return split_at_common_prefix(std::move(prompt_ids), wholes);
}

Tokens plain_tokens(const ChatTokenizer& text, const std::string& prompt, const std::vector<std::string>& responses,
                    std::string_view policy) {
  const TokenIds prompt_ids = text.encode_text(prompt);
  std::vector<TokenIds> wholes;
  for (const std::string& response : responses) {
    wholes.emplace_back();
    if (response.empty()) continue;
    TokenIds ids = text.encode_text(prompt + response);
    if (policy == "clean" && !starts_with(ids, prompt_ids)) {
      ids = prompt_ids;  // the border merged into one token: the ids of the response alone
      const TokenIds alone = text.encode_text(response, /*special_tokens=*/false);
      ids.insert(ids.end(), alone.begin(), alone.end());
    }
    const TokenId eos = eos_of(text);
    if (ids.size() == prompt_ids.size() || ids.back() != eos) ids.push_back(eos);
    wholes.back() = std::move(ids);
  }
  return split_at_common_prefix(prompt_ids, wholes);
}

// Prompt and responses of one row, which all are text.
Tokens text_tokens(const std::optional<ChatTokenizer>& text, bool plain_text, const Messages& prompt,
                   const std::vector<std::pair<const char*, const Messages*>>& responses, std::string_view policy,
                   const char* ids) {
  if (!text) throw InputError(fmt::format("no ids, expected {}, or a tokenizer for the text", ids));
  if (plain_text) {
    const auto content = [](const Messages& messages) {
      return messages.empty() ? std::string() : messages[0].content;
    };
    std::vector<std::string> texts;
    for (const auto& [name, messages] : responses) texts.push_back(content(*messages));
    return plain_tokens(*text, content(prompt), texts, policy);
  }
  std::vector<Messages> all;
  for (const auto& [name, messages] : responses) {
    if (messages->empty() || messages->back().role != "assistant") {
      throw InputError(fmt::format("{} ends with {}, expected a message of the assistant", name,
                                   messages->empty() ? "nothing" : "role \"" + messages->back().role + '"'));
    }
    all.push_back(*messages);
  }
  if (policy == "trl") return trl_tokens(*text, prompt, all);
  if (policy == "simpo") return simpo_tokens(*text, prompt, all);
  return clean_tokens(*text, prompt, all);
}

TokenPair tokenize(const Preference& row, const std::optional<ChatTokenizer>& text, std::string_view policy) {
  TokenPair pair{.p = row.p, .weight = row.weight, .id = row.id, .gold = row.gold_ids};
  pair.reference_chosen = row.reference_chosen;
  pair.reference_rejected = row.reference_rejected;
  if (!row.prompt_ids.empty()) {
    pair.prompt = row.prompt_ids;
    pair.chosen = row.chosen_ids;
    pair.rejected = row.rejected_ids;
    return pair;
  }
  std::vector<std::pair<const char*, const Messages*>> responses = {{"chosen", &row.chosen},
                                                                    {"rejected", &row.rejected}};
  if (!row.gold.empty()) responses.emplace_back("reference", &row.gold);
  Tokens tokens =
      text_tokens(text, row.plain_text, row.prompt, responses, policy, "prompt_ids, chosen_ids and rejected_ids");
  pair.prompt = std::move(tokens.prompt);
  pair.chosen = std::move(tokens.responses[0]);
  pair.rejected = std::move(tokens.responses[1]);
  if (!row.gold.empty()) pair.gold = std::move(tokens.responses[2]);
  return pair;
}

TokenCompletion tokenize(const UnpairedPreference& row, const std::optional<ChatTokenizer>& text,
                         std::string_view policy) {
  TokenCompletion out{.label = row.label, .weight = row.weight, .id = row.id, .reference = row.reference};
  if (!row.prompt_ids.empty()) {
    out.prompt = row.prompt_ids;
    out.completion = row.completion_ids;
    return out;
  }
  Tokens tokens = text_tokens(text, row.plain_text, row.prompt, {{"completion", &row.completion}}, policy,
                              "prompt_ids and completion_ids");
  out.prompt = std::move(tokens.prompt);
  out.completion = std::move(tokens.responses[0]);
  return out;
}

template <class Out, class Row>
std::vector<Out> tokenize_rows(std::span<const Row> rows, const std::optional<ChatTokenizer>& text,
                               std::string_view policy) {
  if (policy != "clean" && policy != "trl" && policy != "simpo") {
    throw InputError(fmt::format("token policy \"{}\", expected clean, trl or simpo", policy));
  }
  std::vector<Out> out;
  out.reserve(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    try {
      out.push_back(tokenize(rows[i], text, policy));
    } catch (const InputError& e) {
      throw InputError(rows[i].id.empty() ? fmt::format("preference row {}: {}", i + 1, e.what())
                                          : fmt::format("preference \"{}\": {}", rows[i].id, e.what()));
    }
  }
  return out;
}

void keep_last(TokenIds& ids, std::size_t count) {
  if (ids.size() > count) ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(count));
}

// Cuts to the first `room` tokens: all of the responses or, when some are shorter, none and false.
bool cut_all(const std::vector<TokenIds*>& responses, std::size_t room) {
  for (const TokenIds* response : responses) {
    if (response->size() <= room) return false;
  }
  for (TokenIds* response : responses) response->resize(room);
  return true;
}

// Brings a row within the limit. The reason to drop it, or nullptr; what was cut is counted in `cut`.
const char* fit(TokenIds& prompt, const std::vector<TokenIds*>& responses, const LengthLimit& limit,
                std::map<std::string, std::int64_t>& cut) {
  std::size_t longest = 0;
  for (const TokenIds* response : responses) longest = std::max(longest, response->size());
  const auto max = static_cast<std::size_t>(limit.max_length);
  if (max == 0 || prompt.size() + longest <= max) return nullptr;
  if (limit.truncation == "drop") return "too_long";
  if (limit.truncation == "keep_start") {
    if (prompt.size() >= max) return "prompt_too_long";
    if (!cut_all(responses, max - prompt.size())) return "cut_on_one_side";
    ++cut["response"];
    return nullptr;
  }
  if (limit.truncation == "keep_end") {
    if (longest >= max) return "too_long";
    keep_last(prompt, max - longest);
    ++cut["prompt"];
    return nullptr;
  }
  const auto max_prompt = static_cast<std::size_t>(limit.max_prompt_length);
  const bool long_prompt = prompt.size() > max_prompt;
  const bool long_response = std::min(prompt.size(), max_prompt) + longest > max && longest > max - max_prompt;
  if (long_response && !cut_all(responses, max - max_prompt)) return "cut_on_one_side";
  if (long_prompt) keep_last(prompt, max_prompt);
  if (long_prompt) ++cut["prompt"];
  if (long_response) ++cut["response"];
  return nullptr;
}

void check(const LengthLimit& limit) {
  const std::string& mode = limit.truncation;
  if (mode != "drop" && mode != "keep_start" && mode != "keep_end" && mode != "simpo") {
    throw InputError(fmt::format("truncation \"{}\", expected drop, keep_start, keep_end or simpo", mode));
  }
  if (mode == "simpo" && limit.max_length > 0 &&
      !(limit.max_prompt_length > 0 && limit.max_prompt_length < limit.max_length)) {
    throw InputError(fmt::format("max_prompt_length {}, expected 1 to {}: less than max_length",
                                 limit.max_prompt_length, limit.max_length - 1));
  }
}

}  // namespace

std::vector<TokenPair> tokenize_pairs(std::span<const Preference> rows, const std::optional<ChatTokenizer>& text,
                                      std::string_view policy) {
  return tokenize_rows<TokenPair>(rows, text, policy);
}

std::vector<TokenCompletion> tokenize_completions(std::span<const UnpairedPreference> rows,
                                                  const std::optional<ChatTokenizer>& text, std::string_view policy) {
  return tokenize_rows<TokenCompletion>(rows, text, policy);
}

std::vector<UnpairedPreference> unpaired(const Preference& pair) {
  const auto id = [&](const char* side) { return pair.id.empty() ? std::string() : pair.id + side; };
  return {{.id = id("/chosen"),
           .prompt = pair.prompt,
           .completion = pair.chosen,
           .prompt_ids = pair.prompt_ids,
           .completion_ids = pair.chosen_ids,
           .label = true,
           .weight = pair.weight,
           .plain_text = pair.plain_text,
           .reference = pair.reference_chosen},
          {.id = id("/rejected"),
           .prompt = pair.prompt,
           .completion = pair.rejected,
           .prompt_ids = pair.prompt_ids,
           .completion_ids = pair.rejected_ids,
           .label = false,
           .weight = pair.weight,
           .plain_text = pair.plain_text,
           .reference = pair.reference_rejected}};
}

Selection<TokenPair> select_pairs(std::vector<TokenPair> pairs, const LengthLimit& limit) {
  check(limit);
  Selection<TokenPair> selection;
  for (TokenPair& pair : pairs) {
    const char* reason = pair.prompt.empty()                            ? "empty_prompt"
                         : pair.chosen.empty() || pair.rejected.empty() ? "empty_response"
                         : pair.chosen == pair.rejected                 ? "identical"
                                                                        : nullptr;
    if (reason == nullptr) {
      std::vector<TokenIds*> responses = {&pair.chosen, &pair.rejected};
      if (!pair.gold.empty()) responses.push_back(&pair.gold);
      reason = fit(pair.prompt, responses, limit, selection.cut);
      if (reason == nullptr && pair.chosen == pair.rejected) reason = "identical";
    }
    if (reason == nullptr) {
      selection.rows.push_back(std::move(pair));
    } else {
      ++selection.dropped[reason];
    }
  }
  return selection;
}

Selection<TokenCompletion> select_completions(std::vector<TokenCompletion> rows, const LengthLimit& limit) {
  check(limit);
  Selection<TokenCompletion> selection;
  for (TokenCompletion& row : rows) {
    const char* reason = row.prompt.empty()       ? "empty_prompt"
                         : row.completion.empty() ? "empty_response"
                                                  : fit(row.prompt, {&row.completion}, limit, selection.cut);
    if (reason == nullptr) {
      selection.rows.push_back(std::move(row));
    } else {
      ++selection.dropped[reason];
    }
  }
  return selection;
}

}  // namespace sao
