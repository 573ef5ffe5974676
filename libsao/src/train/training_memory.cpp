// SPDX-License-Identifier: Apache-2.0
#include "sao/train/training_memory.h"

#include <algorithm>

#include "sao/model/causal_lm.h"
#include "sao/ops/log_probs.h"

namespace sao {
namespace {

// Whatever is not float64 is accumulated in float32.
std::int64_t wide(at::ScalarType dtype) { return dtype == at::kDouble ? 8 : 4; }

// Masters, their moments, and gradients summed beside those of autograd.
std::int64_t optimizer_bytes(const ModelConfig& config, at::ScalarType dtype) {
  const std::int64_t kinds = dtype == at::kBFloat16 ? 3 : 2;
  return kinds * config.parameter_count() * wide(dtype);
}

}  // namespace

MemoryParts training_memory(const ModelConfig& config, at::ScalarType dtype, at::Device device,
                            const TrainerOptions& options, const PairShape& longest, bool reference_given) {
  validate(options);
  const auto size = static_cast<std::int64_t>(c10::elementSize(dtype));
  const std::int64_t hidden = config.hidden_size, output = config.vocab_size * hidden;
  const std::int64_t pair = longest.prompt_tokens + 2 * longest.response_tokens;
  std::int64_t pairs = std::max<std::int64_t>(1, options.micro_batch_tokens / pair);
  if (options.micro_batch_pairs > 0) pairs = std::min(pairs, options.micro_batch_pairs);
  pairs = std::min(pairs, options.batch_size);
  const bool several = pairs < options.batch_size;  // micro-batches a step
  const std::int64_t tokens = pairs * (pair - 2);   // a response's last token is predicted, not read
  const std::int64_t scored = pairs * 2 * longest.response_tokens;
  const bool statistics = options.token_metrics || options.use_weighting;
  const auto logits_bytes = [&](bool differentiable) {
    return ops::log_probs_bytes(scored, config.vocab_size, hidden, dtype, device,
                                {.chunk_tokens = options.chunk_tokens}, statistics && differentiable, differentiable);
  };
  const std::int64_t logits = logits_bytes(true);
  const std::int64_t weights = weight_bytes(config, dtype), optimizer = optimizer_bytes(config, dtype);

  // When backward begins: everything is kept, and the output matrix has its gradient first. When it ends: nothing is
  // kept any more and all gradients are there, the embedding's as a matrix beside the output's.
  const bool masters = dtype == at::kBFloat16;
  const std::int64_t summed = several ? (masters ? config.parameter_count() * 4 : weights) : 0;
  const std::int64_t rows = scored * hidden * size;  // of the final norm's output, of which the log-probs are
  const std::int64_t kept = activation_bytes(config, dtype, tokens, options.activation_checkpointing) + rows;
  // When the layers' turn comes, the rows and the final norm's output and input are gone.
  const std::int64_t of_layers = backward_bytes(config, dtype, device, tokens, options.activation_checkpointing) -
                                 rows - 2 * tokens * hidden * size;
  const std::int64_t begin =
      std::max(output * wide(dtype) + std::max(logits + rows, of_layers), rows + logits_bytes(false));
  const std::int64_t end = weights + output * size + (masters && !several ? config.parameter_count() * 4 : 0);
  MemoryParts step;
  if (kept + begin > end) {
    step = {{"optimizer", optimizer}, {"gradients", summed}, {"activations", kept}, {"output matrix", begin}};
  } else {
    step = {{"optimizer", optimizer}, {"gradients", summed + end}};
  }

  const bool has_reference =
      needs_reference(options.loss) && options.reference.mode != "none" && options.reference.mode != "rows";
  if (!has_reference) return step;
  if (options.reference.mode == "moving") step.push_back({"reference weights", weights});
  const std::int64_t read = std::min(options.micro_batch_tokens, options.batch_size * (pair - 2));
  const bool in_parts = packed_bytes(config, dtype, device) > 0;
  const std::int64_t at_once = in_parts ? std::min(read, std::max(CausalLM::kInferenceTokens, pair)) : read;
  const MemoryParts scoring = {
      {"optimizer", optimizer},
      {"reference weights", reference_given || options.reference.mode == "moving" ? weights : 0},
      {"packed weights", packed_bytes(config, dtype, device)},
      {"forward pass", inference_bytes(config, dtype, device, at_once) + (read > at_once ? read * hidden * size : 0) +
                           logits_bytes(false)}};
  return total_bytes(scoring) > total_bytes(step) ? scoring : step;
}

}  // namespace sao
