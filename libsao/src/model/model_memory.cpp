// SPDX-License-Identifier: Apache-2.0
// Counts what decoder.cpp makes: whoever changes what a layer keeps changes it here, and model_memory_test.cpp tells.
#include "sao/model/model_memory.h"

#include <algorithm>

#include "sao/ops/linear.h"

namespace sao {
namespace {

struct Widths {
  explicit Widths(const ModelConfig& c)
      : hidden(c.hidden_size),
        inner(c.intermediate_size),
        q(c.num_attention_heads * c.head_dim),
        kv(c.num_key_value_heads * c.head_dim) {}
  std::int64_t hidden, inner, q, kv;
};

std::int64_t size_of(at::ScalarType dtype) { return static_cast<std::int64_t>(c10::elementSize(dtype)); }

// Numbers a token that backward needs of a layer, its output included.
std::int64_t kept_by_layer(const ModelConfig& c) {
  const Widths w(c);
  std::int64_t numbers = 2 * (w.q + w.kv) + 2 * w.inner;  // rotated q and k, v, what attention gives; the MLP's
  if (c.hidden_act == "gelu") numbers += 2 * w.inner;     // has no fused form: the activation and its product as well
  numbers += 4 * w.hidden;                                // norms' outputs, the sums after attention and after the MLP
  if (c.post_norms) numbers += 2 * w.hidden;              // the inputs of the norms after attention and MLP
  if (c.query_key_norm) numbers += w.q + w.kv;            // q and k as they come
  // v is a part of the matrix that q and k as they come lie in.
  if (c.fused_projections && !c.query_key_norm) numbers += w.q + w.kv;
  return numbers;
}

}  // namespace

std::int64_t total_bytes(const MemoryParts& parts) {
  std::int64_t sum = 0;
  for (const MemoryPart& part : parts) sum += part.bytes;
  return sum;
}

std::int64_t weight_bytes(const ModelConfig& config, at::ScalarType dtype) {
  return config.parameter_count() * size_of(dtype);
}

std::int64_t packed_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, bool int8) {
  if (!device.is_cpu() || dtype != at::kFloat) return 0;
  const auto matrix = [&](std::int64_t outputs, std::int64_t inputs) {
    constexpr std::int64_t kGroup = 64;  // inputs with one float32 scale: ops::WeightFormat::kInt8
    return int8 ? outputs * (inputs + (inputs + kGroup - 1) / kGroup * 4) : outputs * inputs * 4;
  };
  const Widths w(config);
  const std::int64_t layer = matrix(w.q + 2 * w.kv, w.hidden) + matrix(w.hidden, w.q) + matrix(2 * w.inner, w.hidden) +
                             matrix(w.hidden, w.inner);
  return config.num_hidden_layers * layer + matrix(config.vocab_size, w.hidden);
}

std::int64_t unpacked_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, bool int8) {
  const std::int64_t bytes = weight_bytes(config, dtype) - packed_bytes(config, dtype, device);
  const bool keeps_embedding = int8 && config.tie_word_embeddings;  // the output matrix is rounded, it is not
  return keeps_embedding ? bytes + config.vocab_size * config.hidden_size * size_of(dtype) : bytes;
}

std::int64_t inference_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, std::int64_t tokens) {
  const Widths w(config);
  const bool in_shares = device.is_cpu() && dtype == at::kFloat && !config.mlp_bias && config.hidden_act != "gelu";
  const std::int64_t gate_rows = in_shares ? ops::PackedWeight::rows_at_once(tokens) : tokens;
  // In the MLP: q, k, v and what attention gave are still there.
  return size_of(dtype) * (tokens * (6 * w.hidden + 2 * (w.q + w.kv) + w.inner) + gate_rows * 2 * w.inner);
}

std::int64_t activation_bytes(const ModelConfig& config, at::ScalarType dtype, std::int64_t tokens,
                              bool checkpointing) {
  const Widths w(config);
  const std::int64_t layer = checkpointing ? w.hidden : kept_by_layer(config);
  return tokens * size_of(dtype) * (config.num_hidden_layers * layer + 2 * w.hidden);  // embeddings and the final norm
}

std::int64_t backward_bytes(const ModelConfig& config, at::ScalarType dtype, at::Device device, std::int64_t tokens,
                            bool checkpointing) {
  const Widths w(config);
  // Gradients of the MLP's parts. Where the layer is kept for it, parts of it go meanwhile.
  std::int64_t numbers = checkpointing ? kept_by_layer(config) + 2 * w.inner + 4 * w.hidden : w.inner + 3 * w.hidden;
  // The MLP's products, a part of the rows at a time, as they are and packed, and the weight packed. Later, where gate
  // and up are one matrix, their gradients are put side by side again.
  const bool in_parts = device.is_cpu() && dtype == at::kFloat && config.hidden_act != "gelu";
  const std::int64_t part = in_parts ? (2 * std::min(tokens, ops::kGatedRows) + w.hidden) * w.inner : 0;
  const std::int64_t joined = config.fused_projections ? tokens * (2 * w.inner + w.hidden) : 0;
  return size_of(dtype) * (tokens * numbers + std::max(part, joined));
}

}  // namespace sao
