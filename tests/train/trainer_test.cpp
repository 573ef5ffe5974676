// SPDX-License-Identifier: Apache-2.0
#include "sao/train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <set>

#include "io/json.h"
#include "sao/base/error.h"
#include "sao/train/logps.h"
#include "support/counting_allocator.h"
#include "support/paths.h"
#include "train/tiny_model.h"

namespace sao {
namespace {

using ::testing::AllOf;
using testing::copy_weights;
using ::testing::HasSubstr;
using testing::largest_difference;
using testing::message_of;
using testing::same_bits;
using testing::TemporaryFolder;
using testing::tiny_model;
using testing::toy_pairs;

// The models are so small that a second thread only adds waiting; one test below uses two.
class OneThread : public ::testing::Environment {
 public:
  void SetUp() override { at::set_num_threads(1); }
};
const auto* const kOneThread = ::testing::AddGlobalTestEnvironment(new OneThread);

TrainerOptions small_options(PreferenceLoss loss = SimPO{.beta = 2.0}) {
  return {.loss = std::move(loss),
          .optimizer = {.learning_rate = 3e-3},
          .schedule = {.kind = "cosine", .warmup_ratio = 0.0},
          .epochs = 2,
          .batch_size = 8,
          .max_length = 64,
          .chunk_tokens = 16};
}

std::vector<std::string> run(Trainer& trainer) {
  std::vector<std::string> lines;
  while (trainer.step()) lines.push_back(to_json_line(trainer.metrics()));
  return lines;
}

TEST(Trainer, LearnsAToyPreferenceWithEveryLoss) {
  for (const std::string_view name : loss_names()) {
    TrainerOptions options = small_options(parse_loss(name));
    options.epochs = 5;
    options.schedule.kind = "constant";
    auto pairs = toy_pairs(32);
    for (TokenPair& pair : pairs) pair.weight = sorts_pairs(options.loss) ? 1.0 : pair.weight;
    Trainer trainer = is_unpaired(options.loss) ? Trainer(tiny_model(), testing::toy_completions(32), options)
                                                : Trainer(tiny_model(), pairs, options);
    ASSERT_TRUE(trainer.step());
    const TrainMetrics first = trainer.metrics();
    run(trainer);
    const TrainMetrics last = trainer.metrics();
    EXPECT_LT(last.loss, first.loss) << name;
    // DiscoPOP's loss has an optimum at small margins; sft never sees the rejected responses, and TPO with its default
    // beta hardly does.
    if (name != "sft" && name != "discopop" && name != "tpo") {
      EXPECT_GT(last.reward_margin, first.reward_margin) << name;
    }
    EXPECT_EQ(last.step, 20) << name;
  }
}

TEST(Trainer, FirstMetricsAreTheClosedForms) {
  TrainerOptions options = small_options(DPO{.beta = 0.1});
  options.batch_size = 16;
  const auto pairs = toy_pairs(16);
  const CausalLM model = tiny_model();
  std::vector<PromptedResponse> chosen, rejected;
  double tokens = 0.0;
  for (const TokenPair& pair : pairs) {
    chosen.push_back({pair.prompt, pair.chosen});
    rejected.push_back({pair.prompt, pair.rejected});
    tokens +=
        2.0 * static_cast<double>(pair.prompt.size()) + static_cast<double>(pair.chosen.size() + pair.rejected.size());
  }
  const auto mean_sum = [&](const std::vector<PromptedResponse>& list) {
    double sum = 0.0;
    for (const double s : sequence_logps(model, list)) sum += s / 16.0;
    return sum;
  };
  const double chosen_mean = mean_sum(chosen), rejected_mean = mean_sum(rejected);
  Trainer trainer(model, pairs, options);
  ASSERT_TRUE(trainer.step());
  const TrainMetrics& m = trainer.metrics();
  // The mean weight of the pairs stands in the loss, never in rewards or log-probs.
  double weight = 0.0;
  for (const TokenPair& pair : pairs) weight += pair.weight / 16.0;
  EXPECT_NEAR(m.loss, weight * std::numbers::ln2, 1e-5);
  EXPECT_NEAR(m.rewards_chosen, 0.0, 1e-5);
  EXPECT_NEAR(m.reward_margin, 0.0, 1e-5);
  EXPECT_NEAR(m.logps_chosen, chosen_mean, 1e-4);
  EXPECT_NEAR(m.logps_rejected, rejected_mean, 1e-4);
  EXPECT_EQ(static_cast<double>(m.num_tokens), tokens);
  EXPECT_EQ(m.learning_rate, 3e-3);
  EXPECT_EQ(m.epoch, 1.0);
  EXPECT_GT(m.grad_norm, 0.0);
  EXPECT_GT(trainer.tokens_per_second(), 0.0);
}

TEST(Trainer, MetricNamesAreTrls) {
  const auto line = nlohmann::json::parse(to_json_line(TrainMetrics{.step = 3, .loss = 0.5, .learning_rate = 1e-6}));
  for (const char* name :
       {"step", "loss", "grad_norm", "learning_rate", "lr", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
        "rewards/margins", "logps/chosen", "logps/rejected", "epoch", "num_tokens"}) {
    EXPECT_TRUE(line.contains(name)) << name;
  }
  EXPECT_EQ(line["lr"], line["learning_rate"]);
}

// The gradient that one step applies, recovered from the first moment.
std::vector<at::Tensor> first_gradient(const TrainerOptions& options, const std::filesystem::path& folder,
                                       std::optional<CausalLM> reference = {}) {
  TrainerOptions once = options;
  once.max_steps = 1;
  Trainer trainer(tiny_model(), toy_pairs(8), once, std::move(reference));
  trainer.start_or_resume(folder);
  EXPECT_TRUE(trainer.step());
  const SafetensorsFile file = SafetensorsFile::open(folder / "step-000001" / "tensors.safetensors");
  std::vector<at::Tensor> gradients;
  for (const std::string& name : file.names()) {
    if (name.starts_with("exp_avg.")) gradients.push_back(file.tensor(name).clone() / 0.1);
  }
  return gradients;
}

TEST(Trainer, OneBatchOfEightEqualsEightOfOne) {
  for (const PreferenceLoss& loss : {PreferenceLoss(SimPO{.beta = 10.0, .sft_weight = 0.5}), PreferenceLoss(DPO{}),
                                     PreferenceLoss(ORPO{}), PreferenceLoss(RRHF{})}) {
    TrainerOptions options = small_options(loss);
    options.soft_labels = true;
    const TemporaryFolder folder;
    const auto whole = first_gradient(options, folder / "whole", tiny_model(9));
    options.micro_batch_pairs = 1;
    const auto single = first_gradient(options, folder / "single", tiny_model(9));
    options.micro_batch_pairs = 0;
    options.micro_batch_tokens = 40;
    const auto by_tokens = first_gradient(options, folder / "tokens", tiny_model(9));
    for (std::size_t i = 0; i < whole.size(); ++i) {
      const double scale = whole[i].norm().item<double>();
      EXPECT_LT((whole[i] - single[i]).norm().item<double>(), 1e-5 * scale) << loss_name(loss);
      EXPECT_LT((whole[i] - by_tokens[i]).norm().item<double>(), 1e-5 * scale) << loss_name(loss);
    }
  }
}

TEST(Trainer, GradientIsThatOfTheMeanLossOverPairs) {
  // The path users write themselves: differentiable log-probs, the loss, autograd.
  const TemporaryFolder folder;
  TrainerOptions options = small_options(DPO{.beta = 0.3});
  options.soft_labels = true;
  options.optimizer.max_grad_norm = 0.0;
  const CausalLM reference = tiny_model(9), policy = tiny_model();
  const auto gradients = first_gradient(options, folder / "run", reference);

  const auto pairs = toy_pairs(8);
  policy.set_requires_grad(true);
  PairLogps logps = pair_logps(policy, pairs);
  {
    const c10::NoGradGuard no_grad;
    const PairLogps at_reference = pair_logps(reference, pairs);
    logps.reference_chosen = at_reference.chosen;
    logps.reference_rejected = at_reference.rejected;
  }
  std::vector<double> p, weight;
  for (const TokenPair& pair : pairs) {
    p.push_back(pair.p);
    weight.push_back(pair.weight);
  }
  logps.p = at::tensor(p);
  logps.weight = at::tensor(weight);
  preference_loss(options.loss, logps).loss.mean().backward();
  std::map<std::string, at::Tensor> expected;
  for (const auto& [name, parameter] : policy.parameters()) expected[name] = parameter.grad();
  const SafetensorsFile file = SafetensorsFile::open(folder / "run" / "step-000001" / "tensors.safetensors");
  for (const auto& [name, gradient] : expected) {
    const at::Tensor found = file.tensor("exp_avg." + name) / 0.1;
    EXPECT_LT((found - gradient).norm().item<double>(), 2e-5 * gradient.norm().item<double>()) << name;
  }
  EXPECT_FALSE(gradients.empty());
}

TEST(Trainer, LdAlphaWeighsTokensBeyondTheShorterResponse) {
  // With alpha 0 the tail of the longer response cannot matter.
  std::vector<TokenPair> pairs = {{.prompt = {1, 2}, .chosen = {3, 4}, .rejected = {5, 6, 7, 8}}};
  std::vector<TokenPair> cut = {{.prompt = {1, 2}, .chosen = {3, 4}, .rejected = {5, 6}}};
  TrainerOptions options = small_options(DPO{});
  options.epochs = 3;
  options.ld_alpha = 0.0;
  const CausalLM a = tiny_model(), b = tiny_model();
  Trainer with_tail(a, pairs, options), without_tail(b, cut, options);
  run(with_tail);
  run(without_tail);
  EXPECT_LT(largest_difference(a, b), 1e-5);
  EXPECT_NEAR(with_tail.metrics().logps_rejected, without_tail.metrics().logps_rejected, 1e-4);
}

class Resume : public ::testing::TestWithParam<DType> {};

TEST_P(Resume, EqualsOneRunBitForBit) {
  for (const PreferenceLoss& loss : {PreferenceLoss(SimPO{.beta = 2.0}), PreferenceLoss(DPO{})}) {
    const TemporaryFolder folder;
    TrainerOptions options = small_options(loss);
    options.epochs = 3;
    const auto pairs = toy_pairs(21);  // the last batch of an epoch is a part
    const CausalLM whole = tiny_model(1, GetParam());
    Trainer uninterrupted(whole, pairs, options);
    const std::vector<std::string> expected = run(uninterrupted);
    ASSERT_EQ(expected.size(), 9u);

    options.checkpoint.every_steps = 2;
    std::vector<std::string> lines;
    {
      Trainer first(tiny_model(1, GetParam()), pairs, options);
      first.start_or_resume(folder.path());
      for (int i = 0; i < 4; ++i) {
        ASSERT_TRUE(first.step());
        lines.push_back(to_json_line(first.metrics()));
      }
    }
    // Whatever weights the resumed process begins with, the checkpoint's count.
    const CausalLM resumed = tiny_model(77, GetParam());
    options.checkpoint.every_steps = 100;
    Trainer second(resumed, pairs, options);
    second.start_or_resume(folder.path());
    EXPECT_EQ(second.steps_done(), 4);
    for (const std::string& line : run(second)) lines.push_back(line);
    EXPECT_EQ(lines, expected);
    EXPECT_TRUE(same_bits(resumed, copy_weights(whole)));
    EXPECT_GT(largest_difference(resumed, tiny_model(1, GetParam())), 0.0);
    if (needs_reference(loss)) {
      EXPECT_EQ(second.reference_chosen(), uninterrupted.reference_chosen());
    }
    // A run that is over stays over.
    Trainer third(tiny_model(78, GetParam()), pairs, options);
    third.start_or_resume(folder.path());
    EXPECT_FALSE(third.step());
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, Resume, ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST(Trainer, RepeatsBitForBitWithTwoThreads) {
  at::set_num_threads(2);
  const CausalLM a = tiny_model(), b = tiny_model();
  Trainer first(a, toy_pairs(12), small_options(DPO{})), second(b, toy_pairs(12), small_options(DPO{}));
  EXPECT_EQ(run(first), run(second));
  EXPECT_TRUE(same_bits(a, copy_weights(b)));
  at::set_num_threads(1);
}

TEST(Trainer, ResumeWithOtherOptionsNamesEachDifference) {
  const TemporaryFolder folder;
  TrainerOptions options = small_options();
  options.checkpoint.every_steps = 1;
  {
    Trainer trainer(tiny_model(), toy_pairs(16), options);
    trainer.start_or_resume(folder.path());
    trainer.step();
  }
  const auto resume = [&](const TrainerOptions& now, std::vector<TokenPair> pairs) {
    return message_of([&] { Trainer(tiny_model(), std::move(pairs), now).start_or_resume(folder.path()); });
  };
  TrainerOptions other = options;
  other.optimizer.learning_rate = 0.25;
  other.loss = SimPO{.beta = 10.0};
  const std::string message = resume(other, toy_pairs(16));
  EXPECT_THAT(message, HasSubstr("options.optimizer.learning_rate: 0.003 in the checkpoint, 0.25 now"));
  EXPECT_THAT(message, HasSubstr("options.loss.beta: 2.0 in the checkpoint, 10.0 now"));
  EXPECT_THAT(resume(options, toy_pairs(16, 4)), HasSubstr("data: "));
  EXPECT_THAT(resume(options, toy_pairs(17)), HasSubstr("pairs: 16 in the checkpoint, 17 now"));
  EXPECT_EQ(resume(options, toy_pairs(16)), "no error");

  ModelConfig config = testing::tiny_config();
  config.hidden_size = 24;
  config.embedding_scale = std::sqrt(24.0);
  EXPECT_THAT(message_of([&] {
                Trainer(CausalLM::random(config, Seed{1}), toy_pairs(16), options).start_or_resume(folder.path());
              }),
              HasSubstr("expected F"));
}

TEST(Trainer, OldCheckpointsGoAndHalfWrittenOnesDoNotCount) {
  const TemporaryFolder folder;
  TrainerOptions options = small_options();
  options.checkpoint = {.every_steps = 1, .keep = 2};
  Trainer trainer(tiny_model(), toy_pairs(16), options);
  trainer.start_or_resume(folder.path());
  run(trainer);
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"step-000003", "step-000004"}));
  std::filesystem::remove(folder / "step-000004" / "state.json");
  Trainer again(tiny_model(), toy_pairs(16), options);
  again.start_or_resume(folder.path());
  EXPECT_EQ(again.steps_done(), 3);
}

TEST(Trainer, OrderIsAFunctionOfSeedAndEpoch) {
  const auto weights = [&](std::uint64_t seed) {
    TrainerOptions options = small_options();
    options.seed = Seed{seed};
    const CausalLM model = tiny_model();
    Trainer trainer(model, toy_pairs(24), options);
    run(trainer);
    return copy_weights(model);
  };
  const auto first = weights(5);
  const CausalLM model = tiny_model();
  TrainerOptions options = small_options();
  options.seed = Seed{5};
  Trainer trainer(model, toy_pairs(24), options);
  run(trainer);
  EXPECT_TRUE(same_bits(model, first));
  const auto other = weights(6);
  EXPECT_FALSE(same_bits(model, other));
}

TEST(Trainer, ReferenceIsComputedOnceAndStaysUntouched) {
  const CausalLM policy = tiny_model(), reference = tiny_model(2);
  const auto before = copy_weights(reference);
  TrainerOptions options = small_options(DPO{});
  Trainer trainer(policy, toy_pairs(12), options, reference);
  int told = 0;
  trainer.set_progress([&](std::string_view, std::size_t done, std::size_t total) { told += done == total; });
  run(trainer);
  EXPECT_TRUE(same_bits(reference, before));
  EXPECT_FALSE(reference.parameters()[0].second.requires_grad());
  EXPECT_EQ(told, 1);
  std::vector<PromptedResponse> completions;
  for (const TokenPair& pair : trainer.pairs()) completions.push_back({pair.prompt, pair.rejected});
  EXPECT_EQ(trainer.reference_rejected(), sequence_logps(reference, completions));
}

TEST(Trainer, TheStartIsTheReferenceWhereNoneIsGiven) {
  const CausalLM a = tiny_model(), b = tiny_model();
  Trainer implicit(a, toy_pairs(12), small_options(DPO{}));
  Trainer given(b, toy_pairs(12), small_options(DPO{}), tiny_model());
  EXPECT_EQ(run(implicit), run(given));
  EXPECT_TRUE(same_bits(a, copy_weights(b)));
}

TEST(Trainer, GradientsAreOffAndWeightsAnnouncedAfterTraining) {
  const CausalLM policy = tiny_model();
  const std::int64_t version = policy.weights_version();
  {
    Trainer trainer(policy, toy_pairs(12), small_options());
    run(trainer);
    EXPECT_EQ(policy.weights_version(), version + trainer.total_steps());
  }
  for (const auto& [name, parameter] : policy.parameters()) {
    EXPECT_FALSE(parameter.requires_grad());
    EXPECT_FALSE(parameter.grad().defined());
  }
}

TEST(Trainer, StepsUnderANoGradGuardToo) {
  const c10::NoGradGuard no_grad;
  Trainer trainer(tiny_model(), toy_pairs(8), small_options());
  ASSERT_TRUE(trainer.step());
  EXPECT_GT(trainer.metrics().grad_norm, 0.0);
}

TEST(Trainer, ActivationCheckpointingChangesNothingButMemory) {
  TrainerOptions options = small_options();
  const CausalLM plain = tiny_model(), recomputed = tiny_model();
  const testing::CountingAllocator counting;
  Trainer a(plain, toy_pairs(12), options);
  options.activation_checkpointing = true;
  Trainer b(recomputed, toy_pairs(12), options);
  const std::int64_t kept = counting.peak_of([&] { run(a); }), made_again = counting.peak_of([&] { run(b); });
  EXPECT_LT(largest_difference(plain, recomputed), 1e-6);
  EXPECT_LT(made_again, kept * 3 / 4);
}

TEST(Trainer, GradientsOfOthersDoNotEnterAStep) {
  const CausalLM clean = tiny_model(), used = tiny_model();
  Trainer expected(clean, toy_pairs(12), small_options());
  used.set_requires_grad(true);
  const auto leave_gradients = [&] {
    for (const auto& [name, tensor] : used.parameters()) {
      at::Tensor parameter = tensor;
      parameter.mutable_grad() = at::full_like(tensor, 100.0);
    }
  };
  leave_gradients();  // before the trainer is made, and between its steps
  Trainer trainer(used, toy_pairs(12), small_options());
  ASSERT_TRUE(expected.step());
  ASSERT_TRUE(trainer.step());
  leave_gradients();
  EXPECT_EQ(run(trainer), run(expected));
  EXPECT_TRUE(same_bits(used, copy_weights(clean)));
}

TEST(Trainer, RefusesAWarmupOfAllSteps) {
  TrainerOptions options = small_options();
  options.epochs = 1;
  options.schedule.warmup_ratio = 0.1;  // one step of one, as transformers rounds up
  const std::string message = message_of([&] { Trainer(tiny_model(), toy_pairs(8), options); });
  EXPECT_THAT(message, HasSubstr("warms up for 1 of 1 steps"));
  EXPECT_THAT(message, HasSubstr("lower schedule.warmup_ratio = 0.1"));
  EXPECT_EQ(message_of([&] { Trainer(tiny_model(), toy_pairs(16), options); }), "no error");
}

TEST(Trainer, PairsBeyondTheContextAreTooLongWhateverTheLimit) {
  auto pairs = toy_pairs(8);
  pairs.push_back({.prompt = TokenIds(100, 5), .chosen = TokenIds(29, 6), .rejected = {7}, .id = "longer by one"});
  pairs.push_back({.prompt = TokenIds(100, 5), .chosen = TokenIds(28, 6), .rejected = {7}, .id = "fits"});
  for (const std::int64_t limit : {0, 2048}) {
    TrainerOptions options = small_options();
    options.max_length = limit;
    const Trainer trainer(tiny_model(), pairs, options);
    EXPECT_EQ(trainer.dropped(), (std::map<std::string, std::int64_t>{{"too_long", 1}})) << limit;
    EXPECT_EQ(trainer.pairs().back().id, "fits");
  }
}

TEST(Trainer, ResumeNoticesAnotherReference) {
  const TemporaryFolder folder;
  TrainerOptions options = small_options(DPO{});
  options.checkpoint.every_steps = 1;
  const auto resume = [&](std::uint64_t reference) {
    return message_of([&] {
      Trainer trainer(tiny_model(), toy_pairs(16), options, tiny_model(reference));
      trainer.start_or_resume(folder.path());
      trainer.step();
    });
  };
  ASSERT_EQ(resume(5), "no error");
  EXPECT_THAT(resume(6), HasSubstr("reference: "));
  EXPECT_EQ(resume(5), "no error");
}

TEST(Trainer, StopsAtTheFirstNonFiniteLossWithAReport) {
  const TemporaryFolder folder;
  const CausalLM policy = tiny_model(1, DType::kFloat64);
  {
    const c10::NoGradGuard no_grad;
    policy.parameters()[3].second[0][0] = std::nan("");
  }
  const auto before = copy_weights(policy);
  Trainer trainer(policy, toy_pairs(8), small_options());
  trainer.start_or_resume(folder.path());
  const std::string message = message_of([&] { trainer.step(); });
  EXPECT_THAT(message, HasSubstr("train: step 1: the loss of pair \"pair-"));
  EXPECT_THAT(message, HasSubstr("nan"));
  EXPECT_THAT(message, HasSubstr("non-finite-step-000001.json"));
  const auto report = nlohmann::json::parse(read_file(folder / "non-finite-step-000001.json"));
  EXPECT_EQ(report["pairs"].size(), 8u);
  EXPECT_EQ(report["pairs"][0]["loss"], "nan");
  EXPECT_EQ(report["parameter_norms"][policy.parameters()[3].first], "nan");
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(at::equal(policy.parameters()[i].second.nan_to_num(), before[i].nan_to_num()));
  }
  EXPECT_EQ(trainer.steps_done(), 0);
}

