// SPDX-License-Identifier: Apache-2.0
// Uses the installed library from outside: log-probs of an answer under a model, and a loss on them.
#include <sao/sao.h>

#include <cstdio>

int main() try {
  const auto config = sao::ModelConfig::parse(
      R"({"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
          "num_attention_heads": 2, "max_position_embeddings": 64})",
      "tiny config");
  const auto model = sao::CausalLM::random(config, sao::Seed{1});
  const std::vector<sao::TokenPair> pairs = {{.prompt = {1, 2}, .chosen = {3, 4}, .rejected = {5}}};
  const auto out =
      sao::preference_loss(sao::SimPO{.beta = 10.0, .gamma_beta_ratio = 0.3}, sao::pair_logps(model, pairs));
  std::printf("libsao %s: one pair, %zu parameters tensors\n", SAO_VERSION, model.parameters().size());
  return out.loss.defined() ? 0 : 1;
} catch (const sao::Error& error) {
  std::fprintf(stderr, "consumer: %s\n", error.what());
  return 1;
}
