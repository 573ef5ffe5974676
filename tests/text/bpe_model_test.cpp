// SPDX-License-Identifier: Apache-2.0
#include "text/bpe_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "fixtures.h"
#include "text/byte_alphabet.h"

namespace sao::detail {
namespace {

// The definition, word for word: of all pairs the one of lowest rank, leftmost first.
std::vector<std::string> merge_by_definition(std::vector<std::string> symbols, const Json& merges) {
  for (;;) {
    std::size_t best_rank = merges.size();
    std::size_t best = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
      for (std::size_t rank = 0; rank < best_rank; ++rank)
        if (merges[rank][0] == symbols[i] && merges[rank][1] == symbols[i + 1]) {
          best_rank = rank;
          best = i;
        }
    if (best_rank == merges.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(BpeModel, AgreesWithItsDefinitionOnShortAndLongWords) {
  // Random merges over four letters, so that many overlap.
  std::mt19937 random(3);
  std::vector<std::string> tokens = {"a", "b", "c", "d"};
  Json merges = Json::array();
  while (merges.size() < 60) {
    const std::string left = tokens[random() % tokens.size()];
    const std::string right = tokens[random() % tokens.size()];
    if (left.size() + right.size() > 6 || std::ranges::find(merges, Json{left, right}) != merges.end()) continue;
    merges.push_back(Json{left, right});
    if (std::ranges::find(tokens, left + right) == tokens.end()) tokens.push_back(left + right);
  }
  Json model = {{"type", "BPE"}, {"merges", merges}};
  for (std::size_t i = 0; i < tokens.size(); ++i) model["vocab"][tokens[i]] = i;
  for (const bool byte_level : {false, true}) {
    const BpeModel bpe(JsonNode(model, "test"), byte_level);
    for (int n = 0; n < 300; ++n) {
      std::string word(1 + random() % 120, 'a');
      std::vector<std::string> symbols;
      for (char& c : word) symbols.emplace_back(1, c = static_cast<char>('a' + random() % 4));
      TokenIds ids;
      bpe.encode(word, ids);
      std::vector<std::string> got;
      for (const TokenId id : ids) got.emplace_back(bpe.tokens()[id]);
      ASSERT_EQ(got, merge_by_definition(symbols, merges)) << word;
    }
  }
}

TEST(BpeModel, UnknownCharacters) {
  Json model = Json::parse(
      R"({"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "merges": [], "vocab": {"<unk>": 0, "a": 1, "ä": 2}})");
  TokenIds ids;
  BpeModel(JsonNode(model, "test"), false).encode("axxäx", ids);
  EXPECT_EQ(ids, (TokenIds{1, 0, 2, 0}));
  ids.clear();
  model["fuse_unk"] = false;
  BpeModel(JsonNode(model, "test"), false).encode("axxäx", ids);
  EXPECT_EQ(ids, (TokenIds{1, 0, 0, 2, 0}));
  ids.clear();
  model["unk_token"] = nullptr;  // the reference leaves them out
  BpeModel(JsonNode(model, "test"), false).encode("axxäx", ids);
  EXPECT_EQ(ids, (TokenIds{1, 2}));
}

TEST(BpeModel, MergesAsStrings) {
  const Json model = Json::parse(R"({"merges": ["#version: 0.2", "a b"], "vocab": {"a": 0, "b": 1, "ab": 2}})");
  TokenIds ids;
  BpeModel(JsonNode(model, "test"), false).encode("abb", ids);
  EXPECT_EQ(ids, (TokenIds{2, 1}));
}

TEST(ByteAlphabet, IsABijection) {
  EXPECT_EQ(bytes_of_token("Ġa"), " a");
  EXPECT_EQ(bytes_of_token("Ċ"), "\n");
  EXPECT_EQ(bytes_of_token("Ã¤"), "ä");
  EXPECT_EQ(bytes_of_token("a b"), std::nullopt);  // the blank itself is not of the alphabet
  EXPECT_EQ(bytes_of_token("▁"), std::nullopt);
}

}  // namespace
}  // namespace sao::detail
