// SPDX-License-Identifier: Apache-2.0
// Tokens that are looked for in the text before the model sees it, as the `tokenizers` library does it
// (added_vocabulary.rs): leftmost first, longest first.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"
#include "text/byte_trie.h"
#include "text/json_node.h"

namespace sao::detail {

struct AddedToken {
  std::string content = {};
  TokenId id = -1;
  bool single_word = false;  ///< only between characters that are not of words
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;
  bool normalized = false;  ///< looked for in the normalized text
  bool special = false;     ///< only looked for where special tokens are parsed; left out by skip_special
};

/// From one entry of tokenizer.json's `added_tokens`, or of tokenizer_config.json's `added_tokens_decoder`
/// with its key as `id`.
AddedToken parse_added_token(const JsonNode& node, TokenId id);
/// The `id` field of an entry, or a key of `added_tokens_decoder`. Throws InputError when out of range.
TokenId check_token_id(std::int64_t id, const std::string& where);

/// Finds tokens in text. Immutable.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  /// Calls `each` with the parts of `text` in order: plain text, never empty, or a token. Bytes that are no UTF-8
  /// belong to no word and are no white space, as the U+FFFD that stands for them.
  void split(std::string_view text, bool parse_special,
             const std::function<void(std::string_view part, const AddedToken* token)>& each) const;

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie trie_;
  std::array<bool, 256> starts_ = {};  // whether a token starts with this byte
};

}  // namespace sao::detail
