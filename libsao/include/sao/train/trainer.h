// SPDX-License-Identifier: Apache-2.0
// Training on preference pairs, stepped by its caller.
//   sao::Trainer trainer(policy, sao::tokenize_pairs(rows, text), {.loss = sao::SimPO{.beta = 10.0}});
//   trainer.start_or_resume(run / "checkpoints");
//   while (trainer.step()) metrics_file.append(sao::to_json_line(trainer.metrics()));
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sao/base/log.h"
#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/loss/preference.h"
#include "sao/model/causal_lm.h"
#include "sao/train/checkpoint.h"
#include "sao/train/optimizer.h"
#include "sao/train/pairs.h"
#include "sao/train/schedule.h"

namespace sao {

/// Defaults are the SAO paper's where it gives them: SimPO with beta 10 and gamma / beta 0.3, learning rate 1e-6,
/// cosine, warm-up 0.1, one epoch, 128 pairs a step.
struct TrainerOptions {
  PreferenceLoss loss = SimPO{.beta = 10.0, .gamma_beta_ratio = 0.3};
  AdamWOptions optimizer = {};
  ScheduleOptions schedule = {};
  std::int64_t epochs = 1;
  std::int64_t max_steps = 0;              ///< ends earlier; the schedule then spans these steps. 0 = all epochs
  std::int64_t batch_size = 128;           ///< pairs an optimizer step; the loss is their mean
  std::int64_t micro_batch_tokens = 8192;  ///< tokens of one forward pass, unless one pair has more
  std::int64_t micro_batch_pairs = 0;      ///< pairs of one forward pass at most; 0 = as many as the tokens allow
  std::int64_t max_length = 2048;  ///< pairs with a longer side are dropped, never cut. SimPO's. 0 = no limit but
                                   ///< the model's context, which always holds
  bool soft_labels = false;        ///< use the pairs' p; else every label counts as certain, as in the paper
  double ld_alpha = 1.0;           ///< weight of tokens beyond the pair's shorter response (LD-DPO, TRL)
  bool activation_checkpointing = false;  ///< recompute layers in backward: less memory, more time
  std::int64_t chunk_tokens = 512;        ///< rows whose logits exist at one time
  Seed seed = {42};  ///< of the order of pairs: a pure function of it and the epoch; and of adapters' dropout
  CheckpointOptions checkpoint = {};
};

template <class Visitor, OptionsOf<TrainerOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("loss", options.loss, "preference loss");
  visit("optimizer", options.optimizer, "AdamW");
  visit("schedule", options.schedule, "learning rate over the steps");
  visit("epochs", options.epochs, "passes over the pairs");
  visit("max_steps", options.max_steps, "optimizer steps at most; 0 = all epochs");
  visit("batch_size", options.batch_size, "pairs per optimizer step");
  visit("micro_batch_tokens", options.micro_batch_tokens, "tokens per forward pass");
  visit("micro_batch_pairs", options.micro_batch_pairs, "pairs per forward pass; 0 = by tokens");
  visit("max_length", options.max_length, "longer pairs are dropped; 0 = up to the model's context");
  visit("soft_labels", options.soft_labels, "train on the judge's probabilities instead of certain labels");
  visit("ld_alpha", options.ld_alpha, "weight of tokens beyond the shorter response");
  visit("activation_checkpointing", options.activation_checkpointing, "recompute activations in backward");
  visit("chunk_tokens", options.chunk_tokens, "rows whose logits exist at one time");
  visit("seed", options.seed, "order of the pairs");
  visit("checkpoint", options.checkpoint, "checkpoints");
}

/// Throws InputError naming every option that is out of range.
void validate(const TrainerOptions& options);

