// SPDX-License-Identifier: Apache-2.0
// One row of logits to draw from, on the CPU. Holds the scratch memory, so that many rows share it.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "sao/base/tokens.h"
#include "sao/ops/sample.h"

namespace sao::ops {

/// The largest value; NaN when one is NaN or +inf.
float largest_of(std::span<const float> values);

class RowSampler {
 public:
  explicit RowSampler(const SampleOptions& options) : options_(options) {}

  /// Takes a row. False when it holds a NaN, +inf or nothing finite.
  bool prepare(std::span<const float> logits);
  /// Draws from the row taken last.
  TokenId draw(double uniform) const;
  /// Not normalised; 0 where dropped. Empty when greedy.
  std::span<const float> weights() const { return weights_; }

 private:
  void keep_top_p();
  void sum_blocks();

  SampleOptions options_;
  TokenId best_ = 0;                // the most likely token
  std::vector<float> weights_;      // exp((logit - largest) / temperature)
  std::vector<double> block_sums_;  // of weights_, over blocks of ids
  double total_ = 0.0;
  // Scratch.
  std::vector<float> largest_;
  std::vector<double> masses_;
  std::vector<std::pair<float, TokenId>> crossing_;
};

}  // namespace sao::ops
