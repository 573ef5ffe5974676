// SPDX-License-Identifier: Apache-2.0
#include "sao/train/pairs.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/io/safetensors.h"
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
  const Selection<TokenPair> selection = select_pairs(pairs, {.max_length = 4});
  EXPECT_THAT(selection.dropped, ElementsAre(Pair("empty_prompt", 1), Pair("empty_response", 2), Pair("identical", 1),
                                             Pair("too_long", 2)));
  EXPECT_TRUE(selection.cut.empty());
  ASSERT_EQ(selection.rows.size(), 2u);
  EXPECT_EQ(selection.rows[1].rejected, (TokenIds{5, 6}));
  EXPECT_EQ(select_pairs(pairs, {}).rows.size(), 4u);
}

TEST(SelectPairs, KeepStartCutsBothResponsesAtTheSamePlaceOrDrops) {
  const std::vector<TokenPair> pairs = {{{1, 2}, {3, 4, 5}, {6, 7, 8, 9}},  // both
                                        {{1, 2}, {3, 4, 5}, {6}},           // one side only
                                        {{1, 2, 3, 4}, {5}, {6}},           // nothing left
                                        {{1, 2}, {3, 4, 5}, {3, 4, 6}},     // the same after the cut
                                        {{1}, {3, 4}, {5}}};                // short enough
  const auto selection = select_pairs(pairs, {.max_length = 4, .truncation = "keep_start"});
  ASSERT_EQ(selection.rows.size(), 2u);
  EXPECT_EQ(selection.rows[0].prompt, (TokenIds{1, 2}));
  EXPECT_EQ(selection.rows[0].chosen, (TokenIds{3, 4}));
  EXPECT_EQ(selection.rows[0].rejected, (TokenIds{6, 7}));
  EXPECT_THAT(selection.dropped,
              ElementsAre(Pair("cut_on_one_side", 1), Pair("identical", 1), Pair("prompt_too_long", 1)));
  EXPECT_EQ(selection.cut.at("response"), 2);
}

TEST(SelectPairs, KeepEndCutsThePromptOfBoth) {
  const std::vector<TokenPair> pairs = {{{1, 2, 3}, {4, 5}, {6}}, {{1}, {4, 5, 6, 7}, {8}}};
  const auto selection = select_pairs(pairs, {.max_length = 4, .truncation = "keep_end"});
  ASSERT_EQ(selection.rows.size(), 1u);
  EXPECT_EQ(selection.rows[0].prompt, (TokenIds{2, 3}));
  EXPECT_EQ(selection.rows[0].chosen, (TokenIds{4, 5}));
  EXPECT_THAT(selection.dropped, ElementsAre(Pair("too_long", 1)));
  EXPECT_EQ(selection.cut.at("prompt"), 1);
}

TEST(SelectPairs, SimpoCutsThePromptThenBothResponses) {
  const std::vector<TokenPair> pairs = {{{1, 2, 3, 4, 5}, {6}, {7}},           // the prompt is enough
                                        {{1, 2, 3, 4}, {5, 6, 7}, {7, 8, 9}},  // and the responses
                                        {{1, 2, 3, 4}, {5, 6, 7}, {8}},        // one response only
                                        {{1}, {5, 6, 7, 8}, {8, 7, 6, 5}}};    // a short prompt gives no room
  const auto selection = select_pairs(pairs, {.max_length = 4, .truncation = "simpo", .max_prompt_length = 2});
  ASSERT_EQ(selection.rows.size(), 3u);
  EXPECT_EQ(selection.rows[0].prompt, (TokenIds{4, 5}));
  EXPECT_EQ(selection.rows[0].chosen, (TokenIds{6}));
  EXPECT_EQ(selection.rows[1].prompt, (TokenIds{3, 4}));
  EXPECT_EQ(selection.rows[1].rejected, (TokenIds{7, 8}));
  EXPECT_EQ(selection.rows[2].prompt, (TokenIds{1}));
  EXPECT_EQ(selection.rows[2].chosen, (TokenIds{5, 6}));
  EXPECT_THAT(selection.dropped, ElementsAre(Pair("cut_on_one_side", 1)));
  EXPECT_THAT(selection.cut, ElementsAre(Pair("prompt", 2), Pair("response", 2)));
  EXPECT_THROW(select_pairs(pairs, {.max_length = 4, .truncation = "simpo"}), InputError);
  EXPECT_THROW(select_pairs(pairs, {.max_length = 4, .truncation = "middle"}), InputError);
}

