// SPDX-License-Identifier: Apache-2.0
// The program `sao`, from outside.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "sao/io/safetensors.h"
#include "support/process.h"
#include "support/tiny_model.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Outcome;

std::vector<json> rows(const std::string& text) {
  std::vector<json> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) all.push_back(json::parse(line));
  return all;
}

class CliTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TemporaryFolder;
    testing::write_tiny_model(*folder_ / "model");
    testing::write_tiny_templates(*folder_ / "templates.json");
    testing::write_personas(*folder_ / "personas.jsonl", 60);
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  static Outcome sao(std::vector<std::string> arguments, const std::string& input = {}) {
    return testing::run_program("sao", arguments, input, folder_->path());
  }

  /// One sentence on standard error, nothing on standard output.
  static void expect_failure(const Outcome& outcome, int status, const std::string& message) {
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, AllOf(::testing::StartsWith("sao: "), HasSubstr(message)));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }

  static std::vector<json> good_rows(const Outcome& outcome) {
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return rows(outcome.out);
  }

  static testing::TemporaryFolder* folder_;
};

testing::TemporaryFolder* CliTest::folder_ = nullptr;

TEST_F(CliTest, WrongUsageIsStatusTwo) {
  expect_failure(sao({}), 2, "subcommand");
  expect_failure(sao({"scor"}), 2, "no command \"scor\", expected one of tokenize, score");
  expect_failure(sao({"score"}), 2, "--model is required");
  expect_failure(sao({"score", "--modle", "x"}), 2, "--modle");
  expect_failure(sao({"generate", "--model", "model", "--temperature", "hot"}), 2,
                 "--temperature is \"hot\", expected a number");
  expect_failure(sao({"generate", "--model", "model", "--temperature", "-1"}), 2, "temperature");
  expect_failure(sao({"generate", "--model", "model", "--n", "0"}), 2, "--n is 0");
  expect_failure(sao({"generate", "--model", "model", "--device", "gpu"}), 2, "\"gpu\", expected cpu, cuda or cuda:N");
  expect_failure(sao({"generate", "--model", "model", "--dtype", "int8"}), 2, "\"int8\"");
  expect_failure(sao({"generate", "--model", "model", "--max-new-tokens", "1.5"}), 2, "expected an integer");
  expect_failure(sao({"train", "--model", "model", "--data", "x", "--output", "y", "--loss", "magic"}), 2,
                 "--loss: loss: \"magic\"");
  expect_failure(
      sao({"train", "--model", "model", "--data", "x", "--output", "y", "--loss", "dpo", "--gamma-beta-ratio", "1"}), 2,
      "--gamma-beta-ratio");
  expect_failure(sao({"winrate"}), 2, "ANNOTATIONS");
  expect_failure(sao({"winrate", "x", "--gamed", "y"}), 2, "--difficulty and --gamed");
  expect_failure(sao({"run"}), 2, "--model is required");
  expect_failure(sao({"run", "--model", "model"}), 2, "--output is required");
  const auto run = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", "--model", "model", "--personas", "personas.jsonl", "--output", "not-made"});
    return sao(more);
  };
  expect_failure(run({"--rounds", "0"}), 2, "rounds: 0, expected at least 1");
  expect_failure(run({"--threads", "-1"}), 2, "--threads is -1");
  expect_failure(run({"--engine.max-batch", "0"}), 2, "max_batch is 0");
  expect_failure(run({"--pairs.min-margin", "1"}), 2, "min_margin: 1");
  EXPECT_FALSE(fs::exists(*folder_ / "not-made"));
  for (const char* command : {"score", "generate", "judge"}) {
    expect_failure(sao({command, "--model", "model", "--max-batch", "0"}), 2, "max_batch is 0, expected at least 1");
  }
  expect_failure(sao({"eval", "--model", "model", "--task", "x", "--cache-bytes", "-1"}), 2, "cache_bytes is -1");
  expect_failure(
      sao({"train", "--model", "model", "--data", "x", "--output", "y", "--loss", "dpo", "--save-dtype", "int8"}), 2,
      "--save-dtype: \"int8\"");
}

TEST_F(CliTest, WhatCannotBeWrittenIsSaidBeforeAnythingIsRead) {
  for (const char* command : {"tokenize", "score", "generate", "judge"}) {
    expect_failure(sao({command, "--model", "nowhere", "--output", "none/out.jsonl"}), 1, "none/out.jsonl");
  }
  expect_failure(sao({"eval", "--model", "nowhere", "--task", "x", "--output", "none/out.jsonl"}), 1, "none/out.jsonl");
  expect_failure(sao({"winrate", "nowhere", "--output", "none/out.jsonl"}), 1, "none/out.jsonl");
  const auto train = [](const std::string& output) {
    return sao({"train", "--model", "nowhere", "--data", "nowhere.jsonl", "--loss", "dpo", "--output", output});
  };
  expect_failure(train("model"), 1, "model: not empty, expected a new folder");
  expect_failure(train("personas.jsonl/out"), 1, "cannot make personas.jsonl/out");
  expect_failure(train("new"), 1, "nowhere.jsonl");
  EXPECT_FALSE(fs::exists(*folder_ / "new"));
}

