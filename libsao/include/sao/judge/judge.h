// SPDX-License-Identifier: Apache-2.0
// A model says which of two responses is better. Its answer is read from the probabilities of the two verdict tokens,
// with each response shown first once; or, as the paper does, from one sampled line of text.
//   auto items = sao::judge_items(prompts, responses);
//   auto verdicts = sao::judge_pairs(engine, items, {.seed = seed.fork("judge")});
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/data/records.h"
#include "sao/generate/generator.h"
#include "sao/judge/templates.h"

namespace sao {

/// Two responses to one prompt, as text: what the judge is shown.
struct JudgeItem {
  std::string id = {};         ///< of the verdict; its random numbers come from it
  std::string prompt_id = {};  ///< the three ids are only copied to the verdict
  std::string first_id = {};
  std::string second_id = {};
  std::string prompt = {};
  std::string first = {};
  std::string second = {};
  bool truncated = false;  ///< at least one response was cut at the length limit
};

struct JudgeOptions {
  /// "probability": the two verdict tokens' probabilities from one prefill an order.
  /// "text": a sampled line, parsed. "random": a fair coin instead of a judge, the negative control.
  std::string mode = "probability";
  bool both_orders = true;        ///< show each response first once; off, one order only (with mode "text": the paper)
  bool random_order = false;      ///< with one order: which response stands first is drawn by the seed, else `first`
  double tie_margin = 0.0;        ///< |p - 1/2| up to which orders that agree, or the one order, give a tie; 0 to 1/2
  bool judge_truncated = false;   ///< judge pairs with a response that was cut, instead of outcome "truncated"
  double min_verdict_mass = 0.0;  ///< "unparsable" when the two verdict tokens together have less probability
  SamplingOptions sampling = {.temperature = 0.6, .max_new_tokens = 32};  ///< of mode "text"
  Seed seed = {};                                                         ///< item draws from seed.fork(item.id)
  std::int64_t items_per_call = 256;  ///< items handed to the generator at a time; no effect on results
};

template <class Visitor, OptionsOf<JudgeOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("mode", options.mode, "probability, text (sampled, as in the paper) or random (a coin, the negative control)");
  visit("both_orders", options.both_orders, "judge each pair in both orders");
  visit("random_order", options.random_order, "with one order: draw which response is shown first");
  visit("tie_margin", options.tie_margin, "|p - 1/2| up to which a verdict is a tie");
  visit("judge_truncated", options.judge_truncated, "judge responses that were cut at the length limit");
  visit("min_verdict_mass", options.min_verdict_mass, "smallest probability of the two verdict tokens together");
  visit("sampling", options.sampling, "how a verdict in text is sampled");
  visit("seed", options.seed, "seed of sampled verdicts and random orders");
  visit("items_per_call", options.items_per_call, "pairs handed to the model at a time; no effect on results");
}

/// Throws InputError naming every field out of range.
void validate(const JudgeOptions& options);

/// Whether the judge gave a probability: "first", "second", "tie" or "inconsistent".
bool has_probability(const Verdict& verdict);

/// Called with every verdict, in the order of the items.
using OnVerdict = std::function<void(const Verdict&)>;

/// One verdict per item, in order.
///
/// Probability mode: p12 and p21 are P(judge_first) / (P(judge_first) + P(judge_second)), read at the first token in
/// which `judge_prefix + judge_first` and `judge_prefix + judge_second` differ, with (first, second) and
/// (second, first) shown. p_as_first = p12, p_as_second = 1 - p21, p_first = (p12 + 1 - p21) / 2. With one order, the
/// one that was shown is p_first and the other field stays empty. Text mode: the same with p12 and p21 in {0, 1}, or
/// 1/2 for an answer that parse_verdict reads as a tie.
///
/// Outcomes, in the order of checking: "empty" (a response without text), "truncated", "identical" (same text; all
/// three are not judged and have p_first 1/2), "too_long" (the judge's turn does not fit the model's context),
/// "unparsable" (p_first 1/2), "inconsistent" (one order on each side of 1/2), "tie", "first", "second".
/// The texts of turn tokens ("<end_of_turn>") written out in prompt or responses get a blank inside, so that they stay
/// text for the judge. A verdict depends on the weights, the options, the templates and its item alone.
/// Throws InputError: options or templates out of range, an empty or repeated item id, verdicts whose tokens do not
/// differ.
std::vector<Verdict> judge_pairs(Generator& generator, std::span<const JudgeItem> items,
                                 const JudgeOptions& options = {}, const JudgeTemplates& templates = {},
                                 const OnVerdict& on_verdict = {});

/// The pairs to judge, prompt by prompt in the order of the prompts. Two responses give one item with the prompt's id;
/// k > 2 give every pair i < j (a round robin), with ids "<prompt id>-<i>-<j>". A prompt with fewer than two responses
/// gives none. Throws InputError: a response to an unknown prompt, two with one k.
std::vector<JudgeItem> judge_items(std::span<const Prompt> prompts, std::span<const Response> responses);

/// What a line of text says.
enum class TextVerdict { kFirst, kSecond, kTie, kUnparsable };

/// Looks for `judge_prefix` followed by one of the verdicts, as words of their own ("1" is not found in "21"), whatever
/// the case, blanks, quotes, brackets and bold marks between (so "**Ranking:** [1] > [2]" is read as "ranking: 1 > 2").
/// kTie for the prefix followed by verdicts of the form "a > b" with '=' for '>'. Two different verdicts, or none, are
/// kUnparsable.
TextVerdict parse_verdict(std::string_view text, const JudgeTemplates& templates = {});

/// The tokens that decide: what is put after the judge's open turn, and the next token of either verdict.
struct VerdictTokens {
  TokenIds prefix = {};
  TokenId first = 0;
  TokenId second = 0;
};

/// Encodes both verdicts as the assistant's answer and splits them at the first token that differs.
/// Throws InputError when one is the beginning of the other.
VerdictTokens verdict_tokens(const ChatTokenizer& text, const JudgeTemplates& templates);

}  // namespace sao
