// SPDX-License-Identifier: Apache-2.0
#include "sao/judge/pairs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sao/base/error.h"

namespace sao {
namespace {

using ::testing::Pair;
using ::testing::UnorderedElementsAre;

struct World {
  std::vector<Prompt> prompts = {};
  std::vector<Response> responses = {};
  std::vector<Verdict> verdicts = {};

  void add(const std::string& id, std::int64_t samples = 2) {
    prompts.push_back({.id = id, .text = "prompt " + id, .ids = {1, 2}, .outcome = "kept"});
    for (std::int64_t k = 0; k < samples; ++k) {
      responses.push_back({.id = id + "-" + std::to_string(k),
                           .prompt_id = id,
                           .k = k,
                           .text = id + " answer " + std::to_string(k),
                           .ids = {10 + static_cast<TokenId>(k), 9},
                           .finish_reason = "stop"});
    }
  }
  void judge(const std::string& id, double p_first, const std::string& outcome, int first = 0, int second = 1) {
    verdicts.push_back({.id = id + std::to_string(verdicts.size()),
                        .prompt_id = id,
                        .first_id = id + "-" + std::to_string(first),
                        .second_id = id + "-" + std::to_string(second),
                        .p_first = p_first,
                        .outcome = outcome});
  }
  PreferencePairs build(const PairOptions& options = {}) const {
    return build_pairs(prompts, responses, verdicts, options);
  }
};

TEST(BuildPairsTest, ChosenIsTheBetterResponseWithItsIds) {
  World world;
  world.add("a");
  world.add("b");
  world.judge("a", 0.9, "first");
  world.judge("b", 0.3, "second");
  const auto built = world.build();
  ASSERT_EQ(built.pairs.size(), 2U);
  EXPECT_EQ(built.pairs[0], (Preference{.id = "a",
                                        .prompt = {{"user", "prompt a"}},
                                        .chosen = {{"assistant", "a answer 0"}},
                                        .rejected = {{"assistant", "a answer 1"}},
                                        .prompt_ids = {1, 2},
                                        .chosen_ids = {10, 9},
                                        .rejected_ids = {11, 9}}));
  EXPECT_EQ(built.pairs[1].chosen[0].content, "b answer 1");
  EXPECT_EQ(built.pairs[1].chosen_ids, (TokenIds{11, 9}));
  EXPECT_EQ(built.pairs[1].p, 1.0);
  EXPECT_EQ(world.build({.soft_labels = true}).pairs[1].p, 0.7);
  EXPECT_THAT(built.outcomes, UnorderedElementsAre(Pair("kept", 2)));
}

TEST(BuildPairsTest, EveryPromptIsCountedOnce) {
  World world;
  for (const char* id : {"kept", "tie", "odd", "same", "cut", "narrow", "none", "dropped"}) world.add(id);
  world.prompts.back().outcome = "duplicate";
  world.judge("kept", 0.8, "first");
  world.judge("tie", 0.5, "tie");
  world.judge("odd", 0.52, "inconsistent");
  world.judge("same", 0.5, "identical");
  world.judge("cut", 0.9, "first");
  world.responses[9].finish_reason = "length";
  world.judge("narrow", 0.46, "second");
  const auto built = world.build({.min_margin = 0.05});
  EXPECT_THAT(built.outcomes,
              UnorderedElementsAre(Pair("kept", 1), Pair("tie", 1), Pair("inconsistent", 1), Pair("identical", 1),
                                   Pair("truncated", 1), Pair("low_margin", 1), Pair("not_judged", 1)));
  EXPECT_EQ(built.pairs.size(), 1U);
  const auto more = world.build({.soft_labels = true, .keep_inconsistent = true, .keep_truncated = true});
  ASSERT_EQ(more.pairs.size(), 4U);
  EXPECT_EQ(more.pairs[1].id, "odd");
  EXPECT_EQ(more.pairs[1].p, 0.52);
}

TEST(BuildPairsTest, IdsOnlyWhenAllAreKnown) {
  World world;
  world.add("a");
  world.judge("a", 0.9, "first");
  world.prompts[0].ids.clear();
  const auto built = world.build();
  EXPECT_TRUE(built.pairs[0].chosen_ids.empty());
  EXPECT_TRUE(built.pairs[0].prompt_ids.empty());
}

TEST(BuildPairsTest, BestAgainstWorstOfARoundRobin) {
  World world;
  world.add("a", 3);
  world.judge("a", 0.4, "second", 0, 1);
  world.judge("a", 0.8, "first", 0, 2);
  world.judge("a", 0.9, "first", 1, 2);
  const auto built = world.build({.soft_labels = true});  // scores 0.6, 0.75, 0.15
  ASSERT_EQ(built.pairs.size(), 1U);
  EXPECT_EQ(built.pairs[0].chosen[0].content, "a answer 1");
  EXPECT_EQ(built.pairs[0].rejected[0].content, "a answer 2");
  EXPECT_EQ(built.pairs[0].p, 0.9);

  World cycle;
  cycle.add("a", 3);
  cycle.judge("a", 0.99, "first", 0, 1);  // scores 0.695, 0.455, 0.35
  cycle.judge("a", 0.4, "second", 0, 2);
  cycle.judge("a", 0.9, "first", 1, 2);
  EXPECT_THAT(cycle.build().outcomes, UnorderedElementsAre(Pair("intransitive", 1)));
}

TEST(BuildPairsTest, BadInputIsNamed) {
  World world;
  world.add("a");
  world.judge("b", 0.9, "first");
  EXPECT_THROW(world.build(), InputError);
  world.verdicts[0] = {.id = "x", .prompt_id = "a", .first_id = "a-0", .second_id = "b-1", .outcome = "first"};
  EXPECT_THROW(world.build(), InputError);
  EXPECT_THROW(build_pairs({}, {}, {}, {.min_margin = 0.6}), InputError);
}

}  // namespace
}  // namespace sao
