// SPDX-License-Identifier: Apache-2.0
// How well a model predicts given answers.
//   sao::Likelihood held_out = sao::measure_likelihood(engine, requests);   // held_out.perplexity
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sao/generate/generator.h"

namespace sao {

struct Likelihood {
  std::int64_t sequences = 0;  ///< with at least one response token
  std::int64_t tokens = 0;     ///< response tokens
  double sum_log_prob = 0;     ///< natural logarithm, over all of them
  double nll = 0;              ///< -sum_log_prob / tokens; 0 without tokens
  double perplexity = 1;       ///< exp(nll)
  double standard_error = 0;   ///< of nll, over sequences: sqrt(sum_i (L_i - nll n_i)^2 * m / (m - 1)) / tokens, with
                               ///< L_i, n_i the negative log-likelihood and tokens of sequence i of m
};

/// Token-weighted mean negative log-likelihood of the responses given their prompts.
Likelihood measure_likelihood(Generator& generator, std::span<const ScoreRequest> requests);

/// One chat turn and its answer as the model would have sampled it: the prompt with the assistant's header open, the
/// answer's tokens and the token that ends the turn.
ScoreRequest answer_request(const ChatTokenizer& text, const std::string& prompt, const std::string& answer);

}  // namespace sao
