// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/round.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "sao/base/error.h"
#include "sao/io/jsonl.h"
#include "support/tiny_model.h"

namespace sao {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// A caller that stops the run in the middle of a stage.
struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stop") {}
};

class RunTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    inputs_ = new testing::TemporaryFolder;
    testing::write_tiny_model(*inputs_ / "model");
    testing::write_tiny_templates(*inputs_ / "templates.json");
    testing::write_personas(*inputs_ / "personas.jsonl", 60);
  }
  static void TearDownTestSuite() {
    delete inputs_;
    inputs_ = nullptr;
  }

  static RunSettings settings() {
    RunSettings settings;
    settings.model = *inputs_ / "model";
    settings.personas = *inputs_ / "personas.jsonl";
    settings.templates = *inputs_ / "templates.json";
    settings.seed = {7};
    settings.prompts.count = 16;
    settings.prompts.sampling = {.temperature = 1.0, .max_new_tokens = 16};
    settings.prompts.filters = {.min_characters = 1, .min_letter_share = 0.0};
    settings.responses.sampling = {.temperature = 1.0, .max_new_tokens = 12};
    settings.judge.judge_truncated = true;
    settings.pairs.keep_truncated = true;
    settings.pairs.keep_inconsistent = true;
    settings.train.batch_size = 4;
    settings.train.optimizer.learning_rate = 1e-2;
    settings.train.schedule.warmup_ratio = 0.0;
    settings.train.checkpoint.every_steps = 1;
    settings.eval.count = 6;
    settings.eval.compare.sampling.max_new_tokens = 8;
    settings.eval.compare.length_control.bootstrap = 20;
    return settings;
  }

  static void run_all(const fs::path& folder, const RunSettings& settings, bool resume = false,
                      ProgressSink progress = {}) {
    sao::Run run(folder, settings, {.resume = resume}, {}, std::move(progress));
    while (run.step()) continue;
  }

  /// All files of a run but the timing: path to bytes.
  static std::map<std::string, std::string> files_of(const fs::path& folder) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const std::string name = fs::relative(entry.path(), folder);
      if (entry.path().filename() == "timing.jsonl") continue;
      files[name] = entry.is_regular_file() ? read_file(entry.path()) : "a folder";
    }
    return files;
  }

  static void expect_same_files(const std::map<std::string, std::string>& expected,
                                const std::map<std::string, std::string>& actual, const std::string& what) {
    for (const auto& [name, bytes] : expected) {
      ASSERT_TRUE(actual.contains(name)) << what << ": " << name << " is missing";
      ASSERT_TRUE(actual.at(name) == bytes) << what << ": " << name << " differs";
    }
    ASSERT_EQ(actual.size(), expected.size()) << what;
  }

  static std::vector<json> lines(const fs::path& file) {
    std::vector<json> rows;
    for_each_line(file, [&](std::string_view line) { rows.push_back(json::parse(line)); });
    return rows;
  }

  static std::set<std::string> fields(const json& object) {
    std::set<std::string> names;
    for (const auto& field : object.items()) names.insert(field.key());
    return names;
  }

  static testing::TemporaryFolder* inputs_;
};

testing::TemporaryFolder* RunTest::inputs_ = nullptr;

