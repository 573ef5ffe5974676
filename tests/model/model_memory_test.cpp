// SPDX-License-Identifier: Apache-2.0
// What is told from a config beside what tensors really take.
#include "sao/model/model_memory.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "sao/base/seed.h"
#include "sao/model/causal_lm.h"
#include "support/counting_allocator.h"
#include "support/paths.h"

namespace sao {
namespace {

// Wide enough for what is counted to be much more than what is not: inverse norms, positions, partial sums.
ModelConfig config(const std::string& family) {
  ModelConfig c{.model_type = family,
                .vocab_size = 2048,
                .hidden_size = 128,
                .intermediate_size = 320,
                .num_hidden_layers = 4,
                .num_attention_heads = 4,
                .num_key_value_heads = 2,
                .head_dim = 64,
                .max_position_embeddings = 4096,
                .tie_word_embeddings = true,
                .hidden_act = "silu",
                .attention_scale = 0.125,
                .layer_windows = {0, 0, 0, 0}};
  if (family == "gemma2" || family == "gemma3_text") {
    c.hidden_act = "gelu_pytorch_tanh";
    c.zero_centered_norm = c.post_norms = true;
    c.embedding_scale = std::sqrt(128.0);
  }
  c.query_key_norm = family == "gemma3_text" || family == "qwen3";
  c.fused_projections = family == "phi3";
  if (family == "llama") c.tie_word_embeddings = false;
  return c;
}

class ModelMemory : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr std::int64_t kTokens = 768;
  // Cosines and sines of twice as many positions, made on first use and not counted as the model's.
  static constexpr std::int64_t kRotaryBytes = 2 * kTokens * 64 * 4;

  static PackedTokens tokens() {
    TokenIds ids;
    for (std::int64_t i = 0; i < kTokens; ++i) ids.push_back(static_cast<TokenId>(i % 2048));
    return pack(std::vector<TokenIds>{ids});
  }
  static void expect_near(std::int64_t planned, std::int64_t found, double share) {
    EXPECT_NEAR(static_cast<double>(planned), static_cast<double>(found), share * static_cast<double>(found));
  }
};

TEST_P(ModelMemory, WeightsAndPackedCopies) {
  const testing::CountingAllocator counting;
  const std::int64_t before = counting.now();
  const CausalLM model = CausalLM::random(config(GetParam()), Seed{1});
  EXPECT_EQ(weight_bytes(model.config(), at::kFloat), counting.now() - before);
  EXPECT_EQ(weight_bytes(model.config(), at::kBFloat16), (counting.now() - before) / 2);

  const at::NoGradGuard no_grad;
  const std::int64_t loaded = counting.now();
  at::Tensor hidden = model.hidden(tokens());
  const auto result = static_cast<std::int64_t>(hidden.nbytes());
  expect_near(packed_bytes(model.config(), at::kFloat, at::kCPU), counting.now() - loaded - result - kRotaryBytes,
              0.01);
  EXPECT_EQ(packed_bytes(model.config(), at::kBFloat16, at::kCPU), 0);
  EXPECT_EQ(packed_bytes(model.config(), at::kFloat, at::Device(at::kCUDA, 0)), 0);

  const CausalLM int8 = model.with_int8_inference();
  const std::int64_t shared = counting.now();
  hidden = int8.hidden(tokens());
  expect_near(packed_bytes(model.config(), at::kFloat, at::kCPU, true), counting.now() - shared - kRotaryBytes, 0.01);
}

TEST_P(ModelMemory, OfAModelForInferenceOnly) {
  const ModelConfig c = config(GetParam());
  const testing::CountingAllocator counting;
  for (const bool int8 : {false, true}) {
    const std::int64_t before = counting.now();
    const CausalLM model =
        CausalLM::random(c, Seed{1}, {.purpose = int8 ? Purpose::kInt8Inference : Purpose::kInference});
    EXPECT_EQ(packed_bytes(c, at::kFloat, at::kCPU, int8) + unpacked_bytes(c, at::kFloat, at::kCPU, int8),
              counting.now() - before);
  }
  EXPECT_EQ(unpacked_bytes(c, at::kBFloat16, at::kCPU), weight_bytes(c, at::kBFloat16));
  EXPECT_EQ(unpacked_bytes(c, at::kFloat, at::Device(at::kCUDA, 0)), weight_bytes(c, at::kFloat));
}

TEST_P(ModelMemory, LoadingForInferenceHoldsOneMatrixOrLayerTwice) {
  const testing::TemporaryFolder where;
  const ModelConfig c = config(GetParam());
  CausalLM::random(c, Seed{1}).save(where / "model");
  const testing::CountingAllocator counting;
  const std::int64_t peak =
      counting.peak_of([&] { CausalLM::load(where / "model", {.purpose = Purpose::kInference}); });
  EXPECT_LT(peak, weight_bytes(c, at::kFloat) + 2048 * 128 * 4 + packed_bytes(c, at::kFloat, at::kCPU) / 4);
}

TEST_P(ModelMemory, Inference) {
  const CausalLM model = CausalLM::random(config(GetParam()), Seed{1});
  const at::NoGradGuard no_grad;
  const PackedTokens input = tokens();
  model.hidden(input);  // packs the weights
  const testing::CountingAllocator counting;
  const std::int64_t peak = counting.peak_of([&] { model.hidden(input); });
  expect_near(inference_bytes(model.config(), at::kFloat, at::kCPU, kTokens), peak, 0.1);
}

TEST_P(ModelMemory, ActivationsAndBackward) {
  for (const bool checkpointing : {false, true}) {
    CausalLM model = CausalLM::random(config(GetParam()), Seed{1});
    model.set_requires_grad(true);
    model.set_activation_checkpointing(checkpointing);
    const PackedTokens input = tokens();
    model.hidden(input);  // makes the rotary tables
    const testing::CountingAllocator counting;
    const std::int64_t before = counting.now();
    at::Tensor hidden = model.hidden(input);
    const std::int64_t kept = counting.now() - before;
    expect_near(activation_bytes(model.config(), at::kFloat, kTokens, checkpointing), kept, 0.1);

    const at::Tensor gradient = at::ones_like(hidden);
    const std::int64_t peak = counting.peak_of([&] {
      hidden.backward(gradient);
      hidden.reset();
    });
    const std::int64_t planned = backward_bytes(model.config(), at::kFloat, at::kCPU, kTokens, checkpointing);
    EXPECT_NEAR(static_cast<double>(planned), static_cast<double>(peak), 0.05 * static_cast<double>(kept + peak))
        << "checkpointing " << checkpointing;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ModelMemory, ::testing::Values("gemma2", "gemma3_text", "llama", "qwen3", "phi3"),
                         [](const auto& which) { return which.param; });

TEST(ModelMemoryParts, Sum) { EXPECT_EQ(total_bytes({{"a", 3}, {"b", 4}}), 7); }

}  // namespace
}  // namespace sao
