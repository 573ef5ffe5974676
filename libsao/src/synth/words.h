// SPDX-License-Identifier: Apache-2.0
// Text as words, for filters and diversity: letters, digits and marks, lower-case; everything else separates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sao::detail {

enum class Script : std::uint8_t {
  kNone,  // neither letter, mark nor digit
  kDigit,
  kMark,
  kLatin,
  kGreek,
  kCyrillic,
  kArmenian,
  kHebrew,
  kArabic,
  kDevanagari,
  kBengali,
  kTamil,
  kTelugu,
  kThai,
  kGeorgian,
  kHangul,
  kEthiopic,
  kKana,
  kHan,
  kOther,
};

/// The script named "latin", "greek", ..., "other". kNone for another name.
Script find_script(std::string_view name);
/// All those names, for messages.
std::string script_names();

Script script_of(char32_t code_point);

/// The code point that starts at `at`, which moves past it; U+FFFD for each byte that is not UTF-8.
char32_t next_code_point(std::string_view text, std::size_t& at);

/// Number of code points.
std::int64_t code_points(std::string_view text);

/// The words of `text` in order: runs of letters, marks and digits in lower case (ASCII, Latin-1, Latin Extended-A,
/// Greek and Cyrillic are lowered, other scripts stay). Han, kana and Thai, which have no blanks between words, give
/// one word a character.
std::vector<std::string> words(std::string_view text);

/// The words joined by single blanks: equal for texts that differ in case, blanks and punctuation only.
std::string normalized(std::string_view text);

/// `text` without white space (ASCII and U+00A0, U+3000) at both ends.
std::string_view trimmed(std::string_view text);

}  // namespace sao::detail