TEST(Trainer, StopsAtNonFiniteGradients) {
  // A loss so large that its slope overflows float32 in the backward pass.
  TrainerOptions options = small_options(SlicHf{.lambda = 1e38});
  const CausalLM policy = tiny_model();
  const auto before = copy_weights(policy);
  Trainer trainer(policy, toy_pairs(8), options);
  EXPECT_THAT(message_of([&] { trainer.step(); }), HasSubstr("the gradient norm is "));
  EXPECT_TRUE(same_bits(policy, before));
}

TEST(Trainer, NeverTrainsOnNaNWeights) {
  for (std::size_t i = 0; i < tiny_model().parameters().size(); ++i) {
    const CausalLM policy = tiny_model();
    {
      const c10::NoGradGuard no_grad;
      policy.parameters()[i].second.view(-1)[0] = std::nan("");
    }
    Trainer trainer(policy, toy_pairs(8), small_options());
    EXPECT_THAT(message_of([&] { trainer.step(); }), HasSubstr("expected finite numbers"))
        << policy.parameters()[i].first;
  }
}

TEST(Trainer, MaxStepsEndsAndScalesTheSchedule) {
  TrainerOptions options = small_options();
  options.max_steps = 3;
  options.schedule.kind = "linear";
  Trainer trainer(tiny_model(), toy_pairs(64), options);
  EXPECT_EQ(trainer.total_steps(), 3);
  std::vector<double> rates;
  while (trainer.step()) rates.push_back(trainer.metrics().learning_rate);
  EXPECT_THAT(rates,
              ::testing::ElementsAre(3e-3, ::testing::DoubleNear(2e-3, 1e-12), ::testing::DoubleNear(1e-3, 1e-12)));
}

