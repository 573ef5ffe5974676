// SPDX-License-Identifier: Apache-2.0
// Training on preference pairs, or on completions that are known to be good or bad, stepped by its caller.
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
#include "sao/train/reference.h"
#include "sao/train/schedule.h"

namespace sao {

/// Defaults are the SAO paper's where it gives them: SimPO with beta 10 and gamma / beta 0.3, learning rate 1e-6,
/// cosine, warm-up 0.1, one epoch, 128 pairs a step. "Pairs" are rows of the kind that the loss takes: completions with
/// a label for kto and apo_zero_unpaired.
struct TrainerOptions {
  PreferenceLoss loss = SimPO{.beta = 10.0, .gamma_beta_ratio = 0.3};
  AdamWOptions optimizer = {};
  ScheduleOptions schedule = {};
  std::int64_t epochs = 1;
  std::int64_t max_steps = 0;              ///< ends earlier; the schedule then spans these steps. 0 = all epochs
  std::int64_t batch_size = 128;           ///< pairs an optimizer step; the loss is their mean
  std::int64_t micro_batch_tokens = 8192;  ///< tokens of one forward pass, unless one pair has more
  std::int64_t micro_batch_pairs = 0;      ///< pairs of one forward pass at most; 0 = as many as the tokens allow
  std::string token_policy = "clean";      ///< which tokenize_pairs made the pairs: a record, the trainer sees ids only
  std::int64_t max_length = 2048;      ///< of a prompt and its longest response. SimPO's. 0 = no limit but the model's
                                       ///< context, which always holds
  std::string truncation = "drop";     ///< what happens to longer pairs: see LengthLimit; the default cuts nothing
  std::int64_t max_prompt_length = 0;  ///< of truncation "simpo"
  bool soft_labels = false;            ///< use the pairs' p; else every label counts as certain, as in the paper
  double ld_alpha = 1.0;               ///< weight of tokens beyond the pair's shorter response (LD-DPO, TRL)
  bool use_weighting = false;      ///< WPO (Zhou et al. 2024, eq. 2; TRL): pairs weigh w(chosen) w(rejected), w(y) =
                                   ///< exp(mean over tokens of log p(y_t) - log sum_v p(v)^2), without gradient
  bool average_log_probs = false;  ///< the loss sees means over tokens for sums, of policy and reference (NeMo-RL's
                                   ///< preference_average_log_probs); NLL terms and SimPO's kind stay as they are
  bool token_metrics = false;  ///< entropy, mean_token_accuracy, logits/chosen and logits/rejected, as TRL logs them:
                               ///< a few passes more over the logits, but for float32 on the CPU
  ReferenceOptions reference = {};
  bool activation_checkpointing = false;  ///< recompute layers in backward: less memory, more time
  std::int64_t chunk_tokens = 512;        ///< rows whose logits exist at one time, at most
  bool shuffle = true;                    ///< false: every epoch in the order given
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
  visit("token_policy", options.token_policy, "what counts as response: clean, trl or simpo");
  visit("max_length", options.max_length, "tokens of prompt and longest response; 0 = up to the model's context");
  visit("truncation", options.truncation, "of longer pairs: drop, keep_start, keep_end or simpo");
  visit("max_prompt_length", options.max_prompt_length, "tokens of the prompt under truncation simpo");
  visit("soft_labels", options.soft_labels, "train on the judge's probabilities instead of certain labels");
  visit("ld_alpha", options.ld_alpha, "weight of tokens beyond the shorter response");
  visit("use_weighting", options.use_weighting, "WPO: pairs weigh by how likely the policy finds them");
  visit("average_log_probs", options.average_log_probs, "losses see means over tokens, not sums");
  visit("token_metrics", options.token_metrics, "entropy, token accuracy and mean logits too");
  visit("reference", options.reference, "reference model");
  visit("activation_checkpointing", options.activation_checkpointing, "recompute activations in backward");
  visit("chunk_tokens", options.chunk_tokens, "rows whose logits exist at one time, at most");
  visit("shuffle", options.shuffle, "another order of pairs each epoch");
  visit("seed", options.seed, "order of the pairs");
  visit("checkpoint", options.checkpoint, "checkpoints");
}

/// Throws InputError naming every option that is out of range.
void validate(const TrainerOptions& options);

/// Of one optimizer step, over all its pairs: means over pairs, or over the rows of one label, or over tokens. Names in
/// JSON are TRL's. NaN where a step had no row of that label.
struct TrainMetrics {
  std::int64_t step = 0;        ///< from 1
  double epoch = 0.0;           ///< passes over the pairs so far
  double loss = 0.0;            ///< mean over pairs
  double grad_norm = 0.0;       ///< before clipping
  double learning_rate = 0.0;   ///< that this step used
  double rewards_chosen = 0.0;  ///< means
  double rewards_rejected = 0.0;
  double reward_accuracy = 0.0;  ///< share of pairs whose chosen reward is the larger; NaN for completions
  double reward_margin = 0.0;
  double logps_chosen = 0.0;    ///< mean log-prob of the responses: of sums, or of token means where TRL's trainer of
  double logps_rejected = 0.0;  ///< the loss logs these (logs_mean_logps)
  double chosen_length = 0.0;   ///< mean tokens: watch it, preference training grows it
  double rejected_length = 0.0;
  std::int64_t num_tokens = 0;          ///< prompt and response tokens of all sequences, since the start
  std::optional<double> nll_loss = {};  ///< token-mean NLL of what the loss's NLL term covers, or would (TRL: 0 then)
  std::optional<double> log_odds_ratio = {};       ///< orpo: mean of log sg(lo_w - lo_l)
  std::optional<double> log_odds_chosen = {};      ///< orpo: mean of lo_w - lo_l
  std::optional<double> kl = {};                   ///< kto's z
  std::optional<double> entropy = {};              ///< with token_metrics: mean over response tokens, nats
  std::optional<double> mean_token_accuracy = {};  ///< share of chosen tokens that no other token's logit exceeds
  std::optional<double> logits_chosen = {};        ///< mean over tokens and vocabulary
  std::optional<double> logits_rejected = {};
};

/// {"step", "epoch", "loss", "grad_norm", "learning_rate", "lr", "rewards/chosen", "rewards/rejected",
/// "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "lengths/chosen", "lengths/rejected",
/// "num_tokens"} and, where they are there, {"nll_loss", "log_odds_ratio", "log_odds_chosen", "kl", "entropy",
/// "mean_token_accuracy", "logits/chosen", "logits/rejected"}; what is NaN is left out. Nothing depends on the clock.
std::string to_json_line(const TrainMetrics& metrics);

/// Trains `policy` in place: its trainable_parameters(). Of a model with adapters these alone have gradients, state of
/// the optimizer and a place in checkpoints, which are continued on the same base only. Same pairs, options and weights
/// give the same bits on the CPU, with or without a stop and resume between; the split into micro-batches changes them
/// by rounding only.
class Trainer {
 public:
  /// `reference`: what the loss compares with, where it needs one; without it, the policy as it is at the start: see
  /// ReferenceOptions; for new adapters that is the base (`policy.base()` is it for others, too). Pairs are selected by
  /// select_pairs (completions by select_completions) with max_length or the context of either model, whichever is
  /// less. Gradients that the policy's weights have are dropped. Throws InputError: options out of range, rows that the
  /// loss does not take, a warm-up of all steps, no pair left, ids outside the vocabulary, a float16 policy.
  Trainer(CausalLM policy, std::vector<TokenPair> pairs, TrainerOptions options = {},
          std::optional<CausalLM> reference = {});
  Trainer(CausalLM policy, std::vector<TokenCompletion> rows, TrainerOptions options = {},
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
  /// Pairs in use, or completions; the other is empty.
  const std::vector<TokenPair>& pairs() const;
  const std::vector<TokenCompletion>& completions() const;
  /// Reason -> pairs that are not.
  const std::map<std::string, std::int64_t>& dropped() const;
  /// "prompt" or "response" -> pairs that lost tokens of it to `truncation`.
  const std::map<std::string, std::int64_t>& cut() const;
  /// Reference log-probs (sums) of pairs(), in their order; empty before the start, for losses without reference and
  /// with a moving one. Of completions() the first holds theirs.
  const std::vector<double>& reference_chosen() const;
  const std::vector<double>& reference_rejected() const;

  /// Another reference than a model: for modes frozen without file. Throws InputError after the start.
  void set_reference(ReferenceScorer reference);

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
