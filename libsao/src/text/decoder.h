// SPDX-License-Identifier: Apache-2.0
// The decoders of tokenizer.json: token strings to text.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_node.h"

namespace sao::detail {

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
/// ByteLevel (alone), Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence; any other one is refused by name.
DecoderChain parse_decoder(const JsonNode& node);

/// The byte of "<0x41>"-like tokens.
std::optional<char> byte_of_fallback_token(std::string_view token);

}  // namespace sao::detail
