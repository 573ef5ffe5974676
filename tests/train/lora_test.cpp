// SPDX-License-Identifier: Apache-2.0
// Training adapters: whole runs against TRL's DPOTrainer with PEFT (see tests/golden/lora), and the trainer's promises.
#include "sao/model/lora.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "sao/io/files.h"
#include "sao/io/safetensors.h"
#include "sao/train/language_model.h"
#include "sao/train/trainer.h"
#include "support/counting_allocator.h"
#include "support/parity_report.h"
#include "support/paths.h"
#include "train/tiny_model.h"

namespace sao {
namespace {

using testing::copy_weights;
using testing::golden;
using ::testing::HasSubstr;
using testing::message_of;
using testing::same_bits;
using testing::TemporaryFolder;
using testing::tiny_model;
using testing::toy_pairs;
using Json = nlohmann::json;

std::vector<TokenPair> golden_pairs(const Json& expected) {
  std::vector<TokenPair> pairs;
  for (const Json& row : expected["rows"]) {
    pairs.push_back({.prompt = row["prompt_ids"].get<TokenIds>(),
                     .chosen = row["chosen_ids"].get<TokenIds>(),
                     .rejected = row["rejected_ids"].get<TokenIds>()});
  }
  return pairs;
}

TrainerOptions golden_options() {
  return {.loss = DPO{.beta = 0.5},
          .optimizer = {.learning_rate = 1e-3, .weight_decay = 0.1, .max_grad_norm = 0.5},
          .schedule = {.kind = "cosine", .warmup_ratio = 0.25},
          .epochs = 8,
          .batch_size = 6};
}

void compare_with_trl(const std::string& run, const LoraAdapter& start, bool base_given) {
  const auto folder = golden("lora") / "train";
  const Json expected = Json::parse(read_file(folder / "expected.json"));
  const CausalLM base = CausalLM::load(golden("model") / "llama3");
  const CausalLM policy = base.with_lora(start).clone_frozen();  // `start` keeps its values
  const auto before = copy_weights(policy);
  Trainer trainer(policy, golden_pairs(expected), golden_options(),
                  base_given ? std::optional(policy.base()) : std::nullopt);
  double worst = 0.0;
  std::int64_t compared = 0;
  std::string worst_case;
  for (const Json& step : expected["runs"][run]["steps"]) {
    ASSERT_TRUE(trainer.step());
    const Json found = Json::parse(to_json_line(trainer.metrics()));
    for (const auto& [key, value] : step.items()) {
      // Policy and reference are the same weights: which reward is larger is a matter of the last bit.
      if (key == "rewards/accuracies" && step["rewards/margins"] == 0.0) continue;
      const double want = value, have = found.at(key);
      const double difference = std::abs(have - want) / std::max(1.0, std::abs(want));
      EXPECT_LE(difference, 1e-4) << run << " step " << found["step"] << " " << key << " " << have << " " << want;
      ++compared;
      if (difference > worst) worst = difference, worst_case = key + " of step " + found["step"].dump();
    }
  }
  EXPECT_FALSE(trainer.step());
  testing::report_parity({.area = "LoRA",
                          .subject = "DPO, " + run + " adapters",
                          .what = "metrics of 8 steps, relative above 1",
                          .compared = compared,
                          .worst = worst,
                          .tolerance = 1e-4,
                          .worst_case = worst_case});
  const SafetensorsFile final = SafetensorsFile::open(folder / (run + ".safetensors"));
  double squares = 0.0, moved = 0.0;
  compared = 0;
  const NamedTensors start_parameters = start.parameters();
  ASSERT_EQ(start_parameters.size(), final.names().size());
  for (std::size_t i = 0; i < start_parameters.size(); ++i) {
    const auto& [key, parameter] = policy.trainable_parameters()[i];
    const at::Tensor want = final.tensor(key).to(at::kDouble);
    squares += (parameter.to(at::kDouble) - want).square().sum().item<double>();
    moved += (start_parameters[i].second.to(at::kDouble) - want).square().sum().item<double>();
    compared += want.numel();
  }
  const double share = std::sqrt(squares / moved);
  EXPECT_LT(share, 2e-3);
  testing::report_parity({.area = "LoRA",
                          .subject = "DPO, " + run + " adapters",
                          .what = "adapters after it, difference as a share of the way they went",
                          .compared = compared,
                          .worst = share,
                          .tolerance = 2e-3,
                          .worst_case = ""});
  EXPECT_TRUE(same_bits(policy, before)) << "the base is frozen";
}

TEST(LoraTrlRun, NewAdaptersWithTheBaseAsReference) {
  const ModelConfig config = ModelConfig::read(golden("model") / "llama3");
  const LoraAdapter start = LoraAdapter::load(golden("lora") / "train" / "start", config);
  compare_with_trl("fresh", start, /*base_given=*/false);
  compare_with_trl("fresh", start, /*base_given=*/true);
}

TEST(LoraTrlRun, ContinuedAdaptersWithTheirStartAsReference) {
  const ModelConfig config = ModelConfig::read(golden("model") / "llama3");
  compare_with_trl("continued", LoraAdapter::load(golden("lora") / "llama3", config), /*base_given=*/false);
}

TrainerOptions small_options(PreferenceLoss loss = DPO{}) {
  return {.loss = std::move(loss),
          .optimizer = {.learning_rate = 3e-3},
          .schedule = {.kind = "cosine", .warmup_ratio = 0.0},
          .epochs = 2,
          .batch_size = 8,
          .max_length = 64,
          .chunk_tokens = 16};
}

// Adapters that are not at their start: B is not zero.
CausalLM adapted(const LoraOptions& options = {.r = 4}, std::uint64_t seed = 5, DType dtype = DType::kFloat32) {
  const CausalLM policy = tiny_model(1, dtype).with_lora(options, Seed{seed});
  for (std::size_t m = 0; m < policy.lora()->modules.size(); ++m) {
    at::Tensor b = policy.lora()->modules[m].b;
    b.copy_(at::linspace(-0.1, 0.1 + 0.01 * static_cast<double>(m), b.numel()).view_as(b));
  }
  policy.weights_changed();
  return policy;
}

std::vector<std::string> run(Trainer& trainer) {
  std::vector<std::string> lines;
  while (trainer.step()) lines.push_back(to_json_line(trainer.metrics()));
  return lines;
}

std::vector<at::Tensor> copy_adapters(const CausalLM& model) {
  std::vector<at::Tensor> copy;
  for (const auto& [name, tensor] : model.trainable_parameters()) copy.push_back(tensor.detach().clone());
  return copy;
}

TEST(LoraTrainer, TheBaseGivenAsReferenceIsTheAdapterSwitchedOff) {
  const CausalLM policy = adapted();
  Trainer trainer(policy, toy_pairs(12), small_options(), policy.base());
  ASSERT_TRUE(trainer.step());
  EXPECT_GT(std::abs(trainer.metrics().rewards_chosen), 1e-3) << "the adapters say something else than the base";
  Trainer copied(adapted(), toy_pairs(12), small_options(), tiny_model());
  ASSERT_TRUE(copied.step());
  EXPECT_EQ(to_json_line(trainer.metrics()), to_json_line(copied.metrics()));
}

class LoraResume : public ::testing::TestWithParam<std::pair<DType, double>> {};

TEST_P(LoraResume, EqualsOneRunBitForBitAndKeepsAdaptersAlone) {
  const auto [dtype, dropout] = GetParam();
  const LoraOptions lora{.r = 3, .lora_dropout = dropout};
  const TemporaryFolder folder;
  TrainerOptions options = small_options();
  options.epochs = 3;
  const auto pairs = toy_pairs(21);
  const CausalLM whole = adapted(lora, 5, dtype);
  Trainer uninterrupted(whole, pairs, options);
  const std::vector<std::string> expected = run(uninterrupted);
  options.checkpoint.every_steps = 2;
  std::vector<std::string> lines;
  {
    Trainer first(adapted(lora, 5, dtype), pairs, options);
    first.start_or_resume(folder.path());
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(first.step());
      lines.push_back(to_json_line(first.metrics()));
    }
  }
  const SafetensorsFile checkpoint = SafetensorsFile::open(folder / "step-000004" / "tensors.safetensors");
  for (const std::string& name : checkpoint.names()) {
    EXPECT_TRUE(name.ends_with("lora_A.weight") || name.ends_with("lora_B.weight") || name.starts_with("reference."))
        << name;
  }
  EXPECT_EQ(checkpoint.names().size(), 3 * whole.trainable_parameters().size() + 2);
  // Whatever adapters the resumed process begins with, the checkpoint's count.
  const CausalLM resumed = adapted(lora, 99, dtype);
  Trainer second(resumed, pairs, options);
  second.start_or_resume(folder.path());
  for (const std::string& line : run(second)) lines.push_back(line);
  EXPECT_EQ(lines, expected);
  const auto adapters = copy_adapters(whole);
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    EXPECT_TRUE(at::equal(resumed.trainable_parameters()[i].second, adapters[i])) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, LoraResume,
                         ::testing::Values(std::pair{DType::kFloat32, 0.0}, std::pair{DType::kFloat32, 0.3},
                                           std::pair{DType::kBFloat16, 0.3}),
                         [](const auto& test) {
                           return std::string(to_string(test.param.first)) +
                                  (test.param.second > 0.0 ? "_with_dropout" : "");
                         });

TEST(LoraTrainer, ResumesOnTheSameBaseAndAdaptersOnly) {
  const TemporaryFolder folder;
  TrainerOptions options = small_options();
  options.checkpoint.every_steps = 1;
  const auto resume = [&](const CausalLM& policy) {
    return message_of([&] {
      Trainer trainer(policy, toy_pairs(16), options);
      trainer.start_or_resume(folder.path());
      trainer.step();
    });
  };
  ASSERT_EQ(resume(adapted()), "no error");
  EXPECT_THAT(resume(adapted({.r = 5})), HasSubstr("lora.options.r: 4 in the checkpoint, 5 now"));
  EXPECT_THAT(resume(adapted({.r = 4, .lora_alpha = 8})), HasSubstr("lora.options.lora_alpha: 32.0 in the checkpoint"));
  EXPECT_THAT(resume(tiny_model(2).with_lora({.r = 4}, Seed{5})), HasSubstr("lora.base: "));
  EXPECT_THAT(resume(tiny_model()), HasSubstr("lora"));
  EXPECT_EQ(resume(adapted()), "no error");
}

// The gradient that the first step applies, from the first moment.
std::vector<at::Tensor> first_gradient(const CausalLM& policy, TrainerOptions options) {
  const TemporaryFolder folder;
  options.max_steps = 1;
  options.optimizer.max_grad_norm = 0.0;
  Trainer trainer(policy, toy_pairs(8), options);
  trainer.start_or_resume(folder.path());
  EXPECT_TRUE(trainer.step());
  const SafetensorsFile file = SafetensorsFile::open(folder / "step-000001" / "tensors.safetensors");
  std::vector<at::Tensor> gradients;
  for (const auto& [name, tensor] : policy.trainable_parameters()) {
    gradients.push_back(file.tensor("exp_avg." + name).clone() / 0.1);
  }
  return gradients;
}

double relative_difference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double squares = 0.0, scale = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squares += (a[i] - b[i]).square().sum().item<double>();
    scale += a[i].square().sum().item<double>();
  }
  return std::sqrt(squares / scale);
}

