// SPDX-License-Identifier: Apache-2.0
// A text to encode, tokenizer_config.json, and tokenizer.model.
#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "sao/text/tokenizer.h"

void sao::fuzz::sentencepiece(std::string_view input) {
  static const Folder folder;
  const std::vector<std::string_view> files = parts(input, 3);
  folder.write("tokenizer_config.json", files[1]);
  folder.write("tokenizer.model", files[2]);
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!accepted([&] { tokenizer = Tokenizer::load(folder.path()); })) return;
  TokenIds ids;
  if (!accepted([&] { ids = tokenizer->encode(files[0]); })) return;
  for (const TokenId id : ids) expect(id >= 0 && id < tokenizer->vocab_size(), "ids are below vocab_size");
  accepted([&] { tokenizer->decode(ids); });
}
