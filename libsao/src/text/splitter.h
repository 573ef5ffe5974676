// SPDX-License-Identifier: Apache-2.0
// The regular expressions that nearly all byte-level tokenizers cut words with, written out by hand: some ten times as
// fast as a regular expression engine.
#pragma once

#include <cstddef>
#include <string_view>

namespace sao::detail {

/// Where the word that begins at `begin` ends. `text` is valid UTF-8 and `begin` below its size; these expressions
/// match at every character, so the words cover the text.
using WordEnd = std::size_t (*)(std::string_view text, std::size_t begin);

/// The function that does what `pattern` does (GPT-2's, Llama 3's, Qwen2's, GPT-4o's, Mistral NeMo's); nullptr for all
/// others.
WordEnd find_word_end(std::string_view pattern);

/// ByteLevel's own pattern.
extern const std::string_view kGpt2Pattern;
extern const std::string_view kQwen2Pattern;

}  // namespace sao::detail
