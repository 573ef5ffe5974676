// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "io/paths.h"

namespace sao::detail {
namespace {

// A token is a string or an object with "content".
AddedToken special_token(const JsonNode& node) {
  AddedToken token = node.value().is_object() ? parse_added_token(node, -1) : AddedToken{.content = node.string()};
  if (!node.value().is_object() || !node.find("normalized")) token.normalized = false;
  token.special = true;
  return token;
}

void read_special_tokens(const JsonNode& root, TokenizerConfig& config) {
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto node = root.find(key);
    if (!node) continue;
    AddedToken token = special_token(*node);
    if (token.content.empty()) continue;
    if (key == std::string_view("bos_token")) config.bos = token.content;
    if (key == std::string_view("eos_token")) config.eos = token.content;
    config.named.push_back(std::move(token));
  }
  // transformers 5 writes "extra_special_tokens", a list or an object of names.
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto list = root.find(key);
    if (!list) continue;
    if (!list->value().is_array() && !list->value().is_object()) list->fail("a list of tokens");
    for (const Json& token : list->value()) config.extra.push_back(special_token(JsonNode(token, list->file(), key)));
  }
}

void read_added_tokens_decoder(const JsonNode& added, TokenizerConfig& config) {
  if (!added.value().is_object()) added.fail("an object of id to token");
  for (const auto& entry : added.value().items()) {
    const std::string& key = entry.key();
    std::int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) added.fail("numbers as keys, not \"" + key + "\"");
    const JsonNode node(entry.value(), added.file(), "added_tokens_decoder." + key);
    config.added.push_back(parse_added_token(node, check_token_id(id, node.where())));
  }
}

// {"<token>": id}; what the other files call special is special.
void read_added_tokens_file(const std::filesystem::path& path, TokenizerConfig& config) {
  const Json json = read_json_object(path);
  const auto is_special = [&](const std::string& content) {
    return std::ranges::find(config.named, content, &AddedToken::content) != config.named.end() ||
           std::ranges::find(config.extra, content, &AddedToken::content) != config.extra.end();
  };
  for (const auto& entry : json.items()) {
    const JsonNode node(entry.value(), path.string(), entry.key());
    const bool special = is_special(entry.key());
    config.added.push_back({.content = entry.key(),
                            .id = check_token_id(node.integer(), node.where()),
                            .normalized = !special,
                            .special = special});
  }
}

// transformers' choice of the class: these model types have one of their own, or take tokenizer.json as it is.
bool has_other_class(const std::filesystem::path& folder) {
  if (!detail::exists(folder / "config.json")) return false;
  const Json json = read_json_object(folder / "config.json");
  const auto type = JsonNode(json, (folder / "config.json").string()).find("model_type");
  constexpr std::string_view kOther[] = {"mistral", "mixtral", "ministral", "mistral3", "phi3", "phimoe", "qwen2"};
  return type && type->value().is_string() && std::ranges::find(kOther, type->string()) != std::end(kOther);
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder) {
  TokenizerConfig config;
  config.file = (folder / "tokenizer_config.json").string();
  const auto read = [&](const char* name) {
    return detail::exists(folder / name) ? read_json_object(folder / name) : Json::object();
  };
  const Json own = read("tokenizer_config.json");
  const JsonNode root(own, config.file);
  const auto decoder = root.find("added_tokens_decoder");
  read_special_tokens(root, config);
  if (decoder) {
    read_added_tokens_decoder(*decoder, config);
  } else {
    const Json map = read("special_tokens_map.json");
    read_special_tokens(JsonNode(map, (folder / "special_tokens_map.json").string()), config);
    if (detail::exists(folder / "added_tokens.json")) read_added_tokens_file(folder / "added_tokens.json", config);
  }
  std::ranges::sort(config.added, {}, &AddedToken::id);

  if (const auto add = root.find("add_bos_token")) config.add_bos = add->boolean();
  if (const auto add = root.find("add_eos_token")) config.add_eos = add->boolean();
  config.legacy = root.boolean_or("legacy", false);
  if (const auto prefix = root.find("add_prefix_space")) config.add_prefix_space = prefix->boolean();
  if (const auto name = root.find("tokenizer_class"); name && name->value().is_string())
    config.llama_class =
        (name->string() == "LlamaTokenizer" || name->string() == "LlamaTokenizerFast") && !has_other_class(folder);
  return config;
}

}  // namespace sao::detail
