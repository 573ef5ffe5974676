// SPDX-License-Identifier: Apache-2.0
// Which of the prompts that a model wrote are kept, and why the others are not.
//   sao::filter_prompts(prompts, {.min_characters = 20});        // sets outcome of each
//   auto reasons = sao::count_outcomes(prompts);                 // {"kept": 912, "duplicate": 61, ...}
// Every decision depends on the prompts before it in the list and on nothing else.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "sao/base/options.h"
#include "sao/data/records.h"

namespace sao {

/// The text of one prompt out of what the model wrote: blanks at both ends, a "User prompt:" head (bold, quoted,
/// whatever its case, also when other text stands on lines before it) and quotes or bold marks around the whole are
/// taken off; where several heads stand, the text of the first is taken. A text without a head stays as it is.
std::string clean_prompt(std::string_view written);

/// What a prompt must be like to be kept. Words are runs of letters, marks and digits, lower-cased (each Han, kana or
/// Thai character is one word). Reasons are checked in the order of the fields here.
struct PromptFilters {
  std::int64_t min_characters = 12;       ///< Unicode code points; fewer: "too_short"
  std::int64_t max_characters = 8000;     ///< more: "too_long"
  double min_letter_share = 0.4;          ///< of the code points that are not blank; lower: "not_text"
  std::string scripts = {};               ///< allowed scripts ("latin,greek"); empty allows all
  double min_script_share = 0.8;          ///< of letters in allowed scripts; lower: "language"
  bool drop_duplicates = true;            ///< same words in the same order as a kept prompt: "duplicate"
  bool drop_near_duplicates = true;       ///< much the same words as a kept prompt: "near_duplicate"
  double near_duplicate_threshold = 0.8;  ///< from this Jaccard similarity of word n-gram sets on; 0.7 to 1
  std::int64_t near_duplicate_ngram = 3;  ///< words in an n-gram; a shorter text is one n-gram
};

template <class Visitor, OptionsOf<PromptFilters> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("min_characters", options.min_characters, "shortest prompt kept, in characters");
  visit("max_characters", options.max_characters, "longest prompt kept, in characters");
  visit("min_letter_share", options.min_letter_share, "smallest share of letters among characters that are not blank");
  visit("scripts", options.scripts, "allowed scripts, separated by commas (latin, greek, han, ...); empty allows all");
  visit("min_script_share", options.min_script_share, "smallest share of letters in allowed scripts");
  visit("drop_duplicates", options.drop_duplicates, "drop a prompt with the same words as a kept one");
  visit("drop_near_duplicates", options.drop_near_duplicates, "drop a prompt with nearly the words of a kept one");
  visit("near_duplicate_threshold", options.near_duplicate_threshold, "Jaccard similarity of word n-grams that counts");
  visit("near_duplicate_ngram", options.near_duplicate_ngram, "words in an n-gram");
}

/// Throws InputError naming every field out of range and every unknown script.
void validate(const PromptFilters& filters);

/// Decides about prompts one at a time, in order.
class PromptFilter {
 public:
  /// Throws InputError as validate does.
  explicit PromptFilter(const PromptFilters& filters = {});
  ~PromptFilter();
  PromptFilter(PromptFilter&&) noexcept;
  PromptFilter& operator=(PromptFilter&&) noexcept;

  /// "kept", or the first reason that applies: "empty", "too_short", "too_long", "not_text", "language", "duplicate",
  /// "near_duplicate". A kept text is remembered. Near duplicates are found by MinHash (128 hashes, 32 bands of 4: at
  /// similarity 0.8 one in 2e7 is missed) and each find is verified on the n-grams themselves.
  std::string decide(std::string_view text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Sets every prompt's outcome, in order. "truncated" and "no_room", which sampling sets, stay; all other
/// outcomes are decided anew, so that filtering the same list again changes nothing.
void filter_prompts(std::span<Prompt> prompts, const PromptFilters& filters = {});

/// How many prompts have each outcome.
std::map<std::string, std::int64_t> count_outcomes(std::span<const Prompt> prompts);

}  // namespace sao
