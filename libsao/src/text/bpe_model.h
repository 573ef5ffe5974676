// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one word, as tokenizer.json's "BPE" model defines it: always the merge of lowest rank,
// leftmost first.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sao/base/tokens.h"
#include "text/json_node.h"

namespace sao::detail {

class BpeModel {
 public:
  /// `model` is tokenizer.json's field of that name. `byte_level`: words come as raw bytes, and the vocabulary's
  /// characters stand for bytes. Throws InputError naming the field.
  BpeModel(const JsonNode& model, bool byte_level);

  /// Appends the ids of one word: raw bytes when byte-level, else valid UTF-8.
  void encode(std::string_view word, TokenIds& ids) const;

  /// The id of a token spelled as in the file.
  std::optional<TokenId> find(std::string_view token) const;
  /// The token as in the file; nullptr where the id is not used.
  const std::string* token(TokenId id) const;
  /// Largest id + 1.
  TokenId size() const { return static_cast<TokenId>(tokens_.size()); }

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
  void initial_symbols(std::string_view word, TokenIds& symbols) const;
  void merge_short(TokenIds& symbols) const;
  void merge_long(TokenIds& symbols) const;

  bool byte_level_;
  bool ignore_merges_ = false;
  bool byte_fallback_ = false;
  bool fuse_unk_ = false;
  std::optional<TokenId> unk_;
  std::vector<std::string> tokens_;                           // by id; empty where not used
  std::unordered_map<std::string_view, TokenId> id_of_;       // keys view tokens_
  std::vector<std::string> words_;                            // by id: the bytes that a byte-level token stands for
  std::unordered_map<std::string_view, TokenId> id_of_word_;  // keys view words_ (byte-level) or tokens_
  std::array<TokenId, 256> byte_ids_ = {};  // byte-level: single bytes; byte_fallback: <0xXX>; -1: none
  MergeTable merges_;
};

}  // namespace sao::detail
