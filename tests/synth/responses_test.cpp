// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/responses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sao/base/error.h"
#include "support/fake_generator.h"

namespace sao {
namespace {

using sao::testing::FakeGenerator;
using ::testing::HasSubstr;

const std::vector<Prompt> kPrompts = {
    {.id = "p000000", .text = "Why?"}, {.id = "p000003", .text = "How?"}, {.id = "p000004", .text = "When?"}};

FakeGenerator answering() {
  FakeGenerator fake;
  fake.answer = [](const std::string& shown, Seed seed, std::int64_t sample) {
    const std::string question = shown.find("How?") != std::string::npos ? "how" : "other";
    return FakeGenerator::Answer{
        .text = question + " " + std::to_string(seed.value % 1000) + " " + std::to_string(sample),
        .finish_reason = sample == 1 ? FinishReason::kLength : FinishReason::kStop};
  };
  return fake;
}

TEST(AnswerPromptsTest, AnswersEachPromptByItsOwnSeed) {
  FakeGenerator fake = answering();
  const auto responses = answer_prompts(fake, kPrompts, {.samples = 2, .seed = Seed{9}, .weights_version = 4});
  ASSERT_EQ(responses.size(), 6U);
  const Response& second = responses[3];
  const Seed seed = Seed{9}.fork("p000003");
  EXPECT_EQ(second.id, "p000003-1");
  EXPECT_EQ(second.prompt_id, "p000003");
  EXPECT_EQ(second.k, 1);
  EXPECT_EQ(second.text, "how " + std::to_string(seed.value % 1000) + " 1");
  EXPECT_EQ(second.finish_reason, "length");
  EXPECT_EQ(second.seed, seed.value);
  EXPECT_EQ(second.weights_version, 4);
  EXPECT_EQ(responses[2].finish_reason, "stop");
  EXPECT_EQ(responses[2].ids.back(), fake.text().turn_end_id());  // ids exactly as sampled
  EXPECT_EQ(fake.generated.size(), 3U);                           // both samples share one request
}

TEST(AnswerPromptsTest, ReportsPromptsInOrderAndCanBeContinued) {
  FakeGenerator fake = answering();
  fake.backwards = true;
  std::vector<Response> reported;
  const auto whole = answer_prompts(fake, kPrompts, {.samples = 3}, [&](std::span<const Response> of_one) {
    EXPECT_EQ(of_one.size(), 3U);
    reported.insert(reported.end(), of_one.begin(), of_one.end());
  });
  EXPECT_EQ(reported, whole);
  const auto rest = answer_prompts(fake, std::span<const Prompt>(kPrompts).subspan(1), {.samples = 3});
  EXPECT_EQ(rest, std::vector<Response>(whole.begin() + 3, whole.end()));
}

TEST(AnswerPromptsTest, ContinuesThePromptsOwnIds) {
  FakeGenerator fake = answering();
  std::vector<Prompt> prompts = kPrompts;
  prompts[0].ids = fake.text().encode_prompt("Something else");
  answer_prompts(fake, prompts);
  EXPECT_EQ(fake.generated[0].prompt_ids, prompts[0].ids);
  EXPECT_EQ(fake.generated[1].prompt_ids, fake.text().encode_prompt("How?"));
}

TEST(AnswerPromptsTest, AFullContextIsNoError) {
  FakeGenerator fake = answering();
  fake.max_tokens_value = 100;
  std::vector<Prompt> prompts = kPrompts;
  prompts[1].text = std::string(2000, 'x');
  std::size_t reports = 0;
  const auto responses = answer_prompts(fake, prompts, {}, [&](std::span<const Response>) { ++reports; });
  EXPECT_EQ(reports, 3U);
  EXPECT_EQ(responses[2].finish_reason, "length");
  EXPECT_TRUE(responses[2].text.empty());
  EXPECT_TRUE(responses[2].ids.empty());
  EXPECT_FALSE(responses[4].text.empty());
}

TEST(AnswerPromptsTest, BadInputIsNamed) {
  FakeGenerator fake;
  const std::vector<Prompt> twice = {kPrompts[0], kPrompts[0]};
  EXPECT_THAT([&] { answer_prompts(fake, twice); }, ::testing::ThrowsMessage<InputError>(HasSubstr("p000000")));
  EXPECT_THROW(answer_prompts(fake, kPrompts, {.samples = 0}), InputError);
  EXPECT_TRUE(answer_prompts(fake, {}).empty());
}

}  // namespace
}  // namespace sao
