// SPDX-License-Identifier: Apache-2.0
#include "model/families.h"

#include <algorithm>

namespace sao::detail {

std::span<const Family> families() {
  static const std::vector<Family> table = {
      {.model_type = "gemma",
       .architecture = "GemmaForCausalLM",
       .zero_centered_norm = true,
       .scaled_embedding = true,
       .reads = {"attention_bias"},
       .defaults = R"({"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": true})"},

      {.model_type = "gemma2",
       .architecture = "Gemma2ForCausalLM",
       .zero_centered_norm = true,
       .post_norms = true,
       .scaled_embedding = true,
       .windows = Windows::kPattern,
       .window_pattern = 2,
       .activation_field = "hidden_activation",
       .reads = {"attention_bias", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
                 "sliding_window", "layer_types"},
       .defaults = R"({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true,
                       "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})"},

      // Configs of the larger models, which read images too, say only where they differ from transformers' defaults.
      {.model_type = "gemma3_text",
       .architecture = "Gemma3ForCausalLM",
       .zero_centered_norm = true,
       .post_norms = true,
       .query_key_norm = true,
       .scaled_embedding = true,
       .windows = Windows::kPattern,
       .window_pattern = 6,
       .rope_theta = 1000000.0,
       .sliding_rope_theta = 10000.0,
       .activation_field = "hidden_activation",
       .reads = {"attention_bias", "final_logit_softcapping", "query_pre_attn_scalar", "sliding_window", "layer_types",
                 "sliding_window_pattern", "rope_local_base_freq"},
       .defaults = R"({"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
                       "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                       "max_position_embeddings": 131072, "sliding_window": 4096, "query_pre_attn_scalar": 256,
                       "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "eos_token_id": 1})"},

      {.model_type = "llama",
       .architecture = "LlamaForCausalLM",
       .reads = {"attention_bias", "mlp_bias"},
       .defaults = R"({"hidden_act": "silu", "num_key_value_heads": null, "head_dim": null})"},

      {.model_type = "mistral",
       .architecture = "MistralForCausalLM",
       .windows = Windows::kEveryLayer,
       .reads = {"sliding_window"},
       .defaults = R"({"hidden_act": "silu", "head_dim": null, "sliding_window": 4096})"},

      {.model_type = "phi3",
       .architecture = "Phi3ForCausalLM",
       .fused_projections = true,
       .windows = Windows::kEveryLayer,
       .rope_types = {"default", "longrope"},
       .reads = {"sliding_window", "partial_rotary_factor"},
       .defaults = R"({"hidden_act": "silu", "num_key_value_heads": null, "head_dim": null, "rms_norm_eps": 1e-5,
                       "original_max_position_embeddings": 4096})"},

      {.model_type = "qwen2",
       .architecture = "Qwen2ForCausalLM",
       .query_key_value_bias = true,
       .windows = Windows::kUpperLayers,
       .reads = {"use_sliding_window", "sliding_window", "layer_types"},
       .defaults = R"({"hidden_act": "silu", "head_dim": null, "sliding_window": 4096, "max_window_layers": 28})"},

      {.model_type = "qwen3",
       .architecture = "Qwen3ForCausalLM",
       .query_key_norm = true,
       .windows = Windows::kUpperLayers,
       .reads = {"attention_bias", "use_sliding_window", "sliding_window", "layer_types"},
       .defaults = R"({"hidden_act": "silu", "head_dim": 128, "sliding_window": 4096, "max_window_layers": 28})"},
  };
  return table;
}

std::span<const OptionalField> optional_fields() {
  static const std::vector<OptionalField> table = {
      {"attention_bias", "false"},
      {"mlp_bias", "false"},
      {"attn_logit_softcapping", "null"},
      {"final_logit_softcapping", "null"},
      {"query_pre_attn_scalar", "null"},
      {"sliding_window", "null"},
      {"use_sliding_window", "false"},
      {"layer_types", "null"},
      {"sliding_window_pattern", "null"},
      {"partial_rotary_factor", "1.0"},
      {"rope_local_base_freq", "null"},
      // No family's:
      {"use_bidirectional_attention", "false"},
      {"attention_dropout", "0.0"},
      {"resid_pdrop", "0.0"},
      {"embd_pdrop", "0.0"},
      {"quantization_config", "null"},
  };
  return table;
}

bool Family::reads_field(std::string_view field) const { return std::ranges::find(reads, field) != reads.end(); }

const Family* find_family(std::string_view model_type) {
  const auto found = std::ranges::find(families(), model_type, &Family::model_type);
  return found == families().end() ? nullptr : &*found;
}

std::string family_names() {
  std::string names;
  for (const Family& family : families()) names += (names.empty() ? "" : ", ") + std::string(family.model_type);
  return names;
}

}  // namespace sao::detail