TEST_F(CliTest, HelpAndVersionAreNoFailure) {
  EXPECT_EQ(sao({"--version"}).out, "0.1.0\n");
  for (const char* command : {"tokenize", "score", "generate", "judge", "train", "winrate", "arena", "mtbench", "eval",
                              "run", "plan", "report"}) {
    const Outcome help = sao({command, "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_THAT(help.out, HasSubstr("Usage: sao " + std::string(command)));
  }
  EXPECT_THAT(sao({"train", "--help"}).out,
              AllOf(HasSubstr("--gamma-beta-ratio"), HasSubstr("--learning-rate,--lr"), HasSubstr("--tau")));
}

TEST_F(CliTest, BadInputIsStatusOneAndOneSentence) {
  const std::vector<std::string> score = {"score", "--model", "model"};
  const std::string good = "{\"prompt\": \"the fox\", \"response\": \"first\"}\n";
  expect_failure(sao(score, good + "{\"prompt\": \"a\"\n"), 1, "stdin:2: not valid JSON");
  expect_failure(sao(score, good + "[]\n"), 1, "stdin:2: a list of 0, expected a JSON object");
  expect_failure(sao(score, good + "{\"prompt\": \"a\"}\n"), 1, "stdin:2: no field \"response\"");
  expect_failure(sao(score, good + "{\"prompt\": 3, \"response\": \"x\"}\n"), 1, "stdin:2: field \"prompt\" is 3");
  expect_failure(sao(score, "{\"prompt\": \"\", \"response\": \"x\"}\n"), 1, "stdin:1: field \"prompt\" is \"\"");
  expect_failure(sao(score, "{\"prompt\": [], \"response\": \"x\"}\n"), 1, "stdin:1: field \"prompt\"");
  expect_failure(sao(score, "{\"prompt\": [{\"role\": \"user\"}], \"response\": \"x\"}\n"), 1, "message 1");
  expect_failure(sao(score, "{\"prompt_ids\": [], \"response_ids\": [3]}\n"), 1, "\"prompt_ids\" is empty");
  expect_failure(sao(score, "{\"prompt_ids\": [2, 420], \"response_ids\": [3]}\n"), 1,
                 "holds 420, expected ids below 420");
  expect_failure(sao(score, "{\"prompt_ids\": [2, -1], \"response_ids\": [3]}\n"), 1, "holds -1, expected token ids");
  expect_failure(sao(score, "{\"prompt_ids\": [2], \"response_ids\": [99999999999]}\n"), 1, "expected token ids");
  expect_failure(sao(score, "{\"prompt\": \"" + std::string(600, 'x') + "\", \"response\": \"x\"}\n"), 1,
                 "expected at most 512, the model's context");
  expect_failure(sao({"generate", "--model", "model"}, "{\"prompt\": \"" + std::string(600, 'x') + "\"}\n"), 1,
                 "expected fewer than 512, the model's context");
  expect_failure(sao({"score", "--model", "model", "nowhere.jsonl"}), 1, "nowhere.jsonl: No such file");
  expect_failure(sao({"score", "--model", "nowhere"}), 1, "nowhere");
  expect_failure(sao({"judge", "--model", "model"}, "{\"prompt\": \"a\", \"responses\": [\"x\"]}\n"), 1,
                 "\"responses\" is a list of 1, expected two strings");
  expect_failure(sao({"judge", "--model", "model"}, "{\"prompt\": \"a\", \"responses\": [\"x\", 3]}\n"), 1,
                 "expected a list of strings");
}

TEST_F(CliTest, PlanTakesTheFileOfARunAndWritesNothing) {
  write_file_atomically(*folder_ / "plan.toml",
                        "output = \"planned\"\nmodel = \"model\"\ntemplates = \"templates.json\"\n"
                        "[prompts]\ncount = 8\n[prompts.sampling]\nmax_new_tokens = 16\n");
  const Outcome plan = sao({"plan", "--config", "plan.toml"});
  EXPECT_EQ(plan.status, 0) << plan.err;
  EXPECT_EQ(plan.err, "");
  for (const char* part : {"\nprompts ", "\nresponses ", "\nverdicts ", "\ntraining ", "KV cache", "The most is "}) {
    EXPECT_THAT(plan.out, HasSubstr(part));
  }
  EXPECT_FALSE(std::filesystem::exists(*folder_ / "planned"));
  expect_failure(sao({"plan"}), 2, "--model is required");
}

TEST_F(CliTest, DamagedWeightsAreNamed) {
  fs::copy(*folder_ / "model", *folder_ / "damaged", fs::copy_options::recursive);
  const fs::path weights = *folder_ / "damaged/model.safetensors";
  fs::resize_file(weights, fs::file_size(weights) - 100);
  expect_failure(sao({"score", "--model", "damaged"}, "{}"), 1, "model.safetensors: tensor");
  fs::resize_file(weights, 5);
  expect_failure(sao({"score", "--model", "damaged"}, "{}"), 1, "model.safetensors: 5 bytes");
  fs::remove(weights);
  expect_failure(sao({"score", "--model", "damaged"}, "{}"), 1, "no weights");
  fs::remove_all(*folder_ / "damaged");
}

TEST_F(CliTest, FailureLeavesNoOutputFile) {
  expect_failure(sao({"score", "--model", "model", "--output", "out.jsonl"},
                     "{\"prompt\": \"a\", \"response\": \"x\"}\n{\"prompt\": \"a\"}\n"),
                 1, "stdin:2");
  EXPECT_FALSE(fs::exists(*folder_ / "out.jsonl"));
  for (const auto& entry : fs::directory_iterator(folder_->path())) {
    EXPECT_THAT(entry.path().filename().string(), Not(HasSubstr("sao-partial")));
  }
  EXPECT_EQ(
      sao({"score", "--model", "model", "--output", "out.jsonl"}, "{\"prompt\": \"a\", \"response\": \"x\"}\n").status,
      0);
  const std::string before = read_file(*folder_ / "out.jsonl");
  expect_failure(sao({"score", "--model", "model", "--output", "out.jsonl"}, "{\n"), 1, "stdin:1");
  EXPECT_EQ(read_file(*folder_ / "out.jsonl"), before);
  expect_failure(
      sao({"score", "--model", "model", "--output", "none/out.jsonl"}, "{\"prompt\": \"a\", \"response\": \"x\"}\n"), 1,
      "none/out.jsonl");
}

TEST_F(CliTest, DevicesCanBeTheOutput) {
  const std::string input = "{\"text\": \"the fox\"}\n";
  const Outcome plain = sao({"tokenize", "--model", "model"}, input);
  EXPECT_EQ(sao({"tokenize", "--model", "model", "--output", "/dev/stdout"}, input).out, plain.out);
  EXPECT_EQ(sao({"tokenize", "--model", "model", "--output", "-"}, input).out, plain.out);
  EXPECT_EQ(sao({"tokenize", "--model", "model", "--output", "/dev/null"}, input).status, 0);
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  const Outcome full = sao({"tokenize", "--model", "model", "--output", "/dev/full"}, input);
  expect_failure(full, 1, "/dev/full: No space left on device");
}

TEST_F(CliTest, NoInputIsNoOutput) {
  EXPECT_TRUE(good_rows(sao({"score", "--model", "model"}, "\n\n")).empty());
  EXPECT_TRUE(good_rows(sao({"generate", "--model", "model"}, "")).empty());
  EXPECT_TRUE(good_rows(sao({"judge", "--model", "model"}, "")).empty());
  EXPECT_TRUE(good_rows(sao({"tokenize", "--model", "model"}, "")).empty());
}

TEST_F(CliTest, TokenizeGoesBothWays) {
  const auto encoded =
      good_rows(sao({"tokenize", "--model", "model"},
                    "{\"text\": \"the fox\"}\n"
                    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}\n"));
  ASSERT_EQ(encoded.size(), 2u);
  EXPECT_EQ(encoded[0]["text"], "the fox");
  EXPECT_EQ(encoded[0]["ids"][0], 2);
  EXPECT_EQ(encoded[1]["text"], "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n");
  // The template of a file; what a row gives to it, fields in their order.
  std::ofstream(*folder_ / "chat.jinja")
      << "{{ tools | tojson }} {{ mood }} {{ messages[0].content }}{{ messages[1] }}";
  const auto rendered = good_rows(sao(
      {"tokenize", "--model", "model", "--chat-template", "chat.jinja"},
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},)"
      R"( {"role": "tool", "name": "x", "content": null}], "tools": [{"b": 1, "a": 2}], "chat_template_kwargs": {"mood": "good"}})"
      "\n"));
  EXPECT_EQ(rendered[0]["text"], "[{\"b\": 1, \"a\": 2}] good Hi{'role': 'tool', 'name': 'x', 'content': None}");
  EXPECT_EQ(rendered[0]["ids"][0], 2);
  expect_failure(sao({"tokenize", "--model", "model", "--chat-template", "none"}), 1, "no chat template \"none\"");
  const std::string system = R"({"messages": [{"role": "system", "content": "s"}]})";
  expect_failure(sao({"tokenize", "--model", "model"}, system + "\n"), 1, "for Gemma: line 1: a system message");
  const auto plain =
      good_rows(sao({"tokenize", "--model", "model", "--no-special-tokens"}, "{\"text\": \"the fox\"}\n"));
  EXPECT_EQ(plain[0]["ids"].size() + 1, encoded[0]["ids"].size());
  std::string ids;
  for (const json& row : encoded) ids += json{{"ids", row["ids"]}}.dump() + "\n";
  const auto decoded = good_rows(sao({"tokenize", "--model", "model", "--decode"}, ids));
  EXPECT_EQ(decoded[0]["text"], "<bos>the fox");
  EXPECT_EQ(decoded[1]["text"], encoded[1]["text"]);
  const auto skipped = good_rows(sao({"tokenize", "--model", "model", "--decode", "--skip-special-tokens"}, ids));
  EXPECT_EQ(skipped[0]["text"], "the fox");
  expect_failure(sao({"tokenize", "--model", "model"}, "{\"texts\": \"x\"}\n"), 1, "neither \"text\" nor \"messages\"");
  expect_failure(sao({"tokenize", "--model", "model", "--decode"}, "{\"ids\": [420]}\n"), 1, "stdin:1: ");
}

TEST_F(CliTest, ScoreGivesOneLogProbATokenAndTheirSum) {
  const auto scored =
      good_rows(sao({"score", "--model", "model"},
                    "{\"prompt\": \"the fox\", \"response\": \"first answer\"}\n"
                    "{\"prompt\": [{\"role\": \"user\", \"content\": \"the fox\"}], \"response\": \"first answer\"}\n"
                    "{\"prompt_ids\": [2, 300], \"response_ids\": [301, 302, 303]}\n"));
  ASSERT_EQ(scored.size(), 3u);
  EXPECT_EQ(scored[0], scored[1]) << "a string is one user turn";
  EXPECT_EQ(scored[2]["tokens"], 3);
  ASSERT_EQ(scored[2]["logps"].size(), 3u);
  double sum = 0.0;
  for (const json& logp : scored[2]["logps"]) {
    EXPECT_LT(logp.get<double>(), 0.0);
    sum += logp.get<double>();
  }
  EXPECT_NEAR(scored[2]["sum"].get<double>(), sum, 1e-12);
}

TEST_F(CliTest, ScoreAgreesWithTheReference) {
  SAO_NEED_PARITY("gemma2-tiny");
  for (const char* set : {"gemma2-tiny", "llama3-tiny"}) {
    const fs::path model = testing::parity(set);
    const auto expected = SafetensorsFile::open(model / "expected.safetensors");
    const at::Tensor ids = expected.tensor("right.input_ids");
    const at::Tensor mask = expected.tensor("right.attention_mask");
    const at::Tensor logps = expected.tensor("right.per_token_logps");
    std::string input;
    for (std::int64_t row = 0; row < ids.size(0); ++row) {
      const std::int64_t length = mask[row].sum().item<std::int64_t>();
      json prompt = json::array(), response = json::array();
      for (std::int64_t t = 0; t < length; ++t)
        (t == 0 ? prompt : response).push_back(ids[row][t].item<std::int64_t>());
      input += json{{"prompt_ids", prompt}, {"response_ids", response}}.dump() + "\n";
    }
    const auto scored = good_rows(sao({"score", "--model", model}, input));
    ASSERT_EQ(static_cast<std::int64_t>(scored.size()), ids.size(0));
    for (std::size_t row = 0; row < scored.size(); ++row) {
      for (std::size_t t = 0; t < scored[row]["logps"].size(); ++t) {
        EXPECT_NEAR(scored[row]["logps"][t].get<double>(),
                    logps[static_cast<std::int64_t>(row)][static_cast<std::int64_t>(t)].item<double>(), 1e-4)
            << set << " row " << row << " token " << t;
      }
    }
  }
}

TEST_F(CliTest, GreedyGenerationAgreesWithTheReference) {
  SAO_NEED_PARITY("gemma2-tiny");
  for (const char* set : {"gemma2-tiny", "llama3-tiny"}) {
    const fs::path model = testing::parity(set);
    const auto expected = SafetensorsFile::open(model / "expected.safetensors");
    const at::Tensor ids = expected.tensor("greedy.input_ids");
    const at::Tensor mask = expected.tensor("greedy.attention_mask");
    const at::Tensor new_tokens = expected.tensor("greedy.new_tokens");
    std::string input;
    for (std::int64_t row = 0; row < ids.size(0); ++row) {
      json prompt = json::array();
      for (std::int64_t t = 0; t < ids.size(1); ++t) {
        if (mask[row][t].item<std::int64_t>() != 0) prompt.push_back(ids[row][t].item<std::int64_t>());
      }
      input += json{{"prompt_ids", prompt}}.dump() + "\n";
    }
    const auto generated = good_rows(
        sao({"generate", "--model", model, "--temperature", "0", "--max-new-tokens", "24", "--ignore-eos"}, input));
    ASSERT_EQ(generated.size(), 3u);
    for (std::int64_t row = 0; row < 3; ++row) {
      for (std::int64_t t = 0; t < 24; ++t) {
        EXPECT_EQ(generated[static_cast<std::size_t>(row)]["responses"][0]["ids"][static_cast<std::size_t>(t)],
                  new_tokens[row][t].item<std::int64_t>())
            << set << " row " << row << " token " << t;
      }
    }
  }
}

TEST_F(CliTest, GenerateKeepsTheOrderWhateverTheBatch) {
  std::string input;
  for (int i = 0; i < 23; ++i) input += json{{"prompt", "the fox " + std::to_string(i)}}.dump() + "\n";
  const std::vector<std::string> base = {"generate",         "--model", "model",  "--n", "2",
                                         "--max-new-tokens", "20",      "--seed", "5"};
  const Outcome first = sao(base, input);
  const auto generated = good_rows(first);
  ASSERT_EQ(generated.size(), 23u);
  for (const json& row : generated) {
    ASSERT_EQ(row["responses"].size(), 2u);
    EXPECT_NE(row["responses"][0]["ids"], row["responses"][1]["ids"]);
    for (const json& response : row["responses"]) {
      EXPECT_LE(response["ids"].size(), 20u);
      EXPECT_EQ(response["finish_reason"] == "length",
                response["ids"].size() == 20 && response["finish_reason"] != "stop");
      EXPECT_TRUE(response["text"].is_string());
    }
  }
  for (const char* batch : {"1", "7", "64"}) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), {"--max-batch", batch});
    EXPECT_EQ(sao(arguments, input).out, first.out) << "batch " << batch;
  }
  std::vector<std::string> other_seed = base;
  other_seed.back() = "6";
  EXPECT_NE(sao(other_seed, input).out, first.out);
  EXPECT_EQ(
      sao({"generate", "--model", "model", "--n", "2", "--max-new-tokens", "20", "--seed", "5", "--output", "g.jsonl"},
          input)
          .out,
      "");
  EXPECT_EQ(read_file(*folder_ / "g.jsonl"), first.out);
}

