// SPDX-License-Identifier: Apache-2.0
#include "text/splitter.h"

#include <utility>

#include "text/unicode.h"

namespace sao::detail {

const std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)";

namespace {

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kNemoPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// A text and what its characters are. All functions take and give byte positions.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), table_(CharacterTable::get()) {}

  struct Seen {
    std::uint16_t classes = 0;  // none at the end of the text
    unsigned length = 0;
  };
  Seen at(std::size_t i) const {
    if (i >= text_.size()) return {};
    const auto byte = static_cast<unsigned char>(text_[i]);
    if (byte < 0x80) return {table_.ascii(byte), 1};
    const Character c = read_character(text_.substr(i));
    return {table_.classes(c.code), c.length};
  }

  // The end of the longest run of characters of (not of) `classes` that begins at i, at most `count` long.
  std::size_t run(std::size_t i, unsigned classes, std::size_t count = SIZE_MAX) const {
    for (Seen seen; count > 0 && ((seen = at(i)).classes & classes); --count) i += seen.length;
    return i;
  }
  std::size_t run_without(std::size_t i, unsigned classes) const {
    for (Seen seen; (seen = at(i)).length > 0 && !(seen.classes & classes);) i += seen.length;
    return i;
  }

  // The end of 's, 't, 're, 've, 'm, 'll or 'd at i; i where there is none.
  std::size_t contraction(std::size_t i, bool any_case) const {
    if (i + 1 >= text_.size() || text_[i] != '\'') return i;
    const auto letter = [&](std::size_t j) -> char {
      if (j >= text_.size()) return 0;
      const char c = text_[j];
      return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    const char first = letter(i + 1);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return i + 2;
    const char second = letter(i + 2);
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
      return i + 3;
    // U+017F, the long s, is an s where case does not count.
    if (any_case && text_.substr(i + 1).starts_with("\xC5\xBF")) return i + 3;
    return i;
  }

  // ` ?[^\s\p{L}\p{N}]+` with what `tail` may follow; i where it does not match.
  std::size_t signs(std::size_t i, std::string_view tail) const {
    const std::size_t begin = text_[i] == ' ' ? i + 1 : i;
    std::size_t end = run_without(begin, kSpace | kLetter | kNumber);
    if (end == begin) return i;
    while (end < text_.size() && tail.find(text_[end]) != std::string_view::npos) ++end;
    return end;
  }

  // White space at i: `\s*[\r\n]+` (where `newlines`), `\s+(?!\S)`, `\s+`.
  std::size_t blanks(std::size_t i, bool newlines) const {
    std::size_t end = i, last = i, after_newline = i;
    for (Seen seen; ((seen = at(end)).classes & kSpace);) {
      last = end;
      end += seen.length;
      if (seen.classes & kNewline) after_newline = end;
    }
    if (newlines && after_newline > i) return after_newline;
    return end == text_.size() || last == i ? end : last;
  }

 private:
  std::string_view text_;
  const CharacterTable& table_;
};

std::size_t gpt2_word_end(std::string_view text, std::size_t i) {
  const Scanner scanner(text);
  if (const std::size_t end = scanner.contraction(i, false); end > i) return end;
  const std::size_t begin = text[i] == ' ' ? i + 1 : i;
  const unsigned classes = scanner.at(begin).classes;
  if (classes & kLetter) return scanner.run(begin, kLetter);
  if (classes & kNumber) return scanner.run(begin, kNumber);
  if (const std::size_t end = scanner.signs(i, ""); end > i) return end;
  return scanner.blanks(i, false);
}

template <std::size_t kDigits>
std::size_t llama3_word_end(std::string_view text, std::size_t i) {
  const Scanner scanner(text);
  if (const std::size_t end = scanner.contraction(i, true); end > i) return end;
  const auto first = scanner.at(i);
  if (first.classes & kLetter) return scanner.run(i + first.length, kLetter);
  if (first.classes & kNumber) return scanner.run(i, kNumber, kDigits);
  if (!(first.classes & kNewline)) {
    const std::size_t next = i + first.length;
    if (const std::size_t end = scanner.run(next, kLetter); end > next) return end;
  }
  if (const std::size_t end = scanner.signs(i, "\r\n"); end > i) return end;
  return scanner.blanks(i, true);
}

// One of the two cased alternatives from i on, without the optional sign before it; i where it does not match.
std::size_t cased_word(const Scanner& scanner, std::size_t i, bool lower_needed) {
  std::size_t upper_end = i;
  std::size_t after_both = i;  // behind the last character of the upper run that may be lower, too
  for (Scanner::Seen seen; ((seen = scanner.at(upper_end)).classes & kUpper);) {
    upper_end += seen.length;
    if (seen.classes & kLower) after_both = upper_end;
  }
  const std::size_t lower_end = scanner.run(upper_end, kLower);
  if (!lower_needed) return upper_end > i ? lower_end : i;
  // Where nothing lower follows, the upper run gives back.
  return lower_end > upper_end ? lower_end : after_both;
}

template <std::size_t kDigits, bool kContractions>
std::size_t gpt4o_word_end(std::string_view text, std::size_t i) {
  const Scanner scanner(text);
  const auto first = scanner.at(i);
  for (const bool lower_needed : {true, false}) {
    std::size_t end = i;
    if (!(first.classes & (kNewline | kLetter | kNumber))) {
      const std::size_t next = i + first.length;
      if (const std::size_t found = cased_word(scanner, next, lower_needed); found > next) end = found;
    }
    if (end == i) end = cased_word(scanner, i, lower_needed);
    if (end > i) return kContractions ? scanner.contraction(end, true) : end;
  }
  if (first.classes & kNumber) return scanner.run(i, kNumber, kDigits);
  if (const std::size_t end = scanner.signs(i, "\r\n/"); end > i) return end;
  return scanner.blanks(i, true);
}

}  // namespace

WordEnd find_word_end(std::string_view pattern) {
  const std::pair<std::string_view, WordEnd> kKnown[] = {{kGpt2Pattern, gpt2_word_end},
                                                         {kLlama3Pattern, llama3_word_end<3>},
                                                         {kQwen2Pattern, llama3_word_end<1>},
                                                         {kGpt4oPattern, gpt4o_word_end<3, true>},
                                                         {kNemoPattern, gpt4o_word_end<1, false>}};
  for (const auto& [known, word_end] : kKnown)
    if (pattern == known) return word_end;
  return nullptr;
}

}  // namespace sao::detail
