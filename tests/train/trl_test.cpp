// SPDX-License-Identifier: Apache-2.0
// Whole training runs against TRL's trainers: loss, reference, schedule, accumulation, clipping, AdamW and metrics
// together.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "sao/io/files.h"
#include "sao/io/safetensors.h"
#include "sao/train/trainer.h"
#include "support/parity_report.h"
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

// Runs of make_variants.py: every logged value of every step, and a weight after the last.
class TrlVariant : public ::testing::TestWithParam<const char*> {};

PreferenceLoss variant_loss(const std::string& name) {
  if (name == "aot") return Aot{.beta = 0.5, .label_smoothing = 0.1};
  if (name == "aot_unpaired") return AotUnpaired{.beta = 0.5};
  if (name == "mpo") return LossMix{{{DPO{.beta = 0.5}, 0.8}, {BcoPair{.beta = 0.5}, 0.2}, {Sft{}, 1.0}}};
  if (name == "kto") return KTO{.beta = 0.5, .undesirable_weight = 1.5};
  if (name == "apo_zero_unpaired") return ApoZeroUnpaired{.beta = 0.5};
  if (name == "tpo") return TPO{.beta = 0.5, .gold_weight = 0.5};
  if (name == "tpo_l") return TPOL{.beta = 0.5, .gamma_beta_ratio = 0.8};
  return DPO{.beta = 0.5};
}

TEST_P(TrlVariant, LogsTheSameValues) {
  const std::string name = GetParam();
  const auto folder = testing::golden("train");
  const Json expected = Json::parse(read_file(folder / "variants.json"));
  TrainerOptions options{.loss = variant_loss(name),
                         .optimizer = {.learning_rate = 3e-3, .max_grad_norm = 0.0},
                         .schedule = {.kind = "constant", .warmup_ratio = 0.0},
                         .epochs = 6,
                         .batch_size = 6,
                         .micro_batch_pairs = 2,
                         .token_metrics = true,
                         .shuffle = false};
  if (name == "moving_reference") options.reference = {.mode = "moving", .alpha = 0.6, .sync_steps = 2};
  options.use_weighting = name == "wpo";
  if (name == "ld_alpha") options.ld_alpha = 0.3;
  const CausalLM policy = CausalLM::load(folder / "model");
  std::optional<Trainer> trainer;
  if (is_unpaired(options.loss)) {
    std::vector<TokenCompletion> rows;
    for (const Json& row : expected["completions"]) {
      rows.push_back({.prompt = row["prompt_ids"].get<TokenIds>(),
                      .completion = row["completion_ids"].get<TokenIds>(),
                      .label = row["label"]});
    }
    options.epochs = 3;
    trainer.emplace(policy, rows, options);
  } else {
    std::vector<TokenPair> pairs;
    for (const Json& row : expected["pairs"]) {
      pairs.push_back({.prompt = row["prompt_ids"].get<TokenIds>(),
                       .chosen = row["chosen_ids"].get<TokenIds>(),
                       .rejected = row["rejected_ids"].get<TokenIds>(),
                       .gold = row["reference_ids"].get<TokenIds>()});
    }
    trainer.emplace(policy, pairs, options);
  }
  double worst = 0.0;
  std::string worst_case;
  std::int64_t compared = 0;
  const Json& run = expected["runs"][name];
  for (const Json& step : run["steps"]) {
    ASSERT_TRUE(trainer->step());
    const Json found = Json::parse(to_json_line(trainer->metrics()));
    for (const auto& [key, value] : step.items()) {
      // Policy and reference are the same weights: which reward is larger is a matter of the last bit.
      if (key == "rewards/accuracies" && step["rewards/margins"] == 0.0) continue;
      ASSERT_TRUE(found.contains(key)) << key;
      const double want = value, error = std::abs(found[key].get<double>() - want) / std::max(1.0, std::abs(want));
      EXPECT_LT(error, 1e-4) << name << " step " << found["step"] << " " << key;
      ++compared;
      if (error < worst) continue;
      worst = error;
      worst_case = name + " step " + found["step"].dump() + " " + key;
    }
  }
  EXPECT_FALSE(trainer->step());
  for (const auto& [key, parameter] : policy.parameters()) {
    if (key != "model.norm.weight") continue;
    const auto want = run[key].get<std::vector<double>>();
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(parameter.detach()[static_cast<std::int64_t>(i)].item<double>(), want[i], 2e-5);
    }
  }
  testing::report_parity(
      {"metrics", "training run, " + name, "logged values of 6 steps", compared, worst, 1e-4, worst_case});
}

INSTANTIATE_TEST_SUITE_P(Runs, TrlVariant,
                         ::testing::Values("moving_reference", "aot", "aot_unpaired", "mpo", "wpo", "ld_alpha", "kto",
                                           "apo_zero_unpaired", "tpo", "tpo_l"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace sao
