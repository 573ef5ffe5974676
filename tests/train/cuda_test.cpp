// SPDX-License-Identifier: Apache-2.0
// The trainer on a GPU beside the CPU. Skipped where there is no GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sao/model/causal_lm.h"
#include "sao/train/trainer.h"
#include "support/enable_cuda.h"
#include "train/tiny_model.h"

namespace sao {
namespace {

using testing::EnableCuda;

class CudaTraining : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EnableCuda::available) GTEST_SKIP() << EnableCuda::reason;
  }
};

// Losses and weights after some steps, chosen and rejected sharing their prompts.
TEST_F(CudaTraining, StepsAreThoseOfTheCpu) {
  ModelConfig config = testing::tiny_config();
  config.head_dim = 16;  // what the tensor cores take
  config.attention_scale = 0.25;
  const auto train = [&](const std::string& device, DType dtype, bool checkpointing) {
    const CausalLM model = CausalLM::random(config, Seed{3}, {.device = device, .dtype = dtype}, 0.15);
    TrainerOptions options{.loss = SimPO{.beta = 2.0},
                           .optimizer = {.learning_rate = 3e-3},
                           .schedule = {.kind = "constant", .warmup_ratio = 0.0},
                           .batch_size = 8,
                           .max_length = 64};
    options.activation_checkpointing = checkpointing;
    Trainer trainer(model, testing::toy_pairs(32), options);
    std::vector<double> losses;
    while (trainer.step()) losses.push_back(trainer.metrics().loss);
    return losses;
  };
  const std::vector<double> expected = train("cpu", DType::kFloat32, false);
  ASSERT_EQ(expected.size(), 4u);
  for (const bool checkpointing : {false, true}) {
    const std::vector<double> found = train("cuda:0", DType::kFloat32, checkpointing);
    const std::vector<double> half = train("cuda:0", DType::kBFloat16, checkpointing);
    ASSERT_EQ(found.size(), 4u);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(found[i], expected[i], 2e-4 * std::abs(expected[i])) << "step " << i;
      EXPECT_NEAR(half[i], expected[i], 0.1 * std::abs(expected[i])) << "step " << i;
    }
    EXPECT_EQ(train("cuda:0", DType::kBFloat16, checkpointing), half) << "not the same bits again";
  }
}

}  // namespace
}  // namespace sao