TEST_F(CliTest, JudgeCombinesBothOrders) {
  const auto verdicts = good_rows(sao({"judge", "--model", "model", "--templates", "templates.json"},
                                      "{\"prompt\": \"the fox\", \"responses\": [\"first one\", \"another\"]}\n"
                                      "{\"prompt\": \"the fox\", \"responses\": [\"another\", \"first one\"]}\n"
                                      "{\"prompt\": \"the fox\", \"responses\": [\"same\", \"same\"]}\n"
                                      "{\"prompt\": \"the fox\", \"responses\": [\"\", \"text\"]}\n"));
  ASSERT_EQ(verdicts.size(), 4u);
  for (int i : {0, 1}) {
    const json& verdict = verdicts[static_cast<std::size_t>(i)];
    const double p = verdict["p_first"];
    EXPECT_NEAR(p, (verdict["orders"][0].get<double>() + 1.0 - verdict["orders"][1].get<double>()) / 2.0, 1e-12);
    EXPECT_THAT(verdict["verdict"].get<std::string>(), ::testing::AnyOf("first", "second", "tie", "inconsistent"));
    EXPECT_FALSE(verdict.contains("reason"));
  }
  EXPECT_NEAR(verdicts[0]["p_first"].get<double>(), 1.0 - verdicts[1]["p_first"].get<double>(), 1e-12);
  EXPECT_EQ(verdicts[0]["orders"][0], verdicts[1]["orders"][1]);
  const json nothing = {nullptr, nullptr};
  EXPECT_EQ(verdicts[2], (json{{"p_first", 0.5}, {"orders", nothing}, {"verdict", "tie"}, {"reason", "identical"}}));
  EXPECT_EQ(verdicts[3], (json{{"p_first", 0.0}, {"orders", nothing}, {"verdict", "second"}, {"reason", "empty"}}));
  const auto one_order =
      good_rows(sao({"judge", "--model", "model", "--templates", "templates.json", "--no-both-orders"},
                    "{\"prompt\": \"the fox\", \"responses\": [\"first one\", \"another\"]}\n"));
  EXPECT_EQ(one_order[0]["orders"][0], verdicts[0]["orders"][0]);
  EXPECT_TRUE(one_order[0]["orders"][1].is_null());
}

