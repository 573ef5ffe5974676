// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of responses under a model, from one packed forward pass.
//   auto logps = sao::pair_logps(policy, pairs);                                // differentiable
//   sao::preference_loss(sao::DPO{}, logps).loss.mean().backward();             // with reference_* filled in
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "sao/base/tokens.h"
#include "sao/loss/preference.h"
#include "sao/model/causal_lm.h"
#include "sao/train/pairs.h"

namespace sao {

/// A response and what it follows. Views: the ids must outlive it.
struct PromptedResponse {
  TokenSpan prompt = {};
  TokenSpan response = {};
  bool score_prompt = false;  ///< score the prompt too, all but its first token, which nothing predicts
};

/// Completions as one packed stream, with the places that predict scored tokens: those of the response, after those of
/// the prompt where it is scored.
struct CompletionBatch {
  PackedTokens
      tokens;          ///< prompts, equal ones once, and responses, each without its last token, which predicts nothing
  at::Tensor rows;     ///< [n] int64: tokens of the pack whose successor is scored
  at::Tensor targets;  ///< [n] int64: that successor
  at::Tensor sequence;  ///< [n] int64: which completion
  at::Tensor lengths;   ///< [S] int64: scored tokens of each completion
};

/// Throws InputError on an empty prompt (nothing predicts its first token) or an empty response.
CompletionBatch pack_completions(std::span<const PromptedResponse> completions);

/// Log-prob of every scored token, [n] float32 (float64 for a float64 model). Hidden states of the prompt never meet
/// the output matrix, and logits exist for at most `chunk_tokens` rows at a time. Differentiable unless gradients are
/// off.
at::Tensor token_logps(const CausalLM& model, const CompletionBatch& batch, std::int64_t chunk_tokens = 512);

/// Sums of token log-probs over each completion, [S]. Differentiable.
at::Tensor sequence_sums(const CompletionBatch& batch, const at::Tensor& token_logps);

/// Sums and lengths of all pairs from one forward pass, for a training loop of one's own. Differentiable.
PairLogps pair_logps(const CausalLM& model, std::span<const TokenPair> pairs, std::int64_t chunk_tokens = 512);

struct ScoringOptions {
  std::int64_t batch_tokens = 8192;  ///< tokens of one forward pass, unless one completion has more
  std::int64_t chunk_tokens = 512;   ///< rows whose logits exist at one time, at most
};

/// Log-prob of each response, summed over its tokens in double precision. Gradients off.
std::vector<double> sequence_logps(const CausalLM& model, std::span<const PromptedResponse> completions,
                                   const ScoringOptions& options = {});

/// The same token by token.
std::vector<std::vector<double>> response_token_logps(const CausalLM& model,
                                                      std::span<const PromptedResponse> completions,
                                                      const ScoringOptions& options = {});

}  // namespace sao
