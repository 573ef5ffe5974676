// SPDX-License-Identifier: Apache-2.0
// tokenizer.model by the sentencepiece library; the library's header stays in the .cpp.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sao/text/tokenizer.h"
#include "text/added_tokens.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_config.h"

namespace sao::detail {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// Throws InputError naming the file.
  SentencePieceTokenizer(const std::filesystem::path& file, const TokenizerConfig& config);
  ~SentencePieceTokenizer() override;

  TokenIds encode(std::string_view text, bool parse_special) const override;
  /// As the library decodes, except that control tokens and <unk> show as they are spelled.
  std::string decode(TokenSpan ids, bool skip_special) const override;
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(pieces_.size()); }
  std::optional<TokenId> find_token(std::string_view piece) const override;
  std::optional<TokenId> bos_id() const override { return bos_; }
  std::optional<TokenId> eos_id() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }
  bool adds_eos() const override { return adds_eos_; }

 private:
  struct Piece {
    std::string shown = {};  // decoded; of a byte piece the byte
    bool used = false;
    bool byte = false;
    bool special = false;
    bool may_lose_blank = false;  // starts with the space mark, which is left out at the start of a text
  };
  struct Library;

  std::string file_;
  std::unique_ptr<const Library> library_;
  std::vector<Piece> pieces_;
  std::unordered_map<std::string, TokenId> ids_;
  AddedTokenMatcher matcher_;
  bool strips_first_blank_ = false;
  bool strips_all_blanks_ = false;
  std::optional<TokenId> bos_;
  std::optional<TokenId> eos_;
  bool adds_bos_ = false;
  bool adds_eos_ = false;
};

}  // namespace sao::detail