TEST_F(RunTest, FilesAreTheContract) {
  const testing::TemporaryFolder folder;
  const fs::path run = folder / "run";
  run_all(run, settings());
  const json manifest = json::parse(read_file(run / "manifest.json"));
  EXPECT_EQ(fields(manifest), (std::set<std::string>{"format", "versions", "settings", "seeds", "fingerprints"}));
  EXPECT_EQ(manifest["settings"]["train"]["loss"]["name"], "simpo");
  EXPECT_EQ(manifest["settings"]["prompts"]["sampling"]["max_new_tokens"], 16);
  EXPECT_FALSE(manifest["settings"]["prompts"].contains("seed"));
  EXPECT_EQ(fields(manifest["fingerprints"]), (std::set<std::string>{"model", "tokenizer", "templates", "personas"}));

  EXPECT_EQ(lines(run / "personas.jsonl").size(), 16u + 6);
  const fs::path round = run / "round-1";
  const std::vector<json> prompts = lines(round / "prompts.jsonl");
  ASSERT_EQ(prompts.size(), 16u);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(prompts[i]["id"], prompt_id(i));
    EXPECT_EQ(prompts[i]["persona"], lines(run / "personas.jsonl")[6 + i]["persona"]);
    kept += prompts[i]["outcome"] == "kept" ? 1 : 0;
  }
  ASSERT_GT(kept, 4u);
  const std::vector<json> responses = lines(round / "responses.jsonl");
  ASSERT_EQ(responses.size(), 2 * kept);
  EXPECT_EQ(fields(responses[0]),
            (std::set<std::string>{"id", "prompt_id", "k", "text", "ids", "finish_reason", "seed", "weights_version"}));
  const std::vector<json> verdicts = lines(round / "verdicts.jsonl");
  ASSERT_EQ(verdicts.size(), kept);
  const std::vector<json> pairs = lines(round / "pairs.jsonl");
  ASSERT_GT(pairs.size(), 2u);
  for (const char* field : {"prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids", "p",
                            "prompt_length", "chosen_length", "rejected_length"}) {
    EXPECT_TRUE(pairs[0].contains(field)) << field;
  }
  EXPECT_EQ(lines(round / "metrics.jsonl").size(), (pairs.size() + 3) / 4);
  const json outcomes = json::parse(read_file(round / "outcomes.json"));
  EXPECT_EQ(outcomes["prompts"]["kept"], pairs.size());
  std::size_t of_prompts = 0;
  for (const auto& count : outcomes["prompts"].items()) of_prompts += count.value().get<std::size_t>();
  EXPECT_EQ(of_prompts, kept) << "every kept prompt has an outcome";
  EXPECT_EQ(outcomes["pairs"], (json{{"trained", pairs.size()}}));
  EXPECT_TRUE(fs::exists(round / "checkpoints"));
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.model", "sao_templates.json"}) {
    EXPECT_TRUE(fs::exists(round / "model" / file)) << file;
  }
  EXPECT_EQ(read_file(round / "model" / "sao_templates.json"), read_file(*inputs_ / "templates.json"));
  const json eval = json::parse(read_file(round / "eval.json"));
  for (const char* baseline : {"against_start", "against_base"}) {
    EXPECT_TRUE(eval[baseline].contains("win_rate"));
    EXPECT_TRUE(eval[baseline].contains("length_controlled_winrate"));
  }
  EXPECT_EQ(eval["against_start"], eval["against_base"]) << "round 1 starts from the base";
}

TEST_F(RunTest, TrainingChangesTheWeightsAndTheNextRoundStartsFromThem) {
  const testing::TemporaryFolder folder;
  RunSettings two = settings();
  two.rounds = 2;
  run_all(folder / "run", two);
  EXPECT_NE(read_file(folder / "run/round-1/model/model.safetensors"), read_file(*inputs_ / "model/model.safetensors"));
  EXPECT_NE(read_file(folder / "run/round-2/model/model.safetensors"),
            read_file(folder / "run/round-1/model/model.safetensors"));
  const std::vector<Response> second = read_jsonl<Response>(folder / "run/round-2/responses.jsonl");
  EXPECT_EQ(second.at(0).weights_version, 1);
  // Personas are drawn without repetition, prompts are counted on.
  std::set<std::string> seen;
  for (int round = 1; round <= 2; ++round) {
    for (const json& prompt : lines(folder / fmt::format("run/round-{}/prompts.jsonl", round))) {
      EXPECT_TRUE(seen.insert(prompt["persona"]).second) << prompt["persona"];
    }
  }
  for (const json& prompt : lines(folder / "run/eval/prompts.jsonl")) {
    EXPECT_TRUE(seen.insert(prompt["persona"]).second) << "the evaluation has personas of its own";
  }
  EXPECT_EQ(lines(folder / "run/round-2/prompts.jsonl")[0]["id"], "p000016");

  // One round alone gives the same first round.
  RunSettings one = settings();
  run_all(folder / "one", one);
  EXPECT_EQ(read_file(folder / "one/round-1/model/model.safetensors"),
            read_file(folder / "run/round-1/model/model.safetensors"));
}