TEST(SelectCompletions, DropsAndCuts) {
  const std::vector<TokenCompletion> rows = {{{1, 2}, {3, 4, 5}}, {{}, {3}}, {{1}, {}}, {{1}, {2, 3}}};
  const auto dropped = select_completions(rows, {.max_length = 4});
  EXPECT_EQ(dropped.rows.size(), 1u);
  EXPECT_THAT(dropped.dropped, ElementsAre(Pair("empty_prompt", 1), Pair("empty_response", 1), Pair("too_long", 1)));
  const auto cut = select_completions(rows, {.max_length = 4, .truncation = "keep_start"});
  EXPECT_EQ(cut.rows[0].completion, (TokenIds{3, 4}));
}

TEST(Unpaired, GivesTwoCompletions) {
  const std::vector<UnpairedPreference> rows = unpaired({.id = "x",
                                                         .prompt = {{"user", "q"}},
                                                         .chosen = {{"assistant", "a"}},
                                                         .rejected = {{"assistant", "b"}},
                                                         .weight = 2.0,
                                                         .reference_rejected = -3.0});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].id, "x/chosen");
  EXPECT_TRUE(rows[0].label);
  EXPECT_FALSE(rows[1].label);
  EXPECT_EQ(rows[1].completion[0].content, "b");
  EXPECT_EQ(rows[1].weight, 2.0);
  EXPECT_EQ(rows[1].reference, -3.0);
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

// TRL's own tokens of the fixture's plain-text pairs.
struct TrlBatch {
  std::vector<TokenIds> prompts, responses;  // chosen first, then rejected
};

TrlBatch trl_batch(const std::filesystem::path& folder, const std::string& key) {
  const SafetensorsFile file = SafetensorsFile::open(folder / "expected.safetensors");
  const at::Tensor ids = file.tensor(key + ".input_ids"), real = file.tensor(key + ".attention_mask"),
                   scored = file.tensor(key + ".completion_mask");
  TrlBatch batch;
  for (std::int64_t r = 0; r < ids.size(0); ++r) {
    batch.prompts.emplace_back();
    batch.responses.emplace_back();
    for (std::int64_t t = 0; t < ids.size(1); ++t) {
      if (real[r][t].item<std::int64_t>() == 0) continue;
      auto& to = scored[r][t].item<std::int64_t>() != 0 ? batch.responses.back() : batch.prompts.back();
      to.push_back(static_cast<TokenId>(ids[r][t].item<std::int64_t>()));
    }
  }
  return batch;
}

std::vector<TokenPair> fixture_pairs(const std::filesystem::path& folder, const char* policy) {
  std::vector<Preference> rows;
  const auto expected = nlohmann::json::parse(read_file(folder / "expected.json"));
  for (const auto& row : expected["preference_text"]) {
    rows.push_back({.prompt = {{"user", row["prompt"]}},
                    .chosen = {{"assistant", row["chosen"]}},
                    .rejected = {{"assistant", row["rejected"]}},
                    .plain_text = true});
  }
  return tokenize_pairs(rows, ChatTokenizer::load(folder), policy);
}

TEST_P(TokenizeText, TrlPolicyGivesTheTokensOfDpoTrainer) {
  SAO_NEED_PARITY(GetParam());
  const auto folder = testing::parity(GetParam());
  const std::vector<TokenPair> pairs = fixture_pairs(folder, "trl");
  const TrlBatch expected = trl_batch(folder, "dpo.batch");
  ASSERT_EQ(expected.prompts.size(), 2 * pairs.size());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    EXPECT_EQ(pairs[i].prompt, expected.prompts[i]) << i;
    EXPECT_EQ(pairs[i].prompt, expected.prompts[i + pairs.size()]) << i;
    EXPECT_EQ(pairs[i].chosen, expected.responses[i]) << i;
    EXPECT_EQ(pairs[i].rejected, expected.responses[i + pairs.size()]) << i;
  }
}

