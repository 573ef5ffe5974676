// SPDX-License-Identifier: Apache-2.0
// The training stage: a trainer with its checkpoints and metrics.jsonl in step.
#pragma once

#include <filesystem>
#include <functional>

#include "sao/train/trainer.h"

namespace sao::detail {

/// Makes the checkpoints and metrics of a stopped training agree before it is continued: removes half-removed
/// checkpoints, and those whose steps have no line in `metrics` (a stop between the two writes).
void prepare_checkpoints(const std::filesystem::path& checkpoints, const std::filesystem::path& metrics);

/// Starts or resumes `trainer` in `checkpoints` and steps it to its end; one line a step goes to `metrics`, of which lines
/// beyond the checkpoint are taken back first. `on_step` hears of every step. Call prepare_checkpoints before the
/// trainer is made.
void train_to_end(Trainer& trainer, const std::filesystem::path& checkpoints, const std::filesystem::path& metrics,
                  const std::function<void(const Trainer&)>& on_step);

}  // namespace sao::detail
