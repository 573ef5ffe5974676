// SPDX-License-Identifier: Apache-2.0
// A training that can be stopped at any moment: a trainer with its checkpoints and its metrics file in step.
//   sao::prepare_checkpoints(run / "checkpoints", run / "metrics.jsonl", options.checkpoint);
//   sao::Trainer trainer(policy, pairs, options);
//   sao::train_to_end(trainer, run / "checkpoints", run / "metrics.jsonl");
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "sao/model/config.h"
#include "sao/train/trainer.h"

namespace sao {

/// Makes the checkpoints and metrics of a stopped training agree before it is continued: removes half-removed
/// checkpoints, those whose steps have no line in `metrics` (a stop between the two writes), and all but the newest
/// `options.keep` of the others. To be called before the trainer is made.
void prepare_checkpoints(const std::filesystem::path& checkpoints, const std::filesystem::path& metrics,
                         const CheckpointOptions& options = {});

/// Starts or resumes `trainer` in `checkpoints` and steps it to its end. Appends `line` of each step to `metrics`
/// (empty: to_json_line of the metrics), of which lines beyond the checkpoint are taken back first. `on_step` hears of
/// every step. Throws what Trainer does, and ResourceError.
void train_to_end(Trainer& trainer, const std::filesystem::path& checkpoints, const std::filesystem::path& metrics,
                  const std::function<void(const Trainer&)>& on_step = {},
                  const std::function<std::string(const Trainer&)>& line = {});

/// options.max_length, but never more than the model's context.
std::int64_t usable_length(const TrainerOptions& options, const ModelConfig& config);

}  // namespace sao