TEST(Trainer, DropsAndRefusesBadPairs) {
  auto pairs = toy_pairs(4);
  pairs[1].chosen.clear();
  pairs[2].rejected.assign(70, 5);
  Trainer trainer(tiny_model(), pairs, small_options());
  EXPECT_EQ(trainer.pairs().size(), 2u);
  EXPECT_EQ(trainer.dropped().at("empty_response"), 1);
  EXPECT_EQ(trainer.dropped().at("too_long"), 1);

  pairs = toy_pairs(2);
  pairs[1].rejected[0] = 61;
  EXPECT_THAT(message_of([&] { Trainer(tiny_model(), pairs, small_options()); }),
              HasSubstr("pair \"pair-1\": token id 61, expected 0 to 60"));
  EXPECT_THAT(message_of([&] { Trainer(tiny_model(), {{.prompt = {1}, .chosen = {2}}}, small_options()); }),
              HasSubstr("none of 1 pairs can be used, 1 empty_response"));
  EXPECT_THAT(message_of([&] { Trainer(tiny_model(1, DType::kFloat16), toy_pairs(2), small_options()); }),
              HasSubstr("float16 loses gradients"));
}

std::vector<TokenPair> unit_weights(std::vector<TokenPair> pairs) {
  for (TokenPair& pair : pairs) pair.weight = 1.0;
  return pairs;
}

