// SPDX-License-Identifier: Apache-2.0
// tokenizer.json's "Unigram" model: of all ways to cut a word into pieces, the one with the largest sum of scores.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"
#include "text/byte_trie.h"
#include "text/json_node.h"
#include "text/token_model.h"

namespace sao::detail {

class UnigramModel final : public TokenModel {
 public:
  /// See parse_token_model.
  explicit UnigramModel(const JsonNode& model);
  /// Throws InputError for a character that no piece covers where the model has no unknown piece.
  void encode(std::string_view word, TokenIds& ids) const override;

 private:
  void append_piece(std::string_view piece, TokenIds& ids) const;

  std::string where_;
  std::vector<double> scores_;  // by id
  ByteTrie pieces_;
  double unknown_score_ = 0.0;
  std::optional<TokenId> unk_;
  bool byte_fallback_ = false;
  std::array<TokenId, 256> byte_ids_ = {};  // <0xXX>; -1: none
};

}  // namespace sao::detail
