// SPDX-License-Identifier: Apache-2.0
#include "jinja/unicode.h"

#include <algorithm>
#include <cstdint>
#include <span>

#include "base/utf8.h"

namespace sao::jinja {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};
// Every `step`-th character from `first` to `last` becomes the one `delta` further on.
struct Run {
  char32_t first;
  char32_t last;
  char32_t step;
  std::int32_t delta;
};
struct Special {
  char32_t from;
  const char32_t* to;
};
#include "jinja/unicode_tables.inc"

template <std::size_t n>
bool contains(const Range (&ranges)[n], char32_t c) {
  const auto* range = std::ranges::lower_bound(ranges, c, {}, &Range::last);
  return range != std::end(ranges) && range->first <= c;
}

struct Mapping {
  std::span<const Run> runs;
  std::span<const Special> specials;
};
const Mapping kUpperMapping = {kToUpper, kToUpperSpecial};
const Mapping kLowerMapping = {kToLower, kToLowerSpecial};
const Mapping kTitleMapping = {kToTitle, kToTitleSpecial};

void append_mapped(std::u32string& text, const Mapping& mapping, char32_t c) {
  const auto special = std::ranges::lower_bound(mapping.specials, c, {}, &Special::from);
  if (special != mapping.specials.end() && special->from == c) {
    text += special->to;
    return;
  }
  // Runs with a step interleave: 0x100, 0x102, ... and 0x101, 0x103, ...; they are sorted by their first character.
  auto run = std::ranges::upper_bound(mapping.runs, c, {}, &Run::first);
  for (int i = 0; i < 4 && run != mapping.runs.begin(); ++i) {
    --run;
    if (c <= run->last && (c - run->first) % run->step == 0) {
      text += static_cast<char32_t>(static_cast<std::int32_t>(c) + run->delta);
      return;
    }
  }
  text += c;
}

bool is_cased(char32_t c) { return is_uppercase(c) || is_lowercase(c) || is_titlecase(c); }

// The lower case of text[i]; a capital sigma at the end of a word becomes the final one.
void append_lower(std::u32string& out, std::u32string_view text, std::size_t i) {
  constexpr char32_t kCapitalSigma = 0x3A3;
  constexpr char32_t kFinalSigma = 0x3C2;
  if (text[i] == kCapitalSigma && i > 0 && is_cased(text[i - 1]) && (i + 1 == text.size() || !is_cased(text[i + 1]))) {
    out += kFinalSigma;
  } else {
    append_mapped(out, kLowerMapping, text[i]);
  }
}

}  // namespace

bool is_ascii(std::string_view text) {
  return std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

char32_t next_character(std::string_view text, std::size_t& position) {
  const std::string_view rest = text.substr(position);
  position += detail::character_length(rest);
  return detail::code_point(rest);
}

std::u32string to_utf32(std::string_view text) {
  std::u32string characters;
  characters.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) characters += next_character(text, i);
  return characters;
}

std::string to_utf8(std::u32string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (const char32_t c : text) detail::append_utf8(c, bytes);
  return bytes;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}
bool is_line_break(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}
bool is_printable(char32_t c) { return c < 0x7F ? c >= 0x20 : contains(kPrintable, c); }
bool is_alpha(char32_t c) { return c < 0x80 ? (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') : contains(kAlpha, c); }
bool is_decimal(char32_t c) { return contains(kDecimal, c); }
bool is_digit(char32_t c) { return contains(kDigit, c); }
bool is_numeric(char32_t c) { return contains(kNumeric, c); }
bool is_uppercase(char32_t c) { return contains(kUppercase, c); }
bool is_lowercase(char32_t c) { return contains(kLowercase, c); }
bool is_titlecase(char32_t c) { return contains(kTitlecase, c); }

std::u32string upper(std::u32string_view text) {
  std::u32string out;
  for (const char32_t c : text) append_mapped(out, kUpperMapping, c);
  return out;
}

std::u32string lower(std::u32string_view text) {
  std::u32string out;
  for (std::size_t i = 0; i < text.size(); ++i) append_lower(out, text, i);
  return out;
}

std::u32string title(std::u32string_view text) {
  std::u32string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i > 0 && is_cased(text[i - 1])) {
      append_lower(out, text, i);
    } else {
      append_mapped(out, kTitleMapping, text[i]);
    }
  }
  return out;
}

std::u32string capitalize(std::u32string_view text) {
  std::u32string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == 0) {
      append_mapped(out, kTitleMapping, text[i]);
    } else {
      append_lower(out, text, i);
    }
  }
  return out;
}

std::u32string swap_case(std::u32string_view text) {
  std::u32string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_uppercase(text[i])) {
      append_lower(out, text, i);
    } else if (is_lowercase(text[i])) {
      append_mapped(out, kUpperMapping, text[i]);
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace sao::jinja
