// SPDX-License-Identifier: Apache-2.0
// UTF-8: what is valid, what stands for what is not, and blanks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sao::detail {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";    // U+2581, the visible space of SentencePiece

/// Length of the valid character at the start of `text` (1..4); 0 when there is none. Surrogates, overlong
/// forms and code points above U+10FFFF are not valid.
std::size_t character_length(std::string_view text);
/// Code point of a valid character at the start of `text`.
char32_t code_point(std::string_view text);
void append_utf8(char32_t c, std::string& text);

bool is_valid_utf8(std::string_view text);
/// Every maximal part of an invalid sequence becomes one U+FFFD, as Python's errors="replace" and Rust's
/// from_utf8_lossy do it (Unicode standard, section 3.9).
std::string replace_invalid_utf8(std::string_view text);

/// Whether Python's str.isspace holds: what str.strip and the `\s` of its regular expressions mean by white space.
bool is_space(char32_t c);

/// `text` without blanks at its start / end: the blanks of Python's str.strip, which Jinja's trim uses.
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
inline std::string_view strip(std::string_view text) { return strip_right(strip_left(text)); }

/// Number of code points of valid UTF-8.
inline std::int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace sao::detail
