// SPDX-License-Identifier: Apache-2.0
#include "sao/train/language_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sao/base/error.h"
#include "support/paths.h"
#include "train/tiny_model.h"

namespace sao {
namespace {

using testing::copy_weights;
using ::testing::HasSubstr;
using testing::message_of;
using testing::random_ids;
using testing::same_bits;
using testing::TemporaryFolder;
using testing::tiny_model;

// Counting sequences, which a model can learn: x, x + 1, x + 2, ...
std::vector<WeightedDocument> documents(std::size_t count) {
  std::vector<WeightedDocument> list;
  for (std::size_t i = 0; i < count; ++i) {
    const Seed seed = Seed{11}.fork(i);
    const std::size_t length = 4 + uniform_below(seed, 0, 8);
    WeightedDocument document;
    TokenId id = 1 + static_cast<TokenId>(uniform_below(seed, 1, 40));
    for (std::size_t t = 0; t < length; ++t) {
      document.ids.push_back(id++);
      document.weights.push_back(t % 3 == 2 ? 4.0f : t % 3 == 1 ? 1.0f : 0.0f);
    }
    list.push_back(std::move(document));
  }
  return list;
}

LanguageModelOptions small_options() {
  return {.optimizer = {.learning_rate = 1e-2}, .steps = 40, .batch_tokens = 64, .chunk_tokens = 16};
}

std::vector<std::string> run(LanguageModelTrainer& trainer) {
  std::vector<std::string> lines;
  while (trainer.step()) lines.push_back(to_json_line(trainer.metrics()));
  return lines;
}

TEST(LanguageModel, LearnsToCount) {
  const CausalLM model = tiny_model();
  auto training = documents(60);
  const std::vector<WeightedDocument> held_out(training.begin() + 50, training.end());
  training.resize(50);
  const double before = weighted_nll(model, held_out);
  LanguageModelOptions options = small_options();
  options.steps = 150;
  LanguageModelTrainer trainer(model, training, options);
  ASSERT_TRUE(trainer.step());
  const double first = trainer.metrics().loss;
  run(trainer);
  EXPECT_LT(trainer.metrics().loss, 0.3 * first);
  EXPECT_LT(weighted_nll(model, held_out), 0.5 * before);
  EXPECT_EQ(trainer.metrics().step, 150);
  EXPECT_GT(trainer.metrics().epoch, 5.0);
  EXPECT_GT(trainer.tokens_per_second(), 0.0);
}

TEST(LanguageModel, RefusesADocumentLongerThanTheContext) {
  const std::size_t context = 128;
  WeightedDocument document{.ids = TokenIds(context + 1, 5), .weights = std::vector<float>(context + 1, 1.0f)};
  const auto train = [&] {
    return message_of([&] { LanguageModelTrainer(tiny_model(), {document}, small_options()).step(); });
  };
  EXPECT_EQ(train(), "no error") << "the last token is predicted only";
  document.ids.push_back(5);
  document.weights.push_back(1.0f);
  EXPECT_THAT(train(), HasSubstr("document 0: 130 tokens, expected at most 129"));
}

TEST(LanguageModel, LossIsTheWeightedMeanOverTheWholeStep) {
  const CausalLM model = tiny_model();
  auto list = documents(12);
  double weight = 0.0, sum = 0.0;
  {
    const c10::NoGradGuard no_grad;
    for (const WeightedDocument& document : list) {
      const at::Tensor logps =
          model.logits(model.hidden(pack(std::vector<TokenIds>{document.ids}))).to(at::kDouble).log_softmax(1);
      for (std::size_t i = 1; i < document.ids.size(); ++i) {
        sum -= document.weights[i] * logps[static_cast<std::int64_t>(i) - 1][document.ids[i]].item<double>();
        weight += document.weights[i];
      }
    }
  }
  EXPECT_NEAR(weighted_nll(model, list), sum / weight, 1e-5);
  EXPECT_NEAR(weighted_nll(model, list, {.batch_tokens = 5}), sum / weight, 1e-5);
  list[0].weights[0] = 1000.0f;  // the first token is predicted by nothing
  LanguageModelOptions options = small_options();
  options.batch_tokens = 100000;
  options.steps = 1;
  options.schedule = {.warmup_ratio = 0.0};
  // All documents fill less than a step: it goes on with the next pass, so give the exact number of tokens.
  options.batch_tokens = 0;
  for (const WeightedDocument& document : list) options.batch_tokens += static_cast<std::int64_t>(document.ids.size());
  LanguageModelTrainer trainer(model, list, options);
  ASSERT_TRUE(trainer.step());
  EXPECT_NEAR(trainer.metrics().loss, sum / weight, 1e-5);
  EXPECT_EQ(trainer.metrics().epoch, 1.0);
  EXPECT_EQ(trainer.metrics().num_tokens, options.batch_tokens);
}

TEST(LanguageModel, MicroBatchesGiveTheSameUpdate) {
  const auto gradient_norms = [&](std::int64_t micro_batch_tokens) {
    LanguageModelOptions options = small_options();
    options.micro_batch_tokens = micro_batch_tokens;
    options.steps = 3;
    const CausalLM model = tiny_model();
    LanguageModelTrainer trainer(model, documents(30), options);
    std::vector<double> values;
    while (trainer.step()) {
      values.push_back(trainer.metrics().loss);
      values.push_back(trainer.metrics().grad_norm);
    }
    return values;
  };
  const auto whole = gradient_norms(100000), parts = gradient_norms(20);
  for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(whole[i], parts[i], 1e-4 * whole[i]);
}

TEST(LanguageModel, ResumeEqualsOneRunBitForBit) {
  const TemporaryFolder folder;
  LanguageModelOptions options = small_options();
  const CausalLM whole = tiny_model();
  LanguageModelTrainer uninterrupted(whole, documents(17), options);
  const auto expected = run(uninterrupted);
  options.checkpoint.every_steps = 7;
  std::vector<std::string> lines;
  {
    LanguageModelTrainer first(tiny_model(), documents(17), options);
    first.start_or_resume(folder.path());
    for (int i = 0; i < 21; ++i) {
      ASSERT_TRUE(first.step());
      lines.push_back(to_json_line(first.metrics()));
    }
  }
  const CausalLM resumed = tiny_model(50);
  LanguageModelTrainer second(resumed, documents(17), options);
  second.start_or_resume(folder.path());
  EXPECT_EQ(second.steps_done(), 21);
  for (const std::string& line : run(second)) lines.push_back(line);
  EXPECT_EQ(lines, expected);
  EXPECT_TRUE(same_bits(resumed, copy_weights(whole)));

  options.batch_tokens = 65;
  EXPECT_THAT(
      message_of([&] { LanguageModelTrainer(tiny_model(), documents(17), options).start_or_resume(folder.path()); }),
      HasSubstr("options.batch_tokens: 64 in the checkpoint, 65 now"));
}

TEST(LanguageModel, StopsAtTheFirstNonFiniteLoss) {
  const TemporaryFolder folder;
  const CausalLM model = tiny_model(1, DType::kFloat64);
  {
    const c10::NoGradGuard no_grad;
    model.parameters()[0].second.fill_(std::numeric_limits<double>::infinity());
  }
  LanguageModelTrainer trainer(model, documents(5), small_options());
  trainer.start_or_resume(folder.path());
  EXPECT_THAT(message_of([&] { trainer.step(); }), HasSubstr("train: step 1: the loss is "));
  EXPECT_TRUE(std::filesystem::exists(folder / "non-finite-step-000001.json"));
}

TEST(LanguageModel, RefusesBadDocuments) {
  const CausalLM model = tiny_model();
  const auto with = [&](WeightedDocument document) {
    return message_of([&] { LanguageModelTrainer(model, {std::move(document)}, small_options()); });
  };
  EXPECT_THAT(with({{1, 2}, {0.0f}}), HasSubstr("document 0: 1 weights, expected 2"));
  EXPECT_THAT(with({{1, 99}, {0.0f, 1.0f}}), HasSubstr("token id 99"));
  EXPECT_THAT(with({{1, 2}, {0.0f, -1.0f}}), HasSubstr("a weight is -1"));
  EXPECT_THAT(with({{1, 2}, {1.0f, 0.0f}}), HasSubstr("no document has a token with a weight"));
  EXPECT_THAT(message_of([&] { weighted_nll(model, {}); }), HasSubstr("no document has a token with a weight"));
}

}  // namespace
}  // namespace sao
