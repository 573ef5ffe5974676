// SPDX-License-Identifier: Apache-2.0
// How well a model predicts given answers, and text.
//   sao::Likelihood held_out = sao::measure_likelihood(engine, requests);   // held_out.perplexity
//   sao::TextLikelihood wikitext = sao::measure_text(engine, task.items);   // wikitext.word_perplexity
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sao/eval/task.h"
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

/// Windows over a long text, in which every token is predicted once: the first window predicts its first
/// `max_length` tokens after `prefix`, the later ones as many as leave `context_length` tokens of what was predicted
/// before in front of them. Each reads at most `max_length` tokens.
/// Follows: lm_eval 0.4.13, utils.get_rolling_token_windows and make_disjoint_window.
/// Throws InputError: context_length outside 1 to max_length.
std::vector<ScoreRequest> rolling_windows(TokenSpan tokens, TokenId prefix, std::int64_t max_length,
                                          std::int64_t context_length = 1);

struct RollingOptions {
  std::int64_t max_length = 0;      ///< tokens that a window reads; 0 is the model's context
  std::int64_t context_length = 1;  ///< tokens before the first predicted one, from the second window on
};

struct TextLikelihood {
  Likelihood tokens = {};      ///< of the texts' tokens; a sequence is a text
  double word_perplexity = 1;  ///< exp(-sum_log_prob / words); words are what stands between runs of white space
  double byte_perplexity = 1;  ///< exp(-sum_log_prob / bytes in UTF-8)
  double bits_per_byte = 0;    ///< log2(byte_perplexity)
  std::int64_t words = 0;
  std::int64_t bytes = 0;
  std::vector<double> log_likelihoods = {};  ///< of each text, natural logarithm
};

/// The likelihood of whole texts by rolling windows. A text is encoded with a BOS where the tokenizer adds one, and
/// that BOS is predicted like any other token, after the BOS (or eos) that stands before every text: so does the
/// original. Follows: lm_eval 0.4.13, HFLM.loglikelihood_rolling, and the metrics word_perplexity, byte_perplexity,
/// bits_per_byte. Throws InputError: options out of range, a tokenizer with neither bos nor eos.
TextLikelihood measure_text(Generator& generator, std::span<const TaskItem> texts, const RollingOptions& options = {});

/// Words as Python's re.split(r"\s+", text) counts them: one more than there are runs of white space.
std::int64_t count_words(std::string_view text);

}  // namespace sao