TEST(LoraTrainer, DropoutIsTheSameWhateverTheMicroBatches) {
  const LoraOptions lora{.r = 4, .lora_dropout = 0.3};
  TrainerOptions options = small_options();
  const auto whole = first_gradient(adapted(lora), options);
  options.micro_batch_pairs = 1;
  EXPECT_LT(relative_difference(whole, first_gradient(adapted(lora), options)), 1e-5);
  options.micro_batch_pairs = 3;
  options.activation_checkpointing = true;
  EXPECT_LT(relative_difference(whole, first_gradient(adapted(lora), options)), 1e-5);
  options.seed = Seed{43};
  EXPECT_GT(relative_difference(whole, first_gradient(adapted(lora), options)), 1e-2) << "another seed drops others";
  EXPECT_GT(relative_difference(whole, first_gradient(adapted(), small_options())), 1e-2) << "something was dropped";
}

TEST(LoraTrainer, TheReferenceIsComputedWithoutDropout) {
  Trainer with(adapted({.r = 4, .lora_dropout = 0.5}), toy_pairs(8), small_options());
  Trainer without(adapted(), toy_pairs(8), small_options());
  ASSERT_TRUE(with.step());
  ASSERT_TRUE(without.step());
  EXPECT_EQ(with.reference_chosen(), without.reference_chosen());
  EXPECT_NE(with.metrics().logps_chosen, without.metrics().logps_chosen);
}

