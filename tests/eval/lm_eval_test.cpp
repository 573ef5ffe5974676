// SPDX-License-Identifier: Apache-2.0
// Benchmarks against lm-evaluation-harness on the same tiny model: tests/golden/lm_eval.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eval/python_random.h"
#include "sao/eval/exact_match.h"
#include "sao/eval/multiple_choice.h"
#include "sao/eval/perplexity.h"
#include "sao/eval/task.h"
#include "sao/generate/engine.h"
#include "sao/model/causal_lm.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using nlohmann::json;

constexpr double kTolerance = 3e-5;  // lm_eval sums float32 log-probs in float32

std::filesystem::path folder() { return sao::testing::golden("lm_eval"); }

const json& expected() {
  static const json all = [] {
    std::ifstream file(folder() / "expected.json");
    return json::parse(file);
  }();
  return all;
}

/// The tiny model, with the tokenizer of one of the two folders.
class LmEvalTest : public ::testing::Test {
 protected:
  static Engine make_engine(const std::string& tokenizer) {
    return Engine(CausalLM::load(folder() / "model"), ChatTokenizer::load(folder() / tokenizer));
  }

  static void expect_share(const json& metrics, const std::string& name, const Share& share, double tolerance) {
    EXPECT_NEAR(share.value, metrics[name].get<double>(), tolerance) << name;
    const json& standard_error = metrics[name + "_stderr"];  // "N/A" for one question
    EXPECT_NEAR(share.standard_error, standard_error.is_number() ? standard_error.get<double>() : 0.0, tolerance);
  }

  /// Contexts and continuations are the same texts, log-likelihoods near, accuracies the same.
  static void expect_choices(Engine& engine, const std::string& run, const std::string& name, const Task& task) {
    SCOPED_TRACE(run + " " + name);
    const json& reference = expected()[run][name];
    const MultipleChoice result = measure_multiple_choice(engine, task.items);
    ASSERT_EQ(task.items.size(), reference["items"].size());
    sao::testing::ParityResult report = {.area = "evaluation",
                                         .subject = "lm_eval, " + run + ", " + name,
                                         .what = "log-likelihood of a choice",
                                         .tolerance = kTolerance};
    for (std::size_t i = 0; i < task.items.size(); ++i) {
      const json& item = reference["items"][i];
      const TaskItem& ours = task.items[i];
      ASSERT_EQ(ours.contexts, item["contexts"].get<std::vector<std::string>>()) << i;
      ASSERT_EQ(ours.continuations, item["continuations"].get<std::vector<std::string>>()) << i;
      for (std::size_t c = 0; c < ours.continuations.size(); ++c) {
        const double difference = std::abs(result.log_likelihoods[i][c] - item["log_likelihoods"][c].get<double>());
        EXPECT_LE(difference, kTolerance) << "question " << i << ", choice " << c;
        ++report.compared;
        if (difference > report.worst) {
          report.worst = difference;
          report.worst_case = "question " + std::to_string(i);
        }
      }
    }
    sao::testing::report_parity(report);
    const json& metrics = reference["metrics"];
    const bool shares = !task.items[0].truths.empty();
    expect_share(metrics, "acc", result.accuracy, shares ? kTolerance : 1e-12);
    ASSERT_EQ(result.accuracy_norm.has_value(), !shares);
    if (metrics.contains("acc_norm")) expect_share(metrics, "acc_norm", *result.accuracy_norm, 1e-12);
    if (metrics.contains("acc_bytes")) expect_share(metrics, "acc_bytes", *result.accuracy_bytes, 1e-12);
    sao::testing::report_parity({.area = "evaluation",
                                 .subject = "lm_eval, " + run + ", " + name,
                                 .what = "acc, acc_norm, acc_bytes and standard errors",
                                 .compared = static_cast<std::int64_t>(metrics.size()),
                                 .worst = std::abs(result.accuracy.value - metrics["acc"].get<double>()),
                                 .tolerance = shares ? kTolerance : 1e-12});
  }

  static void expect_written(Engine& engine, const std::string& run, const TaskOptions& options) {
    SCOPED_TRACE(run);
    const Task task = read_task(folder() / "sums.jsonl", engine.text(), options, folder() / "sum_examples.jsonl");
    ASSERT_EQ(task.kind, TaskKind::kGeneration);
    const std::vector<std::string> stops = {"Question:", "a"};
    const WrittenAnswers result =
        measure_written_answers(engine, task.items, {.temperature = 0.0, .max_new_tokens = 24}, stops);
    const json& items = expected()[run]["sums"]["items"];
    ASSERT_EQ(result.responses.size(), items.size());
    std::int64_t different = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      EXPECT_EQ(task.items[i].contexts[0], items[i]["context"]) << i;
      EXPECT_EQ(result.responses[i], items[i]["response"]) << i;
      different += result.responses[i] != items[i]["response"] ? 1 : 0;
    }
    sao::testing::report_parity({.area = "evaluation",
                                 .subject = "lm_eval, " + run + ", sums",
                                 .what = "written answers",
                                 .compared = static_cast<std::int64_t>(items.size()),
                                 .worst = static_cast<double>(different)});
  }

  static void expect_texts(Engine& engine, const std::string& run) {
    SCOPED_TRACE(run);
    const Task task = read_task(folder() / "texts.jsonl", engine.text());
    ASSERT_EQ(task.kind, TaskKind::kText);
    const TextLikelihood result = measure_text(engine, task.items);
    const json& reference = expected()[run]["texts"];
    double worst = 0;
    for (std::size_t i = 0; i < task.items.size(); ++i) {
      const double wanted = reference["items"][i]["log_likelihood"].get<double>();
      worst = std::max(worst, std::abs(result.log_likelihoods[i] - wanted) / std::abs(wanted));
    }
    EXPECT_LE(worst, 1e-6);
    const json& metrics = reference["metrics"];
    EXPECT_NEAR(result.word_perplexity / metrics["word_perplexity"].get<double>(), 1.0, 1e-5);
    EXPECT_NEAR(result.byte_perplexity / metrics["byte_perplexity"].get<double>(), 1.0, 1e-6);
    EXPECT_NEAR(result.bits_per_byte / metrics["bits_per_byte"].get<double>(), 1.0, 1e-6);
    sao::testing::report_parity({.area = "evaluation",
                                 .subject = "lm_eval, " + run + ", texts",
                                 .what = "rolling log-likelihood, relative",
                                 .compared = static_cast<std::int64_t>(task.items.size()),
                                 .worst = worst,
                                 .tolerance = 1e-6});
  }
};

