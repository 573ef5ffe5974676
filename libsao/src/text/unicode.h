// SPDX-License-Identifier: Apache-2.0
// What characters are to the `tokenizers` library, whose parts know different versions of Unicode.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"

namespace sao::detail {

/// Sets of characters, as bits.
enum CharacterClass : std::uint16_t {
  kLetter = 1 << 0,       ///< \p{L}
  kNumber = 1 << 1,       ///< \p{N}
  kSpace = 1 << 2,        ///< White_Space
  kNewline = 1 << 3,      ///< \r and \n
  kUpper = 1 << 4,        ///< Lu, Lt, Lm, Lo, M
  kLower = 1 << 5,        ///< Ll, Lm, Lo, M
  kWord = 1 << 6,         ///< \w of Oniguruma
  kRustWord = 1 << 7,     ///< \w of Rust's regex crate
  kNumeric = 1 << 8,      ///< char::is_numeric of Rust
  kPunctuation = 1 << 9,  ///< of the pre-tokenizer Punctuation
  kAccent = 1 << 10,      ///< what StripAccents takes away
};

/// The classes of all characters, in two stages. Immutable.
class CharacterTable {
 public:
  /// Built at the first call.
  static const CharacterTable& get();

  std::uint16_t classes(char32_t c) const { return c < 0x110000 ? blocks_[block_of_[c >> 7]][c & 127] : 0; }
  std::uint16_t ascii(unsigned char c) const { return blocks_[0][c]; }

 private:
  CharacterTable();
  std::array<std::uint16_t, 0x110000 / 128> block_of_ = {};
  std::vector<std::array<std::uint16_t, 128>> blocks_;
};

/// One character of valid UTF-8 at the start of a text that is not empty.
struct Character {
  char32_t code = 0;
  unsigned length = 1;
};
inline Character read_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

/// Code points first..last.
struct CodePointRange {
  char32_t first = 0;
  char32_t last = 0;
};
/// The code points whose general category begins with `name` ("L", "Lu") in Unicode 16 but not in Unicode 14.
std::vector<CodePointRange> newer_than_unicode_14(std::string_view name);
/// Whether `name` is a general category or the first letter of one.
bool is_category_name(std::string_view name);

/// Rust's to_lowercase, character by character.
void append_lowercase(char32_t c, std::string& text);

enum class NormalizationForm { kNfc, kNfd, kNfkc, kNfkd };
/// The normal form of valid UTF-8, as of Unicode 9: what came later stays as it is.
std::string unicode_normalized(std::string text, NormalizationForm form);

}  // namespace sao::detail
