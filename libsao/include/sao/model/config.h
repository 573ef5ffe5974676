// SPDX-License-Identifier: Apache-2.0
// What a decoder-only transformer is made of, as fields. Families differ only here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"

namespace sao {

/// Rotary embedding. Follows transformers' modeling_rope_utils.
struct RopeScaling {
  std::string rope_type = "default";  ///< "default", "linear" or "llama3"
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position_embeddings = 0;
};

/// Field names are those of config.json where it has them.
struct ModelConfig {
  std::string model_type = {};  ///< "gemma2" or "llama"
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling = {};
  bool tie_word_embeddings = false;
  std::string hidden_act = {};  ///< "gelu_pytorch_tanh" or "silu"; the gate's activation

  // What makes Gemma differ from Llama, as numbers and switches.
  bool zero_centered_norm = false;       ///< RMSNorm multiplies by (1 + weight)
  bool post_norms = false;               ///< norms after attention and after the MLP, before the residual sum
  double embedding_scale = 1.0;          ///< sqrt(hidden_size) for Gemma
  double attention_scale = 1.0;          ///< multiplies q.k; query_pre_attn_scalar^-0.5 or head_dim^-0.5
  double attn_logit_softcapping = 0.0;   ///< cap * tanh(x / cap) on attention scores; 0 = off
  double final_logit_softcapping = 0.0;  ///< the same on the logits; 0 = off
  std::vector<std::int64_t> layer_windows =
      {};  ///< per layer: sees the last `window` positions, itself included; 0 = all

  TokenIds eos_token_ids = {};

  /// Reads `folder`/config.json as transformers 4 or 5 writes it. Throws InputError naming every missing or
  /// impossible field at once, and unknown architectures.
  static ModelConfig read(const std::filesystem::path& folder);
  /// Parses config.json text; `where` names it in messages.
  static ModelConfig parse(std::string_view json_text, std::string_view where);
  /// config.json text that transformers accepts; fields of `base_json` (the config the model was read from;
  /// may be empty) that libsao does not know are kept. Throws InputError where it is no JSON object.
  std::string to_json(std::string_view base_json, std::string_view torch_dtype) const;

  /// Number of scalar parameters.
  std::int64_t parameter_count() const;
};

/// Throws InputError naming every field that is out of range or does not fit the others.
void validate(const ModelConfig& config, std::string_view where = "model config");

}  // namespace sao
