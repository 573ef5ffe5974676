// SPDX-License-Identifier: Apache-2.0
#include "text/vocabulary_files.h"

#include <string>
#include <string_view>
#include <utility>

#include "io/paths.h"
#include "sao/base/error.h"
#include "sao/io/files.h"
#include "text/json_node.h"
#include "text/splitter.h"

namespace sao::detail {
namespace {

std::string tokenizer_class(const std::filesystem::path& folder) {
  const auto path = folder / "tokenizer_config.json";
  const Json json = detail::exists(path) ? read_json_object(path) : Json::object();
  const JsonNode name = JsonNode(json, path.string()).at("tokenizer_class", "Qwen2Tokenizer or GPT2Tokenizer");
  std::string text = name.string();
  if (text.ends_with("Fast")) text.erase(text.size() - 4);
  if (text != "Qwen2Tokenizer" && text != "GPT2Tokenizer")
    name.fail("Qwen2Tokenizer or GPT2Tokenizer for a vocab.json without tokenizer.json");
  return text;
}

Json read_merges(const std::filesystem::path& path) {
  Json merges = Json::array();
  const std::string text = read_file(path);
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(line);
  }
  return merges;
}

}  // namespace

Json tokenizer_of_vocabulary_files(const std::filesystem::path& folder) {
  const bool qwen2 = tokenizer_class(folder) == "Qwen2Tokenizer";
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", !qwen2}};
  Json json = {{"model", {{"type", "BPE"}}}, {"decoder", {{"type", "ByteLevel"}}}};
  json["model"]["vocab"] = read_json_object(folder / "vocab.json");
  json["model"]["merges"] = read_merges(folder / "merges.txt");
  if (!qwen2) {
    json["pre_tokenizer"] = bytes;
    return json;
  }
  json["normalizer"] = {{"type", "NFC"}};
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", kQwen2Pattern}}}, {"behavior", "Isolated"}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({split, bytes})}};
  return json;
}

}  // namespace sao::detail
