// SPDX-License-Identifier: Apache-2.0
// What a decoder-only transformer is made of, as fields. Families differ only here; docs/add-a-family.md says how.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/tokens.h"

namespace sao {

/// Rotary embedding for contexts longer than those of pretraining. Follows transformers' modeling_rope_utils.
struct RopeScaling {
  std::string rope_type = "default";  ///< "default", "linear", "llama3", "yarn" or "longrope"
  double factor = 1.0;                ///< of the longer context to original_max_position_embeddings
  std::int64_t original_max_position_embeddings = 0;

  double low_freq_factor = 1.0;   ///< llama3
  double high_freq_factor = 4.0;  ///< llama3

  double attention_factor = 1.0;  ///< yarn, longrope: multiplies cosines and sines
  double beta_fast = 32.0;        ///< yarn
  double beta_slow = 1.0;         ///< yarn
  bool truncate = true;           ///< yarn: the ramp between kept and scaled frequencies has whole ends

  std::vector<double> short_factor = {};  ///< longrope: divides the inverse frequencies
  std::vector<double> long_factor = {};  ///< longrope: the same above original_max_position_embeddings; kept for saving
};

/// Field names are those of config.json where it has them.
struct ModelConfig {
  /// "gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2" or "qwen3"
  std::string model_type = {};
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
  double partial_rotary_factor = 1.0;  ///< the leading part of each head that is rotated
  double sliding_rope_theta = 0.0;     ///< of layers with a window, which then scale nothing; 0 = as other layers
  bool tie_word_embeddings = false;
  std::string hidden_act = {};  ///< "gelu_pytorch_tanh", "gelu" or "silu"; the gate's activation

  // What makes families differ, as numbers and switches.
  bool zero_centered_norm = false;       ///< RMSNorm multiplies by (1 + weight)
  bool post_norms = false;               ///< norms after attention and after the MLP, before the residual sum
  bool query_key_norm = false;           ///< RMSNorm of every head of q and k, before the rotation
  bool fused_projections = false;        ///< one matrix for q, k and v, one for gate and up
  bool query_key_value_bias = false;     ///< q, k and v have a bias
  bool attention_output_bias = false;    ///< so has o
  bool mlp_bias = false;                 ///< so have gate, up and down
  double embedding_scale = 1.0;          ///< sqrt(hidden_size) for Gemma
  double attention_scale = 1.0;          ///< multiplies q.k; query_pre_attn_scalar^-0.5 or head_dim^-0.5
  double attn_logit_softcapping = 0.0;   ///< cap * tanh(x / cap) on attention scores; 0 = off
  double final_logit_softcapping = 0.0;  ///< the same on the logits; 0 = off
  std::vector<std::int64_t> layer_windows =
      {};  ///< per layer: sees the last `window` positions, itself included; 0 = all

  TokenIds eos_token_ids = {};

  /// Reads `folder`/config.json as transformers 4 or 5 writes it; of a config for text and images (gemma3) the part for
  /// text. Throws InputError naming at once every field that is missing, impossible or asks for something that libsao
  /// does not do, and unknown architectures.
  static ModelConfig read(const std::filesystem::path& folder);
  /// Parses config.json text; `where` names it in messages.
  static ModelConfig parse(std::string_view json_text, std::string_view where);
  /// config.json text that transformers accepts; fields of `base_json` (the config the model was read from;
  /// may be empty) that libsao does not know are kept. Throws InputError where it is no JSON object.
  std::string to_json(std::string_view base_json, std::string_view torch_dtype) const;

  /// Tokens that a sequence may have: max_position_embeddings; with longrope no more than
  /// original_max_position_embeddings, above which the whole sequence would be rotated by long_factor.
  std::int64_t context_length() const;
  /// The leading numbers of each head that are rotated.
  std::int64_t rotary_dim() const;
  /// Number of scalar parameters.
  std::int64_t parameter_count() const;
};

/// Throws InputError naming every field that is out of range or does not fit the others.
void validate(const ModelConfig& config, std::string_view where = "model config");

}  // namespace sao
