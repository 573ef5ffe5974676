// SPDX-License-Identifier: Apache-2.0
#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <new>
#include <span>

#include "sao/base/error.h"

namespace sao::detail {
namespace {

struct LowercaseRun {
  char32_t first;
  char32_t last;
  std::uint32_t step;
  std::int32_t add;
};

#include "text/unicode_tables.inc"

constexpr std::string_view kCategoryNames[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                               "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                               "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

// Calls each(first, last, category, newer) for every run.
template <class Each>
void for_each_run(Each&& each) {
  for (std::size_t i = 0; i < std::size(kCategoryRuns); ++i) {
    const std::uint32_t run = kCategoryRuns[i];
    const char32_t end = i + 1 < std::size(kCategoryRuns) ? kCategoryRuns[i + 1] >> 6 : 0x110000;
    each(run >> 6, end - 1, run & 31, (run & 32) != 0);
  }
}

std::uint16_t classes_of(std::string_view category) {
  const char group = category[0];
  std::uint16_t classes = 0;
  if (group == 'L') classes |= kLetter | kWord | kRustWord;
  if (group == 'M') classes |= kAccent | kWord | kRustWord;
  if (group == 'N') classes |= kNumber | kNumeric;
  if (group == 'P') classes |= kPunctuation;
  if (group == 'M' || category == "Lu" || category == "Lt" || category == "Lm" || category == "Lo") classes |= kUpper;
  if (group == 'M' || category == "Ll" || category == "Lm" || category == "Lo") classes |= kLower;
  if (category == "Nd" || category == "Nl" || category == "Pc") classes |= kWord | kRustWord;
  return classes;
}

bool contains(std::span<const CodePointRange> ranges, char32_t c) {
  const auto after = std::ranges::upper_bound(ranges, c, {}, &CodePointRange::first);
  return after != ranges.begin() && c <= std::prev(after)->last;
}

// Whether every character of `text` stays as it is, whatever its neighbours; may miss some texts.
bool is_plainly_normal(std::string_view text, NormalizationForm form) {
  // ASCII is in every form, and what lies below U+0300 is in NFC.
  const char32_t plain = form == NormalizationForm::kNfc ? 0x300 : 0x80;
  while (!text.empty()) {
    const Character c = read_character(text);
    text.remove_prefix(c.length);
    if (c.code < plain) continue;
    const bool hangul = (c.code >= 0x1100 && c.code < 0x1200) || (c.code >= 0xAC00 && c.code < 0xD7A4);
    const auto* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c.code));
    const bool mark = property->category == UTF8PROC_CATEGORY_MN || property->category == UTF8PROC_CATEGORY_MC ||
                      property->category == UTF8PROC_CATEGORY_ME;
    if (hangul || mark || property->combining_class != 0 || property->decomp_seqindex != UINT16_MAX) return false;
  }
  return true;
}

}  // namespace

const CharacterTable& CharacterTable::get() {
  static const CharacterTable table;
  return table;
}

