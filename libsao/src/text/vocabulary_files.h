// SPDX-License-Identifier: Apache-2.0
// vocab.json and merges.txt, the files of byte-level tokenizers that were never saved as tokenizer.json.
#pragma once

#include <filesystem>

#include "io/json.h"

namespace sao::detail {

/// What tokenizer.json would be. What the two files do not say (the regular expression, the normalizer) is known of
/// Qwen2Tokenizer and GPT2Tokenizer only; another `tokenizer_class` in tokenizer_config.json is refused by name.
Json tokenizer_of_vocabulary_files(const std::filesystem::path& folder);

}  // namespace sao::detail
