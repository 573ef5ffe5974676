// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/fake_generator.h"

namespace sao {
namespace {

using sao::testing::FakeGenerator;

TEST(LikelihoodTest, IsWeightedByTokens) {
  FakeGenerator fake;
  fake.token_log_prob = [](const std::string& shown, const std::string&) {
    return shown.find("easy") != std::string::npos ? -0.5 : -2.0;
  };
  const auto prompt = [&](const std::string& text) { return fake.text().encode_prompt(text); };
  const std::vector<ScoreRequest> requests = {{prompt("easy"), {5, 6, 7}}, {prompt("hard"), {5}}, {prompt("easy"), {}}};
  const Likelihood result = measure_likelihood(fake, requests);
  EXPECT_EQ(result.tokens, 4);
  EXPECT_EQ(result.sequences, 2);
  EXPECT_NEAR(result.sum_log_prob, -3.5, 1e-15);
  EXPECT_NEAR(result.nll, 0.875, 1e-15);
  EXPECT_NEAR(result.perplexity, std::exp(0.875), 1e-12);
  // Residuals 1.5 - 3 * 0.875 and 2 - 0.875, both of size 1.125.
  EXPECT_NEAR(result.standard_error, std::sqrt(2.0 * 1.125 * 1.125 * 2.0) / 4.0, 1e-12);
}

TEST(LikelihoodTest, NothingHasPerplexityOne) {
  FakeGenerator fake;
  EXPECT_EQ(measure_likelihood(fake, {}).perplexity, 1.0);
}

TEST(LikelihoodTest, AnswerEndsItsTurn) {
  const ChatTokenizer text = sao::testing::small_chat_tokenizer();
  const ScoreRequest request = answer_request(text, "Why?", "Because.");
  EXPECT_EQ(request.prompt_ids, text.encode_prompt("Why?"));
  EXPECT_EQ(request.response_ids.back(), text.turn_end_id());
  EXPECT_EQ(text.response_text(request.response_ids), "Because.");
}

}  // namespace
}  // namespace sao
