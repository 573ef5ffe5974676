// SPDX-License-Identifier: Apache-2.0
#include "text/unigram_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fixtures.h"
#include "io/json.h"

namespace sao::detail {
namespace {

using ::testing::HasSubstr;
using testing::input_error_of;

TokenIds ids_of_word(const Json& model, std::string_view word) {
  TokenIds ids;
  UnigramModel(JsonNode(model, "test")).encode(word, ids);
  return ids;
}

TEST(UnigramModel, TakesTheBestSum) {
  // ab + c: -1 - 5; a + bc: -2 - 3.
  const Json model =
      R"({"unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -2.0], ["ab", -1.0], ["bc", -3.0], ["c", -5.0]]})"_json;
  EXPECT_EQ(ids_of_word(model, "abc"), (TokenIds{1, 3}));
  EXPECT_EQ(ids_of_word(model, "ab"), TokenIds{2});
  EXPECT_EQ(ids_of_word(model, ""), TokenIds{});
}

TEST(UnigramModel, UnknownCharacters) {
  Json model =
      R"({"unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -2.0], ["<0x78>", -9.0], ["<0xC3>", -9.0], ["<0xA4>", -9.0]]})"_json;
  EXPECT_EQ(ids_of_word(model, "axxäa"), (TokenIds{1, 0, 1}));  // one for all that follow each other
  model["byte_fallback"] = true;
  EXPECT_EQ(ids_of_word(model, "axäa"), (TokenIds{1, 2, 3, 4, 1}));
  EXPECT_EQ(ids_of_word(model, "ay"), (TokenIds{1, 0}));
  model["unk_id"] = nullptr;
  EXPECT_THAT(input_error_of([&] { ids_of_word(model, "ay"); }), HasSubstr("unk_id"));
}

TEST(UnigramModel, RefusesWhatIsNoVocabulary) {
  const auto error_of = [](const char* model) {
    const Json json = Json::parse(model);
    return input_error_of([&] { UnigramModel(JsonNode(json, "test")); });
  };
  EXPECT_THAT(error_of(R"({"vocab": {"a": 0}})"), HasSubstr("vocab"));
  EXPECT_THAT(error_of(R"({"vocab": [["a"]]})"), HasSubstr("vocab[0]"));
  EXPECT_THAT(error_of(R"({"vocab": [["a", "x"]]})"), HasSubstr("vocab[0]"));
  EXPECT_THAT(error_of(R"({"vocab": [["a", 0.0], ["a", 0.0]]})"), HasSubstr("vocab[1]"));
  EXPECT_THAT(error_of(R"({"unk_id": 7, "vocab": [["a", 0.0]]})"), HasSubstr("unk_id"));
}

}  // namespace
}  // namespace sao::detail