// The judge's turn is as long as judge_pairs makes it, the beginning of its answer included.
TEST_F(CliTest, JudgeCountsWhatDoesNotFit) {
  write_file_atomically(*folder_ / "prefix.json", "{\"judge\": \"{prompt} {first} {second}\", \"judge_prefix\": \"" +
                                                      std::string(1000, 'x') +
                                                      "\", \"judge_first\": \"1\", \"judge_second\": \"2\"}\n");
  const auto verdicts = good_rows(sao({"judge", "--model", "model", "--templates", "prefix.json"},
                                      "{\"prompt\": \"the fox\", \"responses\": [\"first one\", \"another\"]}\n"));
  EXPECT_EQ(verdicts.at(0),
            (json{{"p_first", 0.5}, {"orders", {nullptr, nullptr}}, {"verdict", "tie"}, {"reason", "too_long"}}));
}

TEST_F(CliTest, OptionsStandInAFileToo) {
  const std::string input = "{\"prompt\": \"the fox\"}\n";
  const Outcome flags =
      sao({"generate", "--model", "model", "--max-new-tokens", "5", "--temperature", "0.7", "--seed", "9"}, input);
  ASSERT_EQ(flags.status, 0);
  write_file_atomically(*folder_ / "g.toml",
                        "model = \"model\" # here\nmax_new_tokens = 5\ntemperature = 0.7\n\n[generate]\nseed = 9\n");
  EXPECT_EQ(sao({"generate", "--config", "g.toml"}, input).out, flags.out);
  write_file_atomically(*folder_ / "h.toml", "model = 'model'\nmax-new-tokens = 50\ntemperature = 0.7\nseed = 9\n");
  EXPECT_EQ(sao({"generate", "--config", "h.toml", "--max_new_tokens=5"}, input).out, flags.out)
      << "the command line goes first";
  write_file_atomically(*folder_ / "bad.toml", "model = 'model'\ntemprature = 0.7\n");
  expect_failure(sao({"generate", "--config", "bad.toml"}, input), 1, "bad.toml:2: unknown option \"temprature\"");
  write_file_atomically(*folder_ / "bad.toml", "model = 'model'\ntemperature = 'hot'\n");
  expect_failure(sao({"generate", "--config", "bad.toml"}, input), 1,
                 "bad.toml:2: --temperature is \"hot\", expected a number");
  expect_failure(sao({"generate", "--config", "none.toml"}, input), 1, "none.toml");
}

