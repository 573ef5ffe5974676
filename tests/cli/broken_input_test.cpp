// SPDX-License-Identifier: Apache-2.0
// What `sao` does with broken files and full disks: one sentence, status 1, soon, and nothing half-written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "sao/io/safetensors.h"
#include "support/process.h"
#include "support/tiny_model.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::ProcessLimits;

#ifdef __SANITIZE_ADDRESS__
constexpr std::uint64_t kAddressSpace = 0;
#else
constexpr std::uint64_t kAddressSpace = std::uint64_t{8} << 30;
#endif

class BrokenInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    good_ = new testing::TemporaryFolder;
    testing::write_tiny_model(*good_ / "model");
  }
  static void TearDownTestSuite() {
    delete good_;
    good_ = nullptr;
  }

  BrokenInput() {
    fs::copy(*good_ / "model", folder_ / "model", fs::copy_options::recursive);
    testing::write_tiny_templates(folder_ / "templates.json");
    testing::write_personas(folder_ / "personas.jsonl", 8);
    write("pairs.jsonl", "{\"prompt\": \"the fox\", \"chosen\": \"first\", \"rejected\": \"another\"}\n");
  }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }

  Outcome sao(const std::vector<std::string>& arguments, const std::string& input = {},
              std::uint64_t file_size = 0) const {
    return testing::run_program("sao", arguments, input, folder_.path(),
                                {.address_space = kAddressSpace, .file_size = file_size});
  }

  static void expect_refused(const Outcome& outcome, const std::vector<std::string>& named) {
    EXPECT_EQ(outcome.status, 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, ::testing::StartsWith("sao: "));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    for (const std::string& name : named) EXPECT_THAT(outcome.err, HasSubstr(name));
  }

  void expect_nothing_half_written() const {
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
      EXPECT_THAT(entry.path().string(), ::testing::Not(HasSubstr(".sao-partial-")));
    }
  }

  testing::TemporaryFolder folder_;
  static testing::TemporaryFolder* good_;
};

testing::TemporaryFolder* BrokenInput::good_ = nullptr;

std::vector<std::string> train_arguments() {
  return {"train", "--model", "model", "--data",   "pairs.jsonl", "--warmup-ratio",
          "0",     "--loss",  "dpo",   "--output", "out"};
}

