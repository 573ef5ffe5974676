// SPDX-License-Identifier: Apache-2.0
// Models and pairs small enough for a test to train them in milliseconds.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <string>
#include <vector>

#include "sao/io/files.h"
#include "sao/model/causal_lm.h"
#include "sao/train/trainer.h"
#include "support/message_of.h"

namespace sao::testing {

inline ModelConfig tiny_config() {
  return {.model_type = "gemma2",
          .vocab_size = 61,
          .hidden_size = 16,
          .intermediate_size = 24,
          .num_hidden_layers = 2,
          .num_attention_heads = 2,
          .num_key_value_heads = 1,
          .head_dim = 8,
          .max_position_embeddings = 128,
          .tie_word_embeddings = true,
          .hidden_act = "gelu_pytorch_tanh",
          .zero_centered_norm = true,
          .post_norms = true,
          .embedding_scale = 4.0,
          .attention_scale = 0.35,
          .attn_logit_softcapping = 50.0,
          .final_logit_softcapping = 30.0,
          .layer_windows = {8, 0}};
}

inline CausalLM tiny_model(std::uint64_t seed = 1, DType dtype = DType::kFloat32) {
  return CausalLM::random(tiny_config(), Seed{seed}, {.dtype = dtype}, 0.15);
}

inline TokenIds random_ids(Seed seed, std::size_t count, TokenId low = 1, TokenId high = 61) {
  TokenIds ids;
  for (std::size_t i = 0; i < count; ++i) {
    ids.push_back(low + static_cast<TokenId>(uniform_below(seed, i, static_cast<std::uint64_t>(high - low))));
  }
  return ids;
}

/// Pairs of random tokens with lengths that differ; the rule behind the labels: chosen has small ids, rejected large.
inline std::vector<TokenPair> toy_pairs(std::size_t count, std::uint64_t seed = 3) {
  std::vector<TokenPair> pairs;
  for (std::size_t i = 0; i < count; ++i) {
    const Seed s = Seed{seed}.fork(i);
    pairs.push_back({.prompt = random_ids(s.fork("prompt"), 2 + uniform_below(s, 0, 5)),
                     .chosen = random_ids(s.fork("chosen"), 1 + uniform_below(s, 1, 6), 1, 30),
                     .rejected = random_ids(s.fork("rejected"), 1 + uniform_below(s, 2, 6), 31, 61),
                     .p = 0.6 + 0.4 * uniform(s, 3),
                     .weight = 0.5 + uniform(s, 4),
                     .id = "pair-" + std::to_string(i),
                     .gold = random_ids(s.fork("gold"), 1 + uniform_below(s, 5, 6), 1, 30)});
  }
  return pairs;
}

/// Completions of random tokens: desirable ones have small ids, undesirable ones large.
inline std::vector<TokenCompletion> toy_completions(std::size_t count, std::uint64_t seed = 3) {
  std::vector<TokenCompletion> rows;
  for (std::size_t i = 0; i < count; ++i) {
    const Seed s = Seed{seed}.fork(i);
    const bool good = i % 2 == 0;
    rows.push_back(
        {.prompt = random_ids(s.fork("prompt"), 2 + uniform_below(s, 0, 5)),
         .completion = random_ids(s.fork("completion"), 1 + uniform_below(s, 1, 6), good ? 1 : 31, good ? 30 : 61),
         .label = good,
         .weight = 0.5 + uniform(s, 4),
         .id = "row-" + std::to_string(i)});
  }
  return rows;
}

inline std::vector<at::Tensor> copy_weights(const CausalLM& model) {
  std::vector<at::Tensor> copy;
  for (const auto& [name, tensor] : model.parameters()) copy.push_back(tensor.detach().clone());
  return copy;
}

inline bool same_bits(const CausalLM& model, const std::vector<at::Tensor>& weights) {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!at::equal(model.parameters()[i].second.detach(), weights[i])) return false;
  }
  return true;
}

inline double largest_difference(const CausalLM& a, const CausalLM& b) {
  double largest = 0.0;
  for (std::size_t i = 0; i < a.parameters().size(); ++i) {
    const at::Tensor difference = (a.parameters()[i].second - b.parameters()[i].second).detach().abs().to(at::kDouble);
    largest = std::max(largest, difference.max().item<double>());
  }
  return largest;
}

}  // namespace sao::testing