TEST_F(RunTest, StoppedAnywhereAndResumedGivesTheSameBytes) {
  const testing::TemporaryFolder folder;
  RunSettings run_settings = settings();
  run_settings.train.checkpoint.every_steps = 2;
  int calls = 0;
  run_all(folder / "whole", run_settings, false, [&](std::string_view, std::size_t, std::size_t) { ++calls; });
  const auto whole = files_of(folder / "whole");
  ASSERT_GT(calls, 40);
  // One run that is stopped again and again, after every third thing it does; each time a little further.
  int stops = 0;
  for (bool resume = false;; resume = true) {
    int left = 3;
    try {
      run_all(folder / "stopped", run_settings, resume, [&](std::string_view, std::size_t, std::size_t) {
        if (--left == 0) throw Stop();
      });
      break;
    } catch (const Stop&) {
      ASSERT_LT(++stops, calls);
    }
  }
  EXPECT_GT(stops, 10);
  expect_same_files(whole, files_of(folder / "stopped"), "stopped again and again");
  // And runs that are stopped once, at many places.
  for (int stop = 1; stop < calls; stop += 5) {
    const fs::path run = folder / fmt::format("stopped-{}", stop);
    int left = stop;
    EXPECT_THROW(run_all(run, run_settings, false,
                         [&](std::string_view, std::size_t, std::size_t) {
                           if (--left == 0) throw Stop();
                         }),
                 Stop);
    run_all(run, run_settings, true);
    expect_same_files(whole, files_of(run), fmt::format("stopped at {}", stop));
    fs::remove_all(run);
  }
}

TEST_F(RunTest, TornLinesAndMissingTailsAreMadeGood) {
  const testing::TemporaryFolder folder;
  run_all(folder / "whole", settings());
  const auto whole = files_of(folder / "whole");
  // What a killed process may leave: everything up to some byte of some file, and none of what comes after it.
  const std::vector<std::string> order = {"prompts.jsonl", "responses.jsonl",    "verdicts.jsonl",
                                          "pairs.jsonl",   "metrics.jsonl",      "checkpoints",
                                          "model",         "eval_answers.jsonl", "eval.json"};
  for (std::size_t cut = 0; cut < order.size(); ++cut) {
    for (const double share : {0.0, 0.4, 0.97}) {
      const fs::path run = folder / "cut";
      fs::copy(folder / "whole", run, fs::copy_options::recursive);
      for (std::size_t later = cut + 1; later < order.size(); ++later) fs::remove_all(run / "round-1" / order[later]);
      const fs::path file = run / "round-1" / order[cut];
      if (order[cut] == "metrics.jsonl" || order[cut].find(".jsonl") == std::string::npos ||
          order[cut] == "pairs.jsonl") {
        if (order[cut] != "metrics.jsonl") fs::remove_all(file);  // these appear whole
      }
      if (fs::is_regular_file(file)) {
        fs::resize_file(file, static_cast<std::uintmax_t>(share * static_cast<double>(fs::file_size(file))));
      }
      run_all(run, settings(), true);
      expect_same_files(whole, files_of(run), fmt::format("{} cut at {}", order[cut], share));
      fs::remove_all(run);
    }
  }
}

TEST_F(RunTest, BatchSizesGiveTheSameBytes) {
  const testing::TemporaryFolder folder;
  run_all(folder / "whole", settings());
  const auto whole = files_of(folder / "whole");
  for (const std::int64_t batch : {1, 7}) {
    RunSettings other = settings();
    other.engine = {.max_batch = batch, .prefill_tokens = 16 * batch};
    other.judge.items_per_call = batch;
    const fs::path run = folder / fmt::format("batch-{}", batch);
    run_all(run, other);
    expect_same_files(whole, files_of(run), fmt::format("batch {}", batch));
  }
}

TEST_F(RunTest, ResumeWithOtherSettingsOrInputsIsRefused) {
  const testing::TemporaryFolder folder;
  const fs::path run = folder / "run";
  run_all(run, settings());
  EXPECT_THROW(run_all(run, settings()), InputError) << "without resume";
  const auto before = files_of(run);
  RunSettings other = settings();
  other.train.optimizer.learning_rate = 5e-4;
  other.responses.sampling.temperature = 0.5;
  other.seed = {8};
  try {
    run_all(run, other, true);
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("settings.train.optimizer.learning_rate: 0.01 in the run, 0.0005 now"),
                                    HasSubstr("settings.responses.sampling.temperature: 1.0 in the run, 0.5 now"),
                                    HasSubstr("settings.seed: 7 in the run, 8 now")));
  }
  RunSettings edited = settings();
  edited.personas = folder / "personas.jsonl";
  testing::write_personas(edited.personas, 61);
  try {
    run_all(run, edited, true);
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("settings.personas"), HasSubstr("fingerprints.personas")));
  }
  run_all(run, settings(), true);  // nothing left to do
  expect_same_files(before, files_of(run), "after refusals");
}

