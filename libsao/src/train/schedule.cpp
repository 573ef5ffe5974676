// SPDX-License-Identifier: Apache-2.0
#include "sao/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "train/problems.h"

namespace sao {

void validate(const ScheduleOptions& options) {
  detail::Problems problems("schedule");
  problems.need(options.kind == "cosine" || options.kind == "linear" || options.kind == "constant", "kind",
                '"' + options.kind + '"', "cosine, linear or constant");
  problems.need(options.warmup_ratio >= 0.0 && options.warmup_ratio <= 1.0, "warmup_ratio", options.warmup_ratio,
                "0 to 1");
  problems.need(options.decay_ratio > 0.0 && options.decay_ratio <= 1.0, "decay_ratio", options.decay_ratio,
                "above 0, at most 1");
  problems.need(options.final_ratio >= 0.0 && options.final_ratio <= 1.0, "final_ratio", options.final_ratio, "0 to 1");
  problems.raise();
}

std::int64_t warmup_steps(const ScheduleOptions& options, std::int64_t total_steps) {
  return static_cast<std::int64_t>(std::ceil(options.warmup_ratio * static_cast<double>(total_steps)));
}

double schedule_factor(const ScheduleOptions& options, std::int64_t step, std::int64_t total_steps) {
  const std::int64_t warmup = warmup_steps(options, total_steps);
  if (step < warmup) return static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(1, warmup));
  if (options.kind == "constant") return 1.0;
  const double after = static_cast<double>(std::max<std::int64_t>(1, total_steps - warmup));
  const double begin = after * (1.0 - options.decay_ratio);  // of the decay, counted from the end of the warm-up
  const double progress =
      std::clamp((static_cast<double>(step - warmup) - begin) / std::max(1e-12, after - begin), 0.0, 1.0);
  const double shape = options.kind == "linear" ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return options.final_ratio + (1.0 - options.final_ratio) * shape;
}

}  // namespace sao