std::string preference_rows() {
  return "{\"prompt\": \"the fox\", \"chosen\": \"first\", \"rejected\": \"another\"}\n"
         "{\"prompt\": [{\"role\": \"user\", \"content\": \"why\"}], \"chosen\": [{\"role\": \"assistant\", "
         "\"content\": \"so\"}],"
         " \"rejected\": [{\"role\": \"assistant\", \"content\": \"no\"}]}\n"
         "{\"prompt_ids\": [2, 300], \"chosen_ids\": [301, 5], \"rejected_ids\": [302, 5]}\n";
}

TEST_F(CliTest, TrainWritesAModelAndItsMetrics) {
  write_file_atomically(*folder_ / "pairs.jsonl", preference_rows());
  const std::vector<std::string> base = {"train", "--model",        "model", "--data", "pairs.jsonl", "--loss",
                                         "dpo",   "--batch-size",   "2",     "--lr",   "1e-2",        "--epochs",
                                         "3",     "--warmup-ratio", "0"};
  const auto with_output = [&](const std::string& folder, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), {"--output", folder});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return sao(arguments);
  };
  const Outcome trained = with_output("trained");
  ASSERT_EQ(trained.status, 0) << trained.err;
  EXPECT_EQ(trained.out, "");
  const auto metrics = rows(read_file(*folder_ / "trained/metrics.jsonl"));
  ASSERT_EQ(metrics.size(), 6u);
  for (const char* field : {"step", "loss", "grad_norm", "lr", "rewards/chosen", "rewards/rejected",
                            "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "tokens/s"}) {
    EXPECT_TRUE(metrics[0].contains(field)) << field;
  }
  EXPECT_NEAR(metrics[0]["loss"].get<double>(), std::log(2.0), 1e-5) << "DPO starts at its reference";
  EXPECT_LT(metrics[5]["loss"].get<double>(), metrics[0]["loss"].get<double>());
  EXPECT_EQ(
      good_rows(sao({"score", "--model", "trained"}, "{\"prompt\": \"the fox\", \"response\": \"first\"}\n")).size(),
      1u);
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.model", "generation_config.json"}) {
    EXPECT_TRUE(fs::exists(*folder_ / "trained/model" / file)) << file;
  }

  expect_failure(with_output("trained"), 1, "trained: not empty");
  expect_failure(with_output("trained", {"--resume", "--beta", "0.3"}), 1,
                 "settings.loss.beta: 0.1 in the run, 0.3 now");
  EXPECT_EQ(with_output("trained", {"--resume"}).status, 0) << "nothing is left to do";
  EXPECT_EQ(rows(read_file(*folder_ / "trained/metrics.jsonl")).size(), 6u);

  // The reference is the model where none is given.
  ASSERT_EQ(with_output("explicit", {"--reference", "model"}).status, 0);
  EXPECT_EQ(read_file(*folder_ / "explicit/model/model.safetensors"),
            read_file(*folder_ / "trained/model/model.safetensors"));
}

