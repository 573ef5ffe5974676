// SPDX-License-Identifier: Apache-2.0
// What a trainer trains on: rows of scored sequences, and a loss of their log-probs. One for pairs, one for
// completions; the trainer does the rest for both.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sao/train/trainer.h"

namespace sao::detail {

/// Places of a row's sequences: a pair has chosen, rejected and maybe gold, a completion one.
inline constexpr std::size_t kMaxSlots = 3;

/// A sequence whose log-probs the loss reads.
struct Scored {
  PromptedResponse tokens;
  std::int64_t head = 0;  ///< response tokens that count fully in the sum; those after it count ld_alpha
};

/// Of a sequence under the policy. Sums over response tokens; of statistics where they were asked for.
struct SequenceSums {
  double logp = 0.0;         ///< with ld_alpha
  double plain_logp = 0.0;   ///< without
  double prompt_logp = 0.0;  ///< of the prompt's tokens but the first, where it is scored
  double entropy = 0.0, log_sum_square = 0.0, mean_logit = 0.0, top = 0.0;
};

struct RowValues {
  std::array<SequenceSums, kMaxSlots> policy = {};
  std::array<double, kMaxSlots> reference = {};  ///< log-prob sums with ld_alpha
};

/// The loss of a row and its slopes.
struct RowLoss {
  double loss = 0.0;
  std::array<double, kMaxSlots> slope = {};        ///< d loss / d logp
  std::array<double, kMaxSlots> plain_slope = {};  ///< d loss / d plain_logp, and d prompt_logp where that is scored
  std::array<double, kMaxSlots> reward = {};
  double log_odds = 0.0;
};

/// What the loss of a part needs to know of the whole optimizer batch.
struct BatchFacts {
  double rows = 0.0;
  double mean_nll_length = 0.0;
  double reward_shift = 0.0;
  double kl = 0.0;
};

/// Means over the rows of one side, "chosen" or "rejected".
struct SideTotals {
  double rows = 0.0, reward = 0.0, logp = 0.0, tokens = 0.0, mean_logit = 0.0, top = 0.0;
};

/// Sums over an optimizer batch, from which its metrics are made.
struct BatchTotals {
  std::array<SideTotals, 2> sides = {};  ///< chosen, rejected
  double loss = 0.0, correct = 0.0, log_odds = 0.0, log_odds_ratio = 0.0;
  double nll = 0.0, nll_tokens = 0.0;  ///< of what the NLL term covers
  double entropy = 0.0, tokens = 0.0;  ///< over all sequences
};

class Objective {
 public:
  virtual ~Objective() = default;

  virtual std::size_t size() const = 0;
  virtual const std::string& id(std::size_t row) const = 0;
  /// Of tokens, labels and weights: what a checkpoint belongs to.
  virtual std::string fingerprint() const = 0;
  /// "pairs" or "rows", as messages and checkpoints call them.
  virtual const char* noun() const = 0;
  /// Prompt and response tokens of all sequences of a row.
  virtual std::int64_t tokens(std::size_t row) const = 0;

  /// Sequences of a row; the first reference_slots() are compared with the reference.
  virtual std::vector<Scored> scored(std::size_t row) const = 0;
  virtual std::size_t reference_slots() const = 0;
  /// Names of the reference log-probs in checkpoints and reports, by slot.
  virtual const char* slot_name(std::size_t slot) const = 0;
  /// A row's own reference log-prob.
  virtual std::optional<double> given_reference(std::size_t row, std::size_t slot) const = 0;
  /// The prompt of `row` with the completion of `other`, for losses that estimate a KL; nothing for others.
  virtual std::optional<PromptedResponse> mismatched(std::size_t row, std::size_t other) const = 0;

  /// Mean tokens that the NLL term covers.
  virtual double mean_nll_length(std::span<const std::size_t> rows) const = 0;
  /// Whether a loss needs the values of the whole batch at once.
  virtual bool is_batchwise() const = 0;
  /// The rewards' mean where the loss is shifted by its running mean.
  virtual std::optional<double> mean_reward(std::span<const std::size_t> rows,
                                            std::span<const RowValues> values) const = 0;

  virtual std::vector<RowLoss> evaluate(std::span<const std::size_t> rows, std::span<const RowValues> values,
                                        const BatchFacts& facts) const = 0;
  virtual void add(std::size_t row, const RowValues& values, const RowLoss& loss, BatchTotals& totals) const = 0;
  /// Fills in what only this kind of rows has.
  virtual void finish(const BatchTotals& totals, const BatchFacts& facts, TrainMetrics& metrics) const = 0;
};

std::unique_ptr<Objective> make_objective(const std::vector<TokenPair>& pairs, const TrainerOptions& options);
std::unique_ptr<Objective> make_objective(const std::vector<TokenCompletion>& rows, const TrainerOptions& options);

}  // namespace sao::detail
