// SPDX-License-Identifier: Apache-2.0
// What every trainer has in common: a model, its optimizer and schedule, the step that ends a batch, checkpoints.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/json.h"
#include "sao/model/causal_lm.h"
#include "sao/train/checkpoint.h"
#include "sao/train/optimizer.h"
#include "sao/train/schedule.h"

namespace sao::detail {

void validate(const CheckpointOptions& options);

struct CoreOptions {
  AdamWOptions optimizer = {};
  ScheduleOptions schedule = {};
  CheckpointOptions checkpoint = {};
  bool activation_checkpointing = false;
  std::int64_t chunk_tokens = 512;
};

/// The step of a checkpoint's folder name, "step-000100".
std::optional<std::int64_t> checkpoint_step(const std::string& name);
/// Removes a checkpoint so that what a stop leaves of it is no checkpoint. Best effort.
void remove_checkpoint(const std::filesystem::path& folder);

/// A checkpoint as found on disk.
struct SavedState {
  std::filesystem::path folder;
  Json state;
  SafetensorsFile tensors;
};

class Core {
 public:
  Core(CausalLM model, const CoreOptions& options, std::int64_t total_steps);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  const CausalLM& model() const { return model_; }
  /// Whether adapters drop a part of their inputs in training.
  bool drops_out() const { return model_.lora() != nullptr && model_.lora()->options.lora_dropout > 0.0; }
  std::int64_t steps_done() const { return optimizer_.steps(); }
  std::int64_t total_steps() const { return total_steps_; }
  bool done() const { return steps_done() >= total_steps_; }
  double learning_rate() const;

  /// Begins a batch: drops gradients that a failed step or somebody else's backward left.
  void begin_step() { optimizer_.zero_grad(); }
  /// Log-probs [n] of `targets` after rows `rows` of the pack. `statistics` is filled in when given.
  at::Tensor scored_logps(const PackedTokens& tokens, const at::Tensor& rows, const at::Tensor& targets,
                          ops::TokenStatistics* statistics = nullptr) const;
  /// Adds the gradients of sum(gradient * values).
  void backward(const at::Tensor& values, const at::Tensor& gradient);

  /// Ends a batch: checks that the gradients are finite, clips, updates. Returns their norm before clipping.
  /// `describe` adds to the report that a failure leaves.
  double update(const std::function<void(OrderedJson&)>& describe);

  /// Throws InputError with `problem` after writing non-finite-step-NNNNNN.json.
  [[noreturn]] void stop_non_finite(const std::string& problem, const std::function<void(OrderedJson&)>& describe);

  /// Where checkpoints go, which nobody else writes to; the newest that is there already.
  std::optional<SavedState> open(const std::filesystem::path& folder);
  /// Compares what the checkpoint was made with against now (adapters and their base are seen to here), then loads it.
  /// Throws InputError naming every difference.
  void restore(const SavedState& saved, const OrderedJson& identity);
  /// Removes all but the newest `keep` checkpoints. Called when a step begins, not when one ends: a new checkpoint is
  /// of no use before its caller has taken in the step, and until then those before it are needed.
  void prune();
  /// Writes a checkpoint when one is due after the last update.
  void save_if_due(const OrderedJson& identity, const OrderedJson& progress, const NamedTensors& more);

  bool has_folder() const { return !folder_.empty(); }

 private:
  OrderedJson with_adapters(OrderedJson identity) const;

  CausalLM model_;
  CoreOptions options_;
  std::int64_t total_steps_;
  AdamW optimizer_;
  std::filesystem::path folder_;
  OrderedJson adapters_;   // and the frozen weights below them, once there are checkpoints; else null
  bool may_prune_ = true;  // there may be more checkpoints than are kept
};

/// Calls `work`, with running out of memory turned into a ResourceError that names the option to lower.
void explain_out_of_memory(const std::function<void()>& work);

/// Of the names, shapes and values of parameters, as they stand in memory.
std::string fingerprint_of(const NamedTensors& parameters);

/// A number as JSON; NaN and infinities as text, which JSON has no numbers for.
OrderedJson json_number(double value);

/// Throws InputError unless every id is one of the model's.
void check_ids(TokenSpan ids, std::int64_t vocab_size, const std::string& where);

/// Wall-clock tokens a second.
class Throughput {
 public:
  void begin() { start_ = std::chrono::steady_clock::now(); }
  void end(std::int64_t tokens) {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start_;
    per_second_ = took.count() > 0.0 ? static_cast<double>(tokens) / took.count() : 0.0;
  }
  double per_second() const { return per_second_; }

 private:
  std::chrono::steady_clock::time_point start_ = {};
  double per_second_ = 0.0;
};

}  // namespace sao::detail