// The losses whose value of a row depends on other rows, or on the token statistics.
TEST(Trainer, MicroBatchesChangeNothingForBatchwiseLosses) {
  const auto run_with = [](const PreferenceLoss& loss, bool weighting, std::int64_t at_once, const CausalLM& policy) {
    TrainerOptions options = small_options(loss);
    options.use_weighting = weighting;
    options.micro_batch_pairs = at_once;
    options.epochs = 3;
    Trainer trainer = is_unpaired(loss) ? Trainer(policy, testing::toy_completions(16), options)
                                        : Trainer(policy, unit_weights(toy_pairs(16)), options);
    std::vector<double> losses;
    while (trainer.step()) losses.push_back(trainer.metrics().loss);
    return losses;
  };
  const std::vector<std::pair<PreferenceLoss, bool>> cases = {{Aot{.beta = 0.5}, false},
                                                              {AotUnpaired{.beta = 0.5}, false},
                                                              {BcoPair{.beta = 0.5, .running_shift = true}, false},
                                                              {DPO{.beta = 0.5}, true},
                                                              {parse_loss("aot+sft"), false},
                                                              {ORPO{.nll_of_prompt = true}, false},
                                                              {TPO{.beta = 0.5}, false},
                                                              {KTO{.beta = 0.5}, false}};
  for (const auto& [loss, weighting] : cases) {
    const CausalLM a = tiny_model(), b = tiny_model();
    const std::vector<double> whole = run_with(loss, weighting, 0, a), parts = run_with(loss, weighting, 3, b);
    ASSERT_EQ(whole.size(), 6u);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      EXPECT_NEAR(whole[i], parts[i], 1e-5 * std::max(1.0, std::abs(whole[i]))) << loss_name(loss) << " step " << i + 1;
    }
    EXPECT_LT(largest_difference(a, b), 2e-5) << loss_name(loss);
  }
}

