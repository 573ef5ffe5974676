// SPDX-License-Identifier: Apache-2.0
// What Python's str knows of characters.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sao::jinja {

bool is_ascii(std::string_view text);
/// The character at `position` of valid UTF-8; moves `position` behind it.
char32_t next_character(std::string_view text, std::size_t& position);
std::u32string to_utf32(std::string_view text);
std::string to_utf8(std::u32string_view text);

bool is_space(char32_t c);
bool is_line_break(char32_t c);  ///< of str.splitlines
bool is_printable(char32_t c);
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_uppercase(char32_t c);
bool is_lowercase(char32_t c);
bool is_titlecase(char32_t c);
inline bool is_alnum(char32_t c) { return is_alpha(c) || is_decimal(c) || is_digit(c) || is_numeric(c); }

std::u32string upper(std::u32string_view text);
std::u32string lower(std::u32string_view text);
std::u32string title(std::u32string_view text);       ///< str.title
std::u32string capitalize(std::u32string_view text);  ///< str.capitalize
std::u32string swap_case(std::u32string_view text);

}  // namespace sao::jinja