TEST(LoraTrainer, OnlyAdaptersHaveGradientsStateAndMemory) {
  const testing::CountingAllocator counting;
  const auto peak = [&](const CausalLM& policy) {
    std::optional<Trainer> trainer;
    return counting.peak_of([&] { trainer.emplace(policy, toy_pairs(8), small_options(SimPO{})); });
  };
  // Two moments of every trained number, and little else.
  const CausalLM full = tiny_model(), policy = adapted({.r = 2, .target_modules = "q_proj,v_proj"});
  std::int64_t numbers = 0, trained = 0;
  for (const auto& [name, tensor] : full.parameters()) numbers += tensor.numel();
  for (const auto& [name, tensor] : policy.trainable_parameters()) trained += tensor.numel();
  EXPECT_GE(peak(full), 8 * numbers);
  EXPECT_LT(peak(policy), 8 * trained + 4096);
  EXPECT_LT(20 * trained, numbers);

  Trainer trainer(policy, toy_pairs(8), small_options(SimPO{}));
  ASSERT_TRUE(trainer.step());
  for (const auto& [name, tensor] : policy.parameters()) {
    EXPECT_FALSE(tensor.requires_grad()) << name;
    EXPECT_FALSE(tensor.grad().defined()) << name;
  }
}

TEST(LoraTrainer, LearnsAndLeavesTheBaseAlone) {
  const CausalLM base = tiny_model();
  const auto before = copy_weights(base);
  const CausalLM policy = base.with_lora({.r = 8}, Seed{3});
  TrainerOptions options = small_options();
  options.epochs = 5;
  options.schedule.kind = "constant";
  {
    Trainer trainer(policy, toy_pairs(32), options);
    ASSERT_TRUE(trainer.step());
    EXPECT_NEAR(trainer.metrics().reward_margin, 0.0, 1e-5);
    run(trainer);
    EXPECT_GT(trainer.metrics().reward_margin, 0.05);
  }
  EXPECT_TRUE(same_bits(base, before));
  for (const auto& [name, tensor] : policy.trainable_parameters()) EXPECT_FALSE(tensor.requires_grad()) << name;
  // What was learned is in the merged model.
  const CausalLM merged = policy.merged();
  const std::vector<TokenPair> pairs = toy_pairs(4);
  const c10::NoGradGuard no_grad;
  const PairLogps a = pair_logps(policy, pairs), b = pair_logps(merged, pairs), c = pair_logps(base, pairs);
  EXPECT_LT((a.chosen - b.chosen).abs().max().item<double>(), 1e-4);
  EXPECT_GT((a.chosen - c.chosen).abs().max().item<double>(), 1e-2);
}

TEST(LoraTrainer, RefusesFloat16BelowTheAdaptersToo) {
  const CausalLM policy = tiny_model(1, DType::kFloat16).with_lora({.r = 2}, Seed{1});
  EXPECT_THAT(message_of([&] { Trainer(policy, toy_pairs(4), small_options()); }), HasSubstr("loses gradients"));
}

TEST(LoraTrainer, LanguageModelTrainingOfAdapters) {
  std::vector<WeightedDocument> documents;
  for (std::uint64_t i = 0; i < 8; ++i) {
    documents.push_back({.ids = testing::random_ids(Seed{i}, 12), .weights = std::vector<float>(12, 1.0f)});
  }
  const CausalLM base = tiny_model(), policy = base.with_lora({.r = 8, .lora_dropout = 0.1}, Seed{3});
  const auto before = copy_weights(base);
  const double start = weighted_nll(policy, documents);
  LanguageModelTrainer trainer(policy, documents, {.optimizer = {.learning_rate = 1e-2}, .steps = 30});
  while (trainer.step()) {
  }
  EXPECT_LT(weighted_nll(policy, documents), start - 0.3);
  EXPECT_TRUE(same_bits(base, before));
}

}  // namespace
}  // namespace sao