TEST(Trainer, ResumeIsExactWithStateOfItsOwn) {
  struct Case {
    const char* name;
    PreferenceLoss loss;
    ReferenceOptions reference;
  };
  const std::vector<Case> cases = {{"running shift", BcoPair{.beta = 0.5, .running_shift = true}, {}},
                                   {"moving", DPO{.beta = 0.5}, {.mode = "moving", .alpha = 0.6, .sync_steps = 3}},
                                   {"kto", KTO{.beta = 0.5}, {}},
                                   {"kto moving", KTO{.beta = 0.5}, {.mode = "moving", .sync_steps = 2}},
                                   {"none", DPO{.beta = 0.5}, {.mode = "none"}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const TemporaryFolder folder;
    TrainerOptions options = small_options(c.loss);
    options.epochs = 3;
    options.reference = c.reference;
    const auto make = [&](const CausalLM& policy) {
      return is_unpaired(c.loss) ? Trainer(policy, testing::toy_completions(21), options)
                                 : Trainer(policy, toy_pairs(21), options);
    };
    const CausalLM whole = tiny_model();
    Trainer uninterrupted = make(whole);
    const std::vector<std::string> expected = run(uninterrupted);
    ASSERT_EQ(expected.size(), 9u);
    options.checkpoint.every_steps = 2;
    std::vector<std::string> lines;
    {
      Trainer first = make(tiny_model());
      first.start_or_resume(folder.path());
      for (int i = 0; i < 4; ++i) {
        ASSERT_TRUE(first.step());
        lines.push_back(to_json_line(first.metrics()));
      }
    }
    const CausalLM resumed = tiny_model(77);
    Trainer second = make(resumed);
    second.start_or_resume(folder.path());
    for (const std::string& line : run(second)) lines.push_back(line);
    EXPECT_EQ(lines, expected);
    EXPECT_TRUE(same_bits(resumed, copy_weights(whole)));
  }
}

TEST(Trainer, AMovingReferenceWithAlphaOneIsThePolicyOfTheLastSync) {
  TrainerOptions options = small_options(DPO{});
  options.reference = {.mode = "moving", .alpha = 1.0, .sync_steps = 1};
  const CausalLM policy = tiny_model(), given = tiny_model();
  const auto before = copy_weights(given);
  Trainer trainer(policy, toy_pairs(16), options, given);
  while (trainer.step()) {
    // Policy and reference are equal at every step's beginning.
    EXPECT_NEAR(trainer.metrics().rewards_chosen, 0.0, 1e-5);
    EXPECT_NEAR(trainer.metrics().rewards_rejected, 0.0, 1e-5);
  }
  EXPECT_TRUE(same_bits(given, before));
}

TEST(Trainer, ReferenceModeNoneIsTheReferenceFreeForm) {
  TrainerOptions options = small_options(DPO{.beta = 0.1});
  options.batch_size = 16;
  options.reference.mode = "none";
  Trainer trainer(tiny_model(), toy_pairs(16), options);
  ASSERT_TRUE(trainer.step());
  EXPECT_NEAR(trainer.metrics().rewards_chosen, 0.1 * trainer.metrics().logps_chosen, 1e-9);
}

TEST(Trainer, ReferenceLogProbsOfRowsReplaceTheModel) {
  const CausalLM reference = tiny_model(2);
  auto pairs = toy_pairs(12);
  TrainerOptions options = small_options(DPO{});
  const CausalLM a = tiny_model(), b = tiny_model();
  Trainer with_model(a, pairs, options, reference);
  const std::vector<std::string> expected = run(with_model);
  options.reference.mode = "rows";
  EXPECT_THAT(message_of([&] { Trainer(b, pairs, options).step(); }),
              HasSubstr("\"pair-0\" has no reference log-prob of chosen"));
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    pairs[i].reference_chosen = with_model.reference_chosen()[i];
    pairs[i].reference_rejected = with_model.reference_rejected()[i];
  }
  Trainer with_rows(b, pairs, options);
  EXPECT_EQ(run(with_rows), expected);
  EXPECT_TRUE(same_bits(a, copy_weights(b)));
}