TEST_F(CliTest, TrainsMergesAndUsesAdapters) {
  write_file_atomically(*folder_ / "pairs.jsonl", preference_rows());
  const auto train = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"train", "--model",        "model", "--data", "pairs.jsonl", "--loss",
                                          "dpo",   "--batch-size",   "2",     "--lr",   "1e-2",        "--epochs",
                                          "3",     "--warmup-ratio", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return sao(arguments);
  };
  const std::vector<std::string> lora = {"--lora.r",           "4",   "--lora.alpha",          "8",
                                         "--lora.dropout",     "0.1", "--lora.target-modules", "q_proj,up_proj",
                                         "--checkpoint-every", "1",   "--checkpoint-keep",     "3"};
  const auto with_output = [&](const std::string& folder, std::vector<std::string> more = {}) {
    more.insert(more.end(), lora.begin(), lora.end());
    more.insert(more.end(), {"--output", folder});
    return train(more);
  };
  const Outcome trained = with_output("adapted", {"--save-merged"});
  ASSERT_EQ(trained.status, 0) << trained.err;
  const json config = json::parse(read_file(*folder_ / "adapted/adapter/adapter_config.json"));
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 8);
  EXPECT_EQ(config["target_modules"], json({"q_proj", "up_proj"}));
  EXPECT_EQ(config["base_model_name_or_path"], "model");
  const auto metrics = rows(read_file(*folder_ / "adapted/metrics.jsonl"));
  ASSERT_EQ(metrics.size(), 6u);
  EXPECT_NEAR(metrics[0]["loss"].get<double>(), std::log(2.0), 1e-5) << "the reference is the base";
  EXPECT_LT(metrics[5]["loss"].get<double>(), metrics[0]["loss"].get<double>());

  // Adapters, the merged model, and the model that `merge` writes say the same; the base says something else.
  const std::string row = "{\"prompt\": \"the fox\", \"response\": \"first\"}\n";
  const auto sum = [&](std::vector<std::string> model) {
    std::vector<std::string> arguments = {"score"};
    arguments.insert(arguments.end(), model.begin(), model.end());
    return good_rows(sao(arguments, row)).at(0)["sum"].get<double>();
  };
  ASSERT_EQ(sao({"merge", "--model", "model", "--adapter", "adapted", "--output", "merged"}).status, 0);
  const double expected = sum({"--model", "model", "--adapter", "adapted"});
  EXPECT_EQ(sum({"--model", "adapted"}), expected);
  EXPECT_EQ(sum({"--model", "merged"}), expected);
  EXPECT_NE(sum({"--model", "model"}), expected);
  EXPECT_EQ(read_file(*folder_ / "merged/model.safetensors"), read_file(*folder_ / "adapted/model/model.safetensors"));

  // A run that was stopped ends with the same bytes.
  ASSERT_EQ(with_output("stopped", {"--max-steps", "6"}).status, 0);
  fs::remove_all(*folder_ / "stopped/adapter");
  for (const char* step : {"step-000005", "step-000006"}) fs::remove_all(*folder_ / "stopped/checkpoints" / step);
  ASSERT_TRUE(fs::exists(*folder_ / "stopped/checkpoints/step-000004"));
  const Outcome resumed = with_output("stopped", {"--max-steps", "6", "--resume"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(read_file(*folder_ / "stopped/adapter/adapter_model.safetensors"),
            read_file(*folder_ / "adapted/adapter/adapter_model.safetensors"));
  expect_failure(with_output("stopped", {"--max-steps", "6", "--resume", "--lora.use-rslora"}), 1,
                 "settings.lora.use_rslora: false in the run, true now");

  // More training of the same adapters.
  ASSERT_EQ(train({"--adapter", "adapted", "--output", "further"}).status, 0);
  EXPECT_TRUE(fs::exists(*folder_ / "further/adapter/adapter_model.safetensors"));
  EXPECT_FALSE(fs::exists(*folder_ / "further/model"));

  expect_failure(train({"--lora.alpha", "8", "--output", "x"}), 2, "--lora.alpha without --lora.r");
  expect_failure(train({"--lora.r", "-1", "--output", "x"}), 2, "r is -1, expected at least 1");
  expect_failure(train({"--lora.r", "4", "--adapter", "adapted", "--output", "x"}), 2, "expected one of them");
  expect_failure(train({"--save-merged", "--output", "x"}), 2, "--save-merged without adapters");
  expect_failure(train({"--lora.r", "4", "--lora.target-modules", "lm_head", "--output", "x"}), 1, "\"lm_head\"");
  expect_failure(sao({"merge", "--model", "model", "--output", "x"}), 2, "--adapter is required");
  expect_failure(sao({"score", "--model", "model", "--adapter", "model"}, row), 1, "no adapter_config.json");
  EXPECT_FALSE(fs::exists(*folder_ / "x"));
}

TEST_F(CliTest, TheLossSaysWhatRowsTrainTakes) {
  write_file_atomically(*folder_ / "pairs.jsonl", preference_rows());
  write_file_atomically(*folder_ / "completions.jsonl",
                        "{\"prompt\": \"the fox\", \"completion\": \"first\", \"label\": true}\n"
                        "{\"prompt\": [{\"role\": \"user\", \"content\": \"why\"}], \"completion\": [{\"role\": "
                        "\"assistant\", \"content\": \"no\"}], \"label\": false}\n"
                        "{\"prompt_ids\": [2, 300], \"completion_ids\": [301, 5], \"label\": true}\n");
  const auto train = [&](const std::string& data, const std::string& output, std::vector<std::string> more) {
    std::vector<std::string> arguments = {"train", "--model",        "model", "--data", data,   "--output",
                                          output,  "--batch-size",   "3",     "--lr",   "1e-3", "--epochs",
                                          "2",     "--warmup-ratio", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return sao(arguments);
  };
  const Outcome kto = train("completions.jsonl", "kto", {"--loss", "kto", "--desirable-weight", "1.3"});
  ASSERT_EQ(kto.status, 0) << kto.err;
  const auto metrics = rows(read_file(*folder_ / "kto/metrics.jsonl"));
  ASSERT_EQ(metrics.size(), 2u);
  EXPECT_TRUE(metrics[0].contains("kl"));
  EXPECT_FALSE(metrics[0].contains("rewards/accuracies"));
  // Pairs are unpaired: six completions, two steps an epoch.
  ASSERT_EQ(train("pairs.jsonl", "kto-pairs", {"--loss", "kto"}).status, 0);
  EXPECT_EQ(rows(read_file(*folder_ / "kto-pairs/metrics.jsonl")).size(), 4u);
  expect_failure(train("completions.jsonl", "dpo", {"--loss", "dpo"}), 1, "completions.jsonl:1: no field");

  const Outcome mix =
      train("pairs.jsonl", "mix",
            {"--loss", "sigmoid+bco_pair+sft", "--loss-weights", "0.8,0.2,1", "--beta", "0.2", "--token-metrics"});
  ASSERT_EQ(mix.status, 0) << mix.err;
  const auto manifest = nlohmann::json::parse(read_file(*folder_ / "mix/manifest.json"));
  EXPECT_EQ(manifest["settings"]["loss.name"], "dpo+bco_pair+sft");
  EXPECT_EQ(manifest["settings"]["loss.weights"], "0.8,0.2,1");
  EXPECT_EQ(manifest["settings"]["loss.beta"], 0.2);
  EXPECT_TRUE(rows(read_file(*folder_ / "mix/metrics.jsonl"))[0].contains("entropy"));
  expect_failure(train("pairs.jsonl", "no", {"--loss", "dpo+sft", "--loss-weights", "1"}), 2, "expected 2 numbers");

  ASSERT_EQ(
      train("pairs.jsonl", "file", {"--loss", "dpo", "--reference", "model", "--reference-file", "ref.jsonl"}).status,
      0);
  EXPECT_TRUE(fs::exists(*folder_ / "ref.jsonl"));
  ASSERT_EQ(train("pairs.jsonl", "again", {"--loss", "dpo", "--reference-file", "ref.jsonl"}).status, 0);
  EXPECT_EQ(read_file(*folder_ / "file/model/model.safetensors"),
            read_file(*folder_ / "again/model/model.safetensors"));
}

TEST_F(CliTest, TrainRefusesBadRowsBeforeItMakesAnything) {
  write_file_atomically(*folder_ / "bad.jsonl", preference_rows() + "{\"prompt\": \"q\", \"chosen\": \"a\"}\n");
  const auto train = [&](const std::string& data) {
    return sao({"train", "--model", "model", "--data", data, "--output", "not-made", "--loss", "simpo"});
  };
  expect_failure(train("bad.jsonl"), 1, "bad.jsonl:4: no field \"rejected\"");
  write_file_atomically(*folder_ / "empty.jsonl", "");
  expect_failure(train("empty.jsonl"), 1, "empty.jsonl: no rows");
  write_file_atomically(*folder_ / "long.jsonl",
                        "{\"prompt\": \"" + std::string(600, 'x') + "\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
  expect_failure(train("long.jsonl"), 1, "1 too_long");
  EXPECT_FALSE(fs::exists(*folder_ / "not-made"));
}

TEST_F(CliTest, WinrateOfPlainAnnotations) {
  const json annotations = {
      {{"output_1", "abc"}, {"output_2", "abcd"}, {"preference", 2.0}, {"generator_1", "b"}, {"generator_2", "m"}},
      {{"output_1", "abc"}, {"output_2", "ab"}, {"preference", 1.25}, {"generator_1", "b"}, {"generator_2", "m"}},
      {{"output_1", "abc"}, {"output_2", "abc"}, {"preference", 1.5}, {"generator_1", "b"}, {"generator_2", "m"}}};
  write_file_atomically(*folder_ / "annotations.json", annotations.dump());
  const auto result = good_rows(sao({"winrate", "annotations.json"}));
  ASSERT_EQ(result.size(), 1u);
  EXPECT_NEAR(result[0]["win_rate"].get<double>(), 100.0 * (1.0 + 0.25 + 0.5) / 3.0, 1e-9);
  EXPECT_EQ(result[0]["discrete_win_rate"], 50.0);
  EXPECT_EQ(result[0]["n"], 3);
  EXPECT_TRUE(result[0]["length_controlled_winrate"].is_null()) << "it needs the two files";
  EXPECT_GT(result[0]["own_length_controlled_winrate"], result[0]["own_lc_interval"][0]);
  EXPECT_EQ(good_rows(sao({"winrate", "annotations.json"})), result) << "the interval's resamples are seeded";
  expect_failure(sao({"winrate", "nowhere.json"}), 1, "nowhere.json");
  expect_failure(sao({"winrate", "annotations.json", "--confidence", "2"}), 2, "confidence");
}

TEST_F(CliTest, AlpacaEvalFilesFromPromptsToWinRate) {
  write_file_atomically(*folder_ / "set.json", json{{{"instruction", "the fox"}, {"dataset", "helpful_base"}},
                                                    {{"instruction", "why"}, {"dataset", "helpful_base"}}}
                                                   .dump());
  for (const std::string seed : {"1", "2"}) {
    EXPECT_EQ(sao({"generate", "--model", "model", "--format", "alpaca_eval", "--generator", "m" + seed, "--seed", seed,
                   "--max-new-tokens", "6", "-o", "out" + seed + ".json", "set.json"})
                  .status,
              0);
  }
  const json outputs = json::parse(read_file(*folder_ / "out1.json"));
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[0]["instruction"], "the fox");
  EXPECT_EQ(outputs[0]["generator"], "m1");
  EXPECT_EQ(outputs[0]["dataset"], "helpful_base");
  EXPECT_TRUE(outputs[1]["output"].is_string());
  const Outcome judged = sao({"judge", "--model", "model", "--templates", "templates.json", "--model-outputs",
                              "out1.json", "--reference-outputs", "out2.json", "-o", "annotations-own.json"});
  EXPECT_EQ(judged.status, 0) << judged.err;
  const json annotations = json::parse(read_file(*folder_ / "annotations-own.json"));
  EXPECT_EQ(annotations[0]["generator_2"], "m1");
  EXPECT_EQ(annotations[0]["output_1"], json::parse(read_file(*folder_ / "out2.json"))[0]["output"]);
  EXPECT_EQ(good_rows(sao({"winrate", "annotations-own.json"}))[0]["n"], 2);
  expect_failure(sao({"judge", "--model", "model", "--model-outputs", "out1.json"}), 2, "--reference-outputs");
  expect_failure(sao({"generate", "--model", "model", "--format", "alpaca_eval", "--n", "2", "set.json"}), 2, "--n 1");
}

TEST_F(CliTest, ArenaAndMtBench) {
  write_file_atomically(*folder_ / "games.jsonl", R"({"model": "m", "games": [{"score": "B>A"}, {"score": "B>>A"}]})");
  const auto scores = good_rows(sao({"arena", "games.jsonl", "--baseline", "base"}));
  ASSERT_EQ(scores.size(), 2u);
  EXPECT_EQ(scores[0]["model"], "base");
  EXPECT_NEAR(scores[1]["score"].get<double>(), 25.0, 1e-6) << "one win, three losses";
  expect_failure(sao({"arena", "games.jsonl"}), 2, "--baseline");
  write_file_atomically(*folder_ / "judged.jsonl", R"({"model": "m", "turn": 1, "score": 7})");
  EXPECT_EQ(good_rows(sao({"mtbench", "judged.jsonl"}))[0]["score"], 7.0);
  expect_failure(sao({"mtbench", "--pairwise", "judged.jsonl"}), 1, "judged.jsonl:1: no field \"model_1\"");
}

TEST_F(CliTest, EvalOfMultipleChoice) {
  // What `score` gives decides: the answers here are the choices with the larger log-probability, and one wrong one.
  std::string task, score;
  const std::vector<std::pair<std::string, std::string>> choices = {
      {"first", "another"}, {"the fox", "one"}, {"they", "qu"}};
  for (const auto& [a, b] : choices) {
    for (const std::string& text : {a, b}) score += json{{"prompt", "which"}, {"response", text}}.dump() + "\n";
  }
  const auto scored = good_rows(sao({"score", "--model", "model"}, score));
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const bool second = scored[2 * i + 1]["sum"] > scored[2 * i]["sum"];
    json row = {{"question", "which"}, {"choices", {choices[i].first, choices[i].second}}};
    if (i == 0) {
      row["answer"] = second ? choices[i].second : choices[i].first;
    } else {
      row["answer"] = (i == 1) == second ? 1 : 0;  // the last one is wrong
    }
    task += row.dump() + "\n";
  }
  write_file_atomically(*folder_ / "choices.jsonl", task);
  const auto result = good_rows(sao({"eval", "--model", "model", "--task", "choices.jsonl"}));
  ASSERT_EQ(result.size(), 1u);
  EXPECT_NEAR(result[0]["accuracy"].get<double>(), 2.0 / 3.0, 1e-12);
  EXPECT_NEAR(result[0]["standard_error"].get<double>(), 1.0 / 3.0, 1e-12);
  EXPECT_EQ(result[0]["n"], 3);
  write_file_atomically(*folder_ / "bad.jsonl",
                        task + "{\"question\": \"q\", \"choices\": [\"a\", \"b\"], \"answer\": 2}\n");
  expect_failure(sao({"eval", "--model", "model", "--task", "bad.jsonl"}), 1,
                 "bad.jsonl:4: field \"answer\" is 2, expected 0 to 1 or one of the choices");
  expect_failure(sao({"eval", "--model", "model"}), 2, "--task is required");
  write_file_atomically(
      *folder_ / "bad.jsonl",
      task + json{{"question", "q"}, {"choices", {"a", std::string(600, 'x')}}, {"answer", 0}}.dump());
  expect_failure(sao({"eval", "--model", "model", "--task", "bad.jsonl"}), 1,
                 "question 4, choice 2: a continuation of");
}

TEST_F(CliTest, EvalOfContextsAndTexts) {
  write_file_atomically(*folder_ / "contexts.jsonl",
                        json{{"context", "the fox"}, {"choices", {"one", "two"}}, {"label", 0}}.dump() + "\n" +
                            json{{"context", "a dog"}, {"choices", {"they", "first"}}, {"label", 1}}.dump() + "\n");
  const auto plain = good_rows(sao({"eval", "--model", "model", "--task", "contexts.jsonl", "--num-fewshot", "1",
                                    "--log-samples", "samples.jsonl"}));
  EXPECT_EQ(plain[0]["n"], 2);
  EXPECT_TRUE(plain[0].contains("accuracy_norm"));
  const auto samples = rows(read_file(*folder_ / "samples.jsonl"));
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0]["contexts"][0], "a dog first\n\nthe fox");
  EXPECT_EQ(samples[0]["log_likelihoods"].size(), 2u);
  write_file_atomically(*folder_ / "texts.jsonl", json{{"text", "the fox and the dog"}}.dump());
  const auto text = good_rows(sao({"eval", "--model", "model", "--task", "texts.jsonl", "--max-length", "4"}));
  EXPECT_EQ(text[0]["words"], 5);
  EXPECT_NEAR(std::log2(text[0]["byte_perplexity"].get<double>()), text[0]["bits_per_byte"].get<double>(), 1e-9);
  expect_failure(sao({"eval", "--model", "model", "--task", "texts.jsonl", "--prompt-format", "x"}), 2,
                 "prompt_format");
}

