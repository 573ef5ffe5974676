// SPDX-License-Identifier: Apache-2.0
#include "sao/generate/engine_memory.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sao/base/error.h"
#include "sao/base/seed.h"
#include "support/counting_allocator.h"
#include "support/message_of.h"
#include "support/tiny_model.h"

namespace sao {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kPlenty = std::int64_t{1} << 40;

ModelConfig config() {
  return {.model_type = "gemma2",
          .vocab_size = 420,
          .hidden_size = 64,
          .intermediate_size = 192,
          .num_hidden_layers = 4,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
          .head_dim = 16,
          .max_position_embeddings = 1024,
          .tie_word_embeddings = true,
          .hidden_act = "gelu_pytorch_tanh",
          .zero_centered_norm = true,
          .post_norms = true,
          .embedding_scale = 8.0,
          .attention_scale = 0.25,
          .layer_windows = {16, 0, 16, 0}};
}

TokenIds some_ids(std::int64_t count, int first) {
  TokenIds ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<TokenId>((first * 7 + i * 13) % 400 + 4));
  return ids;
}

class EngineMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_tiny_model(folder_.path()); }
  Engine engine(const EngineOptions& options) const {
    return {CausalLM::random(config(), Seed{1}), ChatTokenizer::load(folder_.path()), options};
  }
  testing::TemporaryFolder folder_;
};

TEST_F(EngineMemoryTest, OfACallThatSamples) {
  const EngineOptions options{.max_batch = 16, .prefill_tokens = 256};
  const EngineWork work{.requests = 40, .samples = 2, .prompt_tokens = 50, .new_tokens = 60};
  Engine e = engine(options);
  std::vector<GenerationRequest> requests;
  for (int r = 0; r < 40; ++r) requests.push_back({.prompt_ids = some_ids(50, r), .seed = Seed{1}, .samples = 2});
  const testing::CountingAllocator counting;
  const std::int64_t peak =
      counting.peak_of([&] { e.generate_all(requests, {.max_new_tokens = 60, .ignore_eos = true}); });
  const EngineMemory planned = engine_memory(config(), at::kFloat, at::kCPU, options, work, kPlenty);
  EXPECT_NEAR(static_cast<double>(total_bytes(planned.parts)), static_cast<double>(peak),
              0.1 * static_cast<double>(peak));
  EXPECT_EQ(planned.sequences, 16);
}

TEST_F(EngineMemoryTest, OfACallThatReads) {
  const EngineOptions options{.max_batch = 64, .prefill_tokens = 512};
  const EngineWork work{.requests = 60, .samples = 0, .prompt_tokens = 300, .new_tokens = 1};
  Engine e = engine(options);
  std::vector<NextTokenRequest> requests;
  for (int r = 0; r < 60; ++r) requests.push_back({.ids = some_ids(300, r), .candidates = {5, 6}});
  const testing::CountingAllocator counting;
  const std::int64_t peak = counting.peak_of([&] { e.next_token_log_probs(requests); });
  const EngineMemory planned = engine_memory(config(), at::kFloat, at::kCPU, options, work, kPlenty);
  EXPECT_NEAR(static_cast<double>(total_bytes(planned.parts)), static_cast<double>(peak),
              0.1 * static_cast<double>(peak));
}

TEST_F(EngineMemoryTest, TheCacheTakesHalfOfWhatIsFree) {
  const EngineWork work{.requests = 100, .samples = 1, .prompt_tokens = 100, .new_tokens = 100};
  const std::int64_t block = KvCache::bytes_per_block(config(), at::kFloat);
  const EngineMemory planned = engine_memory(config(), at::kFloat, at::kCPU, {}, work, 2 * 40 * block);
  EXPECT_EQ(planned.parts[1], (MemoryPart{"KV cache", 40 * block}));
  EXPECT_EQ(planned.sequences, 3);  // of 13 blocks each
  const EngineMemory asked = engine_memory(config(), at::kFloat, at::kCPU, {.cache_bytes = 26 * block}, work, 0);
  EXPECT_EQ(asked.sequences, 2);
  EXPECT_THAT(
      testing::message_of([&] { engine_memory(config(), at::kFloat, at::kCPU, {.cache_bytes = 12 * block}, work, 0); }),
      HasSubstr("raise cache_bytes"));
}

}  // namespace
}  // namespace sao
