// SPDX-License-Identifier: Apache-2.0
// Log-probs in float32 on the CPU: the vocabulary in blocks of columns whose logits stay in a thread's cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>

#include "sao/ops/linear.h"
#include "sao/ops/log_probs.h"

namespace sao::ops {

/// Rows [first, first + count) of the output matrix, packed; `first` a multiple of kVocabularyBlock.
using OutputRows = std::function<PackedWeight(std::int64_t first, std::int64_t count)>;

/// Tokens of the vocabulary whose logits a thread has before it.
inline constexpr std::int64_t kVocabularyBlock = 1024;

/// Fills log_prob and log_sum_exp [n] float32, and `statistics` (made before) where it is not null. hidden [n, H]. A
/// row's bits do not depend on the other rows.
void log_probs_by_blocks(const at::Tensor& hidden, std::int64_t vocabulary, const OutputRows& weight,
                         const at::Tensor& targets, double logit_softcap, const at::Tensor& log_prob,
                         const at::Tensor& log_sum_exp, const TokenStatistics* statistics);

/// Gradients of sum_i grad_i log_prob_i: of hidden [n, H] and of weight [V, H], each undefined where it is not wanted.
/// Holds n * kVocabularyBlock logits, of at most `most_logits` where that allows one row.
std::array<at::Tensor, 2> log_probs_backward_by_blocks(const at::Tensor& hidden, const at::Tensor& weight,
                                                       const at::Tensor& targets, double logit_softcap,
                                                       const at::Tensor& log_sum_exp, const at::Tensor& grad,
                                                       bool hidden_wanted, bool weight_wanted,
                                                       std::int64_t most_logits);

/// Bytes of either's memory at its peak: of the second where `differentiable`.
std::int64_t log_prob_blocks_bytes(std::int64_t rows, std::int64_t vocabulary, std::int64_t hidden,
                                   std::int64_t most_logits, bool differentiable);

}  // namespace sao::ops