TEST_F(CliTest, EvalOfWrittenAnswers) {
  const auto generated = good_rows(
      sao({"generate", "--model", "model", "--temperature", "0", "--max-new-tokens", "6"}, "{\"prompt\": \"why\"}\n"));
  const json text = generated[0]["responses"][0]["text"];
  write_file_atomically(*folder_ / "questions.jsonl",
                        json{{"question", "why"}, {"answer", text}}.dump() + "\n" +
                            json{{"question", "why"}, {"answer", "something else"}}.dump() + "\n");
  const auto result =
      good_rows(sao({"eval", "--model", "model", "--task", "questions.jsonl", "--max-new-tokens", "6"}));
  EXPECT_EQ(result[0]["accuracy"], 0.5);
  EXPECT_EQ(result[0]["n"], 2);
}

TEST_F(CliTest, ReportNamesWhatIsNoRun) { expect_failure(sao({"report", "model"}), 1, "model: no manifest.json"); }

constexpr const char* kRunConfig = R"(
model = "model"
personas = "personas.jsonl"
templates = "templates.json"
seed = 11
threads = 1
rounds = 2

[prompts]
count = 24
sampling = { temperature = 1.0, max_new_tokens = 16 }
filters = { min_characters = 1, min_letter_share = 0.0 }

