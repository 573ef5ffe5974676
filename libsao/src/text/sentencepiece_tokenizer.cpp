// SPDX-License-Identifier: Apache-2.0
#include "text/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "text/decoder.h"

namespace sao::detail {
namespace {

std::string replace_space_marks(std::string_view piece) {
  std::string text;
  for (std::size_t mark; (mark = piece.find(kSpaceMark)) != piece.npos; piece.remove_prefix(mark + kSpaceMark.size())) {
    text += piece.substr(0, mark);
    text += ' ';
  }
  return text += piece;
}

}  // namespace

// One processor, or two that differ in the dummy prefix.
struct SentencePieceTokenizer::Library {
  Library(const std::string& bytes, bool prefix_only_at_start, const std::string& file) {
    load(processor, bytes, file);
    if (!prefix_only_at_start) return;
    without_prefix.emplace();
    // A message that comes twice is merged: {normalizer_spec {add_dummy_prefix: false}} at the end wins.
    load(*without_prefix, bytes + std::string("\x1A\x02\x18\x00", 4), file);
  }
  static void load(sentencepiece::SentencePieceProcessor& processor, const std::string& bytes,
                   const std::string& file) {
    sentencepiece::util::Status status;
    try {
      status = processor.LoadFromSerializedProto(bytes);
    } catch (const std::exception& error) {  // of its search tree
      throw InputError(fmt::format("{}: {}, expected a SentencePiece model", file, error.what()));
    }
    if (!status.ok()) throw InputError(fmt::format("{}: {}, expected a SentencePiece model", file, status.message()));
  }

  sentencepiece::SentencePieceProcessor processor;
  std::optional<sentencepiece::SentencePieceProcessor> without_prefix;
};

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

SentencePieceTokenizer::SentencePieceTokenizer(const std::filesystem::path& file, const TokenizerConfig& config)
    : file_(file.string()) {
  const std::string bytes = read_file(file);
  const SentencePieceModel model = parse_sentencepiece_model(bytes, file_);
  // transformers' class LlamaTokenizer, unless it is `legacy`, has the prefix at the start of a text only, the library
  // at the start of what it is given: a text, or the part of one behind a special token.
  const bool prefix_only_at_start = model.add_dummy_prefix && config.llama_class && !config.legacy;
  auto library = std::make_unique<Library>(bytes, prefix_only_at_start, file_);
  strips_first_blank_ = model.add_dummy_prefix || model.remove_extra_whitespaces;
  strips_all_blanks_ = model.remove_extra_whitespaces;

  std::vector<AddedToken> searched;  // tokens that the library itself does not find in text
  pieces_.resize(model.pieces.size());
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& [text, type] = model.pieces[i];
    const auto id = static_cast<TokenId>(i);
    Piece& piece = pieces_[i];
    piece.used = true;
    ids_.emplace(text, id);
    piece.special = type == PieceType::kControl || type == PieceType::kUnknown;
    if (piece.special) {
      piece.shown = text;
      searched.push_back({.content = text, .id = id, .special = true});
    } else if (const auto byte = byte_of_fallback_token(text); byte && type == PieceType::kByte) {
      piece.byte = true;
      piece.shown = *byte;
    } else {
      piece.shown = replace_space_marks(text);
      piece.may_lose_blank = text.starts_with(kSpaceMark);
    }
  }
  const auto add = [&](const AddedToken& token) {
    const auto i = static_cast<std::size_t>(token.id);
    const bool of_model = i < model.pieces.size();
    if (of_model && model.pieces[i].text != token.content)
      throw InputError(fmt::format("{}: token {} is \"{}\", expected \"{}\" of {}", config.file, token.id,
                                   token.content, model.pieces[i].text, file_));
    if (i >= pieces_.size()) pieces_.resize(i + 1);
    Piece& piece = pieces_[i];
    if (of_model && !token.special && (piece.special || model.pieces[i].type == PieceType::kUserDefined)) return;
    if (piece.special) std::erase_if(searched, [&](const AddedToken& other) { return other.id == token.id; });
    piece.used = true;
    piece.special = token.special;
    if (!of_model) piece.shown = token.content;
    ids_.emplace(token.content, token.id);
    searched.push_back(token);
  };
  for (const AddedToken& token : config.added) add(token);
  for (const auto* tokens : {&config.named, &config.extra}) {
    for (AddedToken token : *tokens) {
      const auto id = find_token(token.content);
      if (!id || pieces_[static_cast<std::size_t>(*id)].special) continue;
      token.id = *id;
      add(token);
    }
  }
  matcher_ = AddedTokenMatcher(std::move(searched));