TEST(Trainer, AFileOfReferenceLogProbsReplacesTheModel) {
  const TemporaryFolder folder;
  for (const PreferenceLoss& loss : {PreferenceLoss(DPO{}), PreferenceLoss(KTO{})}) {
    TrainerOptions options = small_options(loss);
    options.reference.file = folder / (loss_name(loss) + ".jsonl");
    const auto make = [&](const CausalLM& policy, std::optional<CausalLM> reference, std::size_t rows) {
      return is_unpaired(loss) ? Trainer(policy, testing::toy_completions(rows), options, std::move(reference))
                               : Trainer(policy, toy_pairs(rows), options, std::move(reference));
    };
    const CausalLM a = tiny_model(), b = tiny_model();
    Trainer writes = make(a, tiny_model(2), 12);
    const std::vector<std::string> expected = run(writes);
    const std::string written = read_file(options.reference.file);
    Trainer reads = make(b, std::nullopt, 12);  // no reference model anywhere
    EXPECT_EQ(run(reads), expected);
    EXPECT_TRUE(same_bits(a, copy_weights(b)));
    EXPECT_EQ(read_file(options.reference.file), written);
    // Rows that the file does not know need its model; another one is refused.
    EXPECT_THAT(message_of([&] { make(tiny_model(), std::nullopt, 13).step(); }), HasSubstr("another reference"));
    EXPECT_THAT(message_of([&] { make(tiny_model(), tiny_model(3), 12).step(); }), HasSubstr("another reference"));
    EXPECT_TRUE(make(tiny_model(), tiny_model(2), 13).step());
    EXPECT_GT(read_file(options.reference.file).size(), written.size());
  }
  TrainerOptions options = small_options(DPO{});
  options.reference.file = folder / "bad.jsonl";
  write_file_atomically(folder / "bad.jsonl", "{\"format\": 1, \"model\": \"x\"}\n{\"key\": \"a\"}\n");
  EXPECT_THAT(message_of([&] { Trainer(tiny_model(), toy_pairs(2), options).step(); }), HasSubstr("bad.jsonl:2"));
}

