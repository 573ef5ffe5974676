// SPDX-License-Identifier: Apache-2.0
// What synth, judge and eval see of a model: prompts in, completions and probabilities out.
// Engine implements it on a CausalLM; a test implements it in twenty lines.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "sao/base/seed.h"
#include "sao/base/tokens.h"
#include "sao/generate/sampling.h"
#include "sao/text/chat.h"

namespace sao {

enum class FinishReason { kStop, kLength };
/// "stop", "length".
std::string_view to_string(FinishReason reason);

struct GenerationRequest {
  TokenIds prompt_ids = {};         ///< must not be empty
  Seed seed = {};                   ///< sample k draws token i from (seed.fork(k), i) and from nothing else
  std::int64_t samples = 1;         ///< independent samples; they share the prompt's computation
  std::int64_t max_new_tokens = 0;  ///< longest sample of this request, in tokens; 0 = as the call's options say
};

struct Completion {
  TokenIds ids = {};  ///< as sampled, a stop token at the end included
  FinishReason finish_reason = FinishReason::kStop;
  double log_prob = 0.0;  ///< sum of the log-probs of ids at temperature 1, natural logarithm

  bool operator==(const Completion&) const = default;
};

struct ScoreRequest {
  TokenIds prompt_ids = {};
  TokenIds response_ids = {};
};

struct NextTokenRequest {
  TokenIds ids = {};         ///< the context
  TokenIds candidates = {};  ///< tokens whose log-probs are asked for
};

class Generator {
 public:
  virtual ~Generator() = default;

  /// Called once per finished sample, in any order: index of the request, index of the sample.
  using OnCompletion = std::function<void(std::size_t request, std::int64_t sample, Completion completion)>;

  /// Samples every request; returns when all are finished. Throws InputError: empty prompt, options out of range, a
  /// prompt that leaves no room for one new token in the model's context.
  virtual void generate(std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                        const OnCompletion& on_completion) = 0;

  /// Log-prob of every response token given what stands before it: one vector per request. The last token is predicted,
  /// not read: prompt and response may have max_tokens() + 1 tokens together.
  virtual std::vector<std::vector<double>> score(std::span<const ScoreRequest> requests) = 0;

  /// Log-probs of the candidates as next token (normalised over the whole vocabulary): one vector per request.
  virtual std::vector<std::vector<double>> next_token_log_probs(std::span<const NextTokenRequest> requests) = 0;

  /// The text side of the model: chat format, tokenizer, stop ids.
  virtual const ChatTokenizer& text() const = 0;

  /// Longest sequence (prompt and response) that the model takes.
  virtual std::int64_t max_tokens() const = 0;

  /// All completions, by request and sample.
  std::vector<std::vector<Completion>> generate_all(std::span<const GenerationRequest> requests,
                                                    const SamplingOptions& sampling);
};

}  // namespace sao
