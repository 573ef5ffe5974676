// SPDX-License-Identifier: Apache-2.0
// tokenizer.json: added tokens, normalizer, pre-tokenizer, model, post-processor, decoder.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sao/text/tokenizer.h"
#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/json_node.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/token_model.h"
#include "text/tokenizer_config.h"

namespace sao::detail {

/// Agrees with the `tokenizers` library's encode (no special tokens added) and decode.
class PipelineTokenizer final : public Tokenizer {
 public:
  /// `json` is that of `file`, or as if it were. Throws InputError naming the file and the field or component.
  PipelineTokenizer(Json json, const std::filesystem::path& file, const TokenizerConfig& config);

  TokenIds encode(std::string_view text, bool parse_special) const override;
  std::string decode(TokenSpan ids, bool skip_special) const override;
  std::int64_t vocab_size() const override { return size_; }
  std::optional<TokenId> find_token(std::string_view piece) const override;
  std::optional<TokenId> bos_id() const override { return bos_; }
  std::optional<TokenId> eos_id() const override { return eos_; }
  bool adds_bos() const override { return adds_bos_; }
  bool adds_eos() const override { return adds_eos_; }
  bool text_depends_on_next(TokenId id) const override;

 private:
  void take_added_tokens(std::vector<AddedToken> added);
  void choose_bos_and_eos(const AddedAround& around, const TokenizerConfig& config);

  std::string file_;
  std::unique_ptr<const Normalizer> normalizer_;  // may be null
  PreTokenizerChain pre_tokenizer_;
  std::unique_ptr<const TokenModel> model_;
  std::optional<DecoderChain> decoder_;
  AddedTokenMatcher raw_matcher_;         // looks at the text as it comes
  AddedTokenMatcher normalized_matcher_;  // looks at the normalized text
  std::unordered_map<std::string, TokenId> added_ids_;
  std::vector<std::string> shown_;  // by id: what the decoder gets; empty where the id is not used
  std::vector<bool> used_;
  std::vector<bool> special_;
  std::int64_t size_ = 0;
  std::optional<TokenId> bos_;
  std::optional<TokenId> eos_;
  bool adds_bos_ = false;
  bool adds_eos_ = false;
};

}  // namespace sao::detail