[responses.sampling]
temperature = 1.0
max_new_tokens = 12

[judge]
judge_truncated = true

[pairs]
keep_truncated = true
keep_inconsistent = true

[train]
batch_size = 4
loss = { name = "dpo", beta = 0.05 }
optimizer.learning_rate = 1e-2
checkpoint.every_steps = 1

[eval]
count = 6
compare.sampling.max_new_tokens = 8
compare.length_control.bootstrap = 20
)";

class CliRunTest : public CliTest {
 protected:
  static std::map<std::string, std::string> files_of(const fs::path& folder) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.path().filename() == "timing.jsonl") continue;
      files[fs::relative(entry.path(), folder)] = entry.is_regular_file() ? read_file(entry.path()) : "a folder";
    }
    return files;
  }
};

TEST_F(CliRunTest, KilledAndResumedGivesTheSameBytes) {
  write_file_atomically(*folder_ / "run.toml", kRunConfig);
  const auto start = std::chrono::steady_clock::now();
  const Outcome whole = sao({"run", "--config", "run.toml", "--output", "whole"});
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  ASSERT_EQ(whole.status, 0) << whole.err;
  EXPECT_EQ(whole.out, "");
  EXPECT_THAT(whole.err, Not(HasSubstr("\r"))) << "progress is for terminals";
  const auto expected = files_of(*folder_ / "whole");
  ASSERT_TRUE(expected.contains("round-2/eval.json"));
  ASSERT_TRUE(expected.contains("report.html"));

  std::mt19937 random(3);
  std::uniform_real_distribution<double> share(0.05, 0.9);
  int kills = 0;
  for (int trial = 0; trial < 6; ++trial) {
    const std::string name = "killed-" + std::to_string(trial);
    for (;;) {
      testing::Process process("sao", {"run", "--config", "run.toml", "--output", name, "--resume"}, {},
                               folder_->path());
      const auto wait =
          std::chrono::microseconds(static_cast<std::int64_t>(share(random) * static_cast<double>(took.count())));
      if (kills < 60 && !process.ends_within(wait)) {
        process.kill_now();
        ++kills;
        continue;
      }
      const Outcome end = process.wait();
      ASSERT_EQ(end.status, 0) << end.err;
      break;
    }
    const auto files = files_of(*folder_ / name);
    for (const auto& [file, bytes] : expected) {
      ASSERT_TRUE(files.contains(file)) << file;
      ASSERT_TRUE(files.at(file) == bytes) << file << " differs after " << kills << " kills";
    }
    ASSERT_EQ(files.size(), expected.size());
    fs::remove_all(*folder_ / name);
  }
  EXPECT_GT(kills, 0);
}

TEST_F(CliRunTest, NestedSwitchesCanBeTurnedOff) {
  write_file_atomically(*folder_ / "run.toml", kRunConfig);
  const Outcome run = sao({"run", "--config", "run.toml", "--output", "one-order", "--rounds", "1", "--eval.count", "0",
                           "--no-judge.both-orders", "--pairs.keep_truncated"});
  ASSERT_EQ(run.status, 0) << run.err;
  const json settings = json::parse(read_file(*folder_ / "one-order/manifest.json"))["settings"];
  EXPECT_EQ(settings["judge"]["both_orders"], false);
  EXPECT_EQ(settings["judge"]["judge_truncated"], true);
  EXPECT_EQ(settings["pairs"]["keep_truncated"], true);
}

TEST_F(CliRunTest, RefusesOtherSettingsAndFilledFolders) {
  write_file_atomically(*folder_ / "run.toml", kRunConfig);
  const std::vector<std::string> base = {"run", "--config", "run.toml", "--output", "refused", "--rounds", "1"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return sao(arguments);
  };
  ASSERT_EQ(with({}).status, 0);
  expect_failure(with({}), 1, "refused: not empty");
  const Outcome other = with({"--resume", "--train.loss.beta", "0.1", "--prompts.sampling.top-p", "0.9"});
  expect_failure(other, 1, "settings.train.loss.beta: 0.05 in the run, 0.1 now");
  EXPECT_THAT(other.err, HasSubstr("settings.prompts.sampling.top_p: 1.0 in the run, 0.9 now"));
  expect_failure(with({"--resume", "--model", "elsewhere"}), 1, "elsewhere");
  EXPECT_EQ(with({"--resume"}).status, 0);
  EXPECT_EQ(with({"--resume", "--engine.max-batch", "3", "--threads", "2"}).status, 0) << "speed may change";
}

}  // namespace
}  // namespace sao
