// SPDX-License-Identifier: Apache-2.0
// The normalizers of tokenizer.json: text to text, before words are cut.
#pragma once

#include <memory>
#include <string>

#include "text/json_node.h"

namespace sao::detail {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// `text` is valid UTF-8. `at_start` becomes false where the first character of the result does not stand for the
  /// first one of the text, as Metaspace's prepend_scheme "first" sees it.
  virtual std::string normalize(std::string text, bool& at_start) const = 0;
};

/// Replace, Prepend, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Nmt, ByteLevel, Sequence; any other one is
/// refused by name.
std::unique_ptr<const Normalizer> parse_normalizer(const JsonNode& node);

}  // namespace sao::detail
