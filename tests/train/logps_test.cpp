// SPDX-License-Identifier: Apache-2.0
#include "sao/train/logps.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "sao/base/error.h"
#include "train/tiny_model.h"

namespace sao {
namespace {

using testing::tiny_model;
using testing::toy_pairs;

// Whole logits, one sequence at a time.
double plain_logp(const CausalLM& model, const TokenIds& prompt, const TokenIds& response) {
  const c10::NoGradGuard no_grad;
  TokenIds ids = prompt;
  ids.insert(ids.end(), response.begin(), response.end());
  const at::Tensor logps = model.logits(model.hidden(pack(std::vector<TokenIds>{ids}))).to(at::kDouble).log_softmax(1);
  double sum = 0.0;
  for (std::size_t t = 0; t < response.size(); ++t) {
    sum += logps[static_cast<std::int64_t>(prompt.size() + t) - 1][response[t]].item<double>();
  }
  return sum;
}

TEST(Logps, PackedSumsAreTheSequencesOwn) {
  const CausalLM model = tiny_model();
  const auto pairs = toy_pairs(7);
  model.set_requires_grad(true);
  const PairLogps logps = pair_logps(model, pairs, /*chunk_tokens=*/5);
  std::vector<PromptedResponse> completions;
  for (const TokenPair& pair : pairs) completions.push_back({pair.prompt, pair.chosen});
  for (const std::int64_t batch_tokens : {1, 30, 10000}) {
    const std::vector<double> sums = sequence_logps(model, completions, {.batch_tokens = batch_tokens});
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const double expected = plain_logp(model, pairs[i].prompt, pairs[i].chosen);
      EXPECT_NEAR(sums[i], expected, 1e-4);
      EXPECT_NEAR(logps.chosen[static_cast<std::int64_t>(i)].item<double>(), expected, 1e-4);
      EXPECT_NEAR(logps.rejected[static_cast<std::int64_t>(i)].item<double>(),
                  plain_logp(model, pairs[i].prompt, pairs[i].rejected), 1e-4);
      EXPECT_EQ(logps.chosen_lengths[static_cast<std::int64_t>(i)].item<std::int64_t>(),
                static_cast<std::int64_t>(pairs[i].chosen.size()));
    }
  }
  EXPECT_TRUE(logps.chosen.requires_grad());
}

TEST(Logps, TokensDoNotDependOnTheBatchWithGradientsOff) {
  const CausalLM model = tiny_model();
  const auto pairs = toy_pairs(9);
  std::vector<PromptedResponse> completions;
  for (const TokenPair& pair : pairs) completions.push_back({pair.prompt, pair.rejected});
  const auto alone = response_token_logps(model, completions, {.batch_tokens = 1});
  const auto together = response_token_logps(model, completions, {.batch_tokens = 10000});
  EXPECT_EQ(alone, together);
}

TEST(Logps, AnEqualPromptIsComputedOnceAndChangesNothing) {
  const CausalLM model = tiny_model();
  const TokenIds prompt = {5, 9, 4, 7}, copy = prompt, other = {5, 9, 4};
  const TokenIds one = {3}, two = {8, 2}, many = {6, 6, 1, 9, 3};
  const std::vector<PromptedResponse> completions{{prompt, many}, {other, two}, {copy, one}, {prompt, two}};
  const CompletionBatch batch = pack_completions(completions);
  EXPECT_EQ(batch.tokens.tokens(), 4 + 4 + (3 + 1) + 0 + 1);  // the prompt, and each response without its last token
  const auto together = response_token_logps(model, completions, {.batch_tokens = 10000});
  const auto alone = response_token_logps(model, completions, {.batch_tokens = 1});
  EXPECT_EQ(together, alone);

  // Gradients add up over the responses that share the prompt.
  const auto gradient = [&](std::span<const PromptedResponse> part) {
    for (const auto& [name, parameter] : model.parameters()) parameter.mutable_grad() = at::Tensor();
    token_logps(model, pack_completions(part)).sum().backward();
    return model.parameters()[1].second.grad().clone();
  };
  model.set_requires_grad(true);
  at::Tensor sum = at::zeros_like(model.parameters()[1].second);
  for (const PromptedResponse& completion : completions) sum += gradient({&completion, 1});
  EXPECT_TRUE(at::allclose(gradient(completions), sum, 1e-4, 1e-5));
}

TEST(Logps, EmptySidesAreRefused) {
  const CausalLM model = tiny_model();
  const TokenIds some = {1, 2}, none;
  EXPECT_THROW(sequence_logps(model, std::vector<PromptedResponse>{{some, none}}), InputError);
  EXPECT_THROW(sequence_logps(model, std::vector<PromptedResponse>{{none, some}}), InputError);
}

}  // namespace
}  // namespace sao
