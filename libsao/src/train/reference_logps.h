// SPDX-License-Identifier: Apache-2.0
// The reference's side of a training: log-probs computed once, given, or under a model that moves.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/json.h"
#include "sao/base/log.h"
#include "sao/io/safetensors.h"
#include "sao/train/trainer.h"
#include "train/batches.h"
#include "train/objective.h"

namespace sao::detail {

class ReferenceLogps {
 public:
  /// `given`: the reference model, where there is one. Nothing is computed yet.
  ReferenceLogps(const Objective& objective, const TrainerOptions& options, Batches& batches,
                 std::optional<CausalLM> given)
      : objective_(objective), options_(options), batches_(batches), given_(std::move(given)) {}

  bool is_used() const { return objective_.reference_slots() > 0; }
  /// A model that was given, until the start.
  const std::optional<CausalLM>& given() const { return given_; }
  void set_scorer(ReferenceScorer scorer) { scorer_ = std::move(scorer); }
  void set_progress(ProgressSink progress) { progress_ = std::move(progress); }

  /// Computes or reads what does not change, and lets go of what is not needed any more.
  void start(const CausalLM& policy, std::int64_t total_steps);
  /// The same from a checkpoint.
  void resume(const CausalLM& policy, std::int64_t total_steps, const SafetensorsFile& tensors);
  /// What resume needs.
  NamedTensors tensors() const;

  /// Fills in the reference log-probs of rows.
  void fill(std::span<const std::size_t> batch, std::vector<RowValues>& values) const;
  /// KTO's z of a step under the policy as it is; 0 for other losses.
  double kl(std::int64_t step, std::span<const std::size_t> batch, const CausalLM& policy) const;
  /// After a step: brings a moving reference nearer to the policy when it is time.
  void move(const CausalLM& policy, std::int64_t steps_done);

  /// Whether the reference is, bit for bit, the policy that training begins with.
  bool equals_start() const { return equals_start_; }
  const std::vector<double>& of_slot(std::size_t slot) const { return logps_[slot]; }

 private:
  bool moves() const { return is_used() && options_.reference.mode == "moving"; }
  std::vector<double> sums_under(const ReferenceScorer& scorer, std::span<const Scored> sequences) const;
  std::vector<Scored> scored(std::span<const std::size_t> rows) const;
  [[noreturn]] void refuse(std::size_t row, double logp) const;
  void compute_frozen(const CausalLM& policy, std::int64_t total_steps);
  void read_rows();
  void make_moving(const CausalLM& policy);
  void let_go();

  const Objective& objective_;
  const TrainerOptions& options_;
  Batches& batches_;
  std::optional<CausalLM> given_, moving_;
  ReferenceScorer scorer_;
  ProgressSink progress_;
  bool equals_start_ = false;
  std::array<std::vector<double>, 2> logps_;  // by slot, of each row
  std::vector<double> mismatched_;            // of the mismatched pairs of every step, in order
};

}  // namespace sao::detail
