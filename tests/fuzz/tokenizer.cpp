// SPDX-License-Identifier: Apache-2.0
// tokenizer.json, tokenizer_config.json, and a text to encode.
#include "sao/text/tokenizer.h"

#include "fuzz/input.h"
#include "fuzz/targets.h"

void sao::fuzz::tokenizer(std::string_view input) {
  static const Folder folder;
  const std::vector<std::string_view> files = parts(input, 3);
  folder.write("tokenizer.json", files[0]);
  folder.write("tokenizer_config.json", files[1]);
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!accepted([&] { tokenizer = Tokenizer::load(folder.path()); })) return;
  TokenIds ids;
  for (const bool parse_special : {false, true}) {
    if (!accepted([&] { ids = tokenizer->encode(files[2], parse_special); })) continue;
    for (const TokenId id : ids) expect(id >= 0 && id < tokenizer->vocab_size(), "ids are below vocab_size");
    accepted([&] { tokenizer->decode(ids); });
    accepted([&] { tokenizer->decode(ids, /*skip_special=*/true); });
  }
}
