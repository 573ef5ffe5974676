// SPDX-License-Identifier: Apache-2.0
#include "text/token_model.h"

#include "text/bpe_model.h"
#include "text/unigram_model.h"

namespace sao::detail {

std::unique_ptr<const TokenModel> parse_token_model(const JsonNode& model, bool byte_level) {
  const auto type = model.find("type");
  // Old files do not say what they are.
  if (type ? type->string() == "BPE" : model.find("merges").has_value())
    return std::make_unique<BpeModel>(model, byte_level);
  if (!type) model.fail("a model with a type");
  if (type->string() != "Unigram") type->fail("BPE or Unigram");
  if (byte_level) type->fail("BPE, as the pre-tokenizer is ByteLevel");
  return std::make_unique<UnigramModel>(model);
}

}  // namespace sao::detail
