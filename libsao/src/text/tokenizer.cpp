// SPDX-License-Identifier: Apache-2.0
#include "sao/text/tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "io/paths.h"
#include "sao/base/error.h"
#include "text/pipeline_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/vocabulary_files.h"

namespace sao {

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& folder) {
  if (!detail::is_folder(folder))
    throw InputError(fmt::format("{}: no such folder, expected a model folder with a tokenizer", folder.string()));
  const auto has = [&](const char* name) { return detail::exists(folder / name); };
  const detail::TokenizerConfig config = detail::read_tokenizer_config(folder);
  const auto of_json = [&](detail::Json json, const char* name) {
    return std::make_shared<detail::PipelineTokenizer>(std::move(json), folder / name, config);
  };
  if (has("tokenizer.json")) return of_json(detail::read_json_object(folder / "tokenizer.json"), "tokenizer.json");
  if (has("tokenizer.model"))
    return std::make_shared<detail::SentencePieceTokenizer>(folder / "tokenizer.model", config);
  if (has("vocab.json") && has("merges.txt"))
    return of_json(detail::tokenizer_of_vocabulary_files(folder), "vocab.json");
  throw InputError(
      fmt::format("{}: no tokenizer.json, no tokenizer.model and no vocab.json with merges.txt, expected "
                  "one of them",
                  folder.string()));
}

}  // namespace sao
