// SPDX-License-Identifier: Apache-2.0
// Continuous batching over packed token streams on a CausalLM.
//   sao::Engine engine(model, text, {.max_batch = 64});
//   auto completions = engine.generate_all(requests, {.temperature = 0.7, .max_new_tokens = 256});
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "sao/base/log.h"
#include "sao/base/options.h"
#include "sao/generate/generator.h"
#include "sao/model/causal_lm.h"

namespace sao {

struct EngineOptions {
  std::int64_t max_batch = 64;         ///< sequences that decode at one time
  std::int64_t prefill_tokens = 2048;  ///< prompt tokens computed in one step, at most
  /// Upper bound of the KV cache's memory; 0 = what max_batch sequences can need, but at most half of the memory that
  /// is free on the device.
  std::int64_t cache_bytes = 0;
  /// Compute with 8-bit copies of the weights (CausalLM::with_int8_inference): a quarter of the memory that packed
  /// weights take and, of few sequences, faster decoding; other tokens. On the CPU in float32 only.
  bool int8_weights = false;
};

template <class Visitor, OptionsOf<EngineOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("max_batch", options.max_batch, "sequences that decode at one time");
  visit("prefill_tokens", options.prefill_tokens, "prompt tokens computed in one step, at most");
  visit("cache_bytes", options.cache_bytes, "upper bound of the KV cache's bytes; 0 = half of the free memory");
  visit("int8_weights", options.int8_weights, "compute with 8-bit copies of the weights (CPU, float32)");
}

/// Throws InputError naming every field out of range.
void validate(const EngineOptions& options);

/// LoadOptions::purpose of a model that engines of these options alone will use: its weights are then in memory once.
Purpose purpose_of(const EngineOptions& options);

/// Throws InputError where the tokenizer has ids that the model has no embedding for: they are not of one model.
void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config);

/// What the engine has done since it was made.
struct EngineStats {
  std::int64_t prompt_tokens = 0;  ///< computed through the cache, shared prefixes once
  std::int64_t generated_tokens = 0;
  std::int64_t steps = 0;        ///< forward passes through the cache
  std::int64_t peak_blocks = 0;  ///< of the cache in use at one time
  /// Where the cache was too small for max_batch of a call's largest requests at one time: for how many it had room, in
  /// the worst call; 0 = it never was.
  std::int64_t fitting = 0;
};

/// A sample depends on the request, its seed and the weights, not on max_batch, the order or the other requests:
/// bit for bit on one machine's CPU in float32. There a sample's log_prob is also the sum of its score, to the bit.
/// What prompts of one call have in common (from kKvBlockSize tokens on) is computed once.
/// Memory is planned ahead: a call whose largest request does not fit into the cache's limit throws ResourceError
/// before it computes anything; the cache grows to what the calls so far could use. Weights with NaN or infinite
/// values: InputError from every call. Not thread-safe; a callback must not call the engine that calls it.
class Engine : public Generator {
 public:
  /// Shares the model's weights. Throws InputError for options out of range, and as check_tokenizer does.
  Engine(CausalLM model, ChatTokenizer text, const EngineOptions& options = {});
  ~Engine() override;

  void generate(std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                const OnCompletion& on_completion) override;
  /// Called with every token that generate draws, stop tokens included, as soon as the host knows it;
  /// empty = nobody asks.
  using OnToken = std::function<void(std::size_t request, std::int64_t sample, TokenId id)>;
  void set_on_token(OnToken on_token);

  std::vector<std::vector<double>> score(std::span<const ScoreRequest> requests) override;
  std::vector<std::vector<double>> next_token_log_probs(std::span<const NextTokenRequest> requests) override;
  const ChatTokenizer& text() const override;
  std::int64_t max_tokens() const override;

  const EngineStats& stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sao
