// SPDX-License-Identifier: Apache-2.0
// The post-processors of tokenizer.json, which put special tokens around a text.
#pragma once

#include <optional>

#include "sao/base/tokens.h"
#include "text/json_node.h"

namespace sao::detail {

struct AddedAround {
  std::optional<TokenId> before = {};
  std::optional<TokenId> after = {};
};
/// What is added to a single text. TemplateProcessing (at most one special token on each side of the text), ByteLevel,
/// Sequence; any other one is refused by name.
AddedAround parse_post_processor(const JsonNode& node);

}  // namespace sao::detail
