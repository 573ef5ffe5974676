// SPDX-License-Identifier: Apache-2.0
// A training that can be stopped at any moment: a trainer with its checkpoints and its metrics file in step.
//   sao::Trainer trainer(policy, pairs, options);
//   sao::train_to_end(trainer, run / "checkpoints", run / "metrics.jsonl", options.checkpoint);
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "sao/train/trainer.h"

namespace sao {

/// Starts or resumes `trainer` in `checkpoints` and steps it to its end. Appends `line` of each step to `metrics`
/// (empty: to_json_line of the metrics). `on_step` hears of every step. What an earlier stop left is made to agree
/// first: half-removed checkpoints go, and those without the line of their step, and lines beyond the newest
/// checkpoint. A checkpoint is of no use before the line of its step is on disk; until then the one before it stays (a
/// trainer removes old checkpoints when its next step begins). `options` are the trainer's. Throws what Trainer does,
/// and ResourceError.
void train_to_end(Trainer& trainer, const std::filesystem::path& checkpoints, const std::filesystem::path& metrics,
                  const CheckpointOptions& options = {}, const std::function<void(const Trainer&)>& on_step = {},
                  const std::function<std::string(const Trainer&)>& line = {});

}  // namespace sao
