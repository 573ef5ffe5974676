// SPDX-License-Identifier: Apache-2.0
#include "base/utf8.h"

#include <gtest/gtest.h>

namespace sao::detail {
namespace {

TEST(Utf8, EveryCodePointRoundTrips) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    append_utf8(c, text);
    ASSERT_EQ(character_length(text), text.size()) << static_cast<unsigned>(c);
    ASSERT_EQ(code_point(text), c);
  }
}

TEST(Utf8, RefusesWhatIsNotValid) {
  for (const char* bytes : {"\x80", "\xC0\xAF", "\xC1\x81", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                            "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE4\xB8", "\xF0\x9F\x98"}) {
    EXPECT_EQ(character_length(bytes), 0u);
    EXPECT_FALSE(is_valid_utf8(bytes));
  }
  EXPECT_EQ(character_length(""), 0u);
  EXPECT_TRUE(is_valid_utf8("a\xC3\xA4\xE4\xB8\xAD\xF0\x9F\x98\x80"));
}

TEST(Utf8, OneReplacementForEveryMaximalPart) {
  const std::string r(kReplacement);
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x98"), r);
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\x98"
                                 "a"),
            r + "a");
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(replace_invalid_utf8("\xE4\xB8\xE4\xB8\xAD"), r + "\xE4\xB8\xAD");
  EXPECT_EQ(replace_invalid_utf8("\xC3("), r + "(");
  EXPECT_EQ(replace_invalid_utf8("abc"), "abc");
}

TEST(Utf8, StripsPythonsBlanks) {
  EXPECT_EQ(strip(" \t\r\n\v\f\x1C\x1F\xC2\x85\xC2\xA0\xE2\x80\x83\xE3\x80\x80 a b \xE3\x80\x80\n"), "a b");
  EXPECT_EQ(strip("\xE2\x80\x8Bx\xE2\x80\x8B"), "\xE2\x80\x8Bx\xE2\x80\x8B");  // U+200B is none
  EXPECT_EQ(strip(" \n "), "");
  EXPECT_EQ(strip(""), "");
  EXPECT_EQ(strip_right("\x85"), "\x85");  // no character
  EXPECT_EQ(strip_left(" a "), "a ");
}

}  // namespace
}  // namespace sao::detail
