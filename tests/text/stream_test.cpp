// SPDX-License-Identifier: Apache-2.0
#include "sao/text/stream.h"

#include <gtest/gtest.h>

#include <random>

#include "base/utf8.h"
#include "fixtures.h"
#include "sao/base/error.h"
#include "support/paths.h"

namespace sao {
namespace {

using testing::golden;
using testing::parity;
using testing::TemporaryFolder;

// Every piece is whole characters, and together they are what decode gives.
void expect_streams(const std::shared_ptr<const Tokenizer>& tokenizer, const TokenIds& ids, bool skip_special) {
  StreamDecoder stream(tokenizer, skip_special);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = stream.push(id);
    EXPECT_TRUE(detail::is_valid_utf8(piece));
    text += piece;
  }
  text += stream.finish();
  EXPECT_EQ(text, tokenizer->decode(ids, skip_special)) << ::testing::PrintToString(ids);
}

void expect_streams_all(const std::filesystem::path& folder) {
  const auto tokenizer = Tokenizer::load(folder);
  const auto expected = testing::read_expected(folder);
  for (const bool skip : {false, true}) {
    for (const auto& c : expected["cases"]) expect_streams(tokenizer, testing::ids_of(c["ids"]), skip);
    for (const auto& c : expected["decode_cases"]) expect_streams(tokenizer, testing::ids_of(c["ids"]), skip);
  }
  // Random ids, half of them from the start of the vocabulary, where bytes and special tokens are.
  std::mt19937 random(7);
  const auto any = [&](TokenId below) { return static_cast<TokenId>(random() % static_cast<unsigned>(below)); };
  const auto size = static_cast<TokenId>(tokenizer->vocab_size());
  for (int i = 0; i < 400; ++i) {
    TokenIds ids(1 + random() % 30);
    for (TokenId& id : ids) id = any(random() % 2 ? size : std::min(size, 280));
    expect_streams(tokenizer, ids, i % 2 == 0);
  }
}

class Stream : public ::testing::TestWithParam<const char*> {};
TEST_P(Stream, ConcatenationIsDecode) { expect_streams_all(golden("text") / GetParam()); }
INSTANTIATE_TEST_SUITE_P(Sets, Stream,
                         ::testing::Values("unigram", "gemma", "dummy_prefix", "suffix", "byte_level", "byte_fallback",
                                           "qwen2", "nemo", "phi3", "gemma_json", "metaspace", "unigram_json"));

TEST(StreamParity, ConcatenationIsDecode) {
  SAO_NEED_PARITY("tok-gemma");
  expect_streams_all(parity("tok-gemma"));
  expect_streams_all(parity("tok-llama3"));
  TemporaryFolder folder;  // the byte fallback of tokenizer.json
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "expected.json"})
    std::filesystem::copy_file(parity("tok-gemma") / name, folder / name);
  expect_streams_all(folder.path());
}

TEST(StreamDecoder, CharactersComeWholeAndAtOnce) {
  const auto tokenizer = Tokenizer::load(golden("text") / "byte_level");
  StreamDecoder stream(tokenizer);
  const TokenIds ids = tokenizer->encode("你");  // three bytes that no merge joins
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.push(ids[2]), "你");
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(StreamDecoder, WordsComeAtOnceWithTheirBlanks) {
  const auto tokenizer = Tokenizer::load(golden("text") / "dummy_prefix");
  const TokenIds ids = tokenizer->encode("the model the model");
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(ids[0]), tokenizer->decode(TokenIds{ids[0]}));
  std::string text = tokenizer->decode(TokenIds{ids[0]});
  for (std::size_t i = 1; i < ids.size(); ++i) {
    const std::string piece = stream.push(ids[i]);
    EXPECT_FALSE(piece.empty());
    text += piece;
  }
  EXPECT_EQ(text, "the model the model");
}

TEST(StreamDecoder, AnUnknownIdChangesNothing) {
  const auto tokenizer = Tokenizer::load(golden("text") / "gemma");
  StreamDecoder stream(tokenizer);
  const TokenIds ids = tokenizer->encode("Hello world");
  std::string text = stream.push(ids[0]);
  EXPECT_THROW(stream.push(-1), InputError);
  for (std::size_t i = 1; i < ids.size(); ++i) text += stream.push(ids[i]);
  EXPECT_EQ(text + stream.finish(), "Hello world");
}

}  // namespace
}  // namespace sao
