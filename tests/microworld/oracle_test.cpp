// SPDX-License-Identifier: Apache-2.0
// The oracle finds exactly the flaws that the composer injected.
#include "oracle.h"

#include <gtest/gtest.h>

#include "world.h"

namespace microworld {
namespace {

TEST(Oracle, KnowsEveryComposedRequest) {
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const Split split = i % 2 == 0 ? Split::kTrain : Split::kHeldOut;
    EXPECT_TRUE(is_request(compose_any_request(1, i, split).text));
    EXPECT_TRUE(is_request(compose_unguided(1, i).text));
  }
}

TEST(Oracle, FindsExactlyTheInjectedFlaw) {
  for (int bit = -1; bit < kFlawCount; ++bit) {
    const Flaws flaw = bit < 0 ? 0 : Flaws{1} << bit;
    int tried = 0;
    for (std::uint64_t i = 0; tried < 4000; ++i) {
      const Request r = compose_any_request(2, i, Split::kTrain);
      if (!can_have(r, flaw)) continue;
      ++tried;
      const Answer a = compose_answer(r, flaw, i % 2 == 0, i);
      const auto found = assess(r.text, a.text);
      ASSERT_TRUE(found.has_value()) << r.text;
      ASSERT_EQ(found->flaws, flaw) << r.text << " | " << a.text;
      ASSERT_EQ(found->score, score_of(flaw));
    }
  }
}

TEST(Oracle, FindsExactlyTheFlawsOfMixedAnswers) {
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const Request r = compose_any_request(3, i, Split::kTrain);
    const Answer a = compose_mixed_answer(r, i);
    const auto found = assess(r.text, a.text);
    ASSERT_TRUE(found.has_value()) << r.text;
    ASSERT_EQ(found->flaws, a.flaws) << r.text << " | " << a.text;
  }
}

TEST(Oracle, CountsWhatItDoesNotUnderstandAgainstTheAnswer) {
  const char* request = "What color is a lemon?";
  EXPECT_EQ(assess(request, "A lemon is yellow.")->flaws, 0u);
  EXPECT_EQ(assess(request, "A lemon is the yellow.")->flaws, kOffTopic);
  EXPECT_EQ(assess(request, "Sure.")->flaws, kOffTopic);
  EXPECT_EQ(assess(request, "")->flaws, kOffTopic);
  EXPECT_EQ(assess(request, "A lemon is")->flaws, kBroken);
  EXPECT_EQ(assess(request, "Hi Anna. A lemon is yellow.")->flaws, kIdle);
  EXPECT_EQ(assess(request, "A lemon is yellow. A cow eats grass.")->flaws, kIdle);
  EXPECT_FALSE(assess("What color is happiness?", "A lemon is yellow.").has_value());
}

TEST(Oracle, HoldsAnswersToTheWish) {
  EXPECT_EQ(assess("What color is a lemon? First say okay.", "Okay. A lemon is yellow.")->flaws, 0u);
  EXPECT_EQ(assess("What color is a lemon? End with take care.", "A lemon is yellow.")->flaws, kIgnored);
  EXPECT_EQ(assess("What color is a lemon? Call me Anna.", "Hi Ben. A lemon is yellow.")->flaws, kIgnored | kIdle);
}

}  // namespace
}  // namespace microworld
