// SPDX-License-Identifier: Apache-2.0
// Generation against transformers: greedy tokens of random checkpoints, exactly.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "sao/generate/engine.h"
#include "sao/io/safetensors.h"
#include "support/close.h"
#include "support/paths.h"

namespace sao {
namespace {

class EngineParity : public ::testing::TestWithParam<const char*> {};

TokenIds row_ids(const at::Tensor& row) {
  TokenIds ids;
  for (std::int64_t i = 0; i < row.size(0); ++i) ids.push_back(static_cast<TokenId>(row[i].item<std::int64_t>()));
  return ids;
}

TEST_P(EngineParity, GreedyTokensAreThoseOfTransformers) {
  SAO_NEED_PARITY(GetParam());
  const std::filesystem::path folder = testing::parity(GetParam());
  const SafetensorsFile expected = SafetensorsFile::open(folder / "expected.safetensors");
  const at::Tensor ids = expected.tensor("greedy.input_ids"), mask = expected.tensor("greedy.attention_mask");
  const at::Tensor new_tokens = expected.tensor("greedy.new_tokens");
  std::vector<GenerationRequest> requests;
  for (std::int64_t r = 0; r < ids.size(0); ++r) {
    requests.push_back({.prompt_ids = row_ids(ids[r].masked_select(mask[r] != 0))});
  }
  const SamplingOptions greedy{.temperature = 0.0, .max_new_tokens = new_tokens.size(1), .ignore_eos = true};
  const CausalLM model = CausalLM::load(folder);
  for (const EngineOptions& options :
       std::vector<EngineOptions>{{}, {.max_batch = 1}, {.max_batch = 2, .prefill_tokens = 5}}) {
    Engine engine(model, ChatTokenizer::load(folder), options);
    const auto completions = engine.generate_all(requests, greedy);
    for (std::size_t r = 0; r < requests.size(); ++r) {
      EXPECT_EQ(completions[r][0].ids, row_ids(new_tokens[static_cast<std::int64_t>(r)]));
      EXPECT_EQ(completions[r][0].finish_reason, FinishReason::kLength);
    }
  }
}

// The log-probs of a batch from its per-token reference, the prompt cut at several places.
TEST_P(EngineParity, ScoresAndNextTokensAreThoseOfTransformers) {
  SAO_NEED_PARITY(GetParam());
  const std::filesystem::path folder = testing::parity(GetParam());
  const SafetensorsFile expected = SafetensorsFile::open(folder / "expected.safetensors");
  const at::Tensor ids = expected.tensor("right.input_ids"), mask = expected.tensor("right.attention_mask");
  const at::Tensor log_probs = expected.tensor("right.per_token_logps");
  std::vector<ScoreRequest> scores;
  std::vector<NextTokenRequest> nexts;
  std::vector<std::pair<std::int64_t, std::int64_t>> where;  // row, prompt length
  for (std::int64_t r = 0; r < ids.size(0); ++r) {
    const TokenIds all = row_ids(ids[r].masked_select(mask[r] != 0));
    const std::int64_t length = static_cast<std::int64_t>(all.size());
    if (length < 2) continue;
    for (const std::int64_t cut : {std::int64_t{1}, length / 2, length - 1}) {
      scores.push_back(
          {.prompt_ids = {all.begin(), all.begin() + cut}, .response_ids = {all.begin() + cut, all.end()}});
      nexts.push_back({.ids = scores.back().prompt_ids, .candidates = {0, all[static_cast<std::size_t>(cut)], 5}});
      where.emplace_back(r, cut);
    }
  }
  Engine engine(CausalLM::load(folder), ChatTokenizer::load(folder), {.prefill_tokens = 64});
  const auto scored = engine.score(scores);
  const auto next = engine.next_token_log_probs(nexts);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const auto [row, cut] = where[i];
    const std::int64_t tokens = static_cast<std::int64_t>(scores[i].response_ids.size());
    ASSERT_EQ(scored[i].size(), scores[i].response_ids.size());
    EXPECT_TRUE(testing::close(at::tensor(scored[i], at::kDouble), log_probs[row].narrow(0, cut - 1, tokens), 1e-4));
    ASSERT_EQ(next[i].size(), 3u);
    EXPECT_EQ(next[i][1], scored[i][0]) << "one number, whichever way it is asked for";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineParity,
                         ::testing::Values("gemma2-tiny", "sharded-gemma2", "llama3-tiny", "llama-tied"),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace sao
