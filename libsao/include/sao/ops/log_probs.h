// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of given tokens without keeping logits: memory follows the chunk, not tokens x vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sao::ops {

class PackedWeight;

struct LogProbsOptions {
  double logit_softcap = 0.0;       ///< cap * tanh(logit / cap); 0 = off
  std::int64_t chunk_tokens = 512;  ///< rows whose logits exist at one time
};

/// log softmax(softcap(hidden . weight^T))[target] of each row, float32 [n] (float64 for float64 inputs).
/// Shape: hidden [n, H], weight [V, H] of one floating dtype, targets [n] int64. Differentiable in hidden and weight:
/// backward recomputes each chunk's logits and adds both gradients in the same pass, the weight's in float32.
/// With gradients off, on the CPU in float32, a row's bits do not depend on the other rows; `packed_weight` is then the
/// same weight packed, which saves packing it for this call. Elsewhere it is not used.
/// Throws InputError for shapes that do not fit or targets outside the vocabulary.
/// Follows: log_softmax in float32 over soft-capped logits (transformers Gemma2ForCausalLM).
at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                     const LogProbsOptions& options = {}, const PackedWeight* packed_weight = nullptr);

}  // namespace sao::ops