// Where TRL cuts both responses or none, keep_start gives its tokens; where it cuts one, the pair is dropped, and where
// what is left of both is the same.
TEST_P(TokenizeText, KeepStartCutsAsDpoTrainerWhereBothAreCut) {
  SAO_NEED_PARITY(GetParam());
  const auto folder = testing::parity(GetParam());
  constexpr std::size_t kMax = 24;
  const std::vector<TokenPair> pairs = fixture_pairs(folder, "trl");
  const TrlBatch expected = trl_batch(folder, "dpo.sigmoid_maxlen24.batch");
  const auto selection = select_pairs(pairs, {.max_length = kMax, .truncation = "keep_start"});
  std::size_t trl_row = 0, ours = 0, one_side = 0, identical = 0;
  const std::size_t trl_rows = expected.prompts.size() / 2;
  for (const TokenPair& pair : pairs) {
    if (pair.prompt.size() >= kMax) continue;  // TRL drops it too
    ASSERT_LT(trl_row, trl_rows);
    const bool chosen_cut = pair.prompt.size() + pair.chosen.size() > kMax;
    const bool rejected_cut = pair.prompt.size() + pair.rejected.size() > kMax;
    if (chosen_cut && expected.responses[trl_row] == expected.responses[trl_row + trl_rows]) {
      ++identical;
    } else if (chosen_cut == rejected_cut) {
      ASSERT_LT(ours, selection.rows.size());
      EXPECT_EQ(selection.rows[ours].prompt, expected.prompts[trl_row]);
      EXPECT_EQ(selection.rows[ours].chosen, expected.responses[trl_row]);
      EXPECT_EQ(selection.rows[ours].rejected, expected.responses[trl_row + trl_rows]);
      ++ours;
    } else {
      ++one_side;
    }
    ++trl_row;
  }
  EXPECT_EQ(trl_row, trl_rows);
  EXPECT_EQ(ours, selection.rows.size());
  const auto dropped = [&](const char* reason) {
    const auto found = selection.dropped.find(reason);
    return found == selection.dropped.end() ? std::size_t{0} : static_cast<std::size_t>(found->second);
  };
  EXPECT_EQ(dropped("cut_on_one_side"), one_side);
  EXPECT_EQ(dropped("identical"), identical);
}

TEST_P(TokenizeText, PoliciesDifferInHeaderAndTail) {
  SAO_NEED_PARITY(GetParam());
  const ChatTokenizer text = ChatTokenizer::load(testing::parity(GetParam()));
  const std::vector<Preference> rows = {{.prompt = {{"user", "Name a colour."}},
                                         .chosen = {{"assistant", "Red is one."}},
                                         .rejected = {{"assistant", "No."}}}};
  const Messages whole = {rows[0].prompt[0], rows[0].chosen[0]};
  const auto joined = [](const TokenPair& pair) {
    TokenIds ids = pair.prompt;
    ids.insert(ids.end(), pair.chosen.begin(), pair.chosen.end());
    return ids;
  };
  const TokenPair clean = tokenize_pairs(rows, text, "clean")[0], trl = tokenize_pairs(rows, text, "trl")[0],
                  simpo = tokenize_pairs(rows, text, "simpo")[0];
  EXPECT_EQ(joined(trl), text.encode_chat(whole));
  EXPECT_EQ(trl.prompt, clean.prompt);
  // SimPO's prompt has no header: it begins the response, which ends with eos.
  EXPECT_EQ(simpo.prompt, text.encode_chat(rows[0].prompt));
  EXPECT_GT(simpo.chosen.size(), trl.chosen.size());
  const TokenId eos = *text.tokenizer().eos_id();
  EXPECT_EQ(simpo.chosen.back(), eos);
  TokenIds with_eos = text.encode_chat(whole);
  if (with_eos.back() != eos) with_eos.push_back(eos);
  EXPECT_EQ(joined(simpo), with_eos);
  EXPECT_THROW(tokenize_pairs(rows, text, "fast"), InputError);

  const std::vector<UnpairedPreference> unpaired = {
      {.prompt = rows[0].prompt, .completion = rows[0].chosen, .label = false, .weight = 2.0}};
  for (const char* policy : {"clean", "trl", "simpo"}) {
    const TokenCompletion row = tokenize_completions(unpaired, text, policy)[0];
    const TokenPair pair = tokenize_pairs(rows, text, policy)[0];
    EXPECT_EQ(row.prompt, pair.prompt) << policy;
    EXPECT_EQ(row.completion, pair.chosen) << policy;
    EXPECT_FALSE(row.label);
    EXPECT_EQ(row.weight, 2.0);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizeText, ::testing::Values("gemma2-tiny", "llama3-tiny"),
                         [](const auto& test) { return test.index == 0 ? "Gemma2" : "Llama3"; });

}  // namespace
}  // namespace sao
