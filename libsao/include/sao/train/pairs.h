// SPDX-License-Identifier: Apache-2.0
// Preference rows as token ids: what is trained on.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
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
  TokenIds gold = {};                           ///< a third, best response, for losses that imitate one (TPO)
  std::optional<double> reference_chosen = {};  ///< log-prob sums under a reference, for reference mode "rows"
  std::optional<double> reference_rejected = {};
};

/// A completion that is good or not, in tokens.
struct TokenCompletion {
  TokenIds prompt = {};
  TokenIds completion = {};
  bool label = true;    ///< desirable
  double weight = 1.0;  ///< of the row in the loss
  std::string id = {};
  std::optional<double> reference = {};  ///< log-prob sum under a reference, for reference mode "rows"
};

/// Rows to tokens. Ids in a row are taken as they are. Else messages are rendered by the chat template, and plain
/// strings are encoded without template, the response followed by the eos token (as TRL does with rows in its standard
/// format, whatever the policy). `policy` says what of a rendered answer is response, and so what |y| counts, which
/// length- normalised losses divide by; a margin (gamma / beta) means another thing under each:
///   "clean":  what the model itself samples, to the end of its turn. The assistant's header is prompt; what the
///   template
///             writes after the turn is left out. Gemma: "Hi.<end_of_turn>".
///   "trl":    TRL's DPOTrainer and KTOTrainer: all tokens of the conversation from where those of the prompt with the
///             assistant's header end, the header's end left out where tokens merged across the border. As "clean", but
///             with what the template writes after the turn. Gemma: "Hi.<end_of_turn>\n".
///   "simpo":  the SimPO repository: the prompt is rendered without the assistant's header, which is part of the
///   response
///             and trained, as is the turn's end; eos is appended unless it is there. Gemma:
///             "<start_of_turn>model\nHi.<end_of_turn>\n<eos>". Not done: the empty system message that the repository
///             puts in front where the template knows the role; write it into the rows.
/// Throws InputError naming the row: text without a tokenizer, no eos, a response that is not the assistant's, an
/// unknown policy.
std::vector<TokenPair> tokenize_pairs(std::span<const Preference> rows, const std::optional<ChatTokenizer>& text = {},
                                      std::string_view policy = "clean");
std::vector<TokenCompletion> tokenize_completions(std::span<const UnpairedPreference> rows,
                                                  const std::optional<ChatTokenizer>& text = {},
                                                  std::string_view policy = "clean");

/// A pair as two completions, chosen desirable and rejected undesirable, each with the pair's weight: what TRL's
/// KTOTrainer makes of pairs. Ids "x/chosen" and "x/rejected" where the pair has one.
std::vector<UnpairedPreference> unpaired(const Preference& pair);

/// What happens to rows of more than `max_length` > 0 tokens. A cut never touches one response of a pair alone.
struct LengthLimit {
  std::int64_t max_length = 0;  ///< of the prompt and the longest response; 0 = no limit
  /// "drop":       the row is dropped: "too_long".
  /// "keep_start": TRL's default. Responses end where prompt and response have max_length tokens (the turn's end is
  /// lost).
  ///               A prompt of max_length tokens or more is dropped ("prompt_too_long"). Where only one response is too
  ///               long TRL cuts it alone; here the pair is dropped: "cut_on_one_side".
  /// "keep_end":   the prompt loses its beginning, as much as the longest response needs. A response of max_length
  /// tokens
  ///               or more: "too_long". (TRL's keep_end gives chosen and rejected prompts of their own.)
  /// "simpo":      the SimPO repository: the prompt is cut to its last max_prompt_length tokens, and if that is not
  /// enough
  ///               responses to their first max_length - max_prompt_length; both or none ("cut_on_one_side").
  std::string truncation = "drop";
  std::int64_t max_prompt_length = 0;  ///< of "simpo"; the repository's recipes have 1800 of 2048
};

/// Rows that can be trained on, and why the others cannot.
template <class Row>
struct Selection {
  std::vector<Row> rows;
  std::map<std::string, std::int64_t> dropped;  ///< reason -> rows
  std::map<std::string, std::int64_t> cut;      ///< "prompt" or "response" -> rows that lost tokens of it
};

/// Drops, in the order of the reasons: "empty_prompt", "empty_response", "identical" responses, what the limit drops,
/// and responses that became "identical" by a cut.
Selection<TokenPair> select_pairs(std::vector<TokenPair> pairs, const LengthLimit& limit);
/// The same for completions, without "identical".
Selection<TokenCompletion> select_completions(std::vector<TokenCompletion> rows, const LengthLimit& limit);

}  // namespace sao
