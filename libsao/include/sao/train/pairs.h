// SPDX-License-Identifier: Apache-2.0
// Preference rows as token ids: what is trained on.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sao/base/tokens.h"
#include "sao/data/records.h"
#include "sao/text/chat.h"

namespace sao {

/// A preference pair in tokens. The loss sees `chosen` and `rejected`; the prompt is context.
struct TokenPair {
  TokenIds prompt = {};
  TokenIds chosen = {};
  TokenIds rejected = {};
  double p = 1.0;       ///< probability that chosen is better
  double weight = 1.0;  ///< of the pair in the loss
  std::string id = {};
};

/// Rows to tokens, under the token policy "clean": a response is what the model itself samples, to the end of its turn;
/// headers that the template writes are prompt. Ids in a row are taken as they are. Else messages are rendered by the
/// chat template (the response ends with the turn-end token), and plain strings are encoded without template, the
/// response followed by the eos token (as TRL does with rows in its standard format).
/// Throws InputError naming the row: text without a tokenizer, no eos, a response that is not the assistant's.
std::vector<TokenPair> tokenize_pairs(std::span<const Preference> rows, const std::optional<ChatTokenizer>& text = {});

/// Pairs that can be trained on, and why the others cannot.
struct PairSelection {
  std::vector<TokenPair> pairs;
  std::map<std::string, std::int64_t> dropped;  ///< reason -> pairs
};

/// Drops, in the order of the reasons: "empty_prompt", "empty_response", "identical" responses, "too_long" (prompt and
/// the longer response exceed `max_length` > 0 tokens: nothing is ever cut, so that both sides stay whole).
PairSelection select_pairs(std::vector<TokenPair> pairs, std::int64_t max_length);

}  // namespace sao
