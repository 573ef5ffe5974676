// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "sao/base/error.h"
#include "sao/io/jsonl.h"
#include "support/fake_generator.h"

namespace sao {
namespace {

using sao::testing::FakeGenerator;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<Persona> kPersonas = {
    {.text = "a baker"}, {.text = "a pilot"}, {.text = "a {persona} of many braces"}};

/// Answers with the persona it was asked to be.
FakeGenerator::Answer play(const std::string& shown, Seed seed, std::int64_t) {
  const std::size_t begin = shown.find("Person: ");
  if (begin == std::string::npos)
    return {.text = "User prompt: What shall I ask, number " + std::to_string(seed.value) + "?"};
  const std::string persona = shown.substr(begin + 8, shown.find('\n', begin) - begin - 8);
  return {.text = "**User prompt:** \"What does " + persona + " do all day long?\""};
}

std::vector<std::string> texts(const std::vector<Prompt>& prompts) {
  std::vector<std::string> all;
  for (const Prompt& prompt : prompts) all.push_back(prompt.text);
  return all;
}

TEST(WritePromptsTest, OnePersonaOnePrompt) {
  FakeGenerator fake;
  fake.answer = play;
  const auto prompts = write_prompts(fake, kPersonas, {.seed = Seed{5}});
  EXPECT_THAT(texts(prompts), ElementsAre("What does a baker do all day long?", "What does a pilot do all day long?",
                                          "What does a {persona} of many braces do all day long?"));
  ASSERT_EQ(prompts.size(), 3U);
  EXPECT_EQ(prompts[1].id, "p000001");
  EXPECT_EQ(prompts[1].persona, "a pilot");
  EXPECT_EQ(prompts[1].outcome, "kept");
  EXPECT_EQ(prompts[1].ids, fake.text().encode_prompt(prompts[1].text));
  ASSERT_EQ(fake.generated.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(fake.generated[i].seed, Seed{5}.fork(i));
    EXPECT_EQ(fake.generated[i].samples, 1);
  }
}

TEST(WritePromptsTest, UnguidedByTheSameFunction) {
  FakeGenerator fake;
  fake.answer = play;
  const auto prompts = write_prompts(fake, {}, {.count = 4}, {.unguided = "Ask something."});
  EXPECT_EQ(prompts.size(), 4U);
  EXPECT_THAT(fake.text().decode(fake.generated[0].prompt_ids), HasSubstr("Ask something."));
  EXPECT_TRUE(prompts[0].persona.empty());
  EXPECT_THROW(write_prompts(fake, {}, {}), InputError);
  EXPECT_THROW(write_prompts(fake, {}, {.count = -1}), InputError);
}

TEST(WritePromptsTest, PersonasComeRoundAgainWithOtherSeeds) {
  FakeGenerator fake;
  fake.answer = play;
  const auto prompts = write_prompts(fake, kPersonas, {.count = 5});
  ASSERT_EQ(prompts.size(), 5U);
  EXPECT_EQ(prompts[3].persona, "a baker");
  EXPECT_EQ(prompts[3].outcome, "duplicate");
  EXPECT_NE(fake.generated[0].seed, fake.generated[3].seed);
}

TEST(WritePromptsTest, EveryAttemptStaysOnRecordWithItsReason) {
  FakeGenerator fake;
  std::int64_t number = 0;
  fake.answer = [&](const std::string&, Seed, std::int64_t) -> FakeGenerator::Answer {
    switch (number++) {
      case 0:
        return {.text = "User prompt: Why is the sky blue?"};
      case 1:
        return {.text = "User prompt: Why is the", .finish_reason = FinishReason::kLength};
      case 2:
        return {.text = "User prompt:"};
      case 3:
        return {.text = "why is the sky BLUE"};
      default:
        return {.text = "Eh?"};
    }
  };
  const auto prompts = write_prompts(fake, {}, {.count = 5});
  std::vector<std::string> outcomes;
  for (const Prompt& prompt : prompts) outcomes.push_back(prompt.outcome);
  EXPECT_THAT(outcomes, ElementsAre("kept", "truncated", "empty", "duplicate", "too_short"));
  EXPECT_EQ(kept_prompts(prompts).size(), 1U);
}

TEST(WritePromptsTest, DoesNotDependOnTheOrderOfCompletion) {
  FakeGenerator forwards, backwards;
  forwards.answer = backwards.answer = play;
  backwards.backwards = true;
  EXPECT_EQ(write_prompts(forwards, kPersonas, {.count = 7, .seed = Seed{3}}),
            write_prompts(backwards, kPersonas, {.count = 7, .seed = Seed{3}}));
}

TEST(SamplePromptsTest, PiecesGiveWhatOneCallGives) {
  FakeGenerator fake;
  fake.backwards = true;
  fake.answer = [](const std::string&, Seed seed, std::int64_t) {
    return FakeGenerator::Answer{.text = "What is number " + std::to_string(seed.value % 3) + " good for, in general?"};
  };
  const PromptOptions options = {.count = 9, .seed = Seed{11}};
  const auto whole = write_prompts(fake, kPersonas, options);
  std::vector<Prompt> pieces, reported;
  for (const auto& [first, count] : {std::pair{0, 2}, std::pair{2, 1}, std::pair{3, 6}}) {
    for (const Prompt& prompt :
         sample_prompts(fake, kPersonas, static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(count), options,
                        {}, [&](const Prompt& p) { reported.push_back(p); })) {
      pieces.push_back(prompt);
    }
  }
  EXPECT_EQ(reported, pieces);  // in order although completions arrive backwards
  filter_prompts(pieces, options.filters);
  EXPECT_EQ(pieces, whole);
  EXPECT_THAT(count_outcomes(whole), ::testing::Contains(::testing::Pair("duplicate", 6)));
}

TEST(SamplePromptsTest, WhatDoesNotFitIsCounted) {
  FakeGenerator fake;
  fake.answer = play;
  fake.max_tokens_value = 600;
  const std::vector<Persona> personas = {{.text = "a baker"}, {.text = std::string(5000, 'x')}};
  const auto prompts = write_prompts(fake, personas);
  EXPECT_EQ(prompts[0].outcome, "kept");
  EXPECT_EQ(prompts[1].outcome, "no_room");
  EXPECT_EQ(fake.generated.size(), 1U);
}

TEST(SamplePromptsTest, BadInputIsNamed) {
  FakeGenerator fake;
  const std::vector<Persona> personas = {{.text = "a baker"}, {.text = ""}};
  EXPECT_THAT([&] { write_prompts(fake, personas); },
              ::testing::ThrowsMessage<InputError>(HasSubstr("number 1 is empty")));
  EXPECT_THROW(write_prompts(fake, kPersonas, {}, {.persona = "nobody"}), InputError);
  EXPECT_THROW(write_prompts(fake, kPersonas, {.sampling = {.temperature = -1.0}}), InputError);
}

TEST(DrawPersonasTest, RepeatsOnlyWhenAllAreDrawn) {
  std::vector<Persona> personas;
  for (int i = 0; i < 10; ++i) personas.push_back({.text = std::to_string(i)});
  const auto drawn = draw_personas(personas, 25, Seed{1});
  ASSERT_EQ(drawn.size(), 25U);
  for (std::size_t round = 0; round < 2; ++round) {
    std::vector<std::string> of_round;
    for (std::size_t i = 0; i < 10; ++i) of_round.push_back(drawn[round * 10 + i].text);
    std::sort(of_round.begin(), of_round.end());
    EXPECT_TRUE(std::unique(of_round.begin(), of_round.end()) == of_round.end());
  }
  EXPECT_EQ(drawn, draw_personas(personas, 25, Seed{1}));
  EXPECT_NE(drawn, draw_personas(personas, 25, Seed{2}));
  EXPECT_THROW(draw_personas({}, 1, Seed{}), InputError);
}

TEST(BundledPersonasTest, AreManyAndDiffer) {
  const auto personas =
      read_jsonl<Persona>(std::filesystem::path(SAO_SOURCE_DIR) / "libsao" / "share" / "personas.jsonl");
  EXPECT_GE(personas.size(), 300U);
  std::vector<std::string> all;
  for (const Persona& persona : personas) {
    EXPECT_TRUE(persona.text.starts_with("A")) << persona.text;
    EXPECT_TRUE(persona.text.ends_with(".")) << persona.text;
    all.push_back(persona.text);
  }
  std::sort(all.begin(), all.end());
  EXPECT_TRUE(std::unique(all.begin(), all.end()) == all.end());
}

}  // namespace
}  // namespace sao
