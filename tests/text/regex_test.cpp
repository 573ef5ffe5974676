// SPDX-License-Identifier: Apache-2.0
#include "text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "fixtures.h"

namespace sao::detail {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  const Regex regex(pattern, "test");
  std::vector<std::string> found;
  Regex::Finder finder(regex, text);
  for (Regex::Match match; finder.next(match);) found.emplace_back(text.substr(match.begin, match.end - match.begin));
  return found;
}

TEST(Regex, UnicodeClasses) {
  EXPECT_THAT(matches(R"(\p{L}+|\p{N})", "Größe ²Ⅷ你好"), ElementsAre("Größe", "²", "Ⅷ", "你好"));
  EXPECT_THAT(matches(R"((?i:'re))", "'RE 'Re"), ElementsAre("'RE", "'Re"));
}

TEST(Regex, LettersOfUnicode16) {
  EXPECT_THAT(matches(R"(\p{L}+)", "a\U000323AF b\U00010D40"), ElementsAre("a\U000323AF", "b"));
  EXPECT_THAT(matches(R"([^\p{L}\s]+)", "a\U000323AF b\U00010D40"), ElementsAre("\U00010D40"));
  EXPECT_THAT(matches(R"(\p{N}{1,3})", "\U00010D4012"), ElementsAre("\U00010D4012"));
  EXPECT_THAT(matches(R"([\p{Lu}\p{M}]+)", "\u1c89\u0897a"), ElementsAre("\u1c89\u0897"));
  EXPECT_THAT(matches(R"(\P{L}+|\p{^N})", "a\u1c89\U00010D40"), ElementsAre("a", "\u1c89", "\U00010D40"));
}

TEST(Regex, WordsAreOnigurumas) {
  EXPECT_THAT(matches(R"(\w+)", "a\u0301_\u00b2 \u24b6-b"), ElementsAre("a\u0301_\u00b2", "\u24b6", "b"));
  EXPECT_THAT(matches(R"([\w]+)", "a\u00b2b"), ElementsAre("a", "b"));
}

TEST(Regex, WhiteSpaceIsOnigurumas) {
  // U+0085 and U+3000 are white space, U+180E and U+200B are not.
  EXPECT_THAT(matches(R"(\s+)", "a\u0085\u3000b\u180Ec\u200Bd"), ElementsAre("\u0085\u3000"));
  EXPECT_THAT(matches(R"([^\s\p{L}]+)", "a\u180E\u3000b"), ElementsAre("\u180E"));
  EXPECT_THAT(matches(R"(\s+(?!\S)|\s+)", "a   b"), ElementsAre("  ", " "));
}

TEST(Regex, EmptyMatchesAreSteppedOver) {
  EXPECT_THAT(matches("x*", "äxxä"), ElementsAre("xx"));
  EXPECT_THAT(matches("", "abc"), ElementsAre());
}

TEST(Regex, EscapedTextMatchesItself) {
  const std::string text = R"(a.b*[c](d){e}^$|?+\#-&~▁)";
  EXPECT_THAT(matches(Regex::escape(text), "x" + text + "y"), ElementsAre(text));
  EXPECT_TRUE(Regex(Regex::escape("\n"), "test").found_in("a\nb"));
}

TEST(Regex, ALongRunDoesNotOverflow) {
  const std::string blanks(3'000'000, ' ');
  EXPECT_THAT(matches(R"(\s+(?!\S)|\s+)", blanks + "a").size(), 2u);
}

TEST(Regex, RefusesWhatItCannotRun) {
  for (const char* pattern :
       {"(a", "[a[bc]]", "[a-z&&[^b]]", R"(\h)", R"([\S])", R"([\P{L}])", R"(\bx)", "a{1,3}+", R"(\p{Nope})"}) {
    EXPECT_THAT(testing::input_error_of([&] { Regex(pattern, "tokenizer.json: pattern"); }),
                ::testing::HasSubstr("tokenizer.json: pattern"))
        << pattern;
  }
  EXPECT_NO_THROW(Regex(R"(\p{L}+[^\]a]]\x{20}+)", "test"));
}

}  // namespace
}  // namespace sao::detail
