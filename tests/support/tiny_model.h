// SPDX-License-Identifier: Apache-2.0
// A whole model folder of 25,000 random weights, with a tokenizer of 420 pieces: what commands and runs are tried on.
#pragma once

#include <filesystem>
#include <string>

#include "sao/base/seed.h"
#include "sao/io/files.h"
#include "sao/model/causal_lm.h"
#include "support/paths.h"

namespace sao::testing {

/// Writes a Gemma-2 model into `folder`. About every tenth sampled token ends a response: random weights would never do
/// so on one stop token alone. Most of what it samples are bytes that are no UTF-8.
inline void write_tiny_model(const std::filesystem::path& folder, Seed seed = {1}) {
  constexpr const char* kConfig = R"({
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 420, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 512, "sliding_window": 16, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "eos_token_id": 1, "bos_token_id": 2})";
  std::string stops = "1, 5, 270, 272, 273, 274, 275, 276, 278, 279, 282, 283, 286, 287, 288, 289, 290, 292";
  for (int id = 353; id <= 371; ++id) stops += ", " + std::to_string(id);
  const TemporaryFolder tokenizer;
  std::filesystem::copy(golden("text/gemma") / "tokenizer.model", tokenizer / "tokenizer.model");
  write_file_atomically(tokenizer / "generation_config.json", "{\"eos_token_id\": [" + stops + "]}");
  CausalLM::random(ModelConfig::parse(kConfig, "tiny model"), seed, {}, 0.15).save(folder, tokenizer.path());
}

/// Short words for prompts and judge: the default templates would fill the tiny model's context.
inline void write_tiny_templates(const std::filesystem::path& file) {
  write_file_atomically(
      file,
      "{\"persona\": \"You are {persona}. Ask.\", \"unguided\": \"Ask.\", \"judge\": \"{prompt} 1: {first} "
      "2: {second}\", \"judge_prefix\": \"\", \"judge_first\": \"1\", \"judge_second\": \"2\"}\n");
}

/// `count` personas, one a line.
inline void write_personas(const std::filesystem::path& file, int count) {
  std::string lines;
  for (int i = 0; i < count; ++i) lines += "{\"persona\": \"person " + std::to_string(i) + "\"}\n";
  write_file_atomically(file, lines);
}

}  // namespace sao::testing
