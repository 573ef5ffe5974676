// SPDX-License-Identifier: Apache-2.0
// Whole training runs against TRL's DPOTrainer: loss, schedule, accumulation, clipping, AdamW and metrics together.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "sao/io/files.h"
#include "sao/io/safetensors.h"
#include "sao/train/trainer.h"
#include "support/paths.h"

namespace sao {
namespace {

using Json = nlohmann::json;

void compare(const std::string& name, TrainerOptions options) {
  const auto folder = testing::golden("train");
  const Json expected = Json::parse(read_file(folder / "expected.json"));
  std::vector<TokenPair> pairs;
  for (const Json& row : expected["rows"]) {
    pairs.push_back({.prompt = row["prompt_ids"].get<TokenIds>(),
                     .chosen = row["chosen_ids"].get<TokenIds>(),
                     .rejected = row["rejected_ids"].get<TokenIds>()});
  }
  options.loss = DPO{.beta = 0.5};
  options.optimizer = {.learning_rate = 3e-3, .weight_decay = 0.1, .max_grad_norm = 0.5};
  options.epochs = 10;
  options.batch_size = 6;
  const CausalLM policy = CausalLM::load(folder / "model");
  Trainer trainer(policy, pairs, options);
  for (const Json& step : expected["runs"][name]["steps"]) {
    ASSERT_TRUE(trainer.step());
    const Json found = Json::parse(to_json_line(trainer.metrics()));
    for (const auto& [key, value] : step.items()) {
      // Policy and reference are the same weights: which reward is larger is a matter of the last bit.
      if (key == "rewards/accuracies" && step["rewards/margins"] == 0.0) continue;
      const double want = value, have = found.at(key);
      EXPECT_NEAR(have, want, 1e-4 * std::max(1.0, std::abs(want))) << name << " step " << found["step"] << " " << key;
    }
  }
  EXPECT_FALSE(trainer.step());
  const SafetensorsFile final = SafetensorsFile::open(folder / "final.safetensors");
  double squares = 0.0, moved = 0.0;
  const CausalLM start = CausalLM::load(folder / "model");
  for (std::size_t i = 0; i < policy.parameters().size(); ++i) {
    const auto& [key, parameter] = policy.parameters()[i];
    const at::Tensor want = final.tensor(name + "." + key).to(at::kDouble);
    squares += (parameter.detach().to(at::kDouble) - want).square().sum().item<double>();
    moved += (start.parameters()[i].second.to(at::kDouble) - want).square().sum().item<double>();
  }
  EXPECT_LT(std::sqrt(squares), 2e-3 * std::sqrt(moved));
}

TEST(TrlRun, CosineWithWarmUp) { compare("cosine", {.schedule = {.kind = "cosine", .warmup_ratio = 0.2}}); }

TEST(TrlRun, LinearWithAccumulation) {
  compare("linear_accumulated", {.schedule = {.kind = "linear", .warmup_ratio = 0.0}, .micro_batch_pairs = 2});
}

}  // namespace
}  // namespace sao
