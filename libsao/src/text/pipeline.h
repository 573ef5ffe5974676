// SPDX-License-Identifier: Apache-2.0
// The parts of a tokenizer.json besides its model: normalizer, pre-tokenizer, post-processor, decoder. Each is
// parsed from its JSON; a component that is not supported is refused by name.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"
#include "text/json_node.h"

namespace sao::detail {

/// Text to text, before words are cut.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string normalize(std::string text) const = 0;
};
/// Replace, Prepend, Sequence.
std::unique_ptr<const Normalizer> parse_normalizer(const JsonNode& node);

using WordSink = std::function<void(std::string_view word)>;

/// Cuts text into words.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Calls `each` with the words of `text`, valid UTF-8, in order; a word may be a temporary.
  virtual void split(std::string_view text, const WordSink& each) const = 0;
};
struct PreTokenizerChain {
  std::vector<std::unique_ptr<const PreTokenizer>> stages = {};
  bool byte_level = false;  ///< whether words go to the model as bytes

  void split(std::string_view text, const WordSink& each, std::size_t stage = 0) const;
};
/// Split, ByteLevel (last only), Digits, Sequence.
PreTokenizerChain parse_pre_tokenizer(const JsonNode& node);

/// Token strings to text.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual std::vector<std::string> decode(std::vector<std::string> tokens) const = 0;
};
struct DecoderChain {
  std::vector<std::unique_ptr<const Decoder>> stages = {};
  bool byte_level = false;     ///< the tokens' characters stand for bytes; then there are no stages
  bool byte_fallback = false;  ///< whether a stage turns "<0x41>" into bytes
};
/// ByteLevel (alone), Replace, ByteFallback, Fuse, Strip, Sequence.
DecoderChain parse_decoder(const JsonNode& node);

/// The bytes of "<0x41>"-like tokens.
std::optional<char> byte_of_fallback_token(std::string_view token);

/// The id that the post-processor puts before a single text, if it does.
/// TemplateProcessing (at most one special token, before the text), ByteLevel, Sequence.
std::optional<TokenId> parse_post_processor(const JsonNode& node);

}  // namespace sao::detail
