// SPDX-License-Identifier: Apache-2.0
// What tokenizer_config.json (and, where that is silent, special_tokens_map.json) says of tokens.
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
  std::vector<std::string> special = {};  ///< bos, eos, unk, pad and the additional special tokens
  std::vector<AddedToken> added = {};     ///< added_tokens_decoder
  std::optional<bool> add_bos = {};
};

/// Absent files are as empty ones. Throws InputError naming file and field.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

}  // namespace sao::detail