  const auto id_of = [&](const std::optional<std::string>& token, const char* field, int of_model) {
    if (!token) return of_model >= 0 ? std::optional<TokenId>(of_model) : std::nullopt;
    const auto id = find_token(*token);
    if (!id)
      throw InputError(fmt::format("{}: {} is \"{}\", expected a piece of {}", config.file, field, *token, file_));
    return id;
  };
  bos_ = id_of(config.bos, "bos_token", library->processor.bos_id());
  eos_ = id_of(config.eos, "eos_token", library->processor.eos_id());
  // The defaults of the Llama and Gemma tokenizer classes.
  adds_bos_ = bos_ && config.add_bos.value_or(true);
  adds_eos_ = eos_ && config.add_eos.value_or(false);
  library_ = std::move(library);
}

TokenIds SentencePieceTokenizer::encode(std::string_view text, bool parse_special) const {
  TokenIds ids;
  std::vector<int> part_ids;
  const auto encode_part = [&](std::string_view part) {
    const bool at_start = part.data() == text.data() || !library_->without_prefix;
    const auto& processor = at_start ? library_->processor : *library_->without_prefix;
    if (const auto status = processor.Encode(part, &part_ids); !status.ok())
      throw InputError(fmt::format("{}: a text of {} bytes: {}, expected text that can be encoded", file_, part.size(),
                                   status.message()));
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
  };
  matcher_.split(text, parse_special, [&](std::string_view part, const AddedToken* token) {
    if (token) {
      ids.push_back(token->id);
    } else {
      encode_part(part);
    }
  });
  return ids;
}

std::string SentencePieceTokenizer::decode(TokenSpan ids, bool skip_special) const {
  std::string text;
  std::string bytes;  // of the byte pieces since the last other piece
  const auto end_bytes = [&] {
    std::string_view rest = bytes;
    while (!rest.empty()) {  // each byte that belongs to no character becomes one U+FFFD
      const std::size_t length = character_length(rest);
      text += length > 0 ? rest.substr(0, length) : kReplacement;
      rest.remove_prefix(std::max<std::size_t>(1, length));
    }
    bytes.clear();
  };
  bool blank_stripped = false;
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= pieces_.size() || !pieces_[static_cast<std::size_t>(id)].used)
      throw InputError(fmt::format("{}: token id {} is not in the vocabulary, expected one in 0..{}", file_, id,
                                   pieces_.size() - 1));
    const Piece& piece = pieces_[static_cast<std::size_t>(id)];
    if (piece.byte) {
      bytes += piece.shown;
      continue;
    }
    end_bytes();
    if (piece.special) {
      if (!skip_special) text += piece.shown;
      continue;
    }
    // The blank of the dummy prefix goes; with remove_extra_whitespaces all leading ones do.
    const bool strip = strips_first_blank_ && piece.may_lose_blank && text.empty() && !blank_stripped;
    text += std::string_view(piece.shown).substr(strip ? 1 : 0);
    if (strip && !strips_all_blanks_) blank_stripped = true;
  }
  end_bytes();
  return text;
}

std::optional<TokenId> SentencePieceTokenizer::find_token(std::string_view piece) const {
  const auto found = ids_.find(std::string(piece));
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace sao::detail
