// SPDX-License-Identifier: Apache-2.0
// Generation against transformers: greedy tokens of random checkpoints, exactly.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "sao/generate/engine.h"
#include "sao/io/safetensors.h"
#include "support/close.h"
#include "support/model_fixture.h"

namespace sao {
namespace {

class EngineParity : public testing::ModelFixtureTest {};

TokenIds row_ids(const at::Tensor& row) {
  TokenIds ids;
  for (std::int64_t i = 0; i < row.size(0); ++i) ids.push_back(static_cast<TokenId>(row[i].item<std::int64_t>()));
  return ids;
}

TEST_P(EngineParity, GreedyTokensAreThoseOfTransformers) {
  const SafetensorsFile expected = SafetensorsFile::open(folder() / "expected.safetensors");
  const auto prompts =
      testing::unpad(expected.tensor("greedy.input_ids"), expected.tensor("greedy.attention_mask")).rows;
  const at::Tensor new_tokens = expected.tensor("greedy.new_tokens");
  std::vector<GenerationRequest> requests;
  for (const TokenIds& prompt : prompts) requests.push_back({.prompt_ids = prompt});
  const SamplingOptions greedy{.temperature = 0.0, .max_new_tokens = new_tokens.size(1), .ignore_eos = true};
  const CausalLM model = CausalLM::load(folder());
  testing::Comparison tokens(GetParam(), "greedy tokens", 0.0);
  for (const EngineOptions& options :
       std::vector<EngineOptions>{{}, {.max_batch = 1}, {.max_batch = 2, .prefill_tokens = 5}}) {
    Engine engine(model, ChatTokenizer::load(folder()), options);
    const auto completions = engine.generate_all(requests, greedy);
    for (std::size_t r = 0; r < requests.size(); ++r) {
      const TokenIds reference = row_ids(new_tokens[static_cast<std::int64_t>(r)]);
      EXPECT_EQ(completions[r][0].ids, reference);
      tokens.add(completions[r][0].ids == reference ? 0.0 : 1.0, new_tokens.size(1), fmt::format("prompt {}", r));
      EXPECT_EQ(completions[r][0].finish_reason, FinishReason::kLength);
    }
  }
}

// The log-probs of a batch from its per-token reference, the prompt cut at several places.
TEST_P(EngineParity, ScoresAndNextTokensAreThoseOfTransformers) {
  const SafetensorsFile expected = SafetensorsFile::open(folder() / "expected.safetensors");
  const auto rows = testing::unpad(expected.tensor("right.input_ids"), expected.tensor("right.attention_mask")).rows;
  const at::Tensor log_probs = expected.tensor("right.per_token_logps");
  std::vector<ScoreRequest> scores;
  std::vector<NextTokenRequest> nexts;
  std::vector<std::pair<std::int64_t, std::int64_t>> where;  // row, prompt length
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const TokenIds& all = rows[r];
    const std::int64_t length = static_cast<std::int64_t>(all.size());
    if (length < 2) continue;
    for (const std::int64_t cut : {std::int64_t{1}, length / 2, length - 1}) {
      scores.push_back(
          {.prompt_ids = {all.begin(), all.begin() + cut}, .response_ids = {all.begin() + cut, all.end()}});
      nexts.push_back({.ids = scores.back().prompt_ids, .candidates = {0, all[static_cast<std::size_t>(cut)], 5}});
      where.emplace_back(static_cast<std::int64_t>(r), cut);
    }
  }
  Engine engine(CausalLM::load(folder()), ChatTokenizer::load(folder()), {.prefill_tokens = 64});
  testing::Comparison compared(GetParam(), "scores, float32", 1e-4);
  const auto scored = engine.score(scores);
  const auto next = engine.next_token_log_probs(nexts);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const auto [row, cut] = where[i];
    const std::int64_t tokens = static_cast<std::int64_t>(scores[i].response_ids.size());
    ASSERT_EQ(scored[i].size(), scores[i].response_ids.size());
    EXPECT_TRUE(compared.close(at::tensor(scored[i], at::kDouble), log_probs[row].narrow(0, cut - 1, tokens),
                               fmt::format("row {}, prompt of {}", row, cut)));
    ASSERT_EQ(next[i].size(), 3u);
    EXPECT_EQ(next[i][1], scored[i][0]) << "one number, whichever way it is asked for";
  }
}

SAO_INSTANTIATE_MODEL_FIXTURES(EngineParity);

}  // namespace
}  // namespace sao
