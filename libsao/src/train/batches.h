// SPDX-License-Identifier: Apache-2.0
// Which rows make a step, and which of them a forward pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sao/train/trainer.h"
#include "train/objective.h"

namespace sao::detail {

class Batches {
 public:
  Batches(const Objective& objective, const TrainerOptions& options) : objective_(objective), options_(options) {}

  std::int64_t steps_per_epoch() const;
  /// Indices of the rows of a step: a pure function of the seed and the step.
  std::vector<std::size_t> batch_of(std::int64_t step);
  /// Rows before those of a step, counted over all epochs.
  std::int64_t rows_before(std::int64_t step) const;
  /// Each prompt of a batch with the completion of the row before it, as TRL rotates them; empty for losses that do not
  /// ask. A batch of one takes the completion of its epoch's first row.
  std::vector<Scored> mismatched(std::span<const std::size_t> batch) const;
  /// A batch cut into forward passes, in order.
  std::vector<std::span<const std::size_t>> micro_batches(std::span<const std::size_t> batch) const;

 private:
  std::int64_t count() const { return static_cast<std::int64_t>(objective_.size()); }

  const Objective& objective_;
  const TrainerOptions& options_;
  std::int64_t ordered_epoch_ = -1;
  std::vector<std::size_t> order_;  // of `ordered_epoch_`
};

}  // namespace sao::detail