const std::string kQuestion = "Question: {{question}}\nAnswer:";

TEST_F(LmEvalTest, MultipleChoice) {
  Engine engine = make_engine("model");
  const auto check = [&](const std::string& name, const std::string& rows, const TaskOptions& options = {},
                         const std::string& examples = {}) {
    expect_choices(engine, "model", name,
                   read_task(folder() / rows, engine.text(), options,
                             examples.empty() ? std::filesystem::path() : folder() / examples));
  };
  check("plain", "plain.jsonl");
  check("blank", "blank.jsonl");
  check("sampled", "questions.jsonl",
        {.doc_to_text = kQuestion, .description = "Birds and boats.\n\n", .num_fewshot = 2}, "examples.jsonl");
  check("same_rows", "questions.jsonl", {.doc_to_text = kQuestion, .num_fewshot = 1});
  check("first", "questions.jsonl",
        {.doc_to_text = "{{question}} A. {{choices[0]}} B. {{choices[1]}}\n",
         .doc_to_choice = R"(["A", "B", "C", "D"])",
         .doc_to_target = "{{label}}",
         .target_delimiter = "",
         .fewshot_delimiter = "\n",
         .num_fewshot = 2,
         .fewshot_order = "first"});
  check("partial", "partial.jsonl", {.num_fewshot = 1});
  check("truths", "truths.jsonl", {.doc_to_text = kQuestion});
}

TEST_F(LmEvalTest, MultipleChoiceInTheChatFormat) {
  Engine engine = make_engine("model");
  TaskOptions options = {
      .doc_to_text = kQuestion, .description = "Birds and boats.\n\n", .num_fewshot = 2, .prompt_format = "chat"};
  expect_choices(engine, "chat", "sampled",
                 read_task(folder() / "questions.jsonl", engine.text(), options, folder() / "examples.jsonl"));
  options.fewshot_as_multiturn = false;
  expect_choices(engine, "chat_one_turn", "sampled",
                 read_task(folder() / "questions.jsonl", engine.text(), options, folder() / "examples.jsonl"));
}

TEST_F(LmEvalTest, TokenizerWithoutBos) {
  Engine engine = make_engine("no_bos");
  expect_choices(engine, "no_bos", "plain", read_task(folder() / "plain.jsonl", engine.text()));
  expect_choices(engine, "no_bos", "same_rows",
                 read_task(folder() / "questions.jsonl", engine.text(), {.doc_to_text = kQuestion, .num_fewshot = 1}));
  expect_choices(engine, "no_bos", "partial", read_task(folder() / "partial.jsonl", engine.text(), {.num_fewshot = 1}));
  expect_texts(engine, "no_bos");
}

TEST_F(LmEvalTest, WrittenAnswers) {
  Engine engine = make_engine("model");
  expect_written(engine, "model", {.doc_to_text = kQuestion, .num_fewshot = 1});
  expect_written(engine, "chat", {.doc_to_text = kQuestion, .num_fewshot = 1, .prompt_format = "chat"});
}

TEST_F(LmEvalTest, RollingTexts) {
  Engine engine = make_engine("model");
  expect_texts(engine, "model");
}

TEST(LmEvalFiltersTest, Gsm8k) {
  std::int64_t different = 0;
  for (const json& at : expected()["gsm8k"]) {
    const auto response = at["response"].get<std::string>();
    const auto reference = at["reference"].get<std::string>();
    SCOPED_TRACE(at.dump());
    EXPECT_EQ(gsm8k_strict(response), at["strict"]);
    EXPECT_EQ(gsm8k_flexible(response), at["flexible"]);
    EXPECT_EQ(gsm8k_match(gsm8k_strict(response), reference), at["match"][0]);
    EXPECT_EQ(gsm8k_match(gsm8k_flexible(response), reference), at["match"][1]);
    different += gsm8k_strict(response) != at["strict"] || gsm8k_flexible(response) != at["flexible"] ? 1 : 0;
  }
  sao::testing::report_parity({.area = "evaluation",
                               .subject = "lm_eval, gsm8k",
                               .what = "strict-match and flexible-extract",
                               .compared = static_cast<std::int64_t>(expected()["gsm8k"].size()),
                               .worst = static_cast<double>(different)});
}

TEST(PythonRandomTest, SamplesAsPythonDoes) {
  for (const json& at : expected()["python_random"]) {
    detail::PythonRandom random(at["seed"].get<std::uint64_t>());
    for (const json& sample : at["samples"]) {
      EXPECT_EQ(random.sample(at["n"].get<std::size_t>(), at["k"].get<std::size_t>()),
                sample.get<std::vector<std::size_t>>());
    }
  }
}

}  // namespace
}  // namespace sao
