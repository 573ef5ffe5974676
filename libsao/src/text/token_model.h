// SPDX-License-Identifier: Apache-2.0
// What tokenizer.json calls the model: words to ids.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "sao/base/tokens.h"
#include "text/json_node.h"
#include "text/token_strings.h"

namespace sao::detail {

/// Immutable.
class TokenModel {
 public:
  virtual ~TokenModel() = default;
  /// Appends the ids of one word: raw bytes when the model is byte-level, else valid UTF-8.
  virtual void encode(std::string_view word, TokenIds& ids) const = 0;
  /// The vocabulary, spelled as in the file.
  const TokenStrings& tokens() const { return tokens_; }

 protected:
  TokenStrings tokens_;
};

/// `model` is tokenizer.json's field of that name: BPE or Unigram. `byte_level`: words come as raw bytes, and the
/// vocabulary's characters stand for bytes. Throws InputError naming the field.
std::unique_ptr<const TokenModel> parse_token_model(const JsonNode& model, bool byte_level);

}  // namespace sao::detail
