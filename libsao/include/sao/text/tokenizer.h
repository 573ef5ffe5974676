// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, for the two kinds of tokenizer that checkpoints carry.
//   auto tokenizer = sao::Tokenizer::load("gemma-2-2b-it");
//   sao::TokenIds ids = tokenizer->encode("Hello");
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "sao/base/tokens.h"

namespace sao {

/// A tokenizer; immutable and safe to use from many threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Reads a model folder: tokenizer.json where present, as transformers does, else tokenizer.model (SentencePiece),
  /// else vocab.json with merges.txt (byte-level BPE as of GPT-2 and Qwen2). tokenizer_config.json and, as of
  /// transformers, special_tokens_map.json and added_tokens.json name bos, eos and the added tokens. Throws InputError
  /// naming the file, the field, or the component that is not supported.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& folder);

  /// Ids of `text`; invalid UTF-8 bytes become U+FFFD as the reference does. No BOS is added.
  /// `parse_special`: special tokens written out in the text (`<bos>`, `<|eot_id|>`) become their ids;
  /// off, they are ordinary text, except SentencePiece's user-defined symbols, which its model always splits out.
  virtual TokenIds encode(std::string_view text, bool parse_special = true) const = 0;

  /// Text of ids; unknown ids throw InputError. `skip_special` leaves special (control) tokens out.
  virtual std::string decode(TokenSpan ids, bool skip_special = false) const = 0;

  /// Number of ids that the tokenizer can produce or decode (largest id + 1).
  virtual std::int64_t vocab_size() const = 0;

  /// The id of a piece or special token exactly as in the vocabulary, e.g. "<end_of_turn>".
  virtual std::optional<TokenId> find_token(std::string_view piece) const = 0;

  /// From tokenizer_config.json, or the SentencePiece model.
  virtual std::optional<TokenId> bos_id() const = 0;
  virtual std::optional<TokenId> eos_id() const = 0;
  /// Whether a plain text gets a BOS in front when special tokens are asked for: the post-processor of
  /// tokenizer.json, or `add_bos_token` beside a tokenizer.model.
  virtual bool adds_bos() const = 0;
  /// Whether it gets an EOS behind it then.
  virtual bool adds_eos() const { return false; }

  /// Whether the text of `id` stays open until the id after it is known, beyond an unfinished character: with the
  /// byte fallback of tokenizer.json one invalid byte replaces its whole run. StreamDecoder waits for such runs' ends.
  virtual bool text_depends_on_next(TokenId id) const {
    static_cast<void>(id);
    return false;
  }
};

}  // namespace sao
