// SPDX-License-Identifier: Apache-2.0
// What the files beside the tokenizer say of its tokens: tokenizer_config.json, special_tokens_map.json,
// added_tokens.json, and the model type of config.json.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "text/added_tokens.h"

namespace sao::detail {

struct TokenizerConfig {
  std::string file = {};  ///< for error messages; the folder's tokenizer_config.json, present or not
  std::optional<std::string> bos = {};
  std::optional<std::string> eos = {};
  std::vector<AddedToken> named = {};  ///< bos, eos, unk, pad, sep, cls, mask; without ids
  std::vector<AddedToken> extra = {};  ///< additional_special_tokens, extra_special_tokens; without ids
  std::vector<AddedToken> added = {};  ///< added_tokens_decoder, or added_tokens.json, by id
  std::optional<bool> add_bos = {};    ///< for tokenizer.model only: tokenizer.json has a post-processor
  std::optional<bool> add_eos = {};
  /// Whether transformers builds the tokenizer as its class LlamaTokenizer does, whatever tokenizer.json says.
  bool llama_class = false;
  bool legacy = false;  ///< of that class: every part of a text gets a blank in front, not only the first one
  std::optional<bool> add_prefix_space = {};
};

/// As transformers reads them: without an added_tokens_decoder, special_tokens_map.json goes before
/// tokenizer_config.json and added_tokens.json is read; else neither is. Absent files are as empty ones. Throws
/// InputError naming file and field.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

}  // namespace sao::detail