/// Of one optimizer step, over all its pairs. Names in JSON are TRL's.
struct TrainMetrics {
  std::int64_t step = 0;        ///< from 1
  double epoch = 0.0;           ///< passes over the pairs so far
  double loss = 0.0;            ///< mean over pairs
  double grad_norm = 0.0;       ///< before clipping
  double learning_rate = 0.0;   ///< that this step used
  double rewards_chosen = 0.0;  ///< means
  double rewards_rejected = 0.0;
  double reward_accuracy = 0.0;  ///< share of pairs whose chosen reward is the larger
  double reward_margin = 0.0;
  double logps_chosen = 0.0;    ///< mean log-prob of the responses: of sums, or of token means where TRL's trainer of
  double logps_rejected = 0.0;  ///< the loss logs these (logs_mean_logps)
  double chosen_length = 0.0;   ///< mean tokens: watch it, preference training grows it
  double rejected_length = 0.0;
  std::int64_t num_tokens = 0;  ///< prompt and response tokens of both sides, since the start
};

/// {"step", "epoch", "loss", "grad_norm", "learning_rate", "lr", "rewards/chosen", "rewards/rejected",
/// "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "lengths/chosen", "lengths/rejected",
/// "num_tokens"}. Nothing in it depends on the clock.
std::string to_json_line(const TrainMetrics& metrics);

/// Trains `policy` in place: its trainable_parameters(). Of a model with adapters these alone have gradients, state of
/// the optimizer and a place in checkpoints, which are continued on the same base only. Same pairs, options and weights
/// give the same bits on the CPU, with or without a stop and resume between; the split into micro-batches changes them
/// by rounding only.
class Trainer {
 public:
  /// `reference`: what the loss compares with, where it needs one; without it, the policy as it is at the start: for
  /// new adapters the base (`policy.base()` is it for others, too). Its log-probs are computed once, before the first
  /// step, and it is let go. Pairs are selected by select_pairs, those longer than max_length or the context of either
  /// model left out as "too_long". Gradients that the policy's weights have are dropped. Throws InputError: options out
  /// of range, a warm-up of all steps, no pair left, ids outside the vocabulary, a float16 policy.
  Trainer(CausalLM policy, std::vector<TokenPair> pairs, TrainerOptions options = {},
          std::optional<CausalLM> reference = {});
  /// Frees the gradients and switches them off.
  ~Trainer();
  Trainer(Trainer&&) noexcept;

  /// Continues from the newest checkpoint in `folder`, or starts there; what a killed process left half-written in it
  /// is removed. Without a call, step() starts without checkpoints. Throws InputError naming what differs from the
  /// checkpoint: every option but `checkpoint`; the pairs in use (ids, p, weights, order); the policy's dtype, its
  /// parameters' names and shapes; the weights of a reference that was given. Not noticed: other weights of the policy
  /// (the checkpoint's replace them, and a reference that was the policy's start is in its log-probs), the model's
  /// config beyond shapes, the device.
  void start_or_resume(const std::filesystem::path& folder);

  /// One optimizer step over `batch_size` pairs; false when training is over. Throws InputError on the first loss or
  /// gradient that is not finite, before the weights change, and writes what it knows to
  /// `folder`/non-finite-step-NNNNNN.json; ResourceError when memory runs out.
  bool step();

  /// Of the last step.
  const TrainMetrics& metrics() const;
  std::int64_t steps_done() const;
  std::int64_t total_steps() const;
  /// Pairs in use.
  const std::vector<TokenPair>& pairs() const;
  /// Reason -> pairs that are not.
  const std::map<std::string, std::int64_t>& dropped() const;
  /// Reference log-probs (sums) of pairs(), in their order; empty before the start or for losses without reference.
  const std::vector<double>& reference_chosen() const;
  const std::vector<double>& reference_rejected() const;

  /// Wall-clock throughput of the last step: prompt and response tokens a second. Kept out of the metrics, which
  /// repeat.
  double tokens_per_second() const;

  /// Asked about the reference log-probs, which can take minutes.
  void set_progress(ProgressSink progress);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sao
