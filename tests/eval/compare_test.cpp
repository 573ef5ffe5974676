// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "sao/base/error.h"
#include "support/fake_generator.h"

namespace sao {
namespace {

using sao::testing::FakeGenerator;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::vector<Prompt> prompts(int count) {
  std::vector<Prompt> all;
  for (int i = 0; i < count; ++i)
    all.push_back({.id = "p" + std::to_string(i), .text = "Question " + std::to_string(i)});
  return all;
}

FakeGenerator answering(const std::string& text) {
  FakeGenerator fake;
  fake.answer = [text](const std::string&, Seed seed, std::int64_t) {
    return FakeGenerator::Answer{.text = text + std::string(1 + seed.value % 9, '.')};
  };
  return fake;
}

/// Finds the answer that says "good" better, whatever its place.
FakeGenerator good_judge() {
  FakeGenerator fake;
  fake.first_probability = [](const std::string& shown) {
    const std::size_t good = shown.find("good");
    const std::size_t bad = shown.find("bad");
    if (good == std::string::npos || bad == std::string::npos) return 0.5;
    return good < bad ? 0.9 : 0.1;
  };
  return fake;
}

TEST(CompareModelsTest, BetterModelWins) {
  FakeGenerator model = answering("a good answer");
  FakeGenerator baseline = answering("a bad answer");
  FakeGenerator judge = good_judge();
  const JudgeTemplates templates = {.judge = "{prompt}\n1: {first}\n2: {second}", .criteria = {}};
  const auto questions = prompts(20);
  const Comparison result = compare_models(model, baseline, judge, questions, {.seed = Seed{1}}, templates);
  EXPECT_NEAR(result.win_rate.win_rate, 0.9, 1e-12);
  EXPECT_EQ(result.win_rate.discrete_win_rate, 1.0);
  EXPECT_EQ(result.win_rate.n, 20);
  EXPECT_GT(result.length_controlled.win_rate, 0.85);
  EXPECT_NEAR(result.model_length - result.baseline_length, 1.0, 1e-12);  // same seeds, so as many dots
  EXPECT_EQ(result.verdicts.size(), 20U);
  EXPECT_EQ(result.verdicts[3].first_id, "p3-model");
  EXPECT_EQ(result.health.agreement, 1.0);
  const Comparison swapped = compare_models(baseline, model, judge, questions, {.seed = Seed{1}}, templates);
  EXPECT_NEAR(swapped.win_rate.win_rate, 0.1, 1e-12);
}

TEST(CompareModelsTest, ModelAgainstItselfIsEven) {
  FakeGenerator model = answering("an answer");
  FakeGenerator judge;
  judge.first_probability = [](const std::string&) { return 0.99; };
  const Comparison result = compare_models(model, model, judge, prompts(5));
  EXPECT_EQ(result.win_rate.win_rate, 0.5);
  EXPECT_EQ(result.win_rate.standard_error, 0.0);
  EXPECT_EQ(result.health.outcomes.at("identical"), 5);
}

TEST(CompareModelsTest, DisagreementOfOrdersIsATieOfTheDiscreteRate) {
  FakeGenerator model = answering("left");
  FakeGenerator baseline = answering("right");
  FakeGenerator judge;
  judge.first_probability = [](const std::string& shown) {
    return shown.find("left") < shown.find("right") ? 0.9 : 0.7;
  };
  const JudgeTemplates templates = {.judge = "{prompt}\n{first}\n{second}", .criteria = {}};
  const Comparison result = compare_models(model, baseline, judge, prompts(4), {}, templates);
  EXPECT_NEAR(result.win_rate.win_rate, 0.6, 1e-12);
  EXPECT_EQ(result.win_rate.discrete_win_rate, 0.5);
  EXPECT_EQ(result.win_rate.ties, 4);
}

TEST(CompareModelsTest, EmptyAnswerLosesAndUnjudgedOnesAreLeftOut) {
  const Response text = {.text = "x"};
  const Response empty = {.text = " "};
  EXPECT_EQ(preference_of({.outcome = "empty"}, text, empty), 1.0);
  EXPECT_EQ(preference_of({.outcome = "empty"}, empty, text), 0.0);
  EXPECT_EQ(preference_of({.outcome = "empty"}, empty, empty), 0.5);
  EXPECT_EQ(preference_of({.p_first = 0.7, .outcome = "inconsistent"}, text, text), 0.7);
  for (const char* outcome : {"unparsable", "too_long", "truncated"}) {
    EXPECT_TRUE(std::isnan(preference_of({.outcome = outcome}, text, text))) << outcome;
  }
}

TEST(CompareModelsTest, BadInputThrows) {
  FakeGenerator fake;
  EXPECT_THROW(compare_models(fake, fake, fake, std::vector<Prompt>{{.id = "a"}, {.id = "a"}}), InputError);
  EXPECT_THROW(compare_answers(prompts(2), {}, {}, fake), InputError);
  EXPECT_THROW(compare_answers(prompts(1), {{.prompt_id = "p1"}}, {{.prompt_id = "p0"}}, fake), InputError);
  const CompareOptions bad = {.sampling = {.top_p = 0.0},
                              .judge = {.mode = "guess"},
                              .length_control = {.bootstrap = -1, .confidence = 1.0},
                              .equal_length_tolerance = 1.5};
  EXPECT_THAT([&] { validate(bad); },
              ThrowsMessage<InputError>(AllOf(HasSubstr("top_p is 0"), HasSubstr("guess"), HasSubstr("bootstrap: -1"),
                                              HasSubstr("confidence: 1"), HasSubstr("equal_length_tolerance: 1.5"))));
  EXPECT_THROW(compare_models(fake, fake, fake, prompts(1), bad), InputError);
  EXPECT_EQ(fake.calls, 0) << "before anything is asked";
}

TEST(CompareModelsTest, PromptWithoutRoomIsCountedNotAnException) {
  FakeGenerator model = answering("an answer");
  model.max_tokens_value = 60;
  FakeGenerator baseline = answering("a bad answer");
  FakeGenerator judge;
  auto questions = prompts(3);
  questions[1].text = std::string(200, 'x');
  const Comparison result = compare_models(model, baseline, judge, questions, {.seed = Seed{1}});
  EXPECT_EQ(model.generated.size(), 2U);
  EXPECT_EQ(result.model_answers[1].text, "");
  EXPECT_EQ(result.model_answers[1].finish_reason, "length");
  EXPECT_EQ(result.health.outcomes.at("empty"), 1);
  EXPECT_EQ(result.preferences[1], 0.0) << "the other one has an answer";
}

}  // namespace
}  // namespace sao
