// SPDX-License-Identifier: Apache-2.0
// The bundled model's SentencePiece tokenizer, of Gemma's kind.
#pragma once

#include <cstdint>
#include <filesystem>

#include "world.h"

namespace microworld {

/// Trains a BPE model (byte fallback, split digits, no dummy prefix; 0 pad, 1 eos, 2 bos, 3 unk) on the corpus's first
/// documents and writes tokenizer.model and tokenizer_config.json to `folder`. Throws sao::Error.
void train_tokenizer(const std::filesystem::path& folder, std::uint64_t seed, std::int64_t documents,
                     std::int64_t vocab_size, const MixOptions& mix);

}  // namespace microworld
