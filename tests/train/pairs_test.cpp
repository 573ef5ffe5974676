// SPDX-License-Identifier: Apache-2.0
#include "sao/train/pairs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sao/base/error.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

TEST(SelectPairs, DropsWithCountedReasonsAndCutsNothing) {
  const std::vector<TokenPair> pairs = {{{1, 2}, {3}, {4}},       {{}, {3}, {4}},          {{1}, {}, {4}},
                                        {{1}, {3}, {}},           {{1}, {3, 4}, {3, 4}},   {{1, 2}, {3, 4, 5}, {6}},
                                        {{1, 2}, {6}, {3, 4, 5}}, {{1, 2}, {3, 4}, {5, 6}}};
  const PairSelection selection = select_pairs(pairs, 4);
  EXPECT_THAT(selection.dropped, ElementsAre(Pair("empty_prompt", 1), Pair("empty_response", 2), Pair("identical", 1),
                                             Pair("too_long", 2)));
  ASSERT_EQ(selection.pairs.size(), 2u);
  EXPECT_EQ(selection.pairs[1].rejected, (TokenIds{5, 6}));
  EXPECT_EQ(select_pairs(pairs, 0).pairs.size(), 4u);
}

TEST(TokenizePairs, IdsAreTakenAsTheyAre) {
  const std::vector<Preference> rows = {
      {.id = "a", .prompt_ids = {1, 2}, .chosen_ids = {3}, .rejected_ids = {4, 5}, .p = 0.75, .weight = 2.0}};
  const std::vector<TokenPair> pairs = tokenize_pairs(rows);
  ASSERT_EQ(pairs.size(), 1u);
  EXPECT_EQ(pairs[0].prompt, (TokenIds{1, 2}));
  EXPECT_EQ(pairs[0].rejected, (TokenIds{4, 5}));
  EXPECT_EQ(pairs[0].p, 0.75);
  EXPECT_EQ(pairs[0].weight, 2.0);
  EXPECT_EQ(pairs[0].id, "a");
}

TEST(TokenizePairs, TextWithoutTokenizerIsRefusedByRow) {
  const std::vector<Preference> rows = {{.prompt = {{"user", "hi"}}, .chosen = {{"assistant", "a"}}}};
  try {
    tokenize_pairs(rows);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_THAT(e.what(), HasSubstr("preference row 1: no ids, expected prompt_ids"));
  }
}

class TokenizeText : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizeText, ResponseIsWhatTheModelSamples) {
  SAO_NEED_PARITY(GetParam());
  const ChatTokenizer text = ChatTokenizer::load(testing::parity(GetParam()));
  const std::vector<Preference> rows = {{.prompt = {{"user", "Name a colour."}},
                                         .chosen = {{"assistant", "Red is one."}},
                                         .rejected = {{"assistant", "No."}}}};
  const TokenPair pair = tokenize_pairs(rows, text)[0];
  EXPECT_EQ(pair.prompt, text.encode_chat(rows[0].prompt, {.add_generation_prompt = true}));
  TokenIds expected = text.encode_text("Red is one.", false);
  expected.push_back(text.turn_end_id());
  EXPECT_EQ(pair.chosen, expected);
  EXPECT_EQ(pair.rejected.back(), text.turn_end_id());
  EXPECT_EQ(text.response_text(pair.rejected), "No.");

  const std::vector<Preference> wrong = {
      {.id = "x", .prompt = rows[0].prompt, .chosen = rows[0].chosen, .rejected = {{"user", "No."}}}};
  EXPECT_THROW(tokenize_pairs(wrong, text), InputError);
}

TEST_P(TokenizeText, PlainStringsGetNoTemplateAndEndWithEos) {
  SAO_NEED_PARITY(GetParam());
  const ChatTokenizer text = ChatTokenizer::load(testing::parity(GetParam()));
  if (!text.tokenizer().eos_id()) GTEST_SKIP() << "no eos";
  const std::vector<Preference> rows = {{.prompt = {{"user", "The sky is"}},
                                         .chosen = {{"assistant", " blue today."}},
                                         .rejected = {{"assistant", ""}},
                                         .plain_text = true}};
  const TokenPair pair = tokenize_pairs(rows, text)[0];
  EXPECT_EQ(pair.prompt, text.encode_text("The sky is"));
  TokenIds whole = pair.prompt;
  whole.insert(whole.end(), pair.chosen.begin(), pair.chosen.end());
  EXPECT_EQ(text.decode(whole), "The sky is blue today.");
  EXPECT_EQ(pair.chosen.back(), *text.tokenizer().eos_id());
  EXPECT_TRUE(pair.rejected.empty());
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizeText, ::testing::Values("gemma2-tiny", "llama3-tiny"),
                         [](const auto& test) { return test.index == 0 ? "Gemma2" : "Llama3"; });

}  // namespace
}  // namespace sao
