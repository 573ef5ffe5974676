// SPDX-License-Identifier: Apache-2.0
#include "text/pipeline_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "text/byte_alphabet.h"

namespace sao::detail {
namespace {

// transformers' class LlamaTokenizer puts a blank in front of the first part of a text only (unless it is `legacy`)
// where files as of transformers 4 have it in front of every part: after every special token in the text.
void apply_llama_class(Json& json, const TokenizerConfig& config) {
  static const Json kPrepends = Json::parse(
      R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]})");
  if (json.value("normalizer", Json()) != kPrepends || !json.value("pre_tokenizer", Json()).is_null()) return;
  const bool prepends = config.add_prefix_space.value_or(true);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "Metaspace"},
                           {"replacement", kSpaceMark},
                           {"prepend_scheme", !prepends       ? "never"
                                              : config.legacy ? "always"
                                                              : "first"},
                           {"split", false}};
  Json decoders = Json::parse(R"([{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                  {"type": "ByteFallback"}, {"type": "Fuse"}])");
  if (prepends) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  json["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
}

// The added tokens of tokenizer.json, changed and completed by the other files.
std::vector<AddedToken> collect_added_tokens(const JsonNode& root, const TokenStrings& vocabulary,
                                             const TokenizerConfig& config) {
  std::vector<AddedToken> added;
  if (const auto list = root.find("added_tokens")) {
    for (std::size_t i = 0; i < list->array_size(); ++i) {
      const JsonNode node = (*list)[i];
      const JsonNode id = node.at("id", "a token id");
      added.push_back(parse_added_token(node, check_token_id(id.integer(), id.where())));
      const std::string_view known = vocabulary[added.back().id];
      if (!known.empty() && known != added.back().content)
        throw InputError(fmt::format("{}: id {} belongs to \"{}\" in the vocabulary, expected \"{}\"", id.where(),
                                     added.back().id, known, added.back().content));
    }
  }
  const auto find = [&](const AddedToken& token) {
    return std::ranges::find(added, token.content, &AddedToken::content);
  };
  for (AddedToken token : config.added) {
    if (const auto same = find(token); same != added.end()) {
      token.id = same->id;
      token.special = token.special || same->special;  // once special, always special
      *same = token;
      continue;
    }
    if (const TokenId id = vocabulary.find(token.content); id >= 0) token.id = id;
    if (const std::string_view known = vocabulary[token.id]; !known.empty() && known != token.content)
      throw InputError(fmt::format("{}: token {} is \"{}\", expected \"{}\" of {}", config.file, token.id,
                                   token.content, known, root.file()));
    added.push_back(token);
  }
  TokenId next = static_cast<TokenId>(vocabulary.size());
  for (const AddedToken& token : added) next = std::max(next, token.id + 1);
  // Special tokens that are new get ids behind all others; words of the vocabulary become special.
  const auto add_special = [&](AddedToken token) {
    token.id = vocabulary.find(token.content);
    if (token.id < 0) token.id = next++;
    added.push_back(std::move(token));
  };
  for (const AddedToken& token : config.named) {
    if (const auto same = find(token); same != added.end()) {
      same->special = true;
    } else {
      add_special(token);
    }
  }
  for (const AddedToken& token : config.extra) {
    // What added_tokens_decoder says of a token goes before.
    if (std::ranges::find(config.added, token.content, &AddedToken::content) != config.added.end()) continue;
    if (const auto same = find(token); same != added.end()) {
      const TokenId id = same->id;
      *same = token;
      same->id = id;
    } else {
      add_special(token);
    }
  }
  return added;
}

}  // namespace

PipelineTokenizer::PipelineTokenizer(Json json, const std::filesystem::path& file, const TokenizerConfig& config)
    : file_(file.string()) {
  if (config.llama_class) apply_llama_class(json, config);
  const JsonNode root(json, file_);
  if (const auto node = root.find("normalizer")) normalizer_ = parse_normalizer(*node);
  if (const auto node = root.find("pre_tokenizer")) pre_tokenizer_ = PreTokenizerChain(*node);
  model_ = parse_token_model(root.at("model", "the model"), pre_tokenizer_.byte_level());
  if (const auto node = root.find("decoder")) decoder_ = parse_decoder(*node);
  AddedAround around;
  if (const auto node = root.find("post_processor")) around = parse_post_processor(*node);
  take_added_tokens(collect_added_tokens(root, model_->tokens(), config));
  choose_bos_and_eos(around, config);
}

