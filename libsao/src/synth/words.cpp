// SPDX-License-Identifier: Apache-2.0
#include "synth/words.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace sao::detail {
namespace {

struct ScriptRange {
  char32_t first;
  char32_t last;
  Script script;
};

constexpr ScriptRange kScriptRanges[] = {
#include "synth/unicode_scripts.inc"
};

constexpr std::array<std::pair<std::string_view, Script>, 17> kScriptNames = {{
    {"latin", Script::kLatin},
    {"greek", Script::kGreek},
    {"cyrillic", Script::kCyrillic},
    {"armenian", Script::kArmenian},
    {"hebrew", Script::kHebrew},
    {"arabic", Script::kArabic},
    {"devanagari", Script::kDevanagari},
    {"bengali", Script::kBengali},
    {"tamil", Script::kTamil},
    {"telugu", Script::kTelugu},
    {"thai", Script::kThai},
    {"georgian", Script::kGeorgian},
    {"hangul", Script::kHangul},
    {"ethiopic", Script::kEthiopic},
    {"kana", Script::kKana},
    {"han", Script::kHan},
    {"other", Script::kOther},
}};

char32_t lower(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c >= 0xC0 && c <= 0xDE && c != 0xD7) return c + 32;
  // Latin Extended-A pairs upper and lower case; the parity changes at three places.
  if ((c >= 0x100 && c <= 0x137 && c != 0x130) || (c >= 0x14A && c <= 0x177)) return c | 1;
  if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E)) return c % 2 == 1 ? c + 1 : c;
  if (c == 0x178) return 0xFF;
  if (c >= 0x391 && c <= 0x3A9 && c != 0x3A2) return c + 32;
  if (c >= 0x410 && c <= 0x42F) return c + 32;
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  return c;
}

void append_utf8(std::string& text, char32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xC0 | (c >> 6));
    text += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    text += static_cast<char>(0xE0 | (c >> 12));
    text += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    text += static_cast<char>(0xF0 | (c >> 18));
    text += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    text += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool is_word_of_its_own(Script script) {
  return script == Script::kHan || script == Script::kKana || script == Script::kThai;
}

bool is_blank(char32_t c) { return c == ' ' || (c >= '\t' && c <= '\r') || c == 0xA0 || c == 0x3000; }

}  // namespace

Script find_script(std::string_view name) {
  const auto found =
      std::find_if(kScriptNames.begin(), kScriptNames.end(), [&](const auto& s) { return s.first == name; });
  return found == kScriptNames.end() ? Script::kNone : found->second;
}

std::string script_names() {
  std::string names;
  for (const auto& script : kScriptNames) names.append(names.empty() ? "" : ", ").append(script.first);
  return names;
}

Script script_of(char32_t code_point) {
  const auto after = std::upper_bound(std::begin(kScriptRanges), std::end(kScriptRanges), code_point,
                                      [](char32_t c, const ScriptRange& range) { return c < range.first; });
  if (after == std::begin(kScriptRanges)) return Script::kNone;
  const ScriptRange& range = *std::prev(after);
  return code_point <= range.last ? range.script : Script::kNone;
}

char32_t next_code_point(std::string_view text, std::size_t& at) {
  constexpr char32_t kReplacement = 0xFFFD;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at++);
  if (lead < 0x80) return lead;
  const std::size_t more = lead >= 0xF0 && lead < 0xF5   ? 3
                           : lead >= 0xE0 && lead < 0xF0 ? 2
                           : lead >= 0xC2 && lead < 0xE0 ? 1
                                                         : 0;
  if (more == 0 || at + more > text.size()) return kReplacement;
  char32_t c = lead & (0x3F >> more);
  for (std::size_t i = 0; i < more; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return kReplacement;
    c = (c << 6) | (byte(at + i) & 0x3F);
  }
  const bool too_long = (more == 2 && c < 0x800) || (more == 3 && c < 0x10000);
  if (too_long || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return kReplacement;
  at += more;
  return c;
}

std::int64_t code_points(std::string_view text) {
  std::int64_t count = 0;
  for (std::size_t at = 0; at < text.size(); ++count) next_code_point(text, at);
  return count;
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> found;
  bool inside = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const Script script = script_of(c);
    if (script == Script::kNone) {
      inside = false;
      continue;
    }
    const bool alone = is_word_of_its_own(script);
    if (!inside || alone) found.emplace_back();
    append_utf8(found.back(), lower(c));
    inside = !alone;
  }
  return found;
}

std::string normalized(std::string_view text) {
  std::string joined;
  for (const std::string& word : words(text)) joined.append(joined.empty() ? "" : " ").append(word);
  return joined;
}

std::string_view trimmed(std::string_view text) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (!is_blank(next_code_point(text, at))) break;
    begin = at;
  }
  std::size_t end = begin;
  for (std::size_t at = begin; at < text.size();) {
    if (!is_blank(next_code_point(text, at))) end = at;
  }
  return text.substr(begin, end - begin);
}

}  // namespace sao::detail
