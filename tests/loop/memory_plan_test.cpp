// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/memory_plan.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "sao/base/error.h"
#include "support/counting_allocator.h"
#include "support/message_of.h"
#include "support/tiny_model.h"

namespace sao {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class MemoryPlanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    testing::write_tiny_model(inputs_ / "model");
    testing::write_tiny_templates(inputs_ / "templates.json");
    testing::write_personas(inputs_ / "personas.jsonl", 60);
    settings_.model = inputs_ / "model";
    settings_.personas = inputs_ / "personas.jsonl";
    settings_.templates = inputs_ / "templates.json";
    settings_.prompts.count = 32;
    settings_.prompts.sampling = {.temperature = 1.0, .max_new_tokens = 24};
    settings_.prompts.filters = {.min_characters = 1, .min_letter_share = 0.0};
    settings_.responses.sampling = {.temperature = 1.0, .max_new_tokens = 16};
    settings_.judge.judge_truncated = settings_.pairs.keep_truncated = settings_.pairs.keep_inconsistent = true;
    settings_.train.batch_size = 4;
    settings_.train.schedule.warmup_ratio = 0.0;
    settings_.eval.count = 12;
    settings_.eval.compare.sampling.max_new_tokens = 8;
    settings_.eval.compare.length_control.bootstrap = 20;
  }

  static std::vector<std::string> names_of(const MemoryPlan& plan) {
    std::vector<std::string> names;
    for (const StageMemory& stage : plan.stages) names.push_back(stage.name);
    return names;
  }
  static std::int64_t bytes_of(const MemoryPlan& plan, const std::string& name) {
    for (const StageMemory& stage : plan.stages) {
      if (stage.name != name) continue;
      std::int64_t sum = 0;  // of tensors, which are what is counted
      for (const MemoryPart& part : stage.parts) sum += part.name == "pieces between" ? 0 : part.bytes;
      return sum;
    }
    ADD_FAILURE() << name;
    return 0;
  }

  testing::TemporaryFolder inputs_;
  RunSettings settings_;
};

TEST_F(MemoryPlanTest, NamesTheStagesOfARound) {
  EXPECT_THAT(names_of(plan_memory(settings_)),
              ElementsAre("evaluation: prompts", "evaluation: answers of the base", "prompts", "responses", "verdicts",
                          "training", "evaluation: answers", "evaluation: verdicts"));
  settings_.eval.count = 0;
  EXPECT_THAT(names_of(plan_memory(settings_)), ElementsAre("prompts", "responses", "verdicts", "training"));
}

TEST_F(MemoryPlanTest, ARunTakesNoMore) {
  const MemoryPlan plan = plan_memory(settings_);
  EXPECT_GT(plan.available, 0);
  const testing::TemporaryFolder folder;
  sao::Run run(folder / "run", settings_);
  const testing::CountingAllocator counting;
  std::int64_t before = counting.now();
  bool more = true;
  while (more) {
    const std::int64_t peak = before + counting.peak_of([&] { more = run.step(); });
    before = counting.now();
    const std::string& stage = run.stage();
    if (stage == "report" || stage == "round 1: pairs") continue;
    const std::string name = stage.starts_with("round 1: ") ? stage.substr(9) : stage;
    const std::int64_t planned =
        name == "evaluation" ? std::max(bytes_of(plan, "evaluation: answers"), bytes_of(plan, "evaluation: verdicts"))
                             : bytes_of(plan, name);
    EXPECT_LE(peak, planned + planned / 20) << stage;
    EXPECT_GE(peak, planned / 4) << stage;  // texts are shorter than they may be
  }
}

TEST_F(MemoryPlanTest, FollowsTheSettings) {
  const MemoryPlan plan = plan_memory(settings_);
  RunSettings other = settings_;
  other.train.loss = DPO{};
  other.train.activation_checkpointing = true;
  EXPECT_LT(bytes_of(plan_memory(other), "training"), bytes_of(plan, "training"));
  other = settings_;
  other.engine.max_batch = 4;
  EXPECT_LT(bytes_of(plan_memory(other), "responses"), bytes_of(plan, "responses"));
  other = settings_;
  other.judge.mode = "random";
  EXPECT_LT(bytes_of(plan_memory(other), "verdicts"), bytes_of(plan, "verdicts"));
  other = settings_;
  other.engine.cache_bytes = 1;
  EXPECT_THAT(testing::message_of([&] { plan_memory(other); }), HasSubstr("raise cache_bytes"));
  other = settings_;
  other.rounds = 0;
  EXPECT_THROW(plan_memory(other), InputError);
}

}  // namespace
}  // namespace sao
