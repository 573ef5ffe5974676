// SPDX-License-Identifier: Apache-2.0
// The hand-written splitters against the regular expressions that they stand for.
#include "text/splitter.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "text/regex.h"

namespace sao::detail {
namespace {

// GPT-2, Llama 3, Qwen2, GPT-4o, Mistral NeMo.
constexpr const char* kPatterns[] = {
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

std::string random_text(std::mt19937& random) {
  // Characters at which the expressions decide: cases, marks, modifiers, digits, every sort of white space,
  // apostrophes.
  static const std::vector<std::string> kPieces = {
      "a",  "s",  "t",      "re",     "VE",     "ll",     "S",          "A",      "Abc",        "'",      "'s",
      "'",  " ",  "  ",     "\n",     "\r",     "\t",     "\u00a0",     "\u3000", "\u0085",     "\u2028", "1",
      "23", "4",  "\u00b2", "\u216b", "!",      "/",      ".",          "\u017f", "\u01c5",     "\u02b0", "\u00aa",
      "中", "的", "\u0301", "\u0903", "\u20dd", "\u0661", "\U0001F600", "\u200d", "\U000323AF", "\u180e", "_"};
  std::string text;
  for (std::size_t n = random() % 24; n > 0; --n) {
    if (random() % 8 == 0) {
      char32_t c = random() % 0x30000;
      if (c >= 0xD800 && c < 0xE000) c = 'x';
      append_utf8(c, text);
    } else {
      text += kPieces[random() % kPieces.size()];
    }
  }
  return text;
}

class Splitter : public ::testing::TestWithParam<const char*> {};

TEST_P(Splitter, CutsAsTheExpressionDoes) {
  const WordEnd word_end = find_word_end(GetParam());
  ASSERT_NE(word_end, nullptr);
  const Regex regex(GetParam(), "test");
  std::mt19937 random(11);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = random_text(random);
    Regex::Finder finder(regex, text);
    std::size_t begin = 0;
    for (Regex::Match match; finder.next(match); begin = match.end) {
      ASSERT_EQ(match.begin, begin) << text;
      ASSERT_EQ(word_end(text, begin), match.end) << text << " at " << begin;
    }
    ASSERT_EQ(begin, text.size()) << text;
  }
}
INSTANTIATE_TEST_SUITE_P(Patterns, Splitter, ::testing::ValuesIn(kPatterns));

TEST(Splitter, OtherExpressionsAreLeftToTheRegex) {
  EXPECT_EQ(find_word_end(R"(\p{L}+|\s+)"), nullptr);
  EXPECT_EQ(find_word_end(""), nullptr);
}

}  // namespace
}  // namespace sao::detail