TEST(Trainer, AScorerMayBeTheReference) {
  const CausalLM reference = tiny_model(2), a = tiny_model(), b = tiny_model();
  Trainer with_model(a, toy_pairs(12), small_options(DPO{}), reference);
  Trainer with_scorer(b, toy_pairs(12), small_options(DPO{}));
  with_scorer.set_reference(model_reference(reference));
  EXPECT_EQ(run(with_model), run(with_scorer));
  EXPECT_THAT(message_of([&] { with_scorer.set_reference(model_reference(reference)); }), HasSubstr("has begun"));
}

TEST(Trainer, TheRunningShiftIsTheMeanOfTheBatchMeans) {
  TrainerOptions options = small_options(BcoPair{.beta = 0.5, .running_shift = true});
  Trainer trainer(tiny_model(), unit_weights(toy_pairs(16)), options, tiny_model(2));
  double mean = 0.0, steps = 0.0;
  while (trainer.step()) {
    const TrainMetrics& m = trainer.metrics();
    mean += (0.5 * (m.rewards_chosen + m.rewards_rejected) - mean) / ++steps;
    if (steps == 1.0) {
      // With so little reward the loss is linear in it: what the shift takes off chosen it gives to rejected.
      EXPECT_NEAR(m.loss, 2 * std::numbers::ln2 - 0.5 * m.reward_margin, 0.1 * std::abs(m.reward_margin) + 0.05);
    }
  }
  const TemporaryFolder folder;
  options.checkpoint.every_steps = 1;
  Trainer again(tiny_model(), unit_weights(toy_pairs(16)), options, tiny_model(2));
  again.start_or_resume(folder.path());
  run(again);
  const auto state = nlohmann::json::parse(read_file(folder / "step-000004" / "state.json"));
  EXPECT_EQ(state["rewards"]["steps"], 4);
  EXPECT_NEAR(state["rewards"]["mean"].get<double>(), mean, 1e-12);
}

TEST(Trainer, TokenMetricsAreThereWhenAskedFor) {
  TrainerOptions options = small_options(DPO{});
  Trainer without(tiny_model(), toy_pairs(8), options);
  ASSERT_TRUE(without.step());
  EXPECT_FALSE(without.metrics().entropy.has_value());
  options.token_metrics = true;
  Trainer with(tiny_model(), toy_pairs(8), options);
  ASSERT_TRUE(with.step());
  const auto line = nlohmann::json::parse(to_json_line(with.metrics()));
  for (const char* name : {"entropy", "mean_token_accuracy", "logits/chosen", "logits/rejected", "nll_loss"}) {
    EXPECT_TRUE(line.contains(name)) << name;
  }
  EXPECT_GT(line["entropy"], 0.0);
  EXPECT_LT(line["entropy"], std::log(61.0));
  EXPECT_EQ(with.metrics().loss, without.metrics().loss);
}

