// SPDX-License-Identifier: Apache-2.0
#include "sao/judge/health.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "sao/base/error.h"

namespace sao {
namespace {

Verdict verdict(const std::string& id, double p12, double p21, const std::string& outcome) {
  return {.id = id,
          .prompt_id = id,
          .first_id = id + "-0",
          .second_id = id + "-1",
          .p_first = (p12 + 1.0 - p21) / 2.0,
          .p_as_first = p12,
          .p_as_second = 1.0 - p21,
          .outcome = outcome};
}

std::vector<Response> responses_of(const std::string& id, const std::string& first, const std::string& second) {
  return {{.id = id + "-0", .prompt_id = id, .text = first, .ids = TokenIds(first.size(), 1)},
          {.id = id + "-1", .prompt_id = id, .k = 1, .text = second, .ids = TokenIds(second.size(), 1)}};
}

TEST(JudgeHealthTest, CountsByHand) {
  std::vector<Verdict> verdicts = {verdict("a", 0.9, 0.3, "first"), verdict("b", 0.8, 0.9, "inconsistent"),
                                   verdict("c", 0.4, 0.9, "second"), verdict("d", 0.5, 0.5, "tie")};
  verdicts.push_back({.id = "e", .first_id = "e-0", .second_id = "e-1", .outcome = "identical"});
  verdicts.push_back({.id = "f", .first_id = "f-0", .second_id = "f-1", .outcome = "unparsable"});
  std::vector<Response> responses;
  for (const auto& [id, first, second] : {std::tuple{"a", "longer text", "short"}, std::tuple{"b", "xx", "xxxx"},
                                          std::tuple{"c", "now this is long", "ééé"}, std::tuple{"d", "one", "two"},
                                          std::tuple{"e", "s", "s"}, std::tuple{"f", "s", "t"}}) {
    for (const Response& response : responses_of(id, first, second)) responses.push_back(response);
  }
  const JudgeHealth health = judge_health(verdicts, responses);
  EXPECT_EQ(health.pairs, 6);
  EXPECT_EQ(health.judged, 5);
  EXPECT_EQ(health.both_orders, 4);
  EXPECT_EQ(health.outcomes.at("identical"), 1);
  EXPECT_NEAR(health.agreement, 3.0 / 4.0, 1e-12);
  EXPECT_NEAR(health.position_bias, (1.2 + 1.7 + 1.3 + 1.0) / 4.0 - 1.0, 1e-12);  // mean(p12 + p21) - 1
  const auto h = [](double p) { return -p * std::log2(p) - (1.0 - p) * std::log2(1.0 - p); };
  EXPECT_NEAR(health.mean_entropy, (h(0.9) + h(0.3) + h(0.8) + h(0.9) + h(0.4) + h(0.9) + 2.0) / 8.0, 1e-12);
  EXPECT_NEAR(health.mean_margin, (0.3 + 0.05 + 0.25 + 0.0) / 4.0, 1e-12);
  EXPECT_NEAR(health.decided_share, 2.0 / 5.0, 1e-12);
  EXPECT_NEAR(health.unparsable_share, 1.0 / 5.0, 1e-12);
  EXPECT_NEAR(health.tie_share, 1.0 / 5.0, 1e-12);
  EXPECT_NEAR(health.inconsistent_share, 1.0 / 5.0, 1e-12);
  EXPECT_NEAR(health.first_share, 0.5, 1e-12);
  EXPECT_EQ(health.characters.pairs, 2);
  EXPECT_NEAR(health.characters.longer_wins_share, 0.5, 1e-12);
  EXPECT_NEAR(health.characters.mean_difference, (6.0 - 13.0) / 2.0, 1e-12);  // code points, not bytes
  EXPECT_NEAR(health.tokens.mean_difference, (6.0 - 10.0) / 2.0, 1e-12);
}

TEST(JudgeHealthTest, CorrelationWithLengthOfAJudgeThatReadsOnlyLength) {
  std::vector<Verdict> verdicts;
  std::vector<Response> responses;
  for (int i = 1; i <= 9; ++i) {
    const std::string id = std::to_string(i);
    const double p = 0.5 + (i - 5) * 0.05;
    verdicts.push_back(verdict(id, p, 1.0 - p, p > 0.5 ? "first" : p < 0.5 ? "second" : "tie"));
    for (const Response& r : responses_of(id, std::string(static_cast<std::size_t>(i), 'x'), "xxxxx"))
      responses.push_back(r);
  }
  const JudgeHealth health = judge_health(verdicts, responses);
  EXPECT_NEAR(health.characters.correlation, 1.0, 1e-12);
  EXPECT_EQ(health.characters.longer_wins_share, 1.0);
  EXPECT_EQ(health.characters.pairs, 8);
  EXPECT_EQ(health.agreement, 1.0);
  EXPECT_NEAR(health.position_bias, 0.0, 1e-12);
}

TEST(JudgeHealthTest, NothingIsNoDivisionByZero) {
  const JudgeHealth health = judge_health({}, {});
  EXPECT_EQ(health.position_bias, 0.0);
  EXPECT_EQ(health.characters.correlation, 0.0);
  const std::vector<Verdict> dangling = {verdict("a", 0.5, 0.5, "tie")};
  EXPECT_THROW(judge_health(dangling, {}), InputError);
}

}  // namespace
}  // namespace sao
