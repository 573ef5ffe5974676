// SPDX-License-Identifier: Apache-2.0
// Training on documents by next-token likelihood, with a weight on every token: pretraining and fine-tuning.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/base/tokens.h"
#include "sao/model/causal_lm.h"
#include "sao/train/checkpoint.h"
#include "sao/train/logps.h"
#include "sao/train/optimizer.h"
#include "sao/train/schedule.h"

namespace sao {

/// weights[i] >= 0 counts the prediction of ids[i]; weights[0] means nothing. As many weights as ids.
struct WeightedDocument {
  TokenIds ids = {};
  std::vector<float> weights = {};
};

struct LanguageModelOptions {
  AdamWOptions optimizer = {.learning_rate = 3e-3, .weight_decay = 0.0};  ///< fits models of about a million parameters
  ScheduleOptions schedule = {.warmup_ratio = 0.02, .decay_ratio = 0.5, .final_ratio = 0.02};
  std::int64_t steps = 1000;
  std::int64_t batch_tokens = 2048;        ///< whole documents up to this many tokens make a step
  std::int64_t micro_batch_tokens = 8192;  ///< tokens of one forward pass
  bool activation_checkpointing = false;
  std::int64_t chunk_tokens = 512;  ///< rows whose logits exist at one time, at most
  Seed seed = {42};                 ///< of the order of documents in each pass over them
  CheckpointOptions checkpoint = {};
};

template <class Visitor, OptionsOf<LanguageModelOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("optimizer", options.optimizer, "AdamW");
  visit("schedule", options.schedule, "learning rate over the steps");
  visit("steps", options.steps, "optimizer steps");
  visit("batch_tokens", options.batch_tokens, "tokens per optimizer step");
  visit("micro_batch_tokens", options.micro_batch_tokens, "tokens per forward pass");
  visit("activation_checkpointing", options.activation_checkpointing, "recompute activations in backward");
  visit("chunk_tokens", options.chunk_tokens, "rows whose logits exist at one time, at most");
  visit("seed", options.seed, "order of the documents");
  visit("checkpoint", options.checkpoint, "checkpoints");
}

/// Throws InputError naming every option that is out of range.
void validate(const LanguageModelOptions& options);

struct LanguageModelMetrics {
  std::int64_t step = 0;        ///< from 1
  double epoch = 0.0;           ///< passes over the documents so far
  double loss = 0.0;            ///< sum of weight * NLL over the step's tokens / sum of weights
  double grad_norm = 0.0;       ///< before clipping
  double learning_rate = 0.0;   ///< that this step used
  std::int64_t num_tokens = 0;  ///< since the start
};

std::string to_json_line(const LanguageModelMetrics& metrics);

/// Trains `model` in place. Reproducible and resumable as Trainer is.
class LanguageModelTrainer {
 public:
  /// Throws InputError: options out of range, a warm-up of all steps, no document with a weight, ids outside the
  /// vocabulary, weights that do not match the ids, a document longer than the model's context, a float16 model.
  LanguageModelTrainer(CausalLM model, std::vector<WeightedDocument> documents, LanguageModelOptions options = {});
  ~LanguageModelTrainer();
  LanguageModelTrainer(LanguageModelTrainer&&) noexcept;

  /// See Trainer.
  void start_or_resume(const std::filesystem::path& folder);
  bool step();
  const LanguageModelMetrics& metrics() const;
  std::int64_t steps_done() const;
  double tokens_per_second() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// sum of weight * NLL / sum of weights over all documents, gradients off: held-out loss. Throws InputError when no
/// token has a weight, and as the trainer does for its documents.
double weighted_nll(const CausalLM& model, std::span<const WeightedDocument> documents,
                    const ScoringOptions& options = {});

}  // namespace sao
