// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/training.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "sao/io/files.h"
#include "support/tiny_model.h"

namespace sao {
namespace {

namespace fs = std::filesystem;

std::vector<TokenPair> some_pairs() {
  std::vector<TokenPair> pairs;
  for (TokenId i = 0; i < 12; ++i) pairs.push_back({{2, 300, 301}, {310 + i, 311, 5}, {330 + i, 5}});
  return pairs;
}

TrainerOptions some_options() {
  TrainerOptions options;
  options.loss = DPO{};
  options.batch_size = 2;
  options.optimizer.learning_rate = 1e-3;
  options.checkpoint = {.every_steps = 2, .keep = 2};
  return options;
}

class TrainingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    testing::write_tiny_model(folder_ / "model");
  }

  /// Trains in `name`; stops after `stop` steps of this start, 0 = never.
  std::string train(const std::string& name, int stop = 0) {
    const CausalLM policy = CausalLM::load(folder_ / "model");
    const fs::path where = folder_ / name;
    fs::create_directories(where);
    prepare_checkpoints(where / "checkpoints", where / "metrics.jsonl", some_options().checkpoint);
    Trainer trainer(policy, some_pairs(), some_options());
    try {
      train_to_end(trainer, where / "checkpoints", where / "metrics.jsonl", [&](const Trainer&) {
        if (--stop == 0) throw std::runtime_error("stop");
      });
    } catch (const std::runtime_error&) {
    }
    return read_file(where / "metrics.jsonl");
  }

  std::vector<std::string> checkpoints(const std::string& name) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_ / name / "checkpoints")) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  testing::TemporaryFolder folder_;
};

TEST_F(TrainingTest, StoppedAfterAnyStepGivesTheSameMetricsAndCheckpoints) {
  const std::string whole = train("whole");
  ASSERT_EQ(std::count(whole.begin(), whole.end(), '\n'), 6);
  EXPECT_EQ(checkpoints("whole"), (std::vector<std::string>{"step-000004", "step-000006"}));
  for (int stop = 1; stop < 6; ++stop) {
    const std::string name = "stopped-" + std::to_string(stop);
    EXPECT_LT(train(name, stop).size(), whole.size());
    EXPECT_EQ(train(name), whole) << stop;
    EXPECT_EQ(checkpoints(name), checkpoints("whole")) << stop;
    EXPECT_EQ(read_file(folder_ / name / "checkpoints/step-000006/tensors.safetensors"),
              read_file(folder_ / "whole/checkpoints/step-000006/tensors.safetensors"));
  }
}

// A kill between a checkpoint and the line of its step.
TEST_F(TrainingTest, CheckpointsAheadOfTheMetricsAreNotUsed) {
  const std::string whole = train("whole");
  train("stopped", 4);
  fs::resize_file(folder_ / "stopped/metrics.jsonl", fs::file_size(folder_ / "stopped/metrics.jsonl") - 3);
  EXPECT_EQ(train("stopped"), whole);
  EXPECT_EQ(checkpoints("stopped"), checkpoints("whole"));
}

TEST_F(TrainingTest, HalfRemovedCheckpointsGo) {
  train("run", 4);
  fs::create_directories(folder_ / "run/checkpoints/step-000001");
  fs::create_directories(folder_ / "run/checkpoints/notes");
  std::ofstream(folder_ / "run/checkpoints/step-000001/tensors.safetensors") << "half";
  prepare_checkpoints(folder_ / "run/checkpoints", folder_ / "run/metrics.jsonl", {.keep = 2});
  EXPECT_EQ(checkpoints("run"), (std::vector<std::string>{"notes", "step-000002", "step-000004"}));
  EXPECT_NO_THROW(prepare_checkpoints(folder_ / "none", folder_ / "none.jsonl"));
}

// A kill between a new checkpoint and the removal of the one that it replaces.
TEST_F(TrainingTest, OlderCheckpointsThanAreKeptGo) {
  const std::string whole = train("run");
  fs::copy(folder_ / "run/checkpoints/step-000004", folder_ / "run/checkpoints/step-000002");
  EXPECT_EQ(train("run"), whole);
  EXPECT_EQ(checkpoints("run"), (std::vector<std::string>{"step-000004", "step-000006"}));
}

TEST_F(TrainingTest, LengthNeverExceedsTheContext) {
  ModelConfig config;
  config.max_position_embeddings = 512;
  EXPECT_EQ(usable_length({.max_length = 2048}, config), 512);
  EXPECT_EQ(usable_length({.max_length = 100}, config), 100);
  EXPECT_EQ(usable_length({.max_length = 0}, config), 512);
}

}  // namespace
}  // namespace sao
