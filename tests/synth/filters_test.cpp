// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/filters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sao/base/error.h"
#include "sao/base/seed.h"
#include "synth/minhash.h"
#include "synth/words.h"

namespace sao {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TEST(CleanPromptTest, TakesHeadsAndQuotesOff) {
  const std::string expected = "How do I prune a pear tree?";
  for (const std::string written : {
           "How do I prune a pear tree?",
           "  How do I prune a pear tree?\n\n",
           "User prompt: How do I prune a pear tree?",
           "user prompt:How do I prune a pear tree?",
           "USER PROMPT :\n\nHow do I prune a pear tree?",
           "**User prompt:** How do I prune a pear tree?",
           "**User prompt**: How do I prune a pear tree?",
           "*User Prompt:* \"How do I prune a pear tree?\"",
           "User prompt: \"How do I prune a pear tree?\"",
           "User prompt: “How do I prune a pear tree?”",
           "User prompt: **How do I prune a pear tree?**",
           "\"User prompt: How do I prune a pear tree?\"",
           "\"User prompt:\" How do I prune a pear tree?",
           "**User prompt: How do I prune a pear tree?**",
           "## User prompt: How do I prune a pear tree?",
           "> User's prompt: How do I prune a pear tree?",
           "[User prompt]: How do I prune a pear tree?",
           "User prompt：How do I prune a pear tree?",
           "Sure, here it is.\n\nUser prompt: How do I prune a pear tree?",
           "User prompt:\nUser prompt: How do I prune a pear tree?",
           "User prompt: How do I prune a pear tree?\n\nUser prompt: And an apple tree?",
           "'How do I prune a pear tree?'",
           "«How do I prune a pear tree?»",
           "`How do I prune a pear tree?`",
           "“\"How do I prune a pear tree?\"”",
       }) {
    EXPECT_EQ(clean_prompt(written), expected) << written;
  }
}

TEST(CleanPromptTest, LeavesWhatBelongsToThePrompt) {
  for (const std::string text : {
           "\"Yes\" or \"no\"",                         // quotes of two words
           "What is a user prompt: a question?",        // not at the start of a line
           "**Task:** write **bold** text",             // bold inside
           "Explain:\n\n```\nint x;\n```\n\nin words",  // code inside
           "'Tis the season, isn't it?",
       }) {
    EXPECT_EQ(clean_prompt(text), text);
  }
  EXPECT_EQ(clean_prompt(""), "");
  EXPECT_EQ(clean_prompt("User prompt:"), "");
  EXPECT_EQ(clean_prompt("\"\""), "");
  EXPECT_EQ(clean_prompt("\""), "\"");
}

TEST(WordsTest, LowersAndSplits) {
  EXPECT_THAT(detail::words("Don't  PANIC, 42 times!"), ElementsAre("don", "t", "panic", "42", "times"));
  EXPECT_THAT(detail::words("ÄRGER Łódź ΣΩΜΑ Привет Ёж"), ElementsAre("ärger", "łódź", "σωμα", "привет", "ёж"));
  EXPECT_THAT(detail::words("猫が好き abc"), ElementsAre("猫", "が", "好", "き", "abc"));
  EXPECT_THAT(detail::words("한국어 नमस्ते"), ElementsAre("한국어", "नमस्ते"));
  EXPECT_THAT(detail::words("?!"), ElementsAre());
  EXPECT_THAT(detail::words("a\xFF"
                            "b"),
              ElementsAre("a", "b"));  // not UTF-8
  EXPECT_EQ(detail::code_points("aé猫😀"), 4);
  EXPECT_EQ(detail::trimmed(" \xC2\xA0 a b\n\xE3\x80\x80"), "a b");
}

TEST(PromptFilterTest, NamesTheFirstReason) {
  PromptFilter filter({.min_characters = 5, .max_characters = 40});
  EXPECT_EQ(filter.decide("Why is the sky blue?"), "kept");
  EXPECT_EQ(filter.decide("  \n"), "empty");
  EXPECT_EQ(filter.decide("Why?"), "too_short");
  EXPECT_EQ(filter.decide("猫は何を食べる"), "kept");  // seven characters, twenty-one bytes
  EXPECT_EQ(filter.decide(std::string(41, 'a')), "too_long");
  EXPECT_EQ(filter.decide(std::string(40, 'a')), "kept");
  EXPECT_EQ(filter.decide("1 + 2 = 3; 4 + 5 = ..."), "not_text");
  EXPECT_EQ(filter.decide("why is the sky... BLUE"), "duplicate");
}

TEST(PromptFilterTest, KeepsAllowedScripts) {
  PromptFilter filter({.scripts = "latin, greek"});
  EXPECT_EQ(filter.decide("What does the word σοφία mean?"), "kept");
  EXPECT_EQ(filter.decide("Что значит слово мудрость?"), "language");
  EXPECT_EQ(filter.decide("What does the long word мудрость mean in this place?"), "kept");  // 35 of 43 letters
  EXPECT_EQ(filter.decide("What is мудрость?"), "language");
  PromptFilter all;
  EXPECT_EQ(all.decide("Что значит слово мудрость?"), "kept");
}

TEST(PromptFilterTest, NearDuplicatesAreVerified) {
  const std::string base =
      "please list ten good names for a small brown dog that likes to swim in cold lakes and rivers";
  PromptFilter filter;
  EXPECT_EQ(filter.decide(base), "kept");
  // 17 word trigrams; one word at the end changes one of them: 16 / 18 = 0.89.
  EXPECT_EQ(
      filter.decide("please list ten good names for a small brown dog that likes to swim in cold lakes and ponds"),
      "near_duplicate");
  // A word in the middle changes three: 14 / 20 = 0.7.
  EXPECT_EQ(
      filter.decide("please list ten good names for a small white dog that likes to swim in cold lakes and rivers"),
      "kept");
}

TEST(PromptFilterTest, SwitchesWork) {
  PromptFilter none({.drop_duplicates = false, .drop_near_duplicates = false});
  EXPECT_EQ(none.decide("Why is the sky blue?"), "kept");
  EXPECT_EQ(none.decide("Why is the sky blue?"), "kept");
  PromptFilter near({.drop_duplicates = false});
  EXPECT_EQ(near.decide("Why is the sky blue?"), "kept");
  EXPECT_EQ(near.decide("Why is the sky blue?"), "kept");
}

TEST(PromptFilterTest, OptionsOutOfRangeAreNamed) {
  EXPECT_THAT([] { validate(PromptFilters{.min_characters = 0, .min_letter_share = 2.0, .scripts = "latin,elvish"}); },
              ::testing::ThrowsMessage<InputError>(
                  AllOf(HasSubstr("min_characters"), HasSubstr("min_letter_share"), HasSubstr("elvish"))));
  EXPECT_THROW(PromptFilter({.near_duplicate_threshold = 0.3}), InputError);
}

TEST(FilterPromptsTest, IsAPureFunctionOfTheOrderedList) {
  std::vector<Prompt> prompts = {
      {.id = "a", .text = "Why is the sky blue?"}, {.id = "b", .text = "Why is the sky", .outcome = "truncated"},
      {.id = "c", .text = "why is the sky BLUE"},  {.id = "d", .text = "", .outcome = "no_room"},
      {.id = "e", .text = "Why is the sky"},       {.id = "f", .text = ""}};
  filter_prompts(prompts);
  const auto outcomes = [&] {
    std::vector<std::string> all;
    for (const Prompt& prompt : prompts) all.push_back(prompt.outcome);
    return all;
  };
  // A truncated prompt is not remembered, so the one that repeats it is kept.
  EXPECT_THAT(outcomes(), ElementsAre("kept", "truncated", "duplicate", "no_room", "kept", "empty"));
  EXPECT_THAT(count_outcomes(prompts), UnorderedElementsAre(Pair("kept", 2), Pair("truncated", 1), Pair("duplicate", 1),
                                                            Pair("no_room", 1), Pair("empty", 1)));
  const std::vector<Prompt> once = prompts;
  filter_prompts(prompts);
  EXPECT_EQ(prompts, once);
}

TEST(MinHashTest, FindsWhatAnExhaustiveSearchFinds) {
  // Texts of 60 words out of 1000, half of them copies with a few words changed.
  std::vector<detail::Shingles> texts;
  std::vector<std::vector<std::string>> all_words;
  const Seed seed{7};
  for (std::uint64_t i = 0; i < 400; ++i) {
    std::vector<std::string> words;
    if (i % 2 == 1) {
      words = all_words[i - 1];
      const std::uint64_t changes = uniform_below(seed.fork(i), 1000, 7);
      for (std::uint64_t c = 0; c < changes; ++c)
        words[uniform_below(seed.fork(i), c, 60)] = "changed" + std::to_string(c);
    } else {
      for (std::uint64_t w = 0; w < 60; ++w)
        words.push_back("w" + std::to_string(uniform_below(seed.fork(i), w, 1000)));
    }
    all_words.push_back(words);
    texts.push_back(detail::shingles(words, 3));
  }
  detail::NearDuplicateIndex index(0.8);
  std::size_t found = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::vector<std::size_t> expected;
    for (std::size_t j = 0; j < i; ++j) {
      if (detail::jaccard(texts[i], texts[j]) >= 0.8) expected.push_back(j);
    }
    EXPECT_EQ(index.find(texts[i], /*first_only=*/false), expected);
    found += expected.size();
    index.add(texts[i]);
  }
  EXPECT_GT(found, 50U);
  EXPECT_LT(found, 200U);
}

TEST(MinHashTest, JaccardOfSets) {
  EXPECT_EQ(detail::jaccard({1, 2, 3}, {2, 3, 4}), 0.5);
  EXPECT_EQ(detail::jaccard({}, {}), 1.0);
  EXPECT_EQ(detail::jaccard({1}, {}), 0.0);
}

}  // namespace
}  // namespace sao
