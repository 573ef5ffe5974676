// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>

#include "io/paths.h"

namespace sao::detail {
namespace {

// A token is a string or an object with "content".
std::string token_text(const JsonNode& node) {
  return node.value().is_object() ? node.at("content", "the token's text").string() : node.string();
}

void add_once(std::string token, std::vector<std::string>& tokens) {
  if (std::ranges::find(tokens, token) == tokens.end()) tokens.push_back(std::move(token));
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder) {
  TokenizerConfig config;
  config.file = (folder / "tokenizer_config.json").string();
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (!detail::exists(folder / name)) continue;
    const Json json = read_json_object(folder / name);
    const JsonNode root(json, (folder / name).string());
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
      const auto token = root.find(key);
      if (!token) continue;
      const std::string text = token_text(*token);
      if (text.empty()) continue;
      add_once(text, config.special);
      auto* role = key == std::string_view("bos_token")   ? &config.bos
                   : key == std::string_view("eos_token") ? &config.eos
                                                          : nullptr;
      if (role && !*role) *role = text;
    }
    // transformers 5 writes "extra_special_tokens", a list or an object of names.
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      const auto list = root.find(key);
      if (!list) continue;
      if (!list->value().is_array() && !list->value().is_object()) list->fail("a list of tokens");
      for (const Json& token : list->value()) add_once(token_text(JsonNode(token, list->file(), key)), config.special);
    }
    if (const auto add = root.find("add_bos_token"); add && !config.add_bos) config.add_bos = add->boolean();
    if (const auto added = root.find("added_tokens_decoder")) {
      if (!added->value().is_object()) added->fail("an object of id to token");
      for (const auto& entry : added->value().items()) {
        const std::string& key = entry.key();
        std::int64_t id = -1;
        const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
        if (error != std::errc() || end != key.data() + key.size()) added->fail("numbers as keys, not \"" + key + "\"");
        const JsonNode node(entry.value(), added->file(), "added_tokens_decoder." + key);
        config.added.push_back(parse_added_token(node, check_token_id(id, node.where())));
      }
    }
  }
  std::ranges::sort(config.added, {}, &AddedToken::id);
  return config;
}

}  // namespace sao::detail
