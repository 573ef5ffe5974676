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

  /// Trains in `name`; stops after `stop` steps of this start, 0 = never; before the step's line is written, or after.
  std::string train(const std::string& name, int stop = 0, TrainerOptions options = some_options(),
                    bool before_line = false) {
    const CausalLM policy = CausalLM::load(folder_ / "model");
    const fs::path where = folder_ / name;
    fs::create_directories(where);
    Trainer trainer(policy, some_pairs(), options);
    first_step_ = 0;
    const auto count_down = [&](const Trainer&) {
      if (--stop == 0) throw std::runtime_error("stop");
    };
    const auto on_step = [&](const Trainer& stepped) {
      if (first_step_ == 0) first_step_ = stepped.steps_done();
      if (!before_line) count_down(stepped);
    };
    const auto line = [&](const Trainer& stepped) {
      if (before_line) count_down(stepped);
      return to_json_line(stepped.metrics());
    };
    try {
      train_to_end(trainer, where / "checkpoints", where / "metrics.jsonl", options.checkpoint, on_step, line);
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
  std::int64_t first_step_ = 0;  ///< of the last start
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

// The same where one checkpoint is kept: the one before is still there, and the training goes on from it.
TEST_F(TrainingTest, AStopBeforeTheLineOfACheckpointCostsOneIntervalAtMost) {
  TrainerOptions options = some_options();
  options.checkpoint.keep = 1;
  const std::string whole = train("whole", 0, options);
  EXPECT_EQ(checkpoints("whole"), (std::vector<std::string>{"step-000006"}));
  for (const int stop : {4, 6}) {
    const std::string name = "stopped-" + std::to_string(stop);
    train(name, stop, options, /*before_line=*/true);
    EXPECT_EQ(train(name, 0, options), whole) << stop;
    EXPECT_EQ(first_step_, stop - 1) << "from the checkpoint of step " << stop - 2;
    EXPECT_EQ(checkpoints(name), checkpoints("whole")) << stop;
    EXPECT_EQ(read_file(folder_ / name / "checkpoints/step-000006/tensors.safetensors"),
              read_file(folder_ / "whole/checkpoints/step-000006/tensors.safetensors"));
  }
}

TEST_F(TrainingTest, HalfRemovedCheckpointsGo) {
  train("run", 4);
  fs::create_directories(folder_ / "run/checkpoints/step-000001");
  fs::create_directories(folder_ / "run/checkpoints/notes");
  std::ofstream(folder_ / "run/checkpoints/step-000001/tensors.safetensors") << "half";
  train("run", 1);
  EXPECT_EQ(checkpoints("run"), (std::vector<std::string>{"notes", "step-000002", "step-000004"}));
}

// A kill between a new checkpoint and the removal of the one that it replaces.
TEST_F(TrainingTest, OlderCheckpointsThanAreKeptGo) {
  const std::string whole = train("run");
  fs::copy(folder_ / "run/checkpoints/step-000004", folder_ / "run/checkpoints/step-000002");
  EXPECT_EQ(train("run"), whole);
  EXPECT_EQ(checkpoints("run"), (std::vector<std::string>{"step-000004", "step-000006"}));
}

}  // namespace
}  // namespace sao