CharacterTable::CharacterTable() {
  std::vector<std::uint16_t> flat(0x110000);
  const auto change = [&](std::span<const CodePointRange> ranges, std::uint16_t add, std::uint16_t remove) {
    for (const auto& [first, last] : ranges)
      for (char32_t c = first; c <= last; ++c) flat[c] = static_cast<std::uint16_t>((flat[c] | add) & ~remove);
  };
  for_each_run([&](char32_t first, char32_t last, std::uint32_t category, bool) {
    std::fill(flat.begin() + static_cast<std::ptrdiff_t>(first), flat.begin() + static_cast<std::ptrdiff_t>(last) + 1,
              classes_of(kCategoryNames[category]));
  });
  constexpr CodePointRange kWhiteSpace[] = {{0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},
                                            {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                                            {0x205F, 0x205F}, {0x3000, 0x3000}};
  constexpr CodePointRange kNewlines[] = {{'\n', '\n'}, {'\r', '\r'}};
  change(kWhiteSpace, kSpace, 0);
  change(kNewlines, kNewline, 0);
  change(kWordBeyondCategories, kWord | kRustWord, 0);
  change(kWordOfRustOnly, kRustWord, 0);
  change(kWordOfOnigurumaOnly, 0, kRustWord);
  change(kNumericBeyondCategories, kNumeric, 0);
  change(kPunctuationBeyondCategories, kPunctuation, 0);
  change(kNotPunctuation, 0, kPunctuation);
  change(kAccentBeyondCategories, kAccent, 0);
  change(kNotAccent, 0, kAccent);

  for (std::size_t b = 0; b < block_of_.size(); ++b) {
    std::array<std::uint16_t, 128> block;
    std::copy_n(flat.begin() + static_cast<std::ptrdiff_t>(b * 128), 128, block.begin());
    // Blocks that look alike mostly follow each other; a search from the end finds them soon.
    const auto same = std::find(blocks_.rbegin(), blocks_.rend(), block);
    block_of_[b] = static_cast<std::uint16_t>(blocks_.rend() - same - 1);
    if (same == blocks_.rend()) {
      block_of_[b] = static_cast<std::uint16_t>(blocks_.size());
      blocks_.push_back(block);
    }
  }
}

std::vector<CodePointRange> newer_than_unicode_14(std::string_view name) {
  std::vector<CodePointRange> ranges;
  for_each_run([&](char32_t first, char32_t last, std::uint32_t category, bool newer) {
    if (!newer || !kCategoryNames[category].starts_with(name)) return;
    if (!ranges.empty() && ranges.back().last + 1 == first) {
      ranges.back().last = last;
    } else {
      ranges.push_back({first, last});
    }
  });
  return ranges;
}

bool is_category_name(std::string_view name) {
  return !name.empty() &&
         std::ranges::any_of(kCategoryNames, [&](std::string_view known) { return known.starts_with(name); });
}

void append_lowercase(char32_t c, std::string& text) {
  if (c == 0x130) {  // the one that becomes two characters
    text += "i\xCC\x87";
    return;
  }
  const auto after = std::ranges::upper_bound(kLowercaseRuns, c, {}, &LowercaseRun::first);
  if (after != std::begin(kLowercaseRuns)) {
    const LowercaseRun& run = *std::prev(after);
    if (c <= run.last && (c - run.first) % run.step == 0)
      c = static_cast<char32_t>(static_cast<std::int32_t>(c) + run.add);
  }
  append_utf8(c, text);
}

std::string unicode_normalized(std::string text, NormalizationForm form) {
  const bool composed = form == NormalizationForm::kNfc || form == NormalizationForm::kNfkc;
  const bool compatibility = form == NormalizationForm::kNfkc || form == NormalizationForm::kNfkd;
  if (is_plainly_normal(text, form)) return text;

  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatibility ? UTF8PROC_COMPAT : 0));
  std::string out;
  out.reserve(text.size());
  const auto append = [&](std::string_view part) {
    if (part.empty()) return;
    utf8proc_uint8_t* result = nullptr;
    const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(part.data()),
                                               static_cast<utf8proc_ssize_t>(part.size()), &result, options);
    if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
    SAO_CHECK(size >= 0);  // fails for bytes that are not UTF-8 only
    out.append(reinterpret_cast<const char*>(result), static_cast<std::size_t>(size));
    std::free(result);
  };
  // A character that the reference does not know has no decomposition, stops reordering and composes with nothing.
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    const Character c = read_character(std::string_view(text).substr(i));
    if (contains(kUnknownToNormalization, c.code)) {
      append(std::string_view(text).substr(begin, i - begin));
      out.append(text, i, c.length);
      begin = i + c.length;
    }
    i += c.length;
  }
  append(std::string_view(text).substr(begin));
  return out;
}

}  // namespace sao::detail
