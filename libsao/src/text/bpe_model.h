// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one word, as tokenizer.json's "BPE" model defines it: always the merge of lowest rank,
// leftmost first.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"
#include "text/json_node.h"
#include "text/token_model.h"

namespace sao::detail {

class BpeModel final : public TokenModel {
 public:
  /// See parse_token_model.
  BpeModel(const JsonNode& model, bool byte_level);

  void encode(std::string_view word, TokenIds& ids) const override;

 private:
  struct Merge {
    std::uint32_t rank = kNoMerge;
    TokenId id = -1;
  };
  static constexpr std::uint32_t kNoMerge = UINT32_MAX;

  // An open-addressing table from pairs of ids to merges.
  class MergeTable {
   public:
    void reserve(std::size_t count);
    void insert(TokenId left, TokenId right, Merge merge);
    Merge find(TokenId left, TokenId right) const;

   private:
    struct Slot {
      std::uint64_t pair = kFree;
      Merge merge = {};
    };
    static constexpr std::uint64_t kFree = UINT64_MAX;
    std::size_t index_of(std::uint64_t pair) const;
    std::vector<Slot> slots_;
    int shift_ = 64;
  };

  void read_vocabulary(const JsonNode& vocab);
  void read_merges(const JsonNode& merges);
  void read_unknown(const JsonNode& model);
  const TokenStrings& words() const { return byte_level_ ? words_ : tokens_; }
  void encode_part(std::string_view word, TokenIds& ids) const;
  void merge(std::string_view word, TokenIds& ids) const;
  void initial_symbols(std::string_view word, TokenIds& symbols) const;
  std::size_t merge_short(std::span<TokenId> symbols) const;
  void merge_long(TokenIds& symbols) const;

  bool byte_level_;
  bool ignore_merges_ = false;
  bool byte_fallback_ = false;
  bool fuse_unk_ = false;
  std::optional<TokenId> unk_;
  TokenStrings words_;                       // the bytes that byte-level tokens stand for
  std::array<TokenId, 128> ascii_ids_ = {};  // tokens of one ASCII character; -1: none
  std::array<TokenId, 256> byte_ids_ = {};   // byte-level: single bytes; byte_fallback: <0xXX>; -1: none
  MergeTable merges_;
  // By id: whether a word that is this token becomes this token, so that there is nothing to merge.
  std::vector<bool> whole_;
  bool cut_at_space_marks_ = true;  // whether no merge joins a U+2581 to something else before it
};

}  // namespace sao::detail
