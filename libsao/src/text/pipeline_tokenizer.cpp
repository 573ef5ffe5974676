// SPDX-License-Identifier: Apache-2.0
#include "text/pipeline_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "text/byte_alphabet.h"

namespace sao::detail {

PipelineTokenizer::PipelineTokenizer(const std::filesystem::path& file, const TokenizerConfig& config)
    : file_(file.string()) {
  const Json json = read_json_object(file);
  const JsonNode root(json, file_);
  if (const auto node = root.find("normalizer")) normalizer_ = parse_normalizer(*node);
  if (const auto node = root.find("pre_tokenizer")) pre_tokenizer_ = parse_pre_tokenizer(*node);
  model_ = std::make_unique<BpeModel>(root.at("model", "the model"), pre_tokenizer_.byte_level);
  if (const auto node = root.find("decoder")) decoder_ = parse_decoder(*node);
  std::optional<TokenId> template_bos;
  if (const auto node = root.find("post_processor")) template_bos = parse_post_processor(*node);

  std::vector<AddedToken> added;
  if (const auto list = root.find("added_tokens")) {
    for (std::size_t i = 0; i < list->array_size(); ++i) {
      const JsonNode node = (*list)[i];
      const JsonNode id = node.at("id", "a token id");
      added.push_back(parse_added_token(node, check_token_id(id.integer(), id.where())));
      const std::string* known = model_->token(added.back().id);
      if (known && *known != added.back().content)
        throw InputError(fmt::format("{}: id {} belongs to \"{}\" in the vocabulary, expected \"{}\"", id.where(),
                                     added.back().id, *known, added.back().content));
    }
  }
  const auto is_added = [&](std::string_view content) {
    return std::ranges::any_of(added, [&](const AddedToken& token) { return token.content == content; });
  };
  for (const AddedToken& token : config.added)
    if (!is_added(token.content)) added.push_back(token);
  // A special token that only tokenizer_config.json names: a word of the vocabulary becomes special.
  for (const std::string& content : config.special) {
    if (is_added(content)) continue;
    if (const auto id = model_->find(content)) added.push_back({.content = content, .id = *id, .special = true});
  }

  size_ = model_->size();
  for (const AddedToken& token : added) size_ = std::max<std::int64_t>(size_, token.id + 1);
  shown_.resize(static_cast<std::size_t>(size_));
  used_.resize(shown_.size());
  special_.resize(shown_.size());
  const auto show = [&](TokenId id, const std::string& content) {
    const auto i = static_cast<std::size_t>(id);
    used_[i] = true;
    shown_[i] = decoder_ && decoder_->byte_level ? bytes_of_token(content).value_or(content) : content;
  };
  for (TokenId id = 0; id < model_->size(); ++id)
    if (const std::string* token = model_->token(id)) show(id, *token);
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (AddedToken& token : added) {
    special_[static_cast<std::size_t>(token.id)] = token.special;
    added_ids_[token.content] = token.id;
    if (token.normalized && normalizer_) token.content = normalizer_->normalize(token.content);
    show(token.id, token.content);  // as normalized, which the decoder undoes
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_matcher_ = AddedTokenMatcher(std::move(raw));
  normalized_matcher_ = AddedTokenMatcher(std::move(normalized));

  const auto id_of = [&](const std::optional<std::string>& token, const char* field) -> std::optional<TokenId> {
    if (!token) return std::nullopt;
    const auto id = find_token(*token);
    if (!id)
      throw InputError(fmt::format("{}: {} is \"{}\", expected a token of {}", config.file, field, *token, file_));
    return id;
  };
  bos_ = id_of(config.bos, "bos_token");
  eos_ = id_of(config.eos, "eos_token");
  if (template_bos && *template_bos >= size_)
    throw InputError(fmt::format("{}: post_processor adds id {}, expected one below {}", file_, *template_bos, size_));
  if (!bos_) bos_ = template_bos;
  if (template_bos && bos_ != template_bos)
    throw InputError(fmt::format("{}: post_processor adds id {}, expected bos_token \"{}\" of {}, id {}", file_,
                                 *template_bos, *config.bos, config.file, *bos_));
  adds_bos_ = bos_ && config.add_bos.value_or(template_bos.has_value());
}

TokenIds PipelineTokenizer::encode(std::string_view text, bool parse_special) const {
  std::string fixed;
  if (!is_valid_utf8(text)) {
    fixed = replace_invalid_utf8(text);
    text = fixed;
  }
  TokenIds ids;
  ids.reserve(text.size() / 3 + 4);
  raw_matcher_.split(text, parse_special, [&](std::string_view part, const AddedToken* token) {
    if (token) {
      ids.push_back(token->id);
      return;
    }
    std::string changed;
    if (normalizer_) {
      changed = normalizer_->normalize(std::string(part));
      part = changed;
    }
    if (normalized_matcher_.empty()) {
      encode_plain(part, ids);
      return;
    }
    normalized_matcher_.split(part, parse_special, [&](std::string_view rest, const AddedToken* added) {
      if (added) {
        ids.push_back(added->id);
      } else {
        encode_plain(rest, ids);
      }
    });
  });
  return ids;
}

void PipelineTokenizer::encode_plain(std::string_view text, TokenIds& ids) const {
  pre_tokenizer_.split(text, [&](std::string_view word) { model_->encode(word, ids); });
}

std::string PipelineTokenizer::decode(TokenSpan ids, bool skip_special) const {
  for (const TokenId id : ids) {
    if (id < 0 || id >= size_ || !used_[static_cast<std::size_t>(id)])
      throw InputError(
          fmt::format("{}: token id {} is not in the vocabulary, expected one in 0..{}", file_, id, size_ - 1));
  }
  const auto skipped = [&](TokenId id) { return skip_special && special_[static_cast<std::size_t>(id)]; };
  if (decoder_ && decoder_->byte_level) {
    std::string bytes;
    for (const TokenId id : ids)
      if (!skipped(id)) bytes += shown_[static_cast<std::size_t>(id)];
    return is_valid_utf8(bytes) ? bytes : replace_invalid_utf8(bytes);
  }
  std::vector<std::string> tokens;
  for (const TokenId id : ids)
    if (!skipped(id)) tokens.push_back(shown_[static_cast<std::size_t>(id)]);
  if (decoder_)
    for (const auto& stage : decoder_->stages) tokens = stage->decode(std::move(tokens));
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && !decoder_) text += ' ';  // without a decoder the reference joins tokens with blanks
    text += tokens[i];
  }
  return text;
}

std::optional<TokenId> PipelineTokenizer::find_token(std::string_view piece) const {
  if (const auto found = added_ids_.find(std::string(piece)); found != added_ids_.end()) return found->second;
  return model_->find(piece);
}

bool PipelineTokenizer::text_depends_on_next(TokenId id) const {
  return decoder_ && decoder_->byte_fallback && id >= 0 && id < size_ &&
         byte_of_fallback_token(shown_[static_cast<std::size_t>(id)]).has_value();
}

}  // namespace sao::detail
