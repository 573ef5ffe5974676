// SPDX-License-Identifier: Apache-2.0
// The parts of tokenizer.json one by one against the `tokenizers` library.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fixtures.h"
#include "io/json.h"
#include "support/parity_report.h"
#include "support/paths.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace sao::detail {
namespace {

using testing::golden;
using ::testing::HasSubstr;
using testing::input_error_of;

Json read_components() { return read_json_object(golden("text") / "components.json"); }

JsonNode node_of(const Json& json) { return JsonNode(json, "test"); }

TEST(Components, NormalizersAgreeWithTokenizers) {
  const Json components = read_components();
  std::int64_t compared = 0, wrong = 0;
  for (const auto& c : components["normalizers"]) {
    const auto normalizer = parse_normalizer(node_of(c["component"]));
    for (std::size_t i = 0; i < components["texts"].size(); ++i) {
      const std::string text = components["texts"][i];
      bool at_start = true;
      const std::string normalized = normalizer->normalize(text, at_start);
      EXPECT_EQ(normalized, c["normalized"][i]) << c["component"] << components["texts"][i];
      ++compared;
      wrong += normalized != c["normalized"][i];
    }
  }
  testing::report_parity(
      {"tokenizer", "normalizers", "normalized texts", compared, static_cast<double>(wrong), 0.0, ""});
}

// In a chain with a ByteLevel at its end words are bytes; the reference shows the characters that stand for them.
std::vector<std::string> words_of(const PreTokenizerChain& chain, const std::string& text) {
  std::vector<std::string> words;
  chain.split(text, true, [&](std::string_view word) { words.emplace_back(word); });
  if (!chain.byte_level()) return words;
  const Json bytes = {{"type", "ByteLevel"}};
  for (std::string& word : words) {
    bool at_start = true;
    word = parse_normalizer(node_of(bytes))->normalize(word, at_start);
  }
  return words;
}

TEST(Components, PreTokenizersAgreeWithTokenizers) {
  const Json components = read_components();
  std::int64_t compared = 0, wrong = 0;
  for (const auto& c : components["pre_tokenizers"]) {
    const PreTokenizerChain chain(node_of(c["component"]));
    for (std::size_t i = 0; i < components["texts"].size(); ++i) {
      const auto words = words_of(chain, components["texts"][i].get<std::string>());
      EXPECT_EQ(words, c["words"][i].get<std::vector<std::string>>()) << c["component"] << components["texts"][i];
      ++compared;
      wrong += words != c["words"][i].get<std::vector<std::string>>();
    }
  }
  testing::report_parity(
      {"tokenizer", "pre-tokenizers", "texts cut into words", compared, static_cast<double>(wrong), 0.0, ""});
}

TEST(Components, DecodersAgreeWithTokenizers) {
  const Json components = read_components();
  for (const auto& c : components["decoders"]) {
    const DecoderChain chain = parse_decoder(node_of(c["component"]));
    if (chain.byte_level) continue;  // whole tokenizers test it
    for (std::size_t i = 0; i < components["token_lists"].size(); ++i) {
      auto tokens = components["token_lists"][i].get<std::vector<std::string>>();
      for (const auto& stage : chain.stages) tokens = stage->decode(std::move(tokens));
      std::string text;
      for (const std::string& token : tokens) text += token;
      EXPECT_EQ(text, c["decoded"][i]) << c["component"] << components["token_lists"][i];
    }
  }
}

TEST(Components, ALongTextIsNormalizedWhole) {
  const auto nfc = parse_normalizer(node_of(R"({"type": "NFC"})"_json));
  std::string text, expected;
  for (int i = 0; i < 10000; ++i) {
    text += "e\u0301 \u1112\u1161\u11ab";
    expected += "\u00e9 \ud55c";
  }
  bool at_start = true;
  EXPECT_EQ(nfc->normalize(text, at_start), expected);
}

// What Metaspace with prepend_scheme "first" goes by.
TEST(Components, NormalizersTellWhetherTheStartIsKept) {
  const auto kept = [](const char* component, const std::string& text) {
    bool at_start = true;
    parse_normalizer(node_of(Json::parse(component)))->normalize(text, at_start);
    return at_start;
  };
  EXPECT_TRUE(kept(R"({"type": "Strip", "strip_left": true, "strip_right": true})", "a "));
  EXPECT_FALSE(kept(R"({"type": "Strip", "strip_left": true, "strip_right": true})", " a"));
  EXPECT_FALSE(kept(R"({"type": "StripAccents"})", "\u0301a"));
  EXPECT_TRUE(kept(R"({"type": "Replace", "pattern": {"String": " "}, "content": "_"})", " a"));
  EXPECT_FALSE(kept(R"({"type": "Replace", "pattern": {"String": "  "}, "content": "_"})", "  a"));
  EXPECT_TRUE(kept(R"({"type": "Replace", "pattern": {"String": "  "}, "content": "_"})", "a  a"));
}

TEST(Components, AreRefusedByName) {
  const auto error_of = [](const char* component, auto&& parse) {
    const Json json = Json::parse(component);
    return input_error_of([&] { parse(node_of(json)); });
  };
  const auto normalizer = [](const JsonNode& node) { parse_normalizer(node); };
  const auto pre_tokenizer = [](const JsonNode& node) { PreTokenizerChain chain(node); };
  const auto decoder = [](const JsonNode& node) { parse_decoder(node); };
  EXPECT_THAT(error_of(R"({"type": "Precompiled"})", normalizer), HasSubstr("type is \"Precompiled\""));
  EXPECT_THAT(error_of(R"({"type": "BertNormalizer"})", normalizer), HasSubstr("BertNormalizer"));
  EXPECT_THAT(error_of(R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})", normalizer),
              HasSubstr("pattern.String"));
  EXPECT_THAT(error_of(R"({"type": "BertPreTokenizer"})", pre_tokenizer), HasSubstr("BertPreTokenizer"));
  EXPECT_THAT(error_of(R"({"type": "Metaspace", "replacement": "ab"})", pre_tokenizer), HasSubstr("one character"));
  EXPECT_THAT(error_of(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})", pre_tokenizer),
              HasSubstr("always, never or first"));
  EXPECT_THAT(error_of(R"({"type": "WordPiece"})", decoder), HasSubstr("WordPiece"));
  EXPECT_THAT(error_of(R"({"type": "Strip", "content": " ", "start": 0, "stop": 1})", decoder), HasSubstr("stop"));
}

}  // namespace
}  // namespace sao::detail
