// SPDX-License-Identifier: Apache-2.0
// Ids to text piece by piece, never in the middle of a character.
//   sao::StreamDecoder stream(tokenizer);
//   for (TokenId id : ids) std::cout << stream.push(id);
//   std::cout << stream.finish();
#pragma once

#include <memory>
#include <string>

#include "sao/base/tokens.h"
#include "sao/text/tokenizer.h"

namespace sao {

/// Concatenating what push and finish return gives Tokenizer::decode of all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true);
  /// The text that became certain with this id; may be empty.
  std::string push(TokenId id);
  /// What is left.
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  TokenIds pending_;
  std::string emitted_of_pending_;
};

}  // namespace sao
