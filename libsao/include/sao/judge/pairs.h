// SPDX-License-Identifier: Apache-2.0
// Verdicts to preference pairs: what the optimizer is trained on.
//   sao::PreferencePairs built = sao::build_pairs(prompts, responses, verdicts, {.min_margin = 0.05});
//   built.pairs;      // rows in TRL's form
//   built.outcomes;   // {"kept": 757, "inconsistent": 180, "identical": 21, ...}
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "sao/base/options.h"
#include "sao/data/records.h"

namespace sao {

struct PairOptions {
  double min_margin = 0.0;         ///< smallest |p - 1/2| that is kept, else "low_margin"; 0 to 1/2
  bool soft_labels = false;        ///< put the judge's probability on the pair; off, p = 1
  bool keep_inconsistent = false;  ///< keep pairs whose orders disagree, chosen by the combined p (use soft labels)
  bool keep_truncated = false;     ///< keep pairs with a response that was cut (judged by judge_truncated)
};

template <class Visitor, OptionsOf<PairOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("min_margin", options.min_margin, "smallest |p - 1/2| of a pair that is kept");
  visit("soft_labels", options.soft_labels, "the judge's probability as the pair's label instead of 1");
  visit("keep_inconsistent", options.keep_inconsistent, "keep pairs on which the two orders disagree");
  visit("keep_truncated", options.keep_truncated, "keep pairs with a response cut at the length limit");
}

/// Throws InputError naming the field out of range.
void validate(const PairOptions& options);

struct PreferencePairs {
  std::vector<Preference> pairs = {};
  std::map<std::string, std::int64_t> outcomes = {};  ///< "kept" and the reasons of what was not; sums to the prompts
};

/// One pair per prompt with verdicts, in the order of the prompts; chosen is the better response.
/// Two responses: their verdict decides. More (a round robin): each response's score is the mean of its probabilities
/// to win over its verdicts with a probability; the best and the worst (the earlier of equals) make the pair, and their
/// own verdict must say so, else "intransitive".
/// Reasons: the verdict's own outcome ("tie", "inconsistent", "unparsable", "identical", "empty", "truncated",
/// "too_long"), "low_margin", "intransitive", "not_judged" (no verdict for the prompt).
/// Prompts whose outcome is neither "kept" nor empty are left out and not counted. Ids go onto the pair when prompt and
/// both responses have them; text is there always. `id` is the prompt's.
/// Throws InputError: options out of range, a verdict on an unknown prompt or response.
PreferencePairs build_pairs(std::span<const Prompt> prompts, std::span<const Response> responses,
                            std::span<const Verdict> verdicts, const PairOptions& options = {});

}  // namespace sao
