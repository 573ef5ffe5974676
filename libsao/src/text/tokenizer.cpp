// SPDX-License-Identifier: Apache-2.0
#include "sao/text/tokenizer.h"

#include <fmt/format.h>

#include "io/paths.h"
#include "sao/base/error.h"
#include "text/pipeline_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/tokenizer_config.h"

namespace sao {

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& folder) {
  if (!detail::is_folder(folder))
    throw InputError(fmt::format("{}: no such folder, expected a model folder with a tokenizer", folder.string()));
  const bool sentencepiece = detail::exists(folder / "tokenizer.model");
  if (!sentencepiece && !detail::exists(folder / "tokenizer.json"))
    throw InputError(
        fmt::format("{}: neither tokenizer.model nor tokenizer.json, expected one of them", folder.string()));
  const detail::TokenizerConfig config = detail::read_tokenizer_config(folder);
  if (sentencepiece) return std::make_shared<detail::SentencePieceTokenizer>(folder / "tokenizer.model", config);
  return std::make_shared<detail::PipelineTokenizer>(folder / "tokenizer.json", config);
}

}  // namespace sao