TEST_F(RunTest, OtherLossesReferencesAndJudges) {
  const testing::TemporaryFolder folder;
  RunSettings other = settings();
  other.rounds = 2;
  other.train.loss = DPO{.beta = 0.1};
  other.reference = "base";
  other.judge.mode = "random";
  other.judge_model = settings().model;
  other.responses.samples = 3;
  other.eval.count = 0;
  run_all(folder / "run", other);
  EXPECT_FALSE(fs::exists(folder / "run/eval"));
  EXPECT_FALSE(fs::exists(folder / "run/round-2/eval.json"));
  const std::vector<json> first = lines(folder / "run/round-1/metrics.jsonl");
  const std::vector<json> second = lines(folder / "run/round-2/metrics.jsonl");
  EXPECT_NEAR(first[0]["rewards/margins"].get<double>(), 0.0, 1e-6) << "round 1 starts at its reference";
  EXPECT_GT(std::abs(second[0]["rewards/margins"].get<double>()), 1e-4) << "round 2 does not";
}

TEST_F(RunTest, EvaluationOnAFileOfPrompts) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder / "eval.jsonl", "{\"prompt\": \"the fox\"}\n{\"prompt\": \"answer me\"}\n");
  RunSettings other = settings();
  other.eval.prompts = folder / "eval.jsonl";
  run_all(folder / "run", other);
  EXPECT_EQ(json::parse(read_file(folder / "run/round-1/eval.json"))["prompts"], 2);
  EXPECT_EQ(lines(folder / "run/personas.jsonl").size(), 16u);
  write_file_atomically(folder / "eval.jsonl", "{\"prompt\": \" \"}\n");
  EXPECT_THROW(run_all(folder / "other", other), InputError);
}

TEST_F(RunTest, EvaluationPromptsAreHeldOut) {
  const testing::TemporaryFolder folder;
  RunSettings other = settings();
  other.eval.count = 0;
  run_all(folder / "free", other);
  std::vector<Prompt> free = read_jsonl<Prompt>(folder / "free/round-1/prompts.jsonl");
  const auto kept = std::find_if(free.begin(), free.end(), [](const Prompt& p) { return p.outcome == "kept"; });
  ASSERT_NE(kept, free.end());
  write_file_atomically(folder / "eval.jsonl", json{{"prompt", kept->text}}.dump() + "\n");
  other.eval.prompts = folder / "eval.jsonl";
  run_all(folder / "run", other);
  kept->outcome = "duplicate";
  EXPECT_EQ(read_jsonl<Prompt>(folder / "run/round-1/prompts.jsonl"), free);
}

TEST_F(RunTest, PairsThatAreTooLongAreCounted) {
  const testing::TemporaryFolder folder;
  RunSettings other = settings();
  other.eval.count = 0;
  other.train.max_length = 24;
  run_all(folder / "run", other);
  const json outcomes = json::parse(read_file(folder / "run/round-1/outcomes.json"));
  const std::size_t pairs = lines(folder / "run/round-1/pairs.jsonl").size();
  EXPECT_GT(outcomes["pairs"]["too_long"], 0);
  EXPECT_EQ(outcomes["pairs"]["too_long"].get<std::size_t>() + outcomes["pairs"]["trained"].get<std::size_t>(), pairs);
  EXPECT_THAT(read_file(folder / "run/report.html"), HasSubstr("<td>too_long</td>"));
}

TEST_F(RunTest, UnguidedPromptsNeedNoPersonas) {
  const testing::TemporaryFolder folder;
  RunSettings other = settings();
  other.personas = "";
  other.eval.count = 0;
  run_all(folder / "run", other);
  EXPECT_FALSE(fs::exists(folder / "run/personas.jsonl"));
  EXPECT_EQ(lines(folder / "run/round-1/prompts.jsonl")[0]["persona"], "");
}

