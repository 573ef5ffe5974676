// SPDX-License-Identifier: Apache-2.0
#include "sao/train/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "sao/base/error.h"

namespace sao {
namespace {

TEST(Schedule, CosineIsTransformersClosedForm) {
  const ScheduleOptions options{.kind = "cosine", .warmup_ratio = 0.1};
  EXPECT_EQ(warmup_steps(options, 469), 47);
  for (std::int64_t step = 0; step < 469; ++step) {
    const double expected =
        step < 47 ? step / 47.0 : 0.5 * (1.0 + std::cos(std::numbers::pi * (step - 47) / (469.0 - 47.0)));
    EXPECT_NEAR(schedule_factor(options, step, 469), expected, 1e-15) << step;
  }
  EXPECT_EQ(schedule_factor(options, 0, 469), 0.0);
  EXPECT_EQ(schedule_factor(options, 47, 469), 1.0);
}

TEST(Schedule, LinearIsTransformersClosedForm) {
  const ScheduleOptions options{.kind = "linear", .warmup_ratio = 0.25};
  for (std::int64_t step = 0; step < 40; ++step) {
    EXPECT_NEAR(schedule_factor(options, step, 40), step < 10 ? step / 10.0 : (40.0 - step) / 30.0, 1e-15) << step;
  }
}

TEST(Schedule, ConstantStaysAtThePeak) {
  const ScheduleOptions options{.kind = "constant", .warmup_ratio = 0.0};
  for (const std::int64_t step : {0, 1, 99}) EXPECT_EQ(schedule_factor(options, step, 100), 1.0);
}

TEST(Schedule, FlatThenDecayToAFinalRatio) {
  const ScheduleOptions options{.kind = "cosine", .warmup_ratio = 0.0, .decay_ratio = 0.5, .final_ratio = 0.02};
  EXPECT_EQ(schedule_factor(options, 0, 100), 1.0);
  EXPECT_EQ(schedule_factor(options, 50, 100), 1.0);
  EXPECT_NEAR(schedule_factor(options, 75, 100), 0.02 + 0.98 * 0.5, 1e-12);
  EXPECT_NEAR(schedule_factor(options, 100, 100), 0.02, 1e-12);
}

TEST(Schedule, OneStepTrainsAtTheWarmupsEnd) { EXPECT_EQ(schedule_factor({.warmup_ratio = 0.0}, 0, 1), 1.0); }

TEST(Schedule, RefusesWhatIsOutOfRange) {
  try {
    validate(ScheduleOptions{.kind = "step", .warmup_ratio = 2.0, .decay_ratio = 0.0, .final_ratio = -1.0});
    FAIL();
  } catch (const InputError& e) {
    for (const char* field : {"kind is \"step\"", "warmup_ratio is 2", "decay_ratio is 0", "final_ratio is -1"}) {
      EXPECT_THAT(e.what(), testing::HasSubstr(field));
    }
  }
}

}  // namespace
}  // namespace sao
