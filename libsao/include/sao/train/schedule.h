// SPDX-License-Identifier: Apache-2.0
// Learning rate schedules as pure functions of the step.
#pragma once

#include <cstdint>
#include <string>

#include "sao/base/options.h"

namespace sao {

/// Warm-up from 0, then the peak, then a decay over the last `decay_ratio` of what follows the warm-up.
struct ScheduleOptions {
  std::string kind = "cosine";  ///< how it decays: "cosine", "linear" or "constant"; the paper's: cosine
  double warmup_ratio = 0.1;    ///< share of all steps, rounded up; the paper's
  double decay_ratio = 1.0;     ///< 1: decays from the end of the warm-up on; 0.3: flat, then decays over the last 30 %
  double final_ratio = 0.0;     ///< of the peak, at the end of the decay
};

template <class Visitor, OptionsOf<ScheduleOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("kind", options.kind, "cosine, linear or constant");
  visit("warmup_ratio", options.warmup_ratio, "share of the steps that warm up");
  visit("decay_ratio", options.decay_ratio, "share of the steps after warm-up that decay");
  visit("final_ratio", options.final_ratio, "last learning rate as a share of the peak");
}

/// Throws InputError naming every field that is out of range.
void validate(const ScheduleOptions& options);

/// ceil(warmup_ratio * total_steps).
std::int64_t warmup_steps(const ScheduleOptions& options, std::int64_t total_steps);

/// What the peak learning rate is multiplied with in update `step` of 0 .. total_steps - 1. As in transformers, the
/// first warm-up update has factor 0 and the last update is one step short of the end of the decay. Follows:
/// transformers get_cosine_schedule_with_warmup and get_linear_schedule_with_warmup (at decay_ratio 1).
double schedule_factor(const ScheduleOptions& options, std::int64_t step, std::int64_t total_steps);

}  // namespace sao