TEST(Trainer, TakesTheRowsOfItsLoss) {
  EXPECT_THAT(message_of([] { Trainer(tiny_model(), toy_pairs(4), small_options(KTO{})); }),
              HasSubstr("the loss kto takes completions with a label, found pairs"));
  EXPECT_THAT(message_of([] { Trainer(tiny_model(), testing::toy_completions(4), small_options(DPO{})); }),
              HasSubstr("the loss dpo takes pairs, found completions"));
  EXPECT_THAT(message_of([] { Trainer(tiny_model(), testing::toy_completions(1), small_options(KTO{})); }),
              HasSubstr("expected two rows or more"));
  auto rows = testing::toy_completions(4);
  rows[0].prompt.assign(60, 5);
  rows[0].completion = {7};
  rows[1].completion.assign(62, 5);
  rows[1].prompt = {7};
  TrainerOptions options = small_options(KTO{});
  EXPECT_EQ(Trainer(tiny_model(), rows, options).completions().size(), 4u);
  rows[0].prompt.assign(100, 5);
  options.max_length = 0;
  EXPECT_THAT(message_of([&] { Trainer(tiny_model(), rows, options); }), HasSubstr("lower max_length"));
  EXPECT_THAT(message_of([] { Trainer(tiny_model(), toy_pairs(4), small_options(Aot{})); }),
              HasSubstr("expected 1: loss aot sorts its pairs"));
  auto pairs = toy_pairs(4);
  pairs[2].gold.clear();
  Trainer tpo(tiny_model(), pairs, small_options(TPO{}));
  EXPECT_EQ(tpo.dropped().at("no_third_response"), 1);
}

TEST(Trainer, KtoLogsEachLabelAndItsKl) {
  TrainerOptions options = small_options(KTO{.beta = 0.3});
  options.epochs = 6;
  Trainer trainer(tiny_model(), testing::toy_completions(16), options);
  const auto lines = run(trainer);
  const auto first = nlohmann::json::parse(lines.front()), last = nlohmann::json::parse(lines.back());
  EXPECT_NEAR(first["kl"], 0.0, 1e-4);
  EXPECT_TRUE(last.contains("kl"));
  EXPECT_FALSE(first.contains("rewards/accuracies"));
  EXPECT_GT(last["rewards/chosen"], last["rewards/rejected"]);
  auto only_good = testing::toy_completions(8);
  for (TokenCompletion& row : only_good) row.label = true;
  Trainer one_sided(tiny_model(), only_good, small_options(KTO{}));
  ASSERT_TRUE(one_sided.step());
  const auto line = nlohmann::json::parse(to_json_line(one_sided.metrics()));
  EXPECT_TRUE(line.contains("rewards/chosen"));
  EXPECT_FALSE(line.contains("rewards/rejected"));
  EXPECT_FALSE(line.contains("rewards/margins"));
}

TEST(TrainerOptions, WhatDoesNotGoTogetherIsNamed) {
  const auto problem = [](auto&& change) {
    TrainerOptions options;
    change(options);
    return message_of([&] { validate(options); });
  };
  EXPECT_THAT(problem([](TrainerOptions& o) { o.reference.mode = "ema"; }), HasSubstr("mode is \"ema\""));
  EXPECT_THAT(problem([](TrainerOptions& o) { o.reference.alpha = 0.0; }), HasSubstr("alpha is 0"));
  EXPECT_THAT(problem([](TrainerOptions& o) {
                o.reference.mode = "none";
                o.reference.file = "x";
              }),
              HasSubstr("file is \"x\""));
  EXPECT_THAT(problem([](TrainerOptions& o) { o.token_policy = "fast"; }), HasSubstr("token_policy is \"fast\""));
  EXPECT_THAT(problem([](TrainerOptions& o) { o.truncation = "simpo"; }), HasSubstr("max_prompt_length is 0"));
  EXPECT_THAT(problem([](TrainerOptions& o) {
                o.loss = Aot{};
                o.use_weighting = true;
                o.soft_labels = true;
              }),
              AllOf(HasSubstr("use_weighting"), HasSubstr("soft_labels")));
  EXPECT_THAT(problem([](TrainerOptions& o) {
                o.loss = KTO{};
                o.reference.mode = "rows";
                o.batch_size = 1;
                o.ld_alpha = 0.5;
              }),
              AllOf(HasSubstr("reference.mode"), HasSubstr("batch_size"), HasSubstr("ld_alpha")));
}

TEST(TrainerOptions, ProblemsAreNamedTogether) {
  TrainerOptions options;
  options.epochs = 0;
  options.batch_size = 0;
  options.ld_alpha = 2.0;
  const std::string message = message_of([&] { validate(options); });
  for (const char* field : {"epochs is 0", "batch_size is 0", "ld_alpha is 2"}) EXPECT_THAT(message, HasSubstr(field));
}

TEST(TrainerOptions, RoundTripThroughJson) {
  TrainerOptions options = small_options(RobustDPO{.beta = 0.3, .label_smoothing = 0.2});
  options.seed = Seed{7};
  const auto json = detail::options_to_json(options);
  TrainerOptions read;
  detail::options_from_json(detail::Json(json), read, "options");
  EXPECT_THAT(detail::option_differences(options, read), ::testing::IsEmpty());
  EXPECT_EQ(loss_name(read.loss), "robust");
}

}  // namespace
}  // namespace sao
