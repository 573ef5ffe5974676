// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of given tokens without keeping logits: memory follows the chunk, not tokens x vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sao::ops {

class PackedWeight;

struct LogProbsOptions {
  double logit_softcap = 0.0;       ///< cap * tanh(logit / cap); 0 = off
  std::int64_t chunk_tokens = 512;  ///< rows whose logits exist at one time, at most. On the CPU in float32 it is
                                    ///< mostly less: a block of 1,024 tokens of the vocabulary of up to 192 rows for
                                    ///< each thread, in backward of all rows
};

/// What a row's distribution p over the vocabulary looks like, at little more cost than its log-prob: [n] each, on the
/// device and in the dtype of the log-probs, without gradients. Logits are the soft-capped ones.
struct TokenStatistics {
  at::Tensor entropy;         ///< -sum_v p_v log p_v, nats
  at::Tensor log_sum_square;  ///< log sum_v p_v^2: the log-prob of a token by its expectation (WPO's weights)
  at::Tensor mean_logit;      ///< mean over the vocabulary
  at::Tensor is_top;          ///< bool: no logit is larger than the target's
};

/// log softmax(softcap(hidden . weight^T))[target] of each row, float32 [n] (float64 for float64 inputs).
/// Shape: hidden [n, H], weight [V, H] of one floating dtype, targets [n] int64. Differentiable in hidden and weight:
/// backward recomputes each chunk's logits and adds both gradients in the same pass, the weight's in float32.
/// On the CPU in float32 a row's bits do not depend on the other rows. `statistics` is filled in when given: there from
/// sums that are made in any case, elsewhere by a few passes more over each chunk's logits, forward only. Throws
/// InputError for shapes that do not fit or targets outside the vocabulary. Follows: log_softmax in float32 over
/// soft-capped logits (transformers Gemma2ForCausalLM).
at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                     const LogProbsOptions& options = {}, TokenStatistics* statistics = nullptr);

/// The same with gradients off for weights that are packed already, which saves packing them for the call: hidden
/// float32 on the CPU. Never differentiable.
at::Tensor log_probs(const at::Tensor& hidden, const PackedWeight& weight, const at::Tensor& targets,
                     const LogProbsOptions& options = {}, TokenStatistics* statistics = nullptr);

/// Bytes of memory that log_probs of `rows` takes at its peak beside its inputs, results and their gradients:
/// backward's where `differentiable`.
std::int64_t log_probs_bytes(std::int64_t rows, std::int64_t vocabulary, std::int64_t hidden, at::ScalarType dtype,
                             at::Device device, const LogProbsOptions& options, bool statistics, bool differentiable);

}  // namespace sao::ops