TEST_F(BrokenInput, ChatTemplatesOfStrangers) {
  const std::string message = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n";
  for (const auto& [text, named] : std::vector<std::pair<std::string, std::string>>{
           {"{% for x in %}", "line 1"},
           {"{{ 'open", "line 1"},
           {"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"},
           {"{{ 'x' * 1000000000000 }}", "bytes"},
           {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 1"},
           {"{{ " + std::string(100'000, '(') + "1" + std::string(100'000, ')') + " }}", "line 1"},
           {"{{ messages[0].nothing.at_all }}", "line 1"}}) {
    write("model/chat_template.jinja", text);
    const Outcome outcome = sao({"tokenize", "--model", "model"}, message);
    SCOPED_TRACE(text.substr(0, 60));
    expect_refused(outcome, {"chat_template.jinja", named});
  }
}

TEST_F(BrokenInput, LinesOfStrangers) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  const std::string good = "{\"text\": \"the fox\"}\n";
  expect_refused(sao({"tokenize", "--model", "model"}, good + "{\"messages\": " + deep + "}\n"), {"stdin:2", "nested"});
  expect_refused(sao({"tokenize", "--model", "model"}, good + "\n" + std::string("\0\0\n", 3)),
                 {"stdin:3", "not valid JSON"});
  expect_refused(sao({"tokenize", "--model", "model"}, good + "{\"text\": \"\xff\"}\n"), {"stdin:2", "UTF-8"});
  expect_refused(sao({"tokenize", "--model", "model", "model"}), {"model: ", "Is a directory"});
  fs::resize_file(folder_ / "pairs.jsonl", std::uint64_t{300} << 20);
  expect_refused(sao(train_arguments()), {"pairs.jsonl:2", "a line of more than"});
  const Outcome odd = sao({"tokenize", "--model", "model"},
                          "\xEF\xBB\xBF" + std::string("{\"text\": \"the fox\"}\r\n\r\n{\"text\": \"the fox\"}"));
  EXPECT_EQ(odd.status, 0) << odd.err;
  EXPECT_EQ(std::count(odd.out.begin(), odd.out.end(), '\n'), 2)
      << "a byte order mark, carriage returns, no last newline";
}

TEST_F(BrokenInput, TrainingRefusesRowsBeforeItMakesAnything) {
  const std::string row = "{\"prompt\": \"the fox\", \"chosen\": \"first\", \"rejected\": \"another\"}\n";
  for (const auto& [line, named] : std::vector<std::pair<std::string, std::string>>{
           {"{\"prompt\": \"a\", \"chosen\": 3, \"rejected\": \"b\"}", "chosen"},
           {"{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"weight\": -1}", "weight"},
           {"{\"prompt_ids\": [2], \"chosen_ids\": [3], \"rejected_ids\": [-4]}", "rejected_ids"},
           {"{\"prompt\": " + std::string(100'000, '['), "nested"},
           {"{", "not valid JSON"}}) {
    write("pairs.jsonl", row + line + "\n" + row);
    SCOPED_TRACE(line.substr(0, 60));
    expect_refused(sao(train_arguments()), {"pairs.jsonl:2", named});
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }
  write("pairs.jsonl", row + "{\"prompt_ids\": [2], \"chosen_ids\": [3], \"rejected_ids\": [420]}\n");
  expect_refused(sao(train_arguments()), {"420", "vocabulary"});
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(BrokenInput, WeightsThatAreNoNumbersAreNotTrained) {
  NamedTensors tensors;
  const auto file = SafetensorsFile::open(folder_ / "model/model.safetensors");
  for (const std::string& name : file.names()) tensors.emplace_back(name, file.tensor(name).clone());
  tensors.back().second.view(-1)[0] = std::numeric_limits<float>::quiet_NaN();
  write_safetensors(folder_ / "model/model.safetensors", tensors);
  const std::vector<std::string> named = {"model.safetensors", tensors.back().first, "nan"};
  expect_refused(sao(train_arguments()), named);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  expect_refused(sao({"generate", "--model", "model"}, "{\"prompt\": \"a\"}\n"), named);
}

TEST_F(BrokenInput, ATokenizerOfAnotherModelIsNoticed) {
  write("model/tokenizer_config.json",
        "{\"added_tokens_decoder\": {\"5000\": {\"content\": \"<far>\", \"special\": true}}}");
  const std::vector<std::string> named = {"tokenizer", "5000", "vocab_size", "420"};
  expect_refused(sao({"generate", "--model", "model"}, "{\"prompt\": \"a\"}\n"), named);
  expect_refused(sao({"score", "--model", "model"}), named);
  expect_refused(sao(train_arguments()), named);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(BrokenInput, ConversationsThatDoNotFitAreNamed) {
  const std::string text(600, 'x');
  expect_refused(sao({"score", "--model", "model"}, "{\"prompt\": \"a\", \"response\": \"" + text + "\"}\n"),
                 {"stdin:1", "512", "context"});
  const Outcome judged = sao({"judge", "--model", "model", "--templates", "templates.json"},
                             "{\"prompt\": \"" + text + "\", \"responses\": [\"a\", \"b\"]}\n");
  EXPECT_EQ(judged.status, 0) << judged.err;
  EXPECT_THAT(judged.out, HasSubstr("\"reason\":\"too_long\"")) << "a judge counts what it cannot read";
}

TEST_F(BrokenInput, PersonasAndTemplatesOfARun) {
  const std::vector<std::string> run = {"run",      "--model", "model",       "--personas",     "personas.jsonl",
                                        "--output", "out",     "--templates", "templates.json", "--rounds",
                                        "1"};
  write("personas.jsonl", "{\"persona\": \"a\"}\n{\"persona\": 3}\n");
  expect_refused(sao(run), {"personas.jsonl:2", "persona", "3"});
  write("personas.jsonl", "");
  expect_refused(sao(run), {"personas.jsonl"});
  testing::write_personas(folder_ / "personas.jsonl", 8);
  write("templates.json", "{\"persona\": " + std::string(100'000, '[') + "}");
  expect_refused(sao(run), {"templates.json"});
  EXPECT_FALSE(fs::exists(folder_ / "out/round-1"));
}

TEST_F(BrokenInput, AnnotationsOfStrangers) {
  for (const auto& [text, named] : std::vector<std::pair<std::string, std::string>>{
           {"", "annotations.json"},
           {"{}", "annotations.json"},
           {"[{\"output_1\": \"a\", \"output_2\": \"b\", \"preference\": \"first\"}]", "preference"},
           {"[{\"output_1\": 3, \"output_2\": \"b\", \"preference\": 1}]", "output_1"},
           {std::string(100'000, '['), "annotations.json"},
           {std::string(100'000, '[') + std::string(100'000, ']'), "annotations.json"}}) {
    write("annotations.json", text);
    SCOPED_TRACE(text.substr(0, 60));
    expect_refused(sao({"winrate", "annotations.json"}), {"annotations.json", named});
  }
}

TEST_F(BrokenInput, AFullDiskLeavesNothingHalfWritten) {
  const Outcome tokens = sao({"tokenize", "--model", "model", "--output", "tokens.jsonl"},
                             "{\"text\": \"" + std::string(5000, 'x') + "\"}\n", 1000);
  expect_refused(tokens, {"tokens.jsonl", "File too large"});
  EXPECT_FALSE(fs::exists(folder_ / "tokens.jsonl"));
  // The weights of the tiny model are 100 kB: neither a checkpoint nor the model can be written.
  const Outcome trained = sao(train_arguments(), {}, 20'000);
  expect_refused(trained, {"out/", "File too large"});
  EXPECT_FALSE(fs::exists(folder_ / "out/model"));
  expect_nothing_half_written();
  std::vector<std::string> again = train_arguments();
  again.emplace_back("--resume");
  EXPECT_EQ(sao(again).status, 0) << "with room on the disk it goes on";
  EXPECT_TRUE(fs::exists(folder_ / "out/model/model.safetensors"));
}

TEST_F(BrokenInput, OutputsThatCannotBe) {
  const std::string text = "{\"text\": \"the fox\"}\n";
  expect_refused(sao({"tokenize", "--model", "model", "--output", "model"}, text), {"model", "Is a directory"});
  expect_refused(sao({"tokenize", "--model", "model", "--output", "pairs.jsonl/x"}, text),
                 {"pairs.jsonl/x", "Not a directory"});
  expect_refused(sao({"tokenize", "--model", "model", "--output", "/proc/version"}, text), {"/proc/version"});
  std::vector<std::string> train = train_arguments();
  train.back() = "pairs.jsonl";
  expect_refused(sao(train), {"pairs.jsonl"});
  EXPECT_GT(fs::file_size(folder_ / "pairs.jsonl"), 0U);
}

}  // namespace
}  // namespace sao