TEST_F(RunTest, NothingToGoOnWithIsSaid) {
  const testing::TemporaryFolder folder;
  RunSettings none = settings();
  none.prompts.filters.min_characters = 1000;
  none.eval.count = 0;
  try {
    run_all(folder / "a", none);
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("prompts.jsonl: no prompt was kept"));
  }
  RunSettings ties = settings();
  ties.judge.tie_margin = 0.5;
  ties.pairs.keep_inconsistent = false;
  ties.eval.count = 0;
  try {
    run_all(folder / "b", ties);
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no preference pair"));
  }
  EXPECT_FALSE(fs::exists(folder / "b/round-1/pairs.jsonl"));
}

TEST_F(RunTest, SettingsOutOfRangeAreNamedTogether) {
  const testing::TemporaryFolder folder;
  RunSettings bad = settings();
  bad.model = "";
  bad.rounds = 0;
  bad.responses.samples = 1;
  bad.responses.sampling.temperature = -1;
  bad.reference = "other";
  bad.device = "gpu";
  bad.dtype = "float16";
  bad.train.batch_size = 0;
  bad.pairs.min_margin = 0.6;
  bad.eval.compare.length_control = {.bootstrap = -1, .confidence = 1.0};
  bad.eval.compare.equal_length_tolerance = 2;
  bad.engine.max_batch = 0;
  try {
    run_all(folder / "run", bad);
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("model: none"), HasSubstr("rounds: 0"), HasSubstr("responses.samples: 1"),
                                    HasSubstr("responses.sampling"), HasSubstr("reference: \"other\"")));
    EXPECT_THAT(error.what(), AllOf(HasSubstr("\"gpu\""), HasSubstr("float16"), HasSubstr("batch_size")));
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("min_margin: 0.6"), HasSubstr("bootstrap: -1"), HasSubstr("confidence: 1"),
                      HasSubstr("equal_length_tolerance: 2"), HasSubstr("max_batch is 0")));
  }
  EXPECT_FALSE(fs::exists(folder / "run")) << "nothing is made for settings that cannot run";
}

TEST_F(RunTest, VerdictsThatCannotBeToldApartAreRefusedBeforeAnythingIsWritten) {
  const testing::TemporaryFolder folder;
  RunSettings bad = settings();
  bad.templates = folder / "templates.json";
  write_file_atomically(bad.templates,
                        R"({"persona": "You are {persona}.", "judge": "{prompt} {first} {second}", "judge_prefix": "",
                            "judge_first": "1", "judge_second": "1 is worse"})");
  try {
    run_all(folder / "run", bad);
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("\"1\" and \"1 is worse\""));
  }
  EXPECT_FALSE(fs::exists(folder / "run"));
  bad.judge.mode = "text";  // the evaluation still reads probabilities
  EXPECT_THROW(sao::Run(folder / "run", bad), InputError);
  bad.eval.count = 0;
  EXPECT_NO_THROW(sao::Run(folder / "run", bad));
}

TEST_F(RunTest, SequencesThatDoNotFitTheCacheAreSaid) {
  const testing::TemporaryFolder folder;
  RunSettings small = settings();
  small.eval.count = 0;
  small.engine.cache_bytes = 32 * 1024;
  std::string said;
  sao::Run run(folder / "run", small, {},
               [&](LogLevel, std::string_view message) { said += std::string(message) + "\n"; });
  ASSERT_TRUE(run.step());
  EXPECT_THAT(said, HasSubstr("sequences at one time, of engine.max_batch 64"));
  const json timing = lines(folder / "run/round-1/timing.jsonl").at(0);
  EXPECT_GT(timing["fitting"], 0);
  EXPECT_LT(timing["fitting"], 64);
}

TEST_F(RunTest, MissingInputsAreNamedBeforeAnythingIsWritten) {
  const testing::TemporaryFolder folder;
  RunSettings bad = settings();
  bad.personas = folder / "nobody.jsonl";
  try {
    run_all(folder / "run", bad);
    FAIL() << "no exception";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("nobody.jsonl"));
  }
  EXPECT_FALSE(fs::exists(folder / "run"));
}

}  // namespace
}  // namespace sao