void PipelineTokenizer::take_added_tokens(std::vector<AddedToken> added) {
  const auto model_size = static_cast<TokenId>(model_->tokens().size());
  size_ = model_size;
  for (const AddedToken& token : added) size_ = std::max<std::int64_t>(size_, token.id + 1);
  shown_.resize(static_cast<std::size_t>(size_));
  used_.resize(shown_.size());
  special_.resize(shown_.size());
  const auto show = [&](TokenId id, std::string_view content) {
    const auto i = static_cast<std::size_t>(id);
    used_[i] = true;
    const bool bytes = decoder_ && decoder_->byte_level;
    shown_[i] = bytes ? bytes_of_token(content).value_or(std::string(content)) : content;
  };
  for (TokenId id = 0; id < model_size; ++id)
    if (const std::string_view token = model_->tokens()[id]; !token.empty()) show(id, token);
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (AddedToken& token : added) {
    special_[static_cast<std::size_t>(token.id)] = token.special;
    added_ids_[token.content] = token.id;
    if (token.normalized && normalizer_) {
      bool at_start = true;
      std::string content = normalizer_->normalize(token.content, at_start);
      // The reference looks for what it shows among the special tokens as they are spelled.
      if (content != token.content) special_[static_cast<std::size_t>(token.id)] = false;
      token.content = std::move(content);
    }
    show(token.id, token.content);  // as normalized, which the decoder undoes
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_matcher_ = AddedTokenMatcher(std::move(raw));
  normalized_matcher_ = AddedTokenMatcher(std::move(normalized));
}

void PipelineTokenizer::choose_bos_and_eos(const AddedAround& around, const TokenizerConfig& config) {
  const auto choose = [&](const std::optional<std::string>& token, const char* field,
                          std::optional<TokenId> added) -> std::optional<TokenId> {
    if (added && *added >= size_)
      throw InputError(fmt::format("{}: post_processor adds id {}, expected one below {}", file_, *added, size_));
    if (!token) return added;
    const auto id = find_token(*token);
    if (!id)
      throw InputError(fmt::format("{}: {} is \"{}\", expected a token of {}", config.file, field, *token, file_));
    return id;
  };
  bos_ = choose(config.bos, "bos_token", around.before);
  eos_ = choose(config.eos, "eos_token", around.after);
  const auto check = [&](std::optional<TokenId> added, std::optional<TokenId> own, const char* field) {
    if (added && own != added)
      throw InputError(fmt::format("{}: post_processor adds id {}, expected the {} of {}, id {}", file_, *added, field,
                                   config.file, *own));
  };
  check(around.before, bos_, "bos_token");
  check(around.after, eos_, "eos_token");
  adds_bos_ = around.before.has_value();
  adds_eos_ = around.after.has_value();
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
    bool at_start = part.data() == text.data();
    std::string changed;
    if (normalizer_) {
      changed = normalizer_->normalize(std::string(part), at_start);
      part = changed;
    }
    const char* const begin = part.data();
    normalized_matcher_.split(part, parse_special, [&](std::string_view rest, const AddedToken* added) {
      if (added) {
        ids.push_back(added->id);
      } else {
        pre_tokenizer_.split(rest, at_start && rest.data() == begin,
                             [&](std::string_view word) { model_->encode(word, ids); });
      }
    });
  });
  return ids;
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
  if (const TokenId id = model_->tokens().find(piece); id >= 0) return id;
  return std::nullopt;
}

bool PipelineTokenizer::text_depends_on_next(TokenId id) const {
  return decoder_ && decoder_->byte_fallback && id >= 0 && id < size_ &&
         byte_of_fallback_token(shown_[static_cast<std::size_t>(id)]).has_value();
}

}  // namespace sao::detail
